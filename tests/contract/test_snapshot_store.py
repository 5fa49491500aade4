"""What a snapshot store must do, on a local disk and on a real S3-compatible server alike."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import obstore
import pytest
from obstore.store import ObjectStore

from index_sync.checkpoint import Manifest, ShardIdentity
from index_sync.code_batch import CodeBatch
from index_sync.merge_policy import MergePolicy
from index_sync.shard import Shard
from index_sync.store_catalog import copy_files, find_snapshots, snapshots_of
from index_sync.store_snapshot import SnapshotStore
from pinstream.errors import CorruptStateError, OwnershipLostError, PinstreamError
from pinstream.object_store import open_store
from tests.s3_server import BUCKET, S3Server

BITS, CODE_BYTES, SEAL_ROWS = 256, 32, 30
IDENTITY = ShardIdentity(topic="codes.v1.0123456789ab", partition=1, partitions=4, bits=BITS, model="0" * 64)
FOLDER = f"{IDENTITY.topic}/00001/"


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with S3Server() as server:
        yield server


@pytest.fixture(params=["file", "s3"])
def open_new(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], ObjectStore]:
    """Opens a store of this test's own by name."""
    run = uuid.uuid4().hex[:8]

    def open_it(name: str) -> ObjectStore:
        if request.param == "file":
            return open_store((tmp_path / name).as_uri(), {}, setting="test")
        server: S3Server = request.getfixturevalue("s3")
        return open_store(f"s3://{BUCKET}/{run}/{name}", server.options(), setting="test", retries=3)

    return open_it


@pytest.fixture
def store(open_new: Callable[[str], ObjectStore]) -> ObjectStore:
    return open_new("main")


def writer(store: ObjectStore, keep: int = 3, grace_s: float = 0) -> SnapshotStore:
    snapshots = SnapshotStore(store, IDENTITY, keep=keep, grace_s=grace_s)
    snapshots.restore()
    return snapshots


def new_shard() -> Shard:
    return Shard(BITS, seal_rows=SEAL_ROWS, policy=MergePolicy(fan_in=8, max_dead_share=1, tier_floor_rows=SEAL_ROWS))


def grow(shard: Shard, rows: int = 40) -> None:
    """New Pins; full segments are sealed."""
    start = shard.checkpoint
    numbers = np.arange(start, start + rows, dtype=np.int64)
    shard.apply(
        CodeBatch(
            pin_id=numbers + 1,
            source_offset=numbers,
            event_time_ms=numbers,
            domain=np.ones(rows, dtype=np.uint8),
            flags=np.zeros(rows, dtype=np.uint32),
            is_delete=np.zeros(rows, dtype=bool),
            code_NW=np.random.default_rng(start).integers(0, 256, (rows, CODE_BYTES), dtype=np.uint8),
            next_offset=start + rows,
        )
    )
    shard.seal_full()
    while (plan := shard.plan_merge()) is not None:
        shard.install(plan.run())


def save(snapshots: SnapshotStore, shard: Shard, now_ms: int = 1) -> Manifest:
    return snapshots.save(shard.capture().state(), now_ms)


def paths(store: ObjectStore) -> dict[str, int]:
    return {one["path"].removeprefix(FOLDER): one["size"] for page in obstore.list(store, FOLDER) for one in page}


@dataclass
class Puts:
    """What was put, in order, by the ends of its names, with its bytes."""

    names: list[str] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)


@pytest.fixture
def puts(monkeypatch: pytest.MonkeyPatch) -> Puts:
    seen = Puts()
    put = obstore.put

    def counted(store: ObjectStore, path: str, file: Any, **options: Any) -> Any:
        content = file if isinstance(file, bytes) else b"".join(file)
        seen.names.append(path.rpartition("/")[2])
        seen.sizes.append(len(content))
        return put(store, path, content, **options)

    monkeypatch.setattr(obstore, "put", counted)
    return seen


