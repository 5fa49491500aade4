"""Answers a search: lets it in or refuses it, turns the question into a code, and asks the root."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt
from fastapi import HTTPException

from index_sync.admission import Admission, BusyError
from index_sync.leaf_messages import LeafQuery
from index_sync.root import BehindError, MissingShardsError, Root
from index_sync.search_protocol import (
    BadQueryError,
    LeafCode,
    SearchAnswer,
    SearchRequest,
    decode_code,
    decode_image_text,
    encode_code,
)
from pinstream import metrics
from pinstream.events import Box
from pinstream.settings import HttpSettings

T = TypeVar("T")

RETRY_SOON: Final = {"Retry-After": "1"}
"""With a 503 or 412: a replica, a restart or an apply takes about that long."""

QueryEncoder = Callable[[bytes, Box | None], npt.NDArray[np.uint8]]
"""Encoded image bytes and an optional box → packed code uint8 [W]. Thread-safe. Raises BadRecordError."""


class SearchService:
    """Thread-safe; `close` it. Everything but `run` blocks.

    Args:
        encode: embeds query images with this generation's own model; None: this node takes no images.
        partitions: P, the shards that a `min_offset` may name.

    Raises:
        HTTPException: from every method, with the status that the caller shall see.
        BadQueryError, BadRecordError: the query itself is wrong.
    """

    def __init__(
        self,
        root: Root,
        encode: QueryEncoder | None,
        settings: HttpSettings,
        *,
        model: str,
        bits: int,
        partitions: int,
        recall_target: float,
    ) -> None:
        self._root = root
        self._encode = encode
        self._timeout_s = settings.timeout_s
        self._model = model
        self._bits = bits
        self._partitions = partitions
        self._recall_target = recall_target
        self._pool = ThreadPoolExecutor(settings.max_concurrent, thread_name_prefix="root")
        self._lock = threading.Lock()
        self._admission = Admission(settings.max_concurrent, settings.max_waiting)

    def close(self) -> None:
        """Start no more searches. Does not wait for those under way."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def run(self, work: Callable[[float], T], timeout_ms: int | None) -> T:
        """Run `work(deadline_s)` in a thread when there is a place; the deadline counts from now. Does not block.

        Raises:
            HTTPException: 429: as many as may run and wait do so already.
        """
        started_s = time.monotonic()
        timeout_s = self._timeout_s if timeout_ms is None else min(timeout_ms / 1000, self._timeout_s)
        try:
            with self._lock:
                self._admission.enter()
        except BusyError as error:
            raise _too_busy(error) from error
        metrics.SEARCHES_IN_FLIGHT.inc()
        future = self._pool.submit(self._timed, work, started_s + timeout_s)
        try:
            return await asyncio.wrap_future(future)
        finally:
            if future.cancelled():
                self._leave(None)
            metrics.SEARCH_SECONDS.labels("root").observe(time.monotonic() - started_s)

    def answer(self, request: SearchRequest, deadline_s: float) -> SearchAnswer:
        """The k nearest live Pins of the whole index, with what is missing of it at the deadline (monotonic)."""
        try:
            found = self._search(request, deadline_s)
        except BehindError as error:
            raise HTTPException(412, str(error), headers=RETRY_SOON) from error
        except MissingShardsError as error:
            raise HTTPException(503, str(error), headers=RETRY_SOON) from error
        except BusyError as error:
            raise _too_busy(error) from error
        if found.partial and not request.allow_partial:
            missing = ", ".join(map(str, found.missing_shards))
            raise HTTPException(503, f"shards {missing} do not answer", headers=RETRY_SOON)
        return found

    def pin(self, pin_id: int, deadline_s: float) -> LeafCode:
        """What the index holds of a Pin."""
        try:
            held = self._root.pin(pin_id, deadline_s)
        except MissingShardsError as error:
            raise HTTPException(503, str(error), headers=RETRY_SOON) from error
        if held is None:
            raise HTTPException(404, f"pin {pin_id} is not in the index")
        return held

    def embed(self, image_bytes: bytes, box: Box | None) -> str:
        """A query image's code, base64."""
        if self._encode is None:
            raise HTTPException(501, "this node has no model loaded: search by pin_id or code")
        return encode_code(self._encode(image_bytes, box))

    def _timed(self, work: Callable[[float], T], deadline_s: float) -> T:
        started_s = time.monotonic()
        try:
            return work(deadline_s)
        finally:
            self._leave(time.monotonic() - started_s)

    def _leave(self, service_s: float | None) -> None:
        with self._lock:
            self._admission.leave(service_s)
        metrics.SEARCHES_IN_FLIGHT.dec()

    def _search(self, request: SearchRequest, deadline_s: float) -> SearchAnswer:
        unknown = [p for p in request.min_offset if p >= self._partitions]
        if unknown:
            raise BadQueryError(f"min_offset names shard {unknown[0]}, expected 0 to {self._partitions - 1}")
        # a Pin is its own nearest neighbour: ask for one more and leave it out
        extra = 0 if request.pin_id is None else 1
        query = LeafQuery(
            model=self._model,
            code_W=self._code(request, deadline_s),
            k=request.k + extra,
            partitions=(),
            where=request.search_filter(),
            effort=request.effort(self._recall_target),
            min_offset=request.min_offset,
        )
        found = self._root.search(query, deadline_s)
        if extra:
            hits = tuple(hit for hit in found.hits if hit.pin_id != request.pin_id)[: request.k]
            found = found.model_copy(update={"hits": hits})
        return found

    def _code(self, request: SearchRequest, deadline_s: float) -> npt.NDArray[np.uint8]:
        if request.code is not None:
            text = request.code
        elif request.pin_id is not None:
            text = self.pin(request.pin_id, deadline_s).code
        else:
            assert request.image is not None
            if time.monotonic() >= deadline_s:
                raise HTTPException(503, "the deadline passed before the image's turn came", headers=RETRY_SOON)
            text = self.embed(decode_image_text(request.image), request.box)
        return decode_code(text, self._bits)


def _too_busy(error: BusyError) -> HTTPException:
    return HTTPException(429, f"too busy: {error}", headers={"Retry-After": str(error.retry_after_s)})
