"""What goes between a root and its leaves: frames of a JSON head and raw arrays. Pure.

A frame is the head's length (4 bytes, big endian), the head (JSON), and a body: the query's code, or the hits as
one structured array. Whatever comes in is hostile until it is checked here: sizes, ranges, unknown fields.

Shapes: H hits, W = bits / 8 bytes of code.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Final, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from index_sync.calibration import MAX_PROBES, Effort
from index_sync.code_batch import Bytes
from index_sync.search_protocol import MAX_K, LeafCode, Offsets, ShardState
from index_sync.segment import MAX_FLAGS, SearchFilter
from pinstream.errors import PinstreamError
from pinstream.events import MAX_PIN_ID, Domain

MAX_MESSAGE_BYTES: Final = 4 * 1024 * 1024
"""gRPC's own default; 4096 shard states take a quarter of it."""
HIT: Final = np.dtype([("pin_id", "<i8"), ("distance", "<i4"), ("flags", "<u4"), ("domain", "u1")])
_LENGTH_BYTES: Final = 4

Hits = npt.NDArray[np.void]
"""HIT [H], sorted by (distance, Pin id)."""
Partitions = Annotated[tuple[Annotated[int, Field(ge=0, lt=4096)], ...], Field(max_length=4096)]
_M = TypeVar("_M", bound=BaseModel)


class BadMessageError(PinstreamError):
    """Another node sent what no leaf or root of ours sends."""


@dataclass(frozen=True, slots=True, eq=False)
class LeafQuery:
    """A search of some shards by a code of the model."""

    model: str
    code_W: Bytes
    k: int
    partitions: tuple[int, ...]
    where: SearchFilter | None
    effort: Effort | None
    """None: exactly."""
    min_offset: Mapping[int, int]
    """Partition → next offset of the codes topic that must be applied before the search."""


@dataclass(frozen=True, slots=True, eq=False)
class LeafFound:
    model: str
    hits: Hits
    shards: tuple[ShardState, ...]
    """The shards that were searched."""
    behind: Mapping[int, int]
    """Partition → applied offset of shards that were not there in time; then nothing was searched."""

    @property
    def partitions(self) -> frozenset[int]:
        return frozenset(shard.partition for shard in self.shards)


@dataclass(frozen=True, slots=True)
class PinQuery:
    """What do these shards hold of a Pin?"""

    model: str
    pin_id: int
    partitions: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PinFound:
    model: str
    partitions: frozenset[int]
    """The shards that were looked into."""
    held: LeafCode | None


