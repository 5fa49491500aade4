"""The shards of this process, as a root asks them. Lock-free: every search reads immutable views.

Shapes: Q queries, K neighbours, M different Pins among them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from consumers.lag import Lag
from index_sync.applied_offsets import AppliedOffsets
from index_sync.calibration import Effort
from index_sync.coalescer import Coalescer, k_class
from index_sync.code_batch import Bytes, Int64s
from index_sync.leaf_messages import HIT, Hits, LeafFound, LeafQuery, PinFound, PinQuery
from index_sync.recall_probe import RecallProbe
from index_sync.search_protocol import LeafCode, ShardState, encode_code
from index_sync.searcher import Searcher
from index_sync.segment import SearchFilter
from index_sync.shard import Shard
from index_sync.shard_view import ShardView
from index_sync.top_k import PAD_PIN_ID
from pinstream import metrics
from pinstream.events import FLAG_BIT, Domain, Flag

DOMAINS = tuple(Domain)


@dataclass(frozen=True, slots=True)
class ServedShard:
    checkpoint: int
    lag_s: float | None
    """None while not known."""


@dataclass(frozen=True, slots=True)
class LeafStatus:
    """What roots need to know to choose among leaves."""

    shards: Mapping[int, ServedShard]
    in_flight: int
    """Queries that wait or are being scanned."""
    latency_s: float
    """Recent mean time of one."""


@dataclass(frozen=True, slots=True)
class _Likeness:
    """Queries with the same one share a scan."""

    model: str
    partitions: tuple[int, ...]
    k: int
    where: SearchFilter | None
    effort: Effort | None


class LocalLeaf:
    """Thread-safe. The worker adds and removes shards; searches see a partition wholly or not at all.

    Args:
        lags: how far behind each partition is, as far as it is known.
        lanes: scans at once.
        max_batch: concurrent queries that share one scan.
        max_waiting: queries that wait for a lane.
        probe: is shown every scan, to measure recall.
    """

    def __init__(
        self,
        searcher: Searcher,
        model: str,
        lags: Callable[[], Mapping[int, Lag]],
        *,
        lanes: int,
        max_batch: int,
        max_waiting: int,
        probe: RecallProbe | None = None,
    ) -> None:
        self._searcher = searcher
        self._model = model
        self._lags = lags
        self._probe = probe
        self._lock = threading.Lock()
        self._shards: Mapping[int, Shard] = {}
        self._applied = AppliedOffsets()
        self._coalescer: Coalescer[LeafQuery, LeafFound] = Coalescer(
            self._scan, _likeness, lanes=lanes, max_batch=max_batch, max_waiting=max_waiting
        )

    def close(self) -> None:
        """Answer the searches in hand, then end. Blocks for them."""
        self._coalescer.close()

    def add(self, partition: int, shard: Shard) -> None:
        with self._lock:
            self._shards = {**self._shards, partition: shard}
        self._applied.advance(partition, shard.checkpoint)

    def remove(self, partition: int) -> None:
        with self._lock:
            self._shards = {p: shard for p, shard in self._shards.items() if p != partition}
        self._applied.forget(partition)

    def applied(self, partition: int, next_offset: int) -> None:
        """Everything before this offset is searchable: wake the searches that waited for it."""
        self._applied.advance(partition, next_offset)

    def submit(self, query: LeafQuery, deadline_s: float) -> Future[LeafFound]:
        """The k nearest of the asked partitions that are here; the answer's `shards` says which those were.

        Never blocks. Queries that come while others are scanned share the next scan, with the answers that each would
        get alone. The future fails with BusyError or DeadlinePassedError (monotonic `deadline_s`); cancelling it
        before its scan begins spares the scan. While a `min_offset` is not applied it waits for that.
        """
        answer: Future[LeafFound] = Future()
        started_s = time.monotonic()
        answer.add_done_callback(lambda done: _observe(done, started_s))
        self._applied.when(query.min_offset, lambda: self._coalescer.put(query, deadline_s, answer), answer.done)
        return answer

    def behind(self, query: LeafQuery) -> dict[int, int]:
        """The shards here that have not applied what the query wants, each with its applied offset."""
        return self._applied.behind(query.min_offset)

    def pin(self, query: PinQuery) -> PinFound:
        """What those of the asked partitions that are here hold of a Pin."""
        shards = {p: shard for p, shard in self._shards.items() if p in query.partitions}
        held = None
        for partition, shard in shards.items():
            row = shard.view().get(query.pin_id)
            if row is not None:
                held = LeafCode(
                    partition=partition,
                    code=encode_code(row.code_W),
                    source_offset=row.source_offset,
                    event_time_ms=row.event_time_ms,
                    domain=DOMAINS[row.domain],
                    flags=flags_of(row.flags),
                )
        return PinFound(self._model, frozenset(shards), held)

    def status(self) -> LeafStatus:
        """What is served here, how fresh, and how busy it is."""
        lags = self._lags()
        shards = {
            partition: ServedShard(shard.checkpoint, lags[partition].seconds if partition in lags else None)
            for partition, shard in self._shards.items()
        }
        return LeafStatus(shards, self._coalescer.in_flight, self._coalescer.service_s)

    def _scan(self, queries: Sequence[LeafQuery]) -> list[LeafFound]:
        """Queries of one likeness, in one pass over the shards as they are now."""
        shards = self._shards
        alike = _likeness(queries[0])
        views = {p: shards[p].view() for p in alike.partitions if p in shards}
        code_QW = np.stack([query.code_W for query in queries])
        started_s = time.monotonic()
        found = self._searcher.search(list(views.values()), code_QW, alike.k, alike.where, alike.effort)
        if self._probe is not None:
            k_Q, took_s = [query.k for query in queries], time.monotonic() - started_s
            self._probe.offer(list(views.values()), code_QW, k_Q, alike.where, alike.effort, found, took_s)
        pin_id_M = np.unique(found.pin_id_QK)
        domain_M, flags_M = _describe(views.values(), pin_id_M)
        at_QK = np.searchsorted(pin_id_M, found.pin_id_QK)
        lags = self._lags()
        states = tuple(_state(partition, view, lags.get(partition)) for partition, view in views.items())
        answers = []
        for query, pin_id_K, distance_K, at_K in zip(queries, found.pin_id_QK, found.distance_QK, at_QK, strict=True):
            count = min(query.k, int(np.count_nonzero(pin_id_K != PAD_PIN_ID)))
            hits: Hits = np.empty(count, dtype=HIT)
            hits["pin_id"], hits["distance"] = pin_id_K[:count], distance_K[:count]
            hits["domain"], hits["flags"] = domain_M[at_K[:count]], flags_M[at_K[:count]]
            answers.append(LeafFound(self._model, hits, states, {}))
        return answers


def flags_of(bits: int) -> tuple[Flag, ...]:
    """24 bits → names."""
    return tuple(flag for flag, bit in FLAG_BIT.items() if bits & bit)


def _likeness(query: LeafQuery) -> _Likeness:
    return _Likeness(query.model, query.partitions, k_class(query.k), query.where, query.effort)


def _describe(views: Iterable[ShardView], pin_id_M: Int64s) -> tuple[Bytes, npt.NDArray[np.uint32]]:
    """Domain (uint8) and flags (uint32) of each of M ascending Pin ids that lives in a view; 0 of the others."""
    domain_M = np.zeros(len(pin_id_M), dtype=np.uint8)
    flags_M = np.zeros(len(pin_id_M), dtype=np.uint32)
    for view in views:
        for one in view.segments:
            row = one.rows_of(pin_id_M)
            at = np.searchsorted(pin_id_M, one.segment.rows.pin_id[row])
            domain_M[at] = one.segment.rows.domain[row]
            flags_M[at] = one.segment.rows.flags[row]
    return domain_M, flags_M


def _observe(answer: Future[LeafFound], started_s: float) -> None:
    if not answer.cancelled() and answer.exception() is None:
        metrics.SEARCH_SECONDS.labels("leaf").observe(time.monotonic() - started_s)


def _state(partition: int, view: ShardView, lag: Lag | None) -> ShardState:
    return ShardState(
        partition=partition,
        checkpoint=view.checkpoint,
        pins=view.live_rows,
        newest_event_ms=view.newest_event_time_ms,
        lag_records=lag.records if lag else None,
        lag_seconds=lag.seconds if lag else None,
    )
