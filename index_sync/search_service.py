"""Answers a search: turns the question into a code, asks the root, and refuses what is too much."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt
from fastapi import HTTPException

from index_sync.root import Root
from index_sync.search_protocol import (
    LeafRequest,
    SearchAnswer,
    SearchRequest,
    decode_code,
    decode_image_text,
    encode_code,
)
from pinstream import metrics
from pinstream.events import Box

RETRY_AFTER_S: Final = "1"

QueryEncoder = Callable[[bytes, Box | None], npt.NDArray[np.uint8]]
"""Encoded image bytes and an optional box → packed code uint8 [W]. Thread-safe. Raises BadRecordError."""


class SearchService:
    """Thread-safe; every method blocks.

    Args:
        encode: embeds query images with this generation's own model; None: this node takes no images.
        max_concurrent: searches under way; one more is answered 429.

    Raises:
        HTTPException: from every method, with the status that the caller shall see.
        BadQueryError, BadRecordError: the query itself is wrong.
    """

    def __init__(self, root: Root, encode: QueryEncoder | None, *, model: str, bits: int, max_concurrent: int) -> None:
        self.root = root
        self.model = model
        self.bits = bits
        self._encode = encode
        self._places = threading.BoundedSemaphore(max_concurrent)

    def answer(self, request: SearchRequest) -> SearchAnswer:
        """The k nearest live Pins of the whole index, with what is missing of it."""
        if not self._places.acquire(blocking=False):
            raise HTTPException(429, "too many searches are under way", headers={"Retry-After": RETRY_AFTER_S})
        started_s = time.monotonic()
        try:
            found = self._search(request)
        finally:
            self._places.release()
            metrics.SEARCH_SECONDS.labels("root").observe(time.monotonic() - started_s)
        if found.partial and not request.allow_partial:
            missing = ", ".join(map(str, found.missing_shards))
            raise HTTPException(503, f"shards {missing} do not answer", headers={"Retry-After": RETRY_AFTER_S})
        return found

    def embed(self, image_bytes: bytes, box: Box | None) -> str:
        """A query image's code, base64."""
        if self._encode is None:
            raise HTTPException(501, "this node has no model loaded: search by pin_id or code")
        return encode_code(self._encode(image_bytes, box))

    def _search(self, request: SearchRequest) -> SearchAnswer:
        # a Pin is its own nearest neighbour: ask for one more and leave it out
        extra = 0 if request.pin_id is None else 1
        leaf_request = LeafRequest(
            model=self.model,
            code=self._code(request),
            k=request.k + extra,
            partitions=(),
            domains=request.domains,
            flags=request.flags,
        )
        found = self.root.search(leaf_request, request.k + extra)
        if extra:
            hits = tuple(hit for hit in found.hits if hit.pin_id != request.pin_id)[: request.k]
            found = found.model_copy(update={"hits": hits})
        return found

    def _code(self, request: SearchRequest) -> str:
        if request.code is not None:
            return encode_code(decode_code(request.code, self.bits))
        if request.pin_id is not None:
            held = self.root.code(request.pin_id)
            if held is None:
                raise HTTPException(404, f"pin {request.pin_id} is not in the index")
            return held.code
        assert request.image is not None
        return self.embed(decode_image_text(request.image), request.box)
