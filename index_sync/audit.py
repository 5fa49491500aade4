"""Does a shard hold what its codes topic says? Folds the topic up to the shard's checkpoint and compares. Pure.

**Log compaction.** A record is removed when a newer one of its key is in the log, and the newer one may lie beyond the
checkpoint: then the shard holds what the topic no longer shows. Only a Pin with a record beyond the checkpoint can be
in that state, so such Pins are collected (`Moved`), and where one of them differs in a way that a removed record
explains, it has "moved on" and is not judged. A removed record only ever makes the fold older or emptier. So a Pin that
moved is still at fault if the shard holds something older than the fold, or the same record with other bytes.

The fold is vectorised but is not the code that the shard applies batches with.

Shapes: N records or rows, M chosen ones of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from index_sync.code_batch import UNCONDITIONAL, Bools, Bytes, CodeBatch, Int64s

MAX_EXAMPLES: Final = 10
_REDUCE_ROWS: Final = 500_000
_DIGEST: Final = np.dtype("V8")

Entries = npt.NDArray[np.void]
"""[N] of `ENTRY`."""

ENTRY: Final = np.dtype(
    [
        ("pin_id", "<i8"),
        ("source_offset", "<i8"),
        ("event_time_ms", "<i8"),
        ("domain", "u1"),
        ("flags", "<u4"),
        ("code", _DIGEST),
        ("is_delete", "?"),
    ]
)
"""What is compared of a Pin; of its code a hash. 38 bytes each."""
_COMPARED: Final = ("source_offset", "event_time_ms", "domain", "flags", "code")


def entries(
    pin_id: Int64s,
    source_offset: Int64s,
    event_time_ms: Int64s,
    domain: Bytes,
    flags: npt.NDArray[np.uint32],
    code_NW: Bytes,
    is_delete: Bools | None = None,
) -> Entries:
    """Columns of N rows → [N] of `ENTRY`. About 1 µs a row; never blocks."""
    found = np.empty(len(pin_id), dtype=ENTRY)
    found["pin_id"], found["source_offset"], found["event_time_ms"] = pin_id, source_offset, event_time_ms
    found["domain"], found["flags"] = domain, flags
    found["is_delete"] = False if is_delete is None else is_delete
    size = code_NW.shape[1]
    raw = np.ascontiguousarray(code_NW).tobytes()
    digest = b"".join(
        hashlib.blake2b(raw[start : start + size], digest_size=_DIGEST.itemsize).digest()
        for start in range(0, len(raw), size)
    )
    found["code"] = np.frombuffer(digest, dtype=_DIGEST)
    return found


class TopicFold:
    """What is left of each Pin of one partition. ~250 bytes a Pin at most, deleted ones included. Not thread-safe."""

    def __init__(self) -> None:
        self._parts: list[Entries] = [np.empty(0, dtype=ENTRY)]
        self._rows = 0

    def add(self, batch: CodeBatch) -> None:
        """The next records of the topic."""
        self._parts.append(
            entries(
                batch.pin_id,
                batch.source_offset,
                batch.event_time_ms,
                batch.domain,
                batch.flags,
                batch.code_NW,
                batch.is_delete,
            )
        )
        self._rows += len(batch)
        if self._rows >= max(_REDUCE_ROWS, len(self._parts[0])):
            self.result()

    def result(self) -> Entries:
        """One entry a Pin, ascending: its newest record, `is_delete` if it does not live."""
        if len(self._parts) > 1:
            self._parts = [_newest(np.concatenate(self._parts))]
            self._rows = 0
        return self._parts[0]


class Moved:
    """Pins that have records at or beyond the checkpoint. Not thread-safe."""

    def __init__(self) -> None:
        self._pin_id: set[int] = set()

    def add(self, keys: Iterable[object]) -> None:
        """Keys of records, of whatever sort: compaction looks at nothing else."""
        self._pin_id.update(int(key) for key in keys if isinstance(key, bytes) and key.isdigit() and len(key) < 20)

    def __len__(self) -> int:
        return len(self._pin_id)

    def among(self, pin_id: Int64s) -> Bools:
        """bool [N]"""
        moved = np.fromiter((one for one in self._pin_id if one < 2**63), dtype=np.int64)
        return np.isin(pin_id, moved)


@dataclass(frozen=True, slots=True)
class Faults:
    """One kind of difference."""

    count: int
    examples: tuple[str, ...]
    """Up to ten, a sentence each."""


@dataclass(frozen=True, slots=True)
class Comparison:
    missing: Faults
    """Live by the topic, not in the shard."""
    extra: Faults
    """In the shard, not by the topic; or twice in the shard."""
    different: Faults
    """In both, and not the same."""
    moved_on: int
    """Pins that could not be judged: see above. A later audit will."""

    @property
    def clean(self) -> bool:
        return not (self.missing.count or self.extra.count or self.different.count)


def compare(fold: Entries, shard: Entries, moved: Moved) -> Comparison:
    """Judge a shard's living rows, in any order, by the fold of its topic up to the same checkpoint."""
    shard = shard[np.argsort(shard["pin_id"], kind="stable")]
    twice = np.zeros(len(shard), dtype=bool)
    twice[1:] = shard["pin_id"][1:] == shard["pin_id"][:-1]
    doubles, shard = shard[twice], shard[~twice]

    at, known = _places(shard["pin_id"], fold["pin_id"])
    held = shard[known]
    told = fold[at[known]]
    changed = np.zeros(len(held), dtype=bool)
    for field in _COMPARED:
        changed |= held[field] != told[field]
    older_fold = moved.among(held["pin_id"]) & (held["source_offset"] > told["source_offset"])
    ghost = told["is_delete"] & ~older_fold
    different = ~told["is_delete"] & changed & ~older_fold
    unknown = shard[~known]
    unknown_moved = moved.among(unknown["pin_id"])

    living = fold[~fold["is_delete"]]
    _, in_shard = _places(living["pin_id"], shard["pin_id"])
    absent = living[~in_shard]
    absent_moved = moved.among(absent["pin_id"])

    excused = np.count_nonzero(older_fold & (told["is_delete"] | changed))
    extra = (
        *(f"pin {_pin(one)} is in the shard twice" for one in doubles[:MAX_EXAMPLES]),
        *(f"pin {_pin(one)} is in the shard and was never on the topic" for one in _few(unknown, ~unknown_moved)),
        *(
            f"pin {_pin(one)} is in the shard with source offset {one['source_offset']}, deleted at {_deleted_at(gone)}"
            for one, gone in zip(_few(held, ghost), _few(told, ghost), strict=True)
        ),
    )
    return Comparison(
        missing=Faults(
            int(np.count_nonzero(~absent_moved)),
            tuple(
                f"pin {_pin(one)} is not in the shard; source offset {one['source_offset']} by the topic"
                for one in _few(absent, ~absent_moved)
            ),
        ),
        extra=Faults(
            len(doubles) + int(np.count_nonzero(~unknown_moved)) + int(np.count_nonzero(ghost)), extra[:MAX_EXAMPLES]
        ),
        different=Faults(
            int(np.count_nonzero(different)),
            tuple(
                _difference(one, other) for one, other in zip(_few(held, different), _few(told, different), strict=True)
            ),
        ),
        moved_on=int(np.count_nonzero(absent_moved) + np.count_nonzero(unknown_moved) + excused),
    )


