"""An audit acquits every shard that applied its topic, wherever compaction stands, and convicts every damaged one."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import index_sync.audit
from index_sync.audit import Comparison, Entries, Moved, TopicFold, compare, entries
from index_sync.code_batch import UNCONDITIONAL, CodeBatch
from index_sync.shard import Shard

BITS, PINS = 256, 5


@dataclass(frozen=True)
class Record:
    offset: int
    """In the codes topic."""
    pin_id: int
    source_offset: int
    is_delete: bool


def batch(records: list[Record]) -> CodeBatch:
    """Every code follows from the record's source offset, so that none equals another."""
    source_offset = np.array([one.source_offset for one in records], dtype=np.int64)
    return CodeBatch(
        pin_id=np.array([one.pin_id for one in records], dtype=np.int64),
        source_offset=source_offset,
        event_time_ms=source_offset + 1000,
        domain=(source_offset % 3).astype(np.uint8),
        flags=(source_offset % 16).astype(np.uint32),
        is_delete=np.array([one.is_delete for one in records], dtype=bool),
        code_NW=np.repeat((source_offset % 251).astype(np.uint8)[:, np.newaxis], BITS // 8, axis=1),
        next_offset=records[-1].offset + 1 if records else 0,
    )


@st.composite
def topics(draw: st.DrawFn) -> list[Record]:
    """What an at-least-once embed worker and a person with kcat write: repeats end with the newest again."""
    records: list[Record] = []
    own: dict[int, list[Record]] = {}
    bare: set[int] = set()
    for pin_id, kind in draw(
        st.lists(st.tuples(st.integers(1, PINS), st.sampled_from("uuudbr")), min_size=1, max_size=40)
    ):
        if kind == "r" and pin_id not in bare:
            again = own.get(pin_id, [])[-2:]
        else:
            offset = UNCONDITIONAL if kind == "b" else len(records) + 1
            again = [Record(0, pin_id, offset, kind in "db")]
            own.setdefault(pin_id, []).extend(again)
            if kind == "b":
                bare.add(pin_id)
        records += [replace(one, offset=len(records) + i) for i, one in enumerate(again)]
    return records


@st.composite
def readings(draw: st.DrawFn, topic: list[Record]) -> list[Record]:
    """The topic as a reader meets it: at some positions on its way the cleaner has come further."""
    size = len(topic)
    steps = draw(st.lists(st.tuples(st.integers(0, size), st.integers(0, size)), max_size=3))
    seen = []
    for record in topic:
        cleaned = max((clean for position, clean in steps if position <= record.offset), default=0)
        newer = any(one.pin_id == record.pin_id for one in topic[record.offset + 1 : cleaned])
        if not newer:
            seen.append(record)
    return seen


def shard_at(topic: list[Record], checkpoint: int, pieces: int) -> Entries:
    """What a shard holds that applied the whole topic up to the checkpoint, in batches."""
    shard = Shard(BITS, seal_rows=64)
    for start in range(0, checkpoint, pieces):
        shard.apply(batch(topic[start : min(start + pieces, checkpoint)]))
    found = [entries(*part.columns) for part in shard.view().items()]
    return np.concatenate(found) if found else TopicFold().result()


def audit(read: list[Record], checkpoint: int, shard: Entries, pieces: int) -> tuple[Comparison, Entries, Moved]:
    fold, moved = TopicFold(), Moved()
    before = [one for one in read if one.offset < checkpoint]
    for start in range(0, len(before), pieces):
        fold.add(batch(before[start : start + pieces]))
        fold.result()
    moved.add(b"%d" % one.pin_id for one in read if one.offset >= checkpoint)
    return compare(fold.result(), shard, moved), fold.result(), moved


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_a_shard_that_applied_its_topic_is_clean(data: st.DataObject) -> None:
    topic = data.draw(topics())
    checkpoint = data.draw(st.integers(0, len(topic)))
    pieces = data.draw(st.integers(1, 9))
    found, _, moved = audit(data.draw(readings(topic)), checkpoint, shard_at(topic, checkpoint, pieces), pieces)
    assert found.clean, found
    assert found.moved_on <= len(moved)


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_damage_is_found(data: st.DataObject) -> None:
    topic = data.draw(topics())
    assume(topic)
    checkpoint = data.draw(st.integers(1, len(topic)))
    shard = shard_at(topic, checkpoint, 7)
    assume(len(shard))
    read = data.draw(readings(topic))
    victim = data.draw(st.integers(0, len(shard) - 1))
    kind = data.draw(st.sampled_from(["drop", "flip", "domain", "flags", "double", "ghost", "stale"]))
    pin_id = int(shard["pin_id"][victim])
    _, fold, moved = audit(read, checkpoint, shard, 7)
    is_moved = bool(moved.among(shard["pin_id"][[victim]])[0])
    told = fold[fold["pin_id"] == pin_id]

    damaged = shard.copy()
    if kind == "drop":
        assume(not is_moved)
        damaged = np.delete(damaged, victim)
    elif kind == "ghost":
        damaged = np.append(damaged, damaged[[victim]])
        damaged["pin_id"][-1] = PINS + 1
    elif kind == "double":
        damaged = np.append(damaged, damaged[[victim]])
    else:
        # A Pin that moved on is still judged where the topic shows the very record that the shard holds.
        assume(not is_moved or (len(told) and told["source_offset"][0] == shard["source_offset"][victim]))
        if kind == "flip":
            damaged["code"][victim] = b"\1" * 8
        elif kind == "stale":
            damaged["source_offset"][victim] -= 1
        else:
            damaged[kind][victim] ^= 1
    found, _, _ = audit(read, checkpoint, damaged, 7)
    assert not found.clean
    counts = {"drop": (1, 0, 0), "ghost": (0, 1, 0), "double": (0, 1, 0)}.get(kind, (0, 0, 1))
    assert (found.missing.count, found.extra.count, found.different.count) == counts
    examples = (*found.missing.examples, *found.extra.examples, *found.different.examples)
    assert len(examples) == 1 and str(PINS + 1 if kind == "ghost" else pin_id) in examples[0]


def test_a_repeat_does_not_bring_back_what_a_bare_tombstone_deleted() -> None:
    topic = [Record(0, 1, 12, False), Record(1, 1, UNCONDITIONAL, True), Record(2, 1, 12, False)]
    shard = shard_at(topic, 3, 1)
    assert not len(shard)
    for pieces in (1, 2, 3):
        assert audit(topic, 3, shard, pieces)[0].clean


def test_ten_examples_of_many_faults() -> None:
    records = [Record(i, i + 1, i, is_delete=False) for i in range(50)]
    fold = TopicFold()
    fold.add(batch(records))
    found = compare(fold.result(), TopicFold().result(), Moved())
    assert (found.missing.count, len(found.missing.examples)) == (50, 10)


def test_a_fold_of_many_records_is_reduced_on_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_sync.audit, "_REDUCE_ROWS", 5000)
    fold = TopicFold()
    for start in range(0, 30_000, 1000):
        fold.add(batch([Record(i, i % 1000 + 1, i, is_delete=False) for i in range(start, start + 1000)]))
        assert fold._rows < 5000  # otherwise its memory grows with the topic
    assert (fold.result()["source_offset"] == np.arange(29_000, 30_000)).all()