def test_the_manifest_comes_last_and_names_what_is_there(store: ObjectStore, puts: Puts) -> None:
    shard, snapshots = new_shard(), writer(store)
    for _ in range(3):
        grow(shard)
    manifest = save(snapshots, shard)
    assert [name.rpartition(".")[2] for name in puts.names] == ["segment"] * 3 + ["state", "json"]
    for kind, entry in manifest.files:
        assert paths(store)[f"{entry.sha256}.{kind}"] == entry.size_bytes
    restored = SnapshotStore(store, IDENTITY).restore()
    assert restored.manifest == manifest
    assert Shard(BITS, state=restored.state).view().ids().tolist() == shard.view().ids().tolist()


def test_only_new_segments_travel(store: ObjectStore, puts: Puts) -> None:
    shard, snapshots = new_shard(), writer(store)
    grow(shard, 20 * SEAL_ROWS)
    save(snapshots, shard)
    first_bytes = sum(puts.sizes)
    for restarted in (False, True):
        if restarted:
            snapshots = SnapshotStore(store, IDENTITY)
            shard = Shard(BITS, seal_rows=SEAL_ROWS, policy=MergePolicy(fan_in=99), state=snapshots.restore().state)
        puts.names.clear()
        puts.sizes.clear()
        grow(shard, SEAL_ROWS)
        save(snapshots, shard)
        kinds = [name.rpartition(".")[2] for name in puts.names]
        assert kinds == ["segment", "state", "json"]
        assert sum(puts.sizes) < first_bytes / 2


