"""What an operator asks of a replay, and what its workers make of it."""

from __future__ import annotations

import math

import pytest

from consumers.replay_plan import MAX_PLAN_BYTES, ReplayPlan, parse_plan
from embedder.pin_work import Outcome, PinWork, leave_out, supersede_deleted
from embedder.publication import PublicationPlan
from pinstream.codes import HEADER_SOURCE_OFFSET, Fingerprint
from pinstream.errors import FatalError
from pinstream.events import Domain, Image, Op, PinEvent
from rollout.generation import Generation, Replay, State
from rollout.replay_plan import parse_partitions, plan_of, replay_from_options, resolved

NOW_MS = 1_790_000_000_000
MODEL = "ab" * 32


def test_options_become_a_replay() -> None:
    found = replay_from_options(
        now_ms=NOW_MS, by_duration="P1DT6H", partitions="0,3,8-10", where="domain=product, pin", max_records_per_s=5
    )
    assert found == Replay(
        from_time_ms=NOW_MS - 30 * 3_600_000,
        partitions=(0, 3, 8, 9, 10),
        domains=("product", "pin"),
        max_records_per_s=5,
    )
    assert replay_from_options(now_ms=NOW_MS) == Replay()
    assert replay_from_options(now_ms=NOW_MS, to_datetime="2026-01-01T01:00:00+01:00").from_time_ms == 1_767_225_600_000


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"to_datetime": "yesterday"}, "--to-datetime is 'yesterday', expected RFC 3339"),
        ({"to_datetime": "2026-01-01T00:00:00"}, "--to-datetime"),
        ({"to_datetime": "2126-01-01T00:00:00Z"}, "expected 1970 to now"),
        ({"to_datetime": "2026-01-01T00:00:00Z", "by_duration": "P1D"}, "both given"),
        ({"by_duration": "a week"}, "--by-duration"),
        ({"by_duration": "-P1D"}, "--by-duration"),
        ({"partitions": "1,x"}, "--partitions has 'x'"),
        ({"partitions": "5-3"}, "--partitions has '5-3'"),
        ({"partitions": ""}, "--partitions"),
        ({"where": "flag=x"}, "--where is 'flag=x'"),
        ({"where": "domain=products"}, "--where"),
        ({"where": "domain="}, "--where"),
        ({"max_records_per_s": 0}, "`pause` holds a replay"),
        ({"max_records_per_s": float("nan")}, "more than 0"),
    ],
)
def test_an_option_that_can_t_be_read_is_refused_by_name(options: dict[str, object], named: str) -> None:
    with pytest.raises(FatalError) as refused:
        replay_from_options(now_ms=NOW_MS, **options)  # type: ignore[arg-type]  # named as the parameters are
    assert named in str(refused.value)


def test_a_full_replay_starts_at_0_and_remembers_where_history_ends() -> None:
    found = resolved(Replay(), {0: 10, 1: 20}, {})
    assert (found.starts, found.ends) == ((), (10, 20))


def test_a_partial_one_starts_where_it_is_asked_to_and_elsewhere_at_the_end() -> None:
    some = Replay(partitions=(0, 2), from_time_ms=5)
    found = resolved(some, {0: 10, 1: 20, 2: 30, 3: 40}, {0: 7, 1: 3, 2: None, 3: 1})
    assert found.starts == (7, 20, 30, 40)
    late = resolved(Replay(from_time_ms=5), {0: 10}, {0: 12})
    assert late.starts == (10,), "a record that came between the two questions is no history"
    with pytest.raises(FatalError, match=r"names \[2\], expected numbers below 2"):
        resolved(Replay(partitions=(1, 2)), {0: 1, 1: 1}, {})
    assert parse_partitions("3,1,2-2") == (1, 2, 3)


def test_committed_offsets_win_over_the_start() -> None:
    plan = ReplayPlan(starts=(7, 20, 30))
    assert plan.start_offsets([0, 1, 2], {1: 25}) == {0: 7, 2: 30}
    assert ReplayPlan().start_offsets([0, 1], {}) == {}


def test_only_history_of_other_domains_is_left_out() -> None:
    plan = ReplayPlan(ends=(10, 20), domains=(Domain.PRODUCT,))
    assert plan.leaves_out(0, 9, Domain.PIN)
    assert not plan.leaves_out(0, 9, Domain.PRODUCT)
    assert not plan.leaves_out(0, 10, Domain.PIN)
    assert plan.leaves_out(1, 19, Domain.PIN)
    assert not ReplayPlan(ends=(10,)).leaves_out(0, 1, Domain.PIN)


