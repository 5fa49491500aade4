"""A few recent live queries, kept in Redis for the next validation. Bounded, and never the queries' pictures.

What is kept of a query: its application and filters, and the Pin that stands for it: the one it was asked by, or the
nearest one that was found for its image or code. A Pin can be asked for in every generation; a picture of a user's, or
a code of one model, is of no use there or must not be kept.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from index_sync.search_protocol import MAX_K, SearchRequest
from pinstream.events import MAX_PIN_ID, Domain, Flag
from pinstream.redis_client import REDIS_AWAY, connect
from rollout.generation import Application

log = logging.getLogger(__name__)

MAX_KEPT: Final = 2_000
_MAX_WAITING: Final = 100
_MAX_QUERY_BYTES: Final = 1_000
_FLUSH_S: Final = 0.5


class LiveQuery(BaseModel):
    """One query as it is asked again."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    application: Application
    pin_id: Annotated[int, Field(ge=1, le=MAX_PIN_ID)]
    domains: Annotated[tuple[Domain, ...], Field(max_length=len(Domain))] = ()
    flags: Annotated[tuple[Flag, ...], Field(max_length=len(Flag))] = ()
    k: Annotated[int, Field(ge=1, le=MAX_K)] = 20


def stand_in(request: SearchRequest, application: Application, nearest: int | None) -> LiveQuery | None:
    """What is kept of a query; None: nothing stands for it. Pure."""
    pin_id = request.pin_id if request.pin_id is not None else nearest
    if pin_id is None:
        return None
    return LiveQuery(application=application, pin_id=pin_id, domains=request.domains, flags=request.flags, k=request.k)


class QuerySample:
    """Takes offered queries at a bounded rate and writes them in a thread of its own. Thread-safe; `close` it.

    Args:
        url: of Redis; empty: nothing is kept.
        pins_topic: whose generations are asked; names the key.
        max_per_s: more than these, on average, are passed over.
    """

    def __init__(self, url: str, pins_topic: str, *, timeout_s: float, max_per_s: float) -> None:
        self._key = _key(pins_topic)
        self._waiting: queue.Queue[LiveQuery] = queue.Queue(_MAX_WAITING)
        self._gap_s = 1 / max_per_s if max_per_s > 0 else float("inf")
        self._next_s = 0.0 if max_per_s > 0 else float("inf")
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        if url and max_per_s > 0:
            self._redis = connect(url, timeout_s, "queries")
            self._thread = threading.Thread(target=self._run, name="query-sample", daemon=True)
            self._thread.start()

    def offer(self, request: SearchRequest, application: Application, nearest: int | None = None) -> None:
        """Keep this query, perhaps. Never blocks, never raises.

        Args:
            nearest: the first Pin of its answer, which stands for a query by image or code.
        """
        now_s = time.monotonic()
        if self._thread is None or now_s < self._next_s:
            return
        kept = stand_in(request, application, nearest)
        if kept is not None:
            self._next_s = now_s + self._gap_s
            try:
                self._waiting.put_nowait(kept)
            except queue.Full:
                return  # Redis is away or slow: it is only a sample

    def close(self) -> None:
        """Write what waits, then end."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(_FLUSH_S):
            self._flush()
        self._flush()

    def _flush(self) -> None:
        found = []
        while not self._waiting.empty():
            found.append(self._waiting.get_nowait().model_dump_json(exclude_defaults=True))
        if not found:
            return
        try:
            pipeline = self._redis.pipeline(transaction=False)
            pipeline.lpush(self._key, *found)
            pipeline.ltrim(self._key, 0, MAX_KEPT - 1)
            pipeline.execute()
        except REDIS_AWAY as error:
            log.debug("%d sampled queries are not kept, Redis is away: %s", len(found), error)


def read_sample(url: str, pins_topic: str, timeout_s: float, count: int) -> list[LiveQuery]:
    """The newest queries, at most `count`, each once; [] if there is no Redis or none answers. Blocks."""
    if not url or count < 1:
        return []
    try:
        raw = connect(url, max(timeout_s, 2.0), "queries").lrange(_key(pins_topic), 0, MAX_KEPT - 1)
    except REDIS_AWAY as error:
        log.warning("the sample of live queries can't be read, Redis is away: %s", error)
        return []
    found: dict[LiveQuery, None] = {}
    for value in raw:
        try:
            if len(value) <= _MAX_QUERY_BYTES:
                found[LiveQuery.model_validate_json(value)] = None
        except ValidationError as error:
            log.warning("a sampled query is not readable and passed over: %s", error.errors()[0]["msg"])
        if len(found) == count:
            break
    return list(found)


def _key(pins_topic: str) -> str:
    return f"pinstream:queries:{pins_topic}"
