"""How a shard's rows travel to an audit: one immutable view, streamed over HTTP while applying and searching go on.

The answer's headers name the view (`Pinstream-Model`, `-Bits`, `-Checkpoint`, `-Rows`); the body is that many packed
little-endian records, in no particular order. A body that is cut off is shorter than its Content-Length.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import httpx
import numpy as np
import numpy.typing as npt
from fastapi import FastAPI, HTTPException
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from index_sync.segment import CodeRows
from index_sync.shard_view import ShardView
from pinstream.codes import check_bits
from pinstream.errors import FatalError, RetryableError

MAX_DUMP_S: Final = 900.0
"""A dump keeps its segments in memory; a reader that takes longer is cut off."""
_TIMEOUT_S: Final = 30.0
_PATIENCE_S: Final = 5.0
"""A node frees its place for audits a moment after the last row has arrived."""
_READ_ROWS: Final = 16_384
_MAX_ROWS: Final = 2**40


def row_dtype(bits: int) -> np.dtype[np.void]:
    """One row on the way.

    Raises:
        FatalError: `bits` is not a legal code length.
    """
    check_bits(bits)
    return np.dtype(
        [
            ("pin_id", "<i8"),
            ("source_offset", "<i8"),
            ("event_time_ms", "<i8"),
            ("domain", "u1"),
            ("flags", "<u4"),
            ("code", "u1", (bits // 8,)),
        ]
    )


def add_audit(app: FastAPI, view_of: Callable[[int], ShardView | None], model: str) -> None:
    """Add `/v1/audit/{partition}` to an index worker's app.

    Args:
        view_of: a partition's state now; None if it is not here.
        model: fingerprint, 64 hex digits.
    """
    place = threading.BoundedSemaphore(1)

    @app.get("/v1/audit/{partition}", include_in_schema=False)
    def audit(partition: int) -> StreamingResponse:
        view = view_of(partition)
        if view is None:
            raise HTTPException(404, f"shard {partition} is not on this node")
        if not place.acquire(blocking=False):
            raise HTTPException(429, "another audit reads from this node", headers={"Retry-After": "10"})
        return _Dump(view, model, place.release)


class _Dump(StreamingResponse):
    """Rows of a view, a few MiB at a time; the reader's pace is the dump's."""

    def __init__(self, view: ShardView, model: str, on_end: Callable[[], None]) -> None:
        dtype = row_dtype(8 * view.code_bytes)
        rows = view.live_rows
        super().__init__(
            (_packed(part, dtype) for part in view.items()),
            media_type="application/octet-stream",
            headers={
                "Content-Length": str(rows * dtype.itemsize),
                "Pinstream-Model": model,
                "Pinstream-Bits": str(8 * view.code_bytes),
                "Pinstream-Checkpoint": str(view.checkpoint),
                "Pinstream-Rows": str(rows),
            },
        )
        self._on_end = on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with asyncio.timeout(MAX_DUMP_S):
                await super().__call__(scope, receive, send)
        finally:
            self._on_end()


def _packed(rows: CodeRows, dtype: np.dtype[np.void]) -> bytes:
    packed: npt.NDArray[np.void] = np.empty(len(rows), dtype=dtype)
    assert dtype.names is not None
    for name, column in zip(dtype.names, rows.columns, strict=True):
        packed[name] = column
    return packed.tobytes()


@dataclass(frozen=True, slots=True)
class ShardDump:
    """What a node says of one shard, checked for size and form."""

    checkpoint: int
    rows: int
    parts: Iterator[CodeRows]
    """Read it once; it blocks on the network and raises RetryableError if the node stops in the middle."""


class NodeClient:
    """Reads shards of one index worker. Every method blocks; close it.

    Raises:
        RetryableError: from every method: the node does not answer, or is busy with another audit.
        FatalError: from every method: it is not an index worker of this generation, or answers nonsense.
    """

    def __init__(self, url: str) -> None:
        if not url.startswith(("http://", "https://")):
            raise FatalError(f"node url is {url[:200]!r}, expected http://host:port")
        self.url = url.rstrip("/")
        self._client = httpx.Client(base_url=self.url, timeout=_TIMEOUT_S, trust_env=False)

    def close(self) -> None:
        self._client.close()

    def shards(self, model: str) -> list[int]:
        """The partitions that it serves now."""
        try:
            info = self._client.get("/info").raise_for_status().json()
            found, partitions = info["model"], sorted(int(partition) for partition in info["shards"])
        except httpx.HTTPError as error:
            raise RetryableError(f"{self.url} does not answer: {error or type(error).__name__}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise FatalError(f"{self.url} is no index worker: its /info names no model and shards") from error
        if found != model:
            raise FatalError(f"{self.url} serves model {str(found)[:12]}, expected {model[:12]}: models never mix")
        return partitions

    def read(self, partition: int, model: str, bits: int) -> ShardDump:
        """One view of one shard; its rows travel as `parts` is read, which ends the request."""
        answer = self._ask(partition)
        deadline_s = time.monotonic() + _PATIENCE_S
        while answer.status_code == httpx.codes.TOO_MANY_REQUESTS and time.monotonic() < deadline_s:
            answer.close()
            time.sleep(0.05)
            answer = self._ask(partition)
        try:
            dtype = row_dtype(bits)
            rows, checkpoint = _check(answer, self.url, partition, model, bits, dtype.itemsize)
        except BaseException:
            answer.close()
            raise
        return ShardDump(checkpoint, rows, self._parts(answer, rows, dtype))

    def _ask(self, partition: int) -> httpx.Response:
        request = self._client.build_request("GET", f"/v1/audit/{partition}", headers={"Accept-Encoding": "identity"})
        try:
            return self._client.send(request, stream=True)
        except httpx.HTTPError as error:
            raise RetryableError(f"{self.url} does not answer: {error or type(error).__name__}") from error

    def _parts(self, answer: httpx.Response, rows: int, dtype: np.dtype[np.void]) -> Iterator[CodeRows]:
        left = rows * dtype.itemsize
        try:
            for chunk in answer.iter_raw(_READ_ROWS * dtype.itemsize):
                left -= len(chunk)
                if left < 0 or len(chunk) % dtype.itemsize:
                    break
                yield _unpacked(chunk, dtype)
        except httpx.HTTPError as error:
            raise RetryableError(f"{self.url} stopped in the middle: {error or type(error).__name__}") from error
        finally:
            answer.close()
        if left:
            raise RetryableError(f"{self.url} sent {-left} bytes more than it announced: try again")


def _check(answer: httpx.Response, url: str, partition: int, model: str, bits: int, row_bytes: int) -> tuple[int, int]:
    """→ rows, checkpoint; whatever the node says is bounded before anything is read."""
    if answer.status_code == httpx.codes.TOO_MANY_REQUESTS:
        raise RetryableError(f"{url} is busy with another audit: try again later")
    if answer.status_code == httpx.codes.NOT_FOUND:
        raise RetryableError(f"{url} does not serve shard {partition} (any more)")
    if answer.status_code != httpx.codes.OK:
        raise FatalError(f"{url} answers {answer.status_code} when asked for shard {partition}")
    found = {name: answer.headers.get(f"Pinstream-{name}", "")[:80] for name in ("Model", "Bits", "Checkpoint", "Rows")}
    if (found["Model"], found["Bits"]) != (model, str(bits)):
        raise FatalError(
            f"{url} holds codes of {found['Bits']} bits of model {found['Model'][:12]}, expected {bits} of {model[:12]}"
        )
    if not (found["Checkpoint"].isdecimal() and found["Rows"].isdecimal() and int(found["Rows"]) < _MAX_ROWS):
        raise FatalError(f"{url} says checkpoint {found['Checkpoint']!r} and rows {found['Rows']!r}, expected numbers")
    rows, length = int(found["Rows"]), answer.headers.get("Content-Length", "")
    if length != str(rows * row_bytes):
        raise FatalError(f"{url} announces {length[:20] or 'no'} bytes, expected {rows} rows of {row_bytes}")
    return rows, int(found["Checkpoint"])


def _unpacked(chunk: bytes, dtype: np.dtype[np.void]) -> CodeRows:
    records: npt.NDArray[np.void] = np.frombuffer(chunk, dtype=dtype)
    return CodeRows(
        records["pin_id"],
        records["source_offset"],
        records["event_time_ms"],
        records["domain"],
        records["flags"],
        records["code"],
    )
