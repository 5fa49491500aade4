"""The root of a search: ask the node's own shards and the other leaves at once, merge, and say what is missing."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Final, Protocol, TypeVar

import httpx
from pydantic import ValidationError

from index_sync.redis_leases import Lease
from index_sync.search_protocol import LeafAnswer, LeafCode, LeafRequest, SearchAnswer, merge_hits
from pinstream import metrics

log = logging.getLogger(__name__)

T = TypeVar("T")

_JSON: Final = {"content-type": "application/json"}
FAN_OUT_THREADS: Final = 32


class Leaf(Protocol):
    """This node's own shards."""

    def partitions(self) -> set[int]: ...
    def search(self, request: LeafRequest) -> LeafAnswer: ...
    def code(self, pin_id: int) -> LeafCode | None: ...


class Root:
    """Fans a search out over HTTP and merges the answers. Thread-safe.

    Args:
        leaf: the shards of this node, asked without HTTP.
        others: the other nodes' leases, as last seen.
        partitions: P: every shard that a whole answer needs.
    """

    def __init__(
        self, leaf: Leaf, others: Callable[[], Iterable[Lease]], generation: str, partitions: int, timeout_s: float
    ) -> None:
        self._leaf = leaf
        self._others = others
        self._generation = generation
        self._all = frozenset(range(partitions))
        self._timeout_s = timeout_s
        self._client = httpx.Client(timeout=timeout_s, trust_env=False, limits=httpx.Limits(max_connections=256))
        self._pool = ThreadPoolExecutor(FAN_OUT_THREADS, thread_name_prefix="fan-out")

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._client.close()

    def search(self, request: LeafRequest, k: int) -> SearchAnswer:
        """The k nearest of all shards that answer in time. Blocks up to the timeout."""
        started_s = time.monotonic()
        plan = self._plan()
        asked = {
            lease.instance: self._pool.submit(self._ask, lease.url, request.model_copy(update={"partitions": parts}))
            for lease, parts in plan
        }
        own = tuple(sorted(self._leaf.partitions()))
        answers = [self._leaf.search(request.model_copy(update={"partitions": own}))] if own else []
        for future in asked.values():
            answer = self._wait(future, started_s)
            if answer is not None and answer.model == self._generation:
                answers.append(answer)
        shards = sorted((shard for answer in answers for shard in answer.shards), key=lambda shard: shard.partition)
        missing = tuple(sorted(self._all - {shard.partition for shard in shards}))
        metrics.SEARCH_MISSING_SHARDS.inc(len(missing))
        return SearchAnswer(
            generation=self._generation,
            hits=merge_hits(answers, k),
            partial=bool(missing),
            missing_shards=missing,
            shards=tuple(shards),
            took_ms=round(1000 * (time.monotonic() - started_s), 3),
        )

    def code(self, pin_id: int) -> LeafCode | None:
        """What the index holds of a Pin, wherever its shard is; None if no reachable shard holds it."""
        own = self._leaf.code(pin_id)
        if own is not None:
            return own
        started_s = time.monotonic()
        asked = [self._pool.submit(self._ask_code, lease.url, pin_id) for lease, _ in self._plan()]
        found = [self._wait(future, started_s) for future in asked]
        return next((code for code in found if code is not None), None)

    def _plan(self) -> list[tuple[Lease, tuple[int, ...]]]:
        """Which leaf to ask for which shards; each shard once, this node's own not at all."""
        wanted = self._all - self._leaf.partitions()
        plan = []
        for lease in self._others():
            parts = wanted & set(lease.partitions)
            if parts:
                plan.append((lease, tuple(sorted(parts))))
                wanted -= parts
        return plan

    def _wait(self, future: Future[T], started_s: float) -> T | None:
        try:
            return future.result(timeout=max(0.0, self._timeout_s - (time.monotonic() - started_s)))
        except (FutureTimeoutError, httpx.HTTPError, ValidationError) as error:
            log.warning("a leaf did not answer: %s", error or type(error).__name__)
            return None

    def _ask(self, url: str, request: LeafRequest) -> LeafAnswer:
        response = self._client.post(f"{url}/v1/leaf/search", content=request.model_dump_json(), headers=_JSON)
        response.raise_for_status()
        return LeafAnswer.model_validate_json(response.content)

    def _ask_code(self, url: str, pin_id: int) -> LeafCode | None:
        response = self._client.get(f"{url}/v1/leaf/pins/{pin_id}")
        if response.status_code == httpx.codes.NOT_FOUND:
            return None
        response.raise_for_status()
        return LeafCode.model_validate_json(response.content)