def _newest(records: Entries) -> Entries:
    """Records in topic order → one a Pin: the greatest source offset, the first of equals.

    A tombstone without an offset that comes after it deletes it, and lets the offset stand.
    """
    position = np.arange(len(records))
    order = np.lexsort((-position, records["source_offset"], records["pin_id"]))
    pin_id = records["pin_id"][order]
    ends_pin = np.ones(len(order), dtype=bool)
    ends_pin[:-1] = pin_id[1:] != pin_id[:-1]
    chosen = order[ends_pin]
    newest = records[chosen]
    bare = np.flatnonzero(records["is_delete"] & (records["source_offset"] == UNCONDITIONAL))
    if len(bare):
        last_bare = np.full(len(newest), -1)
        np.maximum.at(last_bare, np.searchsorted(newest["pin_id"], records["pin_id"][bare]), bare)
        newest["is_delete"] |= last_bare > chosen
    return newest


def _places(wanted: Int64s, pin_id: Int64s) -> tuple[npt.NDArray[np.intp], Bools]:
    """Where each wanted Pin is among ascending ones, and whether it is there at all."""
    if not len(pin_id):
        return np.zeros(len(wanted), dtype=np.intp), np.zeros(len(wanted), dtype=bool)
    at = np.minimum(np.searchsorted(pin_id, wanted), len(pin_id) - 1)
    return at, pin_id[at] == wanted


def _few(rows: Entries, chosen: Bools) -> Entries:
    return rows[np.flatnonzero(chosen)[:MAX_EXAMPLES]]


def _pin(one: np.void) -> int:
    return int(one["pin_id"])


def _deleted_at(gone: np.void) -> str:
    offset = int(gone["source_offset"])
    return "an unknown offset" if offset == UNCONDITIONAL else f"source offset {offset} or by a bare tombstone after it"


def _difference(one: np.void, told: np.void) -> str:
    fields = [field for field in _COMPARED if one[field] != told[field]]
    shown = [
        "the code's bytes" if field == "code" else f"{field} {int(one[field])}, expected {int(told[field])}"
        for field in fields
    ]
    return f"pin {_pin(one)} (source offset {int(told['source_offset'])}) differs in {'; '.join(shown)}"
