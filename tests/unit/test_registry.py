"""The registry's store, what is followed of it, and what follows from it."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from pathlib import Path

import obstore
import pytest
from obstore.store import MemoryStore

from index_sync.search_protocol import BadQueryError
from pinstream.errors import CorruptStateError, FatalError, RetryableError
from pinstream.events import Domain, Flag
from pinstream.settings import ProfilesSettings
from rollout.catch_up import CatchUp, Seen
from rollout.generation import Application, Generation, Registry, Split, State
from rollout.lease_memory import LeaseMemory
from rollout.newest_registry import NewestRegistry
from rollout.profiles import FrontRequest, NoGenerationError, choose, narrowed
from rollout.redis_signal import FrontStatus, RedisSignal
from rollout.registry_watch import RegistryWatch
from rollout.store_registry import RegistryConflictError, RegistryStore
from tests.conftest import wait_for

OLD, NEW = "ab" * 32, "cd" * 32


def generation(model: str = OLD, state: State = State.LIVE) -> Generation:
    return Generation(model=model, bits=256, artifact="here", state=state)


def both(**fields: object) -> Registry:
    registry = Registry().with_generation(generation()).with_generation(generation(NEW, State.VALIDATED))
    return registry.model_copy(update={"live": dict.fromkeys(Application, OLD), **fields})


def test_of_writers_at_the_same_moment_each_number_has_one() -> None:
    store = RegistryStore(MemoryStore())
    start = threading.Barrier(8)
    won, told = [], []

    def write(number: int) -> None:
        start.wait()
        one = generation(f"{number:064x}")
        try:
            won.append(store.update(lambda r: r.with_generation(one), by=f"w{number}", action="add", at_ms=1).number)
        except RegistryConflictError as error:
            told.append(str(error))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == list(range(1, len(won) + 1))
    assert len(won) + len(told) == 8
    assert all("did 'add' at 1970-01-01 00:00:00 UTC, meanwhile" in text for text in told)
    assert len(store.read().generations) == len(won)


def test_a_lost_answer_of_the_store_is_not_taken_for_another_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    store, put = RegistryStore(MemoryStore()), obstore.put

    def put_twice(*args: object, **kwargs: object) -> object:
        put(*args, **kwargs)  # type: ignore[arg-type]  # as they came
        return put(*args, **kwargs)  # type: ignore[arg-type]  # as they came

    monkeypatch.setattr(obstore, "put", put_twice)
    assert store.update(lambda r: r.with_generation(generation()), by="a", action="add", at_ms=1).number == 1


def test_fifty_documents_are_kept_and_not_many_more() -> None:
    raw = MemoryStore()
    store, kept = RegistryStore(raw), list[int]()
    for number in range(1, 66):
        one = generation(f"{number % 2:064x}")
        store.update(lambda r, one=one: r.with_generation(one), by="me", action="add", at_ms=number)  # type: ignore[misc]
        store.update(lambda _: Registry(), by="me", action="remove", at_ms=number)
        kept.append(sum(len(page) for page in obstore.list(raw, "registry/")))
    assert max(kept) <= 61
    assert min(kept[30:]) >= 51
    assert store.read().number == 130


def test_a_front_door_starts_from_what_its_disk_remembers(tmp_path: Path) -> None:
    """Told by the store, then without one."""
    store, copy, told = RegistryStore(MemoryStore()), tmp_path / "new" / "registry.json", list[int]()
    watch = follow(store, copy, told)
    store.update(lambda _: both(), by="me", action="adopt", at_ms=1)
    wait_for(copy.exists, "it is kept", 5)
    watch.stop()
    assert told == [1]
    again = follow(AwayStore(MemoryStore()), copy, told)
    again.stop()
    assert told == [1, 1]
    assert again.registry().live == both().live


class AwayStore(RegistryStore):
    def read(self) -> Registry:
        raise RetryableError("the store is away")


def follow(store: RegistryStore, copy: Path, told: list[int]) -> RegistryWatch:
    status = FrontStatus(name="a", url="http://a", number=0, models=())
    watch = RegistryWatch(
        store,
        RedisSignal("", "pins", 1),
        copy,
        poll_redis_s=0.01,
        poll_store_s=0.01,
        on_change=lambda registry: told.append(registry.number),
        status=lambda: status,
    )
    watch.start()
    return watch


def test_a_damaged_registry_is_named() -> None:
    raw = MemoryStore()
    obstore.put(raw, "registry/registry-0000000007.json", b"{")
    with pytest.raises(CorruptStateError, match=r"registry-0000000007.json is no registry"):
        RegistryStore(raw).read()


def test_the_newest_number_counts_and_the_store_has_the_last_word() -> None:
    newest = NewestRegistry()
    first, second, third = (Registry(number=number) for number in (1, 2, 3))
    assert newest.from_store(first, asked_s=0, now_s=1)
    assert newest.from_mirror(third, now_s=2)
    assert not newest.from_mirror(second, now_s=3), "an older one"
    assert not newest.from_store(second, asked_s=1.5, now_s=4), "asked before 3 was heard of"
    assert newest.registry is third
    assert newest.from_store(second, asked_s=4, now_s=5), "asked since: 3 was never published there"
    assert newest.registry is second


@dataclass(frozen=True)
class Leaf:
    instance: str
    shards: int = 0


def test_leaves_outlive_a_redis_that_comes_back_empty() -> None:
    memory = LeaseMemory[Leaf](5)
    one, two = Leaf("one"), Leaf("two")
    seen = (one, two)
    assert memory.known(seen, 0) == seen
    empty: tuple[Leaf, ...] = ()
    assert memory.known(empty, 1) == (one, two)
    assert memory.known(empty, 1) is memory.known(empty, 2), "the same object until something changes"
    changed = replace(one, shards=3)
    assert memory.known((changed,), 3) == (changed, two)
    assert memory.known((changed, Leaf("three")), 7) == (changed, Leaf("three")), "two is gone for good"


def test_a_replay_has_caught_up_when_every_partition_is_nearly_there() -> None:
    way, topics = CatchUp(0), {"pins": frozenset({0, 1}), "codes": frozenset({0, 1})}
    replaying = generation(state=State.REPLAYING)

    def move(one: Generation, now_ms: int) -> State | None:
        return way.next_state(one, topics, now_ms, caught_up_s=2, fallen_behind_s=60)

    assert move(replaying, 0) is None, "nothing is known"
    way.saw(Seen("pins", {0: 5}, {0: 100, 1: 0}), 0)
    way.saw(Seen("codes", {}, {0: 0, 1: 0}), 0)
    assert move(replaying, 1000) is None, "95 records that nobody knows the age of"
    way.saw(Seen("pins", {0: 100}, {0: 150, 1: 0}), 10_000)
    way.saw(Seen("codes", {}, {0: 80, 1: 0}), 10_000)
    assert move(replaying, 11_000) is None, "records that are a second old; but is anybody at work?"
    assert move(replaying, 13_000) is None, "nobody is"
    way.saw(Seen("pins", {0: 150}, {0: 170, 1: 0}), 14_000)
    way.saw(Seen("codes", {0: 80}, {0: 100, 1: 0}), 14_000)
    assert move(replaying, 14_000) is None
    way.saw(Seen("pins", {0: 170}, {0: 190, 1: 0}), 16_000)
    way.saw(Seen("codes", {0: 100}, {0: 120, 1: 0}), 16_000)
    assert move(replaying, 16_500) is State.CAUGHT_UP, "near for longer than idle workers could seem so"
    assert move(generation(state=State.CAUGHT_UP), 17_000) is None
    assert move(generation(state=State.CAUGHT_UP), 80_000) is State.REPLAYING, "its workers are gone"
    assert move(generation(state=State.VALIDATED), 80_000) is State.CAUGHT_UP
    assert move(generation(state=State.LIVE), 80_000) is None


def test_an_alias_a_name_and_a_test_choose_the_generation() -> None:
    registry = both(splits=(Split(application=Application.LENS, model=NEW, share=0.5, salt="t", started_ms=0),))
    assert choose(registry, Application.LENS, None, None).model == OLD, "without a requester: no test"
    assert choose(registry, Application.FLASHLIGHT, None, "r").arm is None
    routes = {name: choose(registry, Application.LENS, None, name) for name in map(str, range(50))}
    assert {(route.model, route.arm) for route in routes.values()} == {(OLD, "control"), (NEW, "treatment")}
    assert choose(registry, Application.LENS, NEW[:8], "r").model == NEW
    with pytest.raises(BadQueryError, match="names 0 generations"):
        choose(registry, Application.LENS, "ef" * 6, None)
    with pytest.raises(NoGenerationError):
        choose(Registry(), Application.LENS, None, None)


def test_a_request_narrows_its_profile_and_never_widens_it() -> None:
    profiles = ProfilesSettings()
    shop = {"application": "shop_the_look", "image": "aa", "box": {"x": 0, "y": 0, "width": 1, "height": 1}}
    asked = narrowed(FrontRequest.model_validate(shop | {"flags": ["promoted"]}), profiles)
    assert (asked.domains, asked.flags, asked.k) == ((Domain.PRODUCT,), (Flag.SHOPPABLE, Flag.PROMOTED), 20)
    with pytest.raises(BadQueryError, match="searches product only"):
        narrowed(FrontRequest.model_validate(shop | {"domains": ["camera"]}), profiles)
    with pytest.raises(BadQueryError, match="box is missing"):
        narrowed(FrontRequest.model_validate({"application": "flashlight", "image": "aa"}), profiles)
    for of_one in ({"code": "aa"}, {"pin_id": 1, "min_offset": {0: 1}}):
        with pytest.raises(BadQueryError, match="given without generation"):
            narrowed(FrontRequest.model_validate({"application": "lens"} | of_one), profiles)
    lens = narrowed(FrontRequest.model_validate({"application": "lens", "pin_id": 1, "domains": ["pin"]}), profiles)
    assert lens.domains == (Domain.PIN,)


def test_a_generation_that_some_requesters_see_is_not_retired() -> None:
    registry = both(splits=(Split(application=Application.LENS, model=NEW, share=0.1, salt="t", started_ms=0),))
    with pytest.raises(FatalError, match="10% of lens see it in test 't'"):
        registry.with_state(NEW, State.RETIRED, at_ms=1, by="anna")
    ended = registry.without_splits(frozenset({Application.LENS}))
    assert ended.with_state(NEW, State.RETIRED, at_ms=1, by="anna").generation(NEW).state is State.RETIRED
    with pytest.raises(FatalError, match="it is live for flashlight"):
        registry.with_state(OLD, State.RETIRED, at_ms=1, by="anna")


def test_a_rollback_takes_back_the_last_flip_and_only_once() -> None:
    registry = both().flipped(NEW, frozenset({Application.LENS}), at_ms=5, by="anna")
    assert registry.last_changed() == {Application.LENS}
    back = registry.rolled_back(registry.last_changed(), at_ms=6, by="ben")
    assert back.live == dict.fromkeys(Application, OLD)
    with pytest.raises(FatalError, match=r"lens was rolled back already, by ben at 1970-01-01 00:00:00 UTC"):
        back.rolled_back(back.last_changed(), at_ms=7, by="anna")
    with pytest.raises(FatalError, match="nothing was flipped yet"):
        both().rolled_back(both().last_changed(), at_ms=7, by="anna")
