"""What a shard must be, told by dicts and loops: the model of the property tests and of `tests.model_check`."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from index_sync.code_batch import CodeBatch
from index_sync.segment import SearchFilter
from index_sync.shard_view import ShardView
from index_sync.top_k import PAD_DISTANCE, PAD_PIN_ID

BITS, CODE_BYTES = 256, 32


@dataclass(frozen=True)
class Record:
    pin_id: int
    kind: str
    source_offset: int
    look: int
    """Chooses the code (few different ones, so that distances tie), the domain and the flags."""

    @property
    def code(self) -> np.ndarray:
        code_W = np.zeros(CODE_BYTES, dtype=np.uint8)
        code_W[: self.look % 4] = 255
        return code_W

    @property
    def domain(self) -> int:
        return self.look % 3

    @property
    def flags(self) -> int:
        return self.look % 8


@dataclass
class Model:
    held: dict[int, Record] = field(default_factory=dict)
    buried: dict[int, int] = field(default_factory=dict)
    checkpoint: int = 0

    def copy(self) -> Model:
        return Model(dict(self.held), dict(self.buried), self.checkpoint)

    def apply(self, record: Record) -> None:
        held = self.held.get(record.pin_id)
        if record.kind == "unconditional":
            if held is not None:
                self.buried[record.pin_id] = held.source_offset
                del self.held[record.pin_id]
            return
        known = held.source_offset if held is not None else self.buried.get(record.pin_id, -1)
        if record.source_offset <= known:
            return
        self.held.pop(record.pin_id, None)
        self.buried.pop(record.pin_id, None)
        if record.kind == "delete":
            self.buried[record.pin_id] = record.source_offset
        else:
            self.held[record.pin_id] = record

    def nearest(self, code_W: np.ndarray, k: int, where: SearchFilter | None) -> list[tuple[int, int]]:
        found = sorted(
            (int(np.bitwise_count(one.code ^ code_W).sum()), one.pin_id)
            for one in self.held.values()
            if where is None
            or ((where.domains is None or one.domain in where.domains) and one.flags & where.flags == where.flags)
        )
        return (found + [(PAD_DISTANCE, PAD_PIN_ID)] * k)[:k]


def batch_of(records: list[Record], next_offset: int) -> CodeBatch:
    return CodeBatch(
        pin_id=np.array([one.pin_id for one in records], dtype=np.int64),
        source_offset=np.array([one.source_offset for one in records], dtype=np.int64),
        event_time_ms=np.array([one.source_offset * 10 for one in records], dtype=np.int64),
        domain=np.array([one.domain for one in records], dtype=np.uint8),
        flags=np.array([one.flags for one in records], dtype=np.uint32),
        is_delete=np.array([one.kind != "upsert" for one in records], dtype=bool),
        code_NW=np.array([one.code for one in records], dtype=np.uint8).reshape(-1, CODE_BYTES),
        next_offset=next_offset,
    )


def assert_same(view: ShardView, model: Model) -> None:
    assert view.ids().tolist() == sorted(model.held)
    assert view.live_rows == len(model.held)
    assert view.checkpoint == model.checkpoint
    seen = {}
    for rows in view.items():
        for i, pin_id in enumerate(rows.pin_id.tolist()):
            assert pin_id not in seen
            seen[pin_id] = (rows.source_offset[i], rows.domain[i], rows.flags[i], rows.code_NW[i].tobytes())
    expected = {
        one.pin_id: (one.source_offset, one.domain, one.flags, one.code.tobytes()) for one in model.held.values()
    }
    assert seen == expected