def test_a_save_that_failed_before_its_manifest_does_not_put_its_segments_again(
    store: ObjectStore, puts: Puts, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard, snapshots = new_shard(), writer(store)
    grow(shard, 100)
    with monkeypatch.context() as broken:
        broken.setattr(snapshots, "_publish", lambda _: (_ for _ in ()).throw(PinstreamError("cut off")))
        with pytest.raises(PinstreamError):
            save(snapshots, shard)
    puts.names.clear()
    save(snapshots, shard)
    assert [name.rpartition(".")[2] for name in puts.names] == ["state", "json"]


def test_of_eight_writers_at_once_one_publishes(store: ObjectStore) -> None:
    shard = new_shard()
    grow(shard)
    writers = [writer(store) for _ in range(8)]
    results: list[str] = []

    def run(snapshots: SnapshotStore) -> None:
        try:
            save(snapshots, shard)
            results.append("published")
        except OwnershipLostError:
            results.append("fenced")

    threads = [threading.Thread(target=run, args=(one,)) for one in writers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == ["fenced"] * 7 + ["published"]
    assert writers[0].numbers() == [1]


def test_a_fenced_writer_harms_nothing_and_may_take_over_later(store: ObjectStore) -> None:
    shard, first, second = new_shard(), writer(store), writer(store)
    grow(shard)
    save(second, shard)
    with pytest.raises(OwnershipLostError, match=r"snapshot 1 of codes\.v1\.0123456789ab/1 is another writer's"):
        save(first, shard)
    with pytest.raises(OwnershipLostError):
        first.retain()
    first.take_over()
    grow(shard)
    assert save(first, shard).number == 2
    with pytest.raises(OwnershipLostError):
        save(second, shard)
    restored = SnapshotStore(store, IDENTITY).restore()
    assert restored.manifest is not None
    assert (restored.manifest.number, restored.set_aside) == (2, ())


def test_retention_keeps_the_newest_whole(store: ObjectStore) -> None:
    shard, snapshots = new_shard(), writer(store, keep=2)
    for _ in range(4):
        grow(shard)
        save(snapshots, shard)
        snapshots.retain()
    assert snapshots.numbers() == [4, 3]
    needed = set()
    for number in snapshots.numbers():
        manifest = snapshots.manifest(number)
        snapshots.load(manifest)
        needed |= {f"{entry.sha256}.{kind}" for kind, entry in manifest.files}
    # S3 tells the time in whole seconds: what is as young as the newest may stay
    assert needed <= {name for name in paths(store) if not name.endswith(".json")}


def test_retention_leaves_what_may_be_about_to_be_published(store: ObjectStore) -> None:
    shard, snapshots = new_shard(), writer(store, keep=1, grace_s=60)
    grow(shard)
    save(snapshots, shard)
    young = f"{'a' * 64}.segment"
    obstore.put(store, FOLDER + young, b"somebody's")
    grow(shard)
    save(snapshots, shard)
    snapshots.retain()
    assert young in paths(store)
    assert snapshots.numbers() == [2]


@pytest.mark.parametrize("kind", ["segment", "state", "json"])
@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing"])
def test_a_damaged_snapshot_is_set_aside(store: ObjectStore, kind: str, damage: str) -> None:
    shard, snapshots = new_shard(), writer(store)
    grow(shard)
    save(snapshots, shard)
    before = set(paths(store))
    grow(shard)
    save(snapshots, shard)
    (name,) = (name for name in set(paths(store)) - before if name.endswith(kind))
    content = bytearray(obstore.get(store, FOLDER + name).bytes())
    content[len(content) // 2] ^= 1
    if damage == "missing":
        obstore.delete(store, FOLDER + name)
    else:
        obstore.put(store, FOLDER + name, bytes(content[: len(content) // 2 if damage == "truncated" else None]))
    restored = writer(store).restore()
    assert restored.manifest is not None
    assert restored.manifest.number == 1
    if (kind, damage) != ("json", "missing"):  # that one was never published
        assert "set-aside/manifest-0000000002.json" in paths(store)
        later = writer(store)
        assert save(later, Shard(BITS, state=restored.state)).number == 3


def test_the_catalog_shows_every_snapshot_and_its_faults(store: ObjectStore) -> None:
    shard, snapshots = new_shard(), writer(store)
    for _ in range(3):
        grow(shard)
        save(snapshots, shard)
    assert [(one.partition, one.number, one.fault) for one in find_snapshots(store)] == [
        (1, 3, None),
        (1, 2, None),
        (1, 1, None),
    ]
    obstore.delete(store, f"{FOLDER}{snapshots.manifest(2).state.sha256}.state")
    obstore.put(store, f"{FOLDER}manifest-0000000001.json", b"{}")
    faults = [one.fault for one in find_snapshots(store, IDENTITY.topic, 1)]
    assert faults[0] is None
    assert faults[1] is not None
    assert "state is missing" in faults[1]
    assert faults[2] is not None
    assert "snapshot manifest 1 is not one" in faults[2]
    assert find_snapshots(store, IDENTITY.topic, 2) == []
    assert find_snapshots(store, "codes.v1.ffffffffffff") == []


def test_an_older_snapshot_becomes_the_newest_with_its_own_age(store: ObjectStore, puts: Puts) -> None:
    shard, snapshots = new_shard(), writer(store)
    grow(shard)
    old = snapshots.save(shard.capture().state(), 1000, complete_ms=900)
    grow(shard)
    save(snapshots, shard, now_ms=2000)
    puts.names.clear()
    again = snapshots_of(store, IDENTITY).publish_again(old)
    assert puts.names == ["manifest-0000000003.json"]
    assert (again.number, again.checkpoint) == (3, old.checkpoint)
    assert (again.created_ms, again.complete_ms) == (1000, 900)
    assert SnapshotStore(store, IDENTITY).restore().manifest == again
    with pytest.raises(OwnershipLostError):  # the worker that ran all the while
        save(snapshots, shard)


def test_a_copy_sends_only_what_the_other_store_lacks(
    store: ObjectStore, open_new: Callable[[str], ObjectStore]
) -> None:
    shard, snapshots, backup = new_shard(), writer(store), open_new("backup")
    grow(shard, 100)
    first = save(snapshots, shard)
    assert copy_files(store, FOLDER, first, backup) == first.size_bytes
    snapshots_of(backup, IDENTITY).publish_again(first)
    grow(shard, SEAL_ROWS)
    second = save(snapshots, shard)
    assert 0 < copy_files(store, FOLDER, second, backup) < second.size_bytes
    snapshots_of(backup, IDENTITY).publish_again(second)
    restored = SnapshotStore(backup, IDENTITY).restore()
    assert Shard(BITS, state=restored.state).view().ids().tolist() == shard.view().ids().tolist()
    obstore.delete(store, f"{FOLDER}{second.state.sha256}.state")
    with pytest.raises(CorruptStateError, match="is missing"):
        copy_files(store, FOLDER, second, open_new("third"))