class _Head(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _QueryHead(_Head):
    model: str
    k: Annotated[int, Field(ge=1, le=MAX_K + 1)]
    partitions: Partitions
    filtered: bool
    domains: Annotated[tuple[Annotated[int, Field(ge=0, le=255)], ...], Field(max_length=256)] | None
    flags: Annotated[int, Field(ge=0, le=MAX_FLAGS)]
    recall_target: Annotated[float, Field(gt=0, le=1)]
    probes: Annotated[int, Field(ge=1, le=MAX_PROBES)] | None
    min_offset: Offsets


class _FoundHead(_Head):
    model: str
    shards: Annotated[tuple[ShardState, ...], Field(max_length=4096)]
    behind: Offsets


class _PinQueryHead(_Head):
    model: str
    pin_id: Annotated[int, Field(ge=1, le=MAX_PIN_ID)]
    partitions: Partitions


class _PinFoundHead(_Head):
    model: str
    partitions: Partitions
    held: LeafCode | None


def write_query(query: LeafQuery) -> bytes:
    where = query.where or SearchFilter()
    head = _QueryHead(
        model=query.model,
        k=query.k,
        partitions=query.partitions,
        filtered=query.where is not None,
        domains=None if where.domains is None else tuple(sorted(where.domains)),
        flags=where.flags,
        recall_target=1 if query.effort is None else query.effort.recall_target,
        probes=None if query.effort is None else query.effort.probes,
        min_offset=dict(query.min_offset),
    )
    return _frame(head, query.code_W.tobytes())


def read_query(frame: bytes, bits: int) -> LeafQuery:
    """Raises BadMessageError: not a query with a code of `bits` bits."""
    head, body = _unframe(_QueryHead, frame)
    if len(body) != bits // 8:
        raise BadMessageError(f"query has a code of {8 * len(body)} bits, expected {bits}")
    where = SearchFilter(None if head.domains is None else frozenset(head.domains), head.flags)
    code_W = np.frombuffer(body, dtype=np.uint8)
    effort = Effort(head.recall_target, head.probes) if head.recall_target < 1 or head.probes else None
    return LeafQuery(
        head.model, code_W, head.k, head.partitions, where if head.filtered else None, effort, head.min_offset
    )


def write_found(found: LeafFound) -> bytes:
    return _frame(_FoundHead(model=found.model, shards=found.shards, behind=dict(found.behind)), found.hits.tobytes())


def read_found(frame: bytes, query: LeafQuery, bits: int) -> LeafFound:
    """Raises BadMessageError: not an answer to this query."""
    head, body = _unframe(_FoundHead, frame)
    if len(body) % HIT.itemsize or len(body) > query.k * HIT.itemsize:
        raise BadMessageError(f"answer has {len(body)} bytes of hits, expected up to {query.k} × {HIT.itemsize}")
    hits = np.frombuffer(body, dtype=HIT)
    named = [*(shard.partition for shard in head.shards), *head.behind]
    if len(named) != len(set(named)) or not set(named) <= set(query.partitions):
        raise BadMessageError(f"answer names shards {named[:20]}, asked for {query.partitions[:20]}")
    in_range = (
        (hits["pin_id"] >= 1)
        & (hits["distance"] >= 0)
        & (hits["distance"] <= bits)
        & (hits["domain"] < len(Domain))
        & (hits["flags"] <= MAX_FLAGS)
    )
    if not in_range.all():
        raise BadMessageError(f"answer has {np.count_nonzero(~in_range)} hits out of range")
    return LeafFound(head.model, hits, head.shards, head.behind)


def write_pin_query(query: PinQuery) -> bytes:
    return _frame(_PinQueryHead(model=query.model, pin_id=query.pin_id, partitions=query.partitions), b"")


def read_pin_query(frame: bytes) -> PinQuery:
    """Raises BadMessageError."""
    head, _ = _unframe(_PinQueryHead, frame)
    return PinQuery(head.model, head.pin_id, head.partitions)


def write_pin_found(found: PinFound) -> bytes:
    head = _PinFoundHead(model=found.model, partitions=tuple(sorted(found.partitions)), held=found.held)
    return _frame(head, b"")


def read_pin_found(frame: bytes, query: PinQuery) -> PinFound:
    """Raises BadMessageError: not an answer to this query."""
    head, _ = _unframe(_PinFoundHead, frame)
    if not set(head.partitions) <= set(query.partitions):
        raise BadMessageError(f"answer names shards {head.partitions[:20]}, asked for {query.partitions[:20]}")
    return PinFound(head.model, frozenset(head.partitions), head.held)


def merge_hits(parts: Iterable[Hits], k: int) -> Hits:
    """The k nearest of all, by (distance, Pin id), exactly. Each shard is in one part only, so no Pin comes twice."""
    hits = np.concatenate([np.empty(0, dtype=HIT), *parts])
    return hits[np.lexsort((hits["pin_id"], hits["distance"]))[:k]]


def _frame(head: BaseModel, body: bytes) -> bytes:
    text = head.model_dump_json().encode()
    return len(text).to_bytes(_LENGTH_BYTES, "big") + text + body


def _unframe(kind: type[_M], frame: bytes) -> tuple[_M, bytes]:
    if not _LENGTH_BYTES <= len(frame) <= MAX_MESSAGE_BYTES:
        raise BadMessageError(f"message has {len(frame)} bytes, expected {_LENGTH_BYTES} to {MAX_MESSAGE_BYTES}")
    end = _LENGTH_BYTES + int.from_bytes(frame[:_LENGTH_BYTES], "big")
    if end > len(frame):
        raise BadMessageError(f"message has {len(frame)} bytes, its head ends at {end}")
    try:
        return kind.model_validate_json(frame[_LENGTH_BYTES:end]), frame[end:]
    except ValidationError as error:
        raise BadMessageError(f"message has a head that is wrong: {error.errors()[0]['msg']}") from error
