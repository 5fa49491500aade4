"""One thread that turns pixels into codes: micro-batches, the code cache, the model.

Takes what is ready, whichever partition it is from; the lanes put the results back in order. A batch that the device
has no memory for is halved; one that breaks the model is bisected until the one image that does it is known.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from embedder.batch_plan import plan_batch
from embedder.batcher import Batch, CloseReason, MicroBatcher
from embedder.pin_work import ImageArray, Outcome, PinWork
from embedder.redis_code_cache import RedisCodeCache
from pinstream import metrics
from pinstream.clock import Clock
from pinstream.errors import BadRecordError, FatalError, RetryableError

log = logging.getLogger(__name__)

IDLE_WAIT_S: Final = 0.2


class ImageEncoder(Protocol):
    """Images in, packed codes out. One thread at a time."""

    @property
    def bits(self) -> int: ...
    @property
    def input_size(self) -> int: ...
    def encode(self, images_BHWC: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """uint8 [B, S, S, 3] RGB → uint8 [B, bits / 8]. Raises RetryableError when the device is out of memory."""


class EncodeStage:
    """Args:
    on_done: called with the records that are done, in batches.
    on_fatal: called with what must stop the worker.
    """

    def __init__(
        self,
        encoder: ImageEncoder,
        cache: RedisCodeCache,
        clock: Clock,
        *,
        max_batch_size: int,
        max_batch_delay_s: float,
        on_done: Callable[[Sequence[PinWork]], None],
        on_fatal: Callable[[BaseException], None],
    ) -> None:
        self._encoder = encoder
        self._cache = cache
        self._clock = clock
        self._batcher: MicroBatcher[PinWork] = MicroBatcher(max_batch_size, max_batch_delay_s)
        self._limit = max_batch_size
        """Images per model call; halved when the device ran out of memory, for good."""
        self._on_done = on_done
        self._on_fatal = on_fatal
        self._queue: queue.SimpleQueue[PinWork | None] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="encode", daemon=True)

    @property
    def depth(self) -> int:
        return self._queue.qsize()

    def start(self) -> None:
        self._thread.start()

    def submit(self, work: PinWork) -> None:
        self._queue.put(work)

    def stop(self) -> None:
        """End the thread after the batch it holds."""
        self._stop.set()
        self._queue.put(None)
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self._run_once()
        except Exception as error:  # noqa: BLE001 (a thread must not die in silence: the worker stops with it)
            self._on_fatal(error)

    def _run_once(self) -> None:
        """Wait for the next image or the open batch's deadline, whichever comes first."""
        now_s = self._clock.monotonic_s()
        deadline_s = self._batcher.deadline_s
        wait_s = IDLE_WAIT_S if deadline_s is None else max(0.0, deadline_s - now_s)
        try:
            work = self._queue.get(timeout=wait_s) if wait_s else self._queue.get_nowait()
        except queue.Empty:
            work = None
        now_s = self._clock.monotonic_s()
        batch = None
        if work is not None and not work.dropped:
            batch = self._batcher.offer(work, now_s)
        batch = batch or self._batcher.poll(now_s)
        if batch is not None:
            self._encode_batch(batch)

    def _encode_batch(self, batch: Batch[PinWork]) -> None:
        metrics.BATCHES.labels(batch.reason.value).inc()
        metrics.BATCH_AGE.observe(batch.age_s)
        works = [work for work in batch.items if not work.dropped]
        if batch.reason is not CloseReason.FLUSH:
            metrics.QUEUE_DEPTH.labels("encode").set(self._queue.qsize())
        self._embed(self._answer_from_cache(works))
        self._on_done(works)

    def _answer_from_cache(self, works: list[PinWork]) -> list[PinWork]:
        """Finish those whose content is known by now and was embedded before; return the rest. One MGET."""
        asked = [work for work in works if not work.looked_up and work.cache_key is not None]
        for work, code in zip(asked, self._cache.lookup([work.cache_key or b"" for work in asked]), strict=True):
            work.looked_up = True
            if code is not None:
                work.finish(Outcome.CACHED, code)
        return [work for work in works if not work.done]

    def _embed(self, works: list[PinWork]) -> None:
        """Finish every one of `works`, with a code or an error."""
        if not works:
            return
        plan = plan_batch(works)
        images = [group[0].image for group in plan.groups]
        fresh: list[tuple[bytes, bytes]] = []
        for group, result in zip(plan.groups, self._encode([i for i in images if i is not None]), strict=True):
            if isinstance(result, BadRecordError):
                for work in group:
                    work.fail(result)
                continue
            if group[0].cache_key is not None:
                fresh.append((group[0].cache_key, result))
            for i, work in enumerate(group):
                work.finish(Outcome.EMBEDDED if i == 0 else Outcome.CACHED, result)
        orphans = []
        for older, newer in plan.superseded:
            if newer.outcome is Outcome.DEAD_LETTER:
                orphans.append(older)
            else:
                older.finish(Outcome.SUPERSEDED)
        self._embed(orphans)
        self._cache.store(fresh)

    def _encode(self, images: list[ImageArray]) -> list[bytes | BadRecordError]:
        """One result an image, whatever breaks."""
        results: list[bytes | BadRecordError] = []
        start = 0
        while start < len(images):
            part = images[start : start + self._limit]
            try:
                results += self._encode_once(part)
            except RetryableError as error:
                if len(part) == 1:
                    raise FatalError(
                        f"the device has no memory for one image: {error}; use a larger one or a smaller model"
                    ) from error
                self._limit = len(part) // 2
                log.warning("out of device memory: at most %d images a call from now on", self._limit)
                continue
            except FatalError:
                raise
            except Exception as error:  # noqa: BLE001 (whatever an image does to the model is that image's fault)
                if len(part) == 1:
                    message = f"the model failed on this image: {error!r}"
                    results.append(BadRecordError(message, stage="encode", reason="model_failed"))
                else:
                    middle = len(part) // 2
                    results += self._encode(part[:middle]) + self._encode(part[middle:])
            start += len(part)
        return results

    def _encode_once(self, images: list[ImageArray]) -> list[bytes]:
        started_s = self._clock.monotonic_s()
        codes_BW = self._encoder.encode(np.stack(images))
        metrics.ENCODE_SECONDS.observe(self._clock.monotonic_s() - started_s)
        metrics.BATCH_IMAGES.observe(len(images))
        return [code_W.tobytes() for code_W in codes_BW]
