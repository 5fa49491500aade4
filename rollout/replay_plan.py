"""From what an operator asks of a replay to what its workers are told. Pure.

A partial replay is partial about history only. History ends where the Pins topic ended when the replay was planned
(`Replay.ends`); from there on each worker embeds everything, or the new index would lack the Pins that came meanwhile.

Before that end:
  a partition that is not replayed      starts at its end
  `--to-datetime`, `--by-duration`      start at the first record of that time or later, or at the end if there is none
  `--where domain=…`                    the rest become tombstones, since a Pin's older version may have matched
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Annotated, Any, Final

from pydantic import AwareDatetime, Field, TypeAdapter, ValidationError

from consumers.replay_plan import ReplayPlan
from pinstream.errors import FatalError
from pinstream.events import Domain
from rollout.generation import Generation, Replay, State

RUNNING: Final = frozenset({State.CREATED, State.REPLAYING})
"""States in which an operator's pace holds: later there is no replay to slow down."""

_MOMENT: Final = TypeAdapter[Any](AwareDatetime)
_DURATION: Final = TypeAdapter(Annotated[timedelta, Field(gt=timedelta(0))])


def replay_from_options(
    *,
    now_ms: int,
    to_datetime: str | None = None,
    by_duration: str | None = None,
    partitions: str | None = None,
    where: str | None = None,
    max_records_per_s: float | None = None,
    force: bool = False,
) -> Replay:
    """The options of `pinstream rollout start`, named as Kafka's own tools name them.

    Args:
        to_datetime: RFC 3339 with a zone.
        by_duration: ISO 8601, such as P7D or PT36H, back from now.
        partitions: such as 0,3,8-11.
        where: domain=product or domain=pin,product.

    Raises:
        FatalError: one of them can't be read, or both times are given.
    """
    if to_datetime is not None and by_duration is not None:
        raise FatalError("--to-datetime and --by-duration are both given, expected one of them")
    from_ms = None
    if to_datetime is not None:
        moment = _read(_MOMENT, to_datetime, "--to-datetime", "RFC 3339 with a zone, such as 2026-11-21T06:00:00Z")
        from_ms = int(moment.timestamp() * 1000)
    elif by_duration is not None:
        back = _read(_DURATION, by_duration, "--by-duration", "ISO 8601, such as P7D or PT36H")
        from_ms = now_ms - int(back.total_seconds() * 1000)
    if from_ms is not None and not 0 <= from_ms <= now_ms:
        raise FatalError(f"the replay would start at {from_ms} ms, expected 1970 to now")
    if max_records_per_s is not None and not max_records_per_s > 0:
        raise FatalError(f"rate is {max_records_per_s} records/s, expected more than 0: `pause` holds a replay")
    return Replay(
        max_records_per_s=max_records_per_s,
        from_time_ms=from_ms,
        partitions=None if partitions is None else parse_partitions(partitions),
        domains=() if where is None else parse_where(where),
        force=force,
    )


def parse_partitions(text: str) -> tuple[int, ...]:
    """`0,3,8-11` → their numbers in order. Raises FatalError."""
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        if not first.isdecimal() or not (last or first).isdecimal() or not int(first) <= int(last or first) < 4096:
            raise FatalError(f"--partitions has {part!r}, expected numbers and ranges such as 0,3,8-11")
        found.update(range(int(first), int(last or first) + 1))
    return tuple(sorted(found))


def parse_where(text: str) -> tuple[Any, ...]:
    """`domain=pin,product` → the domains. Raises FatalError."""
    field, _, values = text.partition("=")
    domains = tuple(dict.fromkeys(value.strip() for value in values.split(",")))
    known = {domain.value for domain in Domain}
    if field.strip() != "domain" or not set(domains) <= known:
        raise FatalError(f"--where is {text!r}, expected domain= and some of {', '.join(sorted(known))}")
    return domains


def resolved(replay: Replay, ends: Mapping[int, int], at_time: Mapping[int, int | None]) -> Replay:
    """The same replay with its offsets: where history ends, and where it starts if not at 0.

    Args:
        ends: every partition of the Pins topic → its end now.
        at_time: with `from_time_ms`, partition → its first offset of that time or later; None: there is none.

    Raises:
        FatalError: a partition is named that the topic lacks.
    """
    count = len(ends)
    unknown = [partition for partition in replay.partitions or () if partition >= count]
    if unknown:
        raise FatalError(f"--partitions names {unknown}, expected numbers below {count}")
    starts: Sequence[int] = ()
    if replay.partitions is not None or replay.from_time_ms is not None:
        chosen = range(count) if replay.partitions is None else replay.partitions
        starts = [_start(p, p in chosen, replay, ends, at_time) for p in range(count)]
    return replay.model_copy(update={"starts": tuple(starts), "ends": tuple(ends[p] for p in range(count))})


def plan_of(generation: Generation, yielded_per_s: float | None) -> ReplayPlan:
    """What the workers of a generation are told.

    Args:
        yielded_per_s: what live freshness leaves them (`replay_control`); None: all. It holds for every generation that
            is not live, since one that stands by may have to catch up too.
    """
    replay = generation.replay
    running = generation.state in RUNNING
    limits = [replay.max_records_per_s if running else None, yielded_per_s if not_live(generation) else None]
    return ReplayPlan(
        paused=replay.paused and running,
        max_records_per_s=min((limit for limit in limits if limit is not None), default=None),
        starts=replay.starts,
        ends=replay.ends,
        domains=tuple(Domain(name) for name in replay.domains),
    )


def not_live(generation: Generation) -> bool:
    return generation.state not in (State.LIVE, State.RETIRED)


def _start(
    partition: int, chosen: bool, replay: Replay, ends: Mapping[int, int], at_time: Mapping[int, int | None]
) -> int:
    if not chosen:
        return ends[partition]
    if replay.from_time_ms is None:
        return 0
    found = at_time.get(partition)
    return ends[partition] if found is None else min(found, ends[partition])


def _read(adapter: TypeAdapter[Any], text: str, option: str, expected: str) -> Any:
    try:
        return adapter.validate_python(text)
    except ValidationError as error:
        raise FatalError(f"{option} is {text!r}, expected {expected}") from error
