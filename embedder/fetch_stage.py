"""Threads that turn URIs into pixels: fetch, check, decode, crop, scale to the model's input."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from typing import Final, Protocol

from embedder.pin_work import ImageArray, PinWork
from pinstream import metrics
from pinstream.errors import BadRecordError, FatalError, RetryableError
from pinstream.events import Box, Image

log = logging.getLogger(__name__)

GIVE_UP_S: Final = 60.0
"""A store that is away for longer makes its records bad; if that befalls all of them, the breaker stops the worker."""
FIRST_BACKOFF_S: Final = 0.2
MAX_BACKOFF_S: Final = 5.0


class Fetcher(Protocol):
    def fetch(self, image: Image) -> bytes: ...


class FetchStage:
    """A pool of threads over one queue. Its length is bounded by `max_in_flight`, since the poll thread stops there.

    Args:
        on_ready: called by a pool thread with each record that has its pixels.
        on_done: called by a pool thread with each record that turned out bad.
        on_fatal: called with what must stop the worker.
    """

    def __init__(
        self,
        fetcher: Fetcher,
        image_input: Callable[[bytes, Box | None], ImageArray],
        *,
        threads: int,
        on_ready: Callable[[PinWork], None],
        on_done: Callable[[PinWork], None],
        on_fatal: Callable[[BaseException], None],
    ) -> None:
        self._fetcher = fetcher
        self._image_input = image_input
        self._on_ready = on_ready
        self._on_done = on_done
        self._on_fatal = on_fatal
        self._queue: queue.SimpleQueue[PinWork | None] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, name=f"fetch-{i}", daemon=True) for i in range(threads)]

    @property
    def depth(self) -> int:
        return self._queue.qsize()

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def submit(self, work: PinWork) -> None:
        self._queue.put(work)

    def stop(self) -> None:
        """End the threads: each after the record it holds, at most one fetch's time-out later."""
        self._stop.set()
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            if thread.is_alive():
                thread.join()

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                work = self._queue.get()
                if work is not None and not work.dropped:
                    self._prepare(work)
        except Exception as error:  # noqa: BLE001 (a thread must not die in silence: the worker stops with it)
            self._on_fatal(error)

    def _prepare(self, work: PinWork) -> None:
        assert work.event is not None
        assert work.event.image is not None
        try:
            image_bytes = self._fetch(work, work.event.image)
            if image_bytes is None:
                return
            work.sign(image_bytes)
            work.image = self._image_input(image_bytes, work.event.image.box)
        except BadRecordError as error:
            work.fail(error)
            self._on_done(work)
            return
        except (FatalError, MemoryError):
            raise
        except Exception as error:
            log.exception("fetching or decoding partition %d offset %d failed", work.partition, work.offset)
            work.fail(BadRecordError(f"decoding failed: {error!r}", stage="decode", reason="decoder_broke"))
            self._on_done(work)
            return
        self._on_ready(work)

    def _fetch(self, work: PinWork, image: Image) -> bytes | None:
        """The image's bytes; tries again while its store is away. None: the worker stops or lost the partition."""
        started_s = time.monotonic()
        backoff_s = FIRST_BACKOFF_S
        while not (self._stop.is_set() or work.dropped):
            work.attempts += 1
            try:
                return self._fetcher.fetch(image)
            except RetryableError as error:
                metrics.RETRIES.labels("fetch").inc()
                if time.monotonic() - started_s > GIVE_UP_S:
                    message = f"{error}; gave up after {work.attempts} tries in {GIVE_UP_S:g} s"
                    raise BadRecordError(message, stage="fetch", reason="store_away") from error
                self._stop.wait(backoff_s)
                backoff_s = min(MAX_BACKOFF_S, 2 * backoff_s)
        return None
