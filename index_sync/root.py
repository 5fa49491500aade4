"""The root of a search: asks every shard's leaves, merges what they answer, says what is missing."""

from __future__ import annotations

import time
from collections.abc import Callable

from index_sync.admission import BusyError
from index_sync.gathering import Leaves
from index_sync.leaf import DOMAINS, LocalLeaf, flags_of
from index_sync.leaf_messages import Hits, LeafQuery, merge_hits
from index_sync.questions import PinQuestion, SearchQuestion
from index_sync.redis_leases import Lease
from index_sync.search_protocol import Hit, LeafCode, SearchAnswer
from pinstream import metrics
from pinstream.errors import PinstreamError


class BehindError(PinstreamError):
    """A shard has not applied what the query wanted to read by the deadline: HTTP 412."""


class MissingShardsError(PinstreamError):
    """The question can't be answered without these shards: HTTP 503."""


class Root:
    """Fans questions out and merges the answers. Thread-safe; `close` it.

    Args:
        leaf: the shards of this node, asked without a network.
        others: the other nodes' leases, as last seen.
        partitions: P: every shard that a whole answer needs.
        max_lag_s: how much further behind than the freshest replica another may be.
    """

    def __init__(
        self,
        leaf: LocalLeaf,
        others: Callable[[], tuple[Lease, ...]],
        *,
        model: str,
        bits: int,
        partitions: int,
        max_lag_s: float,
    ) -> None:
        self._leaves = Leaves(leaf, others, model, max_lag_s)
        self._model = model
        self._bits = bits
        self._all = frozenset(range(partitions))

    def close(self) -> None:
        self._leaves.close()

    def search(self, query: LeafQuery, deadline_s: float) -> SearchAnswer:
        """The k nearest of all shards that answer in time. Blocks up to the deadline (monotonic).

        Raises:
            BehindError: a shard has not applied the query's `min_offset` in time.
            BusyError: no shard answered, and a leaf was too busy.
        """
        started_s = time.monotonic()
        gathered = self._leaves.gather(SearchQuestion(query, self._bits), self._all, deadline_s)
        if gathered.behind:
            raise BehindError(
                "; ".join(
                    f"shard {p} has applied up to offset {applied}, wanted {query.min_offset[p]}"
                    for p, applied in sorted(gathered.behind.items())
                )
            )
        shards = sorted((one for found in gathered.found for one in found.shards), key=lambda shard: shard.partition)
        if gathered.busy_s is not None and not shards:
            raise BusyError("the leaves are too busy", gathered.busy_s)
        metrics.SEARCH_MISSING_SHARDS.inc(len(gathered.missing))
        return SearchAnswer(
            generation=self._model,
            hits=_hits(merge_hits((found.hits for found in gathered.found), query.k)),
            partial=bool(gathered.missing),
            missing_shards=tuple(sorted(gathered.missing)),
            shards=tuple(shards),
            took_ms=round(1000 * (time.monotonic() - started_s), 3),
        )

    def pin(self, pin_id: int, deadline_s: float) -> LeafCode | None:
        """What the index holds of a Pin, wherever its shard is; None if no shard holds it. Blocks up to the deadline.

        Raises:
            MissingShardsError: no shard that answered holds it, and not all answered.
        """
        gathered = self._leaves.gather(PinQuestion(self._model, pin_id), self._all, deadline_s)
        held = next((found.held for found in gathered.found if found.held is not None), None)
        if held is None and gathered.missing:
            raise MissingShardsError(f"shards {', '.join(map(str, sorted(gathered.missing)))} do not answer")
        return held


def _hits(hits: Hits) -> tuple[Hit, ...]:
    rows = zip(*(hits[name].tolist() for name in ("pin_id", "distance", "domain", "flags")), strict=True)
    return tuple(
        Hit(pin_id=pin_id, distance=distance, domain=DOMAINS[domain], flags=flags_of(flags))
        for pin_id, distance, domain, flags in rows
    )
