"""Snapshots that are damaged, contested or foreign: an older state, a clear refusal, never a wrong state."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from obstore.store import ObjectStore

from index_sync.checkpoint import Manifest, ShardIdentity
from index_sync.code_batch import CodeBatch
from index_sync.merge_policy import MergePolicy
from index_sync.shard import Shard
from index_sync.shard_state import ShardState
from index_sync.shard_view import ShardView
from index_sync.store_snapshot import SnapshotStore
from pinstream.errors import FatalError, OwnershipLostError, RetryableError
from pinstream.object_store import open_store

pytestmark = pytest.mark.fault

BITS, CODE_BYTES = 256, 32
IDENTITY = ShardIdentity(topic="codes.v1.0123456789ab", partition=3, partitions=4, bits=BITS, model="0" * 64)


def store_at(folder: Path, shard: ShardIdentity = IDENTITY, *, keep: int = 3, grace_s: float = 0) -> SnapshotStore:
    return SnapshotStore(open_store(folder.as_uri(), {}, setting="test"), shard, keep=keep, grace_s=grace_s)


def files(folder: Path, pattern: str) -> list[Path]:
    return sorted((folder / IDENTITY.topic / "00003").glob(pattern))


def grow(shard: Shard, rows: int = 40) -> None:
    """New Pins, an update of each fifth one before and a delete of each seventh; then seal and merge."""
    start = shard.checkpoint
    pin_id = np.concatenate((np.arange(start, start + rows) + 1, np.arange(1, start, 5), np.arange(2, start, 7)))
    count = len(pin_id)
    shard.apply(
        CodeBatch(
            pin_id=pin_id.astype(np.int64),
            source_offset=start + np.arange(count, dtype=np.int64),
            event_time_ms=np.full(count, 1_000 + start),
            domain=np.ones(count, dtype=np.uint8),
            flags=np.full(count, 0xABCDEF, dtype=np.uint32),
            is_delete=np.arange(count) >= count - len(np.arange(2, start, 7)),
            code_NW=np.random.default_rng(start).integers(0, 256, (count, CODE_BYTES), dtype=np.uint8),
            next_offset=start + count,
        )
    )
    shard.seal_full()
    while (plan := shard.plan_merge()) is not None:
        shard.install(plan.run())


def new_shard() -> Shard:
    return Shard(BITS, seal_rows=30, policy=MergePolicy(fan_in=8, max_dead_share=1, tier_floor_rows=30))


def content(view: ShardView) -> dict[int, tuple[int, int, int, int, bytes]]:
    return {
        int(rows.pin_id[i]): (
            int(rows.source_offset[i]),
            int(rows.event_time_ms[i]),
            int(rows.domain[i]),
            int(rows.flags[i]),
            rows.code_NW[i].tobytes(),
        )
        for rows in view.items()
        for i in range(len(rows))
    }


def save(store: SnapshotStore, shard: Shard) -> None:
    store.save(shard.capture().state(), now_ms=1)


def test_a_restored_shard_is_the_one_that_was_saved(tmp_path: Path) -> None:
    shard, store = new_shard(), store_at(tmp_path)
    assert store.restore().manifest is None
    for _ in range(3):
        grow(shard)
    assert shard.view().dead_rows
    save(store, shard)
    restored = store_at(tmp_path).restore()
    assert restored.manifest is not None
    assert restored.manifest.number == 1
    assert restored.manifest.live_rows == shard.view().live_rows
    again = Shard(BITS, seal_rows=30, state=restored.state)
    assert content(again.view()) == content(shard.view())
    assert again.checkpoint == shard.checkpoint
    assert again.view().newest_event_time_ms == shard.view().newest_event_time_ms
    assert again.capture().graveyard_pin_id.tolist() == shard.capture().graveyard_pin_id.tolist() != []


def test_only_new_segments_travel_also_after_a_restart(tmp_path: Path) -> None:
    shard, store = new_shard(), store_at(tmp_path)
    store.restore()
    grow(shard)
    save(store, shard)
    before = {path.name: path.stat().st_mtime_ns for path in files(tmp_path, "*.segment")}
    store = store_at(tmp_path)
    shard = Shard(BITS, seal_rows=30, state=store.restore().state)
    grow(shard)
    save(store, shard)
    after = {path.name: path.stat().st_mtime_ns for path in files(tmp_path, "*.segment")}
    assert before
    assert before.items() < after.items()


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip(path: Path, at: float) -> None:
    damaged = bytearray(path.read_bytes())
    damaged[int((len(damaged) - 1) * at)] ^= 0x10
    path.write_bytes(damaged)


def replace(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


DAMAGES: dict[str, Callable[[Path], None]] = {
    "truncated": truncate,
    "empty": lambda path: os.truncate(path, 0),
    "missing": Path.unlink,
    "grown": lambda path: os.truncate(path, path.stat().st_size + 1),
    "replaced": replace,
    "first bit": lambda path: flip(path, 0),
    "middle bit": lambda path: flip(path, 0.5),
    "last bit": lambda path: flip(path, 1),
}


@pytest.mark.parametrize(
    ("kind", "damage"),
    # a manifest that is missing was never published
    [
        (kind, damage)
        for kind in ("segment", "state", "json")
        for damage in DAMAGES
        if (kind, damage) != ("json", "missing")
    ],
)
def test_a_damaged_snapshot_is_set_aside_and_the_older_one_used(
    tmp_path: Path, kind: str, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    shard, store = new_shard(), store_at(tmp_path)
    store.restore()
    grow(shard)
    save(store, shard)
    old_files, old_content = set(files(tmp_path, f"*.{kind}")), content(shard.view())
    grow(shard)
    save(store, shard)
    DAMAGES[damage]((set(files(tmp_path, f"*.{kind}")) - old_files).pop())
    with caplog.at_level(logging.ERROR):
        restored = store_at(tmp_path).restore()
    assert restored.manifest is not None
    assert restored.manifest.number == 1
    assert len(restored.set_aside) == 1
    assert "snapshot 2 of codes.v1.0123456789ab/3 is set aside" in caplog.text
    assert content(Shard(BITS, state=restored.state).view()) == old_content
    assert [path.name for path in files(tmp_path, "set-aside/*")] == ["manifest-0000000002.json"]
    # its number is spent: the next snapshot is 3, and restores
    store = store_at(tmp_path)
    shard = Shard(BITS, seal_rows=30, state=store.restore().state)
    grow(shard)
    save(store, shard)
    restored = store_at(tmp_path).restore()
    assert restored.manifest is not None
    assert restored.manifest.number == 3


def test_nothing_usable_is_an_empty_shard_that_begins_at_0(tmp_path: Path) -> None:
    shard, store = new_shard(), store_at(tmp_path)
    store.restore()
    for _ in range(2):
        grow(shard)
        save(store, shard)
    for path in files(tmp_path, "*.state"):
        path.unlink()
    restored = store_at(tmp_path).restore()
    assert restored.manifest is None
    assert len(restored.set_aside) == 2
    assert restored.state.checkpoint == 0
    assert Shard(BITS, state=restored.state).view().live_rows == 0


def forge(path: Path, change: dict[str, object]) -> None:
    """Change fields and make the checksum right again."""
    fields = json.loads(path.read_text())["manifest"] | change
    canonical = json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()
    path.write_text(json.dumps({"manifest": fields, "sha256": hashlib.sha256(canonical).hexdigest()}))


@pytest.mark.parametrize(
    "change",
    [
        {"checkpoint": -1},
        {"checkpoint": "7"},
        {"number": 2},
        {"more": 1},
        {"segments": None},
        {"live_rows": 1},
        {"state": {"sha256": "../../etc/passwd", "size_bytes": 1}},
        {"state": {"sha256": "0" * 64, "size_bytes": 2**47}},
        {"format": 0},
    ],
)
def test_a_forged_manifest_is_set_aside(tmp_path: Path, change: dict[str, object]) -> None:
    shard, store = new_shard(), store_at(tmp_path)
    store.restore()
    grow(shard)
    save(store, shard)
    (path,) = files(tmp_path, "*.json")
    forge(path, change)
    restored = store_at(tmp_path).restore()
    assert restored.manifest is None
    assert len(restored.set_aside) == 1


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("partitions", 8, "partitions 4, expected 8"),
        ("bits", 512, "bits 256, expected 512"),
        ("model", "1" * 64, "model 0{64}, expected 1{64}"),
    ],
)
def test_a_snapshot_of_another_index_is_fatal_and_left_alone(
    tmp_path: Path, field: str, value: object, message: str
) -> None:
    store = store_at(tmp_path)
    store.restore()
    save(store, new_shard())
    with pytest.raises(FatalError, match=message):
        store_at(tmp_path, IDENTITY.model_copy(update={field: value})).restore()
    assert len(files(tmp_path, "*.json")) == 1


def test_a_manifest_of_a_newer_pinstream_is_fatal(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    store.restore()
    save(store, new_shard())
    (path,) = files(tmp_path, "*.json")
    forge(path, {"format": 3})
    with pytest.raises(FatalError, match="upgrade pinstream"):
        store_at(tmp_path).restore()


def test_of_two_writers_the_second_to_publish_loses(tmp_path: Path) -> None:
    first, second = store_at(tmp_path), store_at(tmp_path)
    first.restore()
    second.restore()
    shard = new_shard()
    save(second, shard)
    with pytest.raises(OwnershipLostError, match="another writer"):
        save(first, shard)
    save(second, shard)
    with pytest.raises(OwnershipLostError):
        first.retain()
    newest = store_at(tmp_path).restore().manifest
    assert newest is not None
    assert newest.number == 2


def test_a_writer_that_slept_through_the_removal_of_its_successor_still_loses(tmp_path: Path) -> None:
    sleeper, owner = store_at(tmp_path), store_at(tmp_path, keep=1)
    sleeper.restore()
    owner.restore()
    shard = new_shard()
    for _ in range(3):
        save(owner, shard)
        owner.retain()
    assert owner.numbers() == [3]
    with pytest.raises(OwnershipLostError, match="snapshot 3"):
        save(sleeper, shard)


def test_retention_keeps_the_newest_and_only_their_files(tmp_path: Path) -> None:
    shard, store = new_shard(), store_at(tmp_path, keep=2)
    store.restore()
    for _ in range(5):
        grow(shard)
        save(store, shard)
        store.retain()
    assert [path.name for path in files(tmp_path, "*.json")] == ["manifest-0000000004.json", "manifest-0000000005.json"]
    assert len(files(tmp_path, "*.state")) == 2
    for number in store.numbers():
        store.load(store.manifest(number))


def test_retention_leaves_young_files_that_no_manifest_names_yet(tmp_path: Path) -> None:
    shard, store = new_shard(), store_at(tmp_path, keep=1, grace_s=60)
    store.restore()
    save(store, shard)
    grow(shard)
    (folder,) = (tmp_path / IDENTITY.topic).iterdir()
    young, old = folder / f"{'a' * 64}.segment", folder / f"{'b' * 64}.segment"
    foreign = folder / "notes.txt"
    for path in (young, old, foreign):
        path.write_bytes(b"x")
    for path in (old, foreign):
        os.utime(path, (1, 1))
    save(store, shard)
    assert store.retain() == 2
    assert (young.exists(), old.exists(), foreign.exists()) == (True, False, True)


def test_a_put_whose_answer_was_lost_is_not_taken_for_another_writer(tmp_path: Path) -> None:
    shard, store = new_shard(), store_at(tmp_path)
    store.restore()
    save(store, shard)
    store._last_number = 0  # as if the answer to our put had not arrived, and obstore had put again
    save(store, shard)
    assert store.numbers() == [1]
    store._last_number = 0  # as if it had not arrived at all before the next snapshot was due
    grow(shard)
    save(store, shard)
    assert store.numbers() == [2, 1]
    assert store_at(tmp_path).restore().state.live_rows == shard.view().live_rows


def test_a_published_file_that_vanished_or_shrank_is_put_again(tmp_path: Path) -> None:
    shard, store = new_shard(), store_at(tmp_path)
    store.restore()
    grow(shard)
    save(store, shard)
    for damage in (Path.unlink, truncate):
        (segment,) = files(tmp_path, "*.segment")
        damage(segment)
        save(store, shard)
        newest = store_at(tmp_path).restore().manifest
        assert newest is not None
        assert newest.number == store.numbers()[0]


def test_retention_removes_what_a_killed_put_left(tmp_path: Path) -> None:
    shard, store = new_shard(), store_at(tmp_path, grace_s=60)
    store.restore()
    save(store, shard)
    (folder,) = (tmp_path / IDENTITY.topic).iterdir()
    old, young = folder / f"{'a' * 64}.segment#1", folder / f"{'b' * 64}.segment#1"
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, (1, 1))
    assert store.retain() == 1
    assert (old.exists(), young.exists()) == (False, True)


def test_a_snapshot_that_its_owner_removes_meanwhile_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader is slow, and retention takes the snapshot that it reads: it must find the newer one, not nothing."""
    shard, store = new_shard(), store_at(tmp_path, keep=1)
    store.restore()
    grow(shard)
    save(store, shard)
    reader = store_at(tmp_path)
    load = reader.load

    def slow_load(manifest: Manifest) -> ShardState:
        if manifest.number == 1:
            grow(shard)
            save(store, shard)
            store.retain()
        return load(manifest)

    monkeypatch.setattr(reader, "load", slow_load)
    restored = reader.restore()
    assert restored.manifest is not None
    assert restored.manifest.number == 2


def test_a_store_that_is_away_is_retryable_and_sets_nothing_aside() -> None:
    away: ObjectStore = open_store(
        "s3://bucket/prefix",
        {
            "endpoint": "http://127.0.0.1:9",
            "region": "none",
            "access_key_id": "a",
            "secret_access_key": "b",
            "allow_http": "true",
        },
        setting="index.snapshot_url",
    )
    with pytest.raises(RetryableError, match="snapshot store is away"):
        SnapshotStore(away, IDENTITY).restore()


def test_a_url_that_names_no_store_is_fatal() -> None:
    with pytest.raises(FatalError, match="snapshot_url is 'nonsense://x'"):
        open_store("nonsense://x", {}, setting="index.snapshot_url")


def test_save_needs_a_restore_before_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="restore"):
        save(store_at(tmp_path), new_shard())
