"""Answers from generations: for each one its leaves, its model and its searches, side by side. All use of index_sync.

A generation is loaded when it has caught up, long before it is flipped to, so that a flip only changes which of two
loaded generations is asked; a request keeps the one that it began with.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final

from index_sync.leaf import LocalLeaf
from index_sync.redis_leases import LEASE_S, RENEW_S, Lease, read_leases
from index_sync.root import Root
from index_sync.search_service import QueryEncoder, SearchService
from index_sync.searcher import Searcher
from pinstream import metrics
from pinstream.codes import Fingerprint
from pinstream.errors import PinstreamError
from pinstream.kafka_clients import redis_url
from pinstream.redis_client import REDIS_AWAY, connect_if_set
from pinstream.settings import Settings
from rollout.generation import SERVABLE, Generation, Registry
from rollout.lease_memory import LeaseMemory

log = logging.getLogger(__name__)

LoadModel = Callable[[Generation], QueryEncoder | None]
"""A generation → what embeds query images with its model (None: no images are taken). Blocks, for seconds maybe.
Raises PinstreamError."""

_TRY_AGAIN_S: Final = 5.0


class _LeafWatch:
    """Reads a generation's leases, in a thread of its own; while Redis is away, those seen last count. Thread-safe."""

    def __init__(self, settings: Settings, model: Fingerprint) -> None:
        self._model = model
        self._memory = LeaseMemory[Lease](LEASE_S)
        self._seen: tuple[Lease, ...] = ()
        self._redis = connect_if_set(redis_url(settings), settings.redis.timeout_s, "front")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="leaf-watch", daemon=True)
        self._look()
        self._thread.start()

    def leases(self) -> tuple[Lease, ...]:
        """The same object until something changes."""
        return self._memory.known(self._seen, time.monotonic())

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(RENEW_S):
            self._look()

    def _look(self) -> None:
        if self._redis is not None:
            with suppress(*REDIS_AWAY):  # the registry's watch says that Redis is away
                self._seen = read_leases(self._redis, self._model)


class ServedGeneration:
    """One generation as a root of its leaves. Thread-safe; `close` it."""

    def __init__(self, settings: Settings, generation: Generation, encode: QueryEncoder | None) -> None:
        self.model = generation.model
        self._searcher = Searcher(1)
        self._leaf = LocalLeaf(self._searcher, generation.model, dict, lanes=1, max_batch=1, max_waiting=1)
        self._watch = _LeafWatch(settings, Fingerprint(generation.model))
        self._root = Root(
            self._leaf,
            self._watch.leases,
            model=generation.model,
            bits=generation.bits,
            partitions=settings.topics.partitions,
            max_lag_s=settings.index.max_replica_lag_s,
        )
        self.service = SearchService(
            self._root,
            encode,
            settings.http,
            model=generation.model,
            bits=generation.bits,
            partitions=settings.topics.partitions,
            recall_target=settings.index.recall_target,
        )

    def missing(self, partitions: int) -> list[int]:
        """Shards that no leaf in sight serves."""
        served = {partition for lease in self._watch.leases() for partition in lease.status.shards}
        return sorted(set(range(partitions)) - served)

    def close(self) -> None:
        """Blocks until what runs has ended."""
        self.service.close()
        self._watch.stop()
        self._root.close()
        self._leaf.close()
        self._searcher.close()


class Generations:
    """Loads what a registry wants served and lets go of the rest, in a thread of its own. Thread-safe."""

    def __init__(self, settings: Settings, load: LoadModel) -> None:
        self._settings = settings
        self._load = load
        self._wanted: Mapping[str, Generation] = {}
        self._served: Mapping[str, ServedGeneration] = {}
        self._faults: Mapping[str, str] = {}
        self._leaving: list[tuple[ServedGeneration, float]] = []
        self._changed = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="generations", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Blocks until all are closed."""
        self._stop.set()
        self._changed.set()
        if self._thread.is_alive():
            self._thread.join()
        for one in (*self._served.values(), *(one for one, _ in self._leaving)):
            one.close()

    def want(self, registry: Registry) -> None:
        """Serve the generations of this registry from now on. Does not block."""
        self._wanted = {model: one for model, one in registry.generations.items() if one.state in SERVABLE}
        self._changed.set()

    @property
    def served(self) -> Mapping[str, ServedGeneration]:
        """By fingerprint. One and the same mapping never changes."""
        return self._served

    @property
    def faults(self) -> Mapping[str, str]:
        """Fingerprint → why that generation is not served, though it should be."""
        return self._faults

    def _run(self) -> None:
        while not self._stop.is_set():
            self._changed.clear()
            self._let_go(time.monotonic())
            for model, generation in self._wanted.items():
                if model not in self._served and not self._stop.is_set():
                    self._begin(generation)
            self._changed.wait(_TRY_AGAIN_S if self._faults or self._leaving else None)

    def _begin(self, generation: Generation) -> None:
        started_s = time.monotonic()
        try:
            one = ServedGeneration(self._settings, generation, self._load(generation))
        except Exception as error:  # noqa: BLE001 (the other generations are served on, whatever this one's model does)
            said = str(error) if isinstance(error, PinstreamError) else f"{type(error).__name__}: {error}"
            if self._faults.get(generation.model) != said:
                log.error("generation %s can't be served here: %s", generation.model[:12], said)
            self._faults = {**self._faults, generation.model: said[:500]}
            return
        self._faults = {model: said for model, said in self._faults.items() if model != generation.model}
        self._served = {**self._served, generation.model: one}
        metrics.GENERATIONS_LOADED.set(len(self._served))
        log.info("generation %s is loaded, in %.1f s", generation.model[:12], time.monotonic() - started_s)

    def _let_go(self, now_s: float) -> None:
        """What is wanted no more is closed when the requests that began with it have had their time."""
        self._faults = {model: said for model, said in self._faults.items() if model in self._wanted}
        gone = [one for model, one in self._served.items() if model not in self._wanted]
        if gone:
            self._served = {model: one for model, one in self._served.items() if model in self._wanted}
            self._leaving += [(one, now_s + self._settings.http.timeout_s + 1) for one in gone]
            metrics.GENERATIONS_LOADED.set(len(self._served))
        for one, until_s in self._leaving:
            if now_s >= until_s:
                one.close()
        self._leaving = [(one, until_s) for one, until_s in self._leaving if now_s < until_s]