def work(offset: int, pin_id: int, domain: Domain) -> PinWork:
    event = PinEvent(pin_id=pin_id, op=Op.UPSERT, event_time=1, image=Image(uri="data:,x"), domain=domain)
    made = PinWork(0, offset, 0, event.key(), event.value())
    made.parse()
    return made


def test_a_pin_that_left_the_domain_is_deleted_and_not_kept_as_it_was() -> None:
    """The older event matched and may be published already; this poll does not know."""
    works = [work(0, 1, Domain.PRODUCT), work(1, 1, Domain.PIN), work(2, 2, Domain.PRODUCT), work(10, 3, Domain.PIN)]
    leave_out(works, ReplayPlan(ends=(10,), domains=(Domain.PRODUCT,)))
    supersede_deleted(works)
    assert [w.outcome for w in works] == [Outcome.SUPERSEDED, Outcome.LEFT_OUT, None, None]
    publication = PublicationPlan(Fingerprint(MODEL), 256, 1, "pins.v1", "pins.v1.dlq")
    outgoing, outcomes = publication.outgoing(works[:2])
    assert [(record[2], record[3]) for record in outgoing] == [(b"1", None)]
    assert dict(outgoing[0][4] or [])[HEADER_SOURCE_OFFSET] == b"1"
    assert outcomes == {Outcome.SUPERSEDED: 1, Outcome.LEFT_OUT: 1}


def test_a_worker_has_its_share_of_the_pace_until_it_is_at_the_end() -> None:
    paced = ReplayPlan(max_records_per_s=100)
    assert paced.rate_per_s(assigned=1, behind=1, partitions=4) == 25
    assert paced.rate_per_s(assigned=4, behind=1, partitions=4) == 100
    assert paced.rate_per_s(assigned=4, behind=0, partitions=4) == math.inf
    assert ReplayPlan().rate_per_s(assigned=4, behind=4, partitions=4) == math.inf
    assert ReplayPlan(paused=True).rate_per_s(assigned=4, behind=0, partitions=4) == 0


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b"{",
        b"[]",
        b'{"paused": "perhaps"}',
        b'{"max_records_per_s": 0}',
        b'{"max_records_per_s": NaN}',
        b'{"max_records_per_s": -1}',
        b'{"starts": [-1]}',
        b'{"domains": ["people"]}',
        b"[" * MAX_PLAN_BYTES + b"]",
    ],
)
def test_what_is_no_plan_is_none(value: bytes | None) -> None:
    assert parse_plan(value) is None


def test_a_plan_comes_out_as_it_went_in_and_a_newer_one_is_understood() -> None:
    largest = ReplayPlan(
        paused=True,
        max_records_per_s=5.5,
        starts=(2**62,) * 4096,
        ends=(2**62,) * 4096,
        domains=(Domain.PIN,),
    )
    assert parse_plan(largest.model_dump_json().encode()) == largest
    assert parse_plan(b'{"paused": true, "colour": "blue"}') == ReplayPlan(paused=True)


def generation(state: State, **replay: object) -> Generation:
    return Generation(model=MODEL, bits=256, artifact="x", state=state, replay=Replay(**replay))  # type: ignore[arg-type]


def test_the_stricter_of_operator_and_freshness_holds_while_it_replays() -> None:
    one = generation(State.REPLAYING, max_records_per_s=100, paused=True, ends=(9,), domains=("pin",))
    assert plan_of(one, 50) == ReplayPlan(paused=True, max_records_per_s=50, ends=(9,), domains=(Domain.PIN,))
    assert plan_of(one, None).max_records_per_s == 100


@pytest.mark.parametrize(
    ("state", "limit"), [(State.CAUGHT_UP, 50), (State.VALIDATED, 50), (State.STANDBY, 50), (State.LIVE, None)]
)
def test_later_the_operator_s_pace_is_over_and_only_what_is_not_live_yields(state: State, limit: float | None) -> None:
    plan = plan_of(generation(state, max_records_per_s=10, paused=True), 50)
    assert (plan.paused, plan.max_records_per_s) == (False, limit)
