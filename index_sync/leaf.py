"""The shards of this process, as a root asks them. Lock-free: every search reads immutable views."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

import numpy as np

from consumers.lag import Lag
from index_sync.search_protocol import Hit, LeafAnswer, LeafCode, LeafRequest, ShardState, decode_code, encode_code
from index_sync.searcher import Searcher
from index_sync.segment import SearchFilter
from index_sync.shard import Shard
from index_sync.shard_view import PinRow, ShardView
from index_sync.top_k import PAD_PIN_ID
from pinstream.events import FLAG_BIT, Domain, Flag

_DOMAINS = tuple(Domain)


class LocalLeaf:
    """Thread-safe. The worker adds and removes shards; searches see a partition wholly or not at all.

    Args:
        lags: how far behind each partition is, as far as it is known.
    """

    def __init__(self, searcher: Searcher, model: str, bits: int, lags: Callable[[], Mapping[int, Lag]]) -> None:
        self._searcher = searcher
        self._model = model
        self._bits = bits
        self._lags = lags
        self._lock = threading.Lock()
        self._shards: Mapping[int, Shard] = {}

    def add(self, partition: int, shard: Shard) -> None:
        with self._lock:
            self._shards = {**self._shards, partition: shard}

    def remove(self, partition: int) -> None:
        with self._lock:
            self._shards = {p: shard for p, shard in self._shards.items() if p != partition}

    def partitions(self) -> set[int]:
        return set(self._shards)

    def search(self, request: LeafRequest) -> LeafAnswer:
        """The k nearest of the asked partitions that are here; `shards` says which those were. Blocks for the scan."""
        shards = self._shards
        views = {p: shards[p].view() for p in request.partitions if p in shards}
        code_1W = np.ascontiguousarray(decode_code(request.code, self._bits)[np.newaxis])
        where = SearchFilter(request.domain_numbers(), request.flag_bits())
        found = self._searcher.search(
            list(views.values()), code_1W, request.k, where if request.domains or request.flags else None
        )
        held: dict[int, PinRow] = {}
        for view in views.values():
            held |= view.get_many(found.pin_id_QK[0])
        pairs = zip(found.distance_QK[0].tolist(), found.pin_id_QK[0].tolist(), strict=True)
        hits = [_hit(held[pin_id], distance) for distance, pin_id in pairs if pin_id != PAD_PIN_ID]
        lags = self._lags()
        return LeafAnswer(
            model=self._model,
            hits=tuple(hits),
            shards=tuple(_state(partition, view, lags.get(partition)) for partition, view in views.items()),
        )

    def code(self, pin_id: int) -> LeafCode | None:
        """What the shards here hold of a Pin."""
        for partition, shard in self._shards.items():
            row = shard.view().get(pin_id)
            if row is not None:
                return LeafCode(
                    partition=partition,
                    code=encode_code(row.code_W),
                    source_offset=row.source_offset,
                    event_time_ms=row.event_time_ms,
                    domain=_DOMAINS[row.domain],
                    flags=_flags(row.flags),
                )
        return None


def _hit(row: PinRow, distance: int) -> Hit:
    return Hit(pin_id=row.pin_id, distance=distance, domain=_DOMAINS[row.domain], flags=_flags(row.flags))


def _flags(bits: int) -> tuple[Flag, ...]:
    return tuple(flag for flag, bit in FLAG_BIT.items() if bits & bit)


def _state(partition: int, view: ShardView, lag: Lag | None) -> ShardState:
    return ShardState(
        partition=partition,
        checkpoint=view.checkpoint,
        pins=view.live_rows,
        newest_event_ms=view.newest_event_time_ms,
        lag_records=lag.records if lag else None,
        lag_seconds=lag.seconds if lag else None,
    )
