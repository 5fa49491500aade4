"""`pinstream serve`: the door users knock at. Follows the registry; answers each request from one generation."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, HTTPException

from index_sync.search_service import RETRY_SOON
from pinstream import metrics
from pinstream.http_status import HttpServer, status_app
from pinstream.kafka_clients import instance_name, redis_url
from pinstream.object_store import open_store
from pinstream.settings import Settings
from rollout.front import Generations, LoadModel, ServedGeneration
from rollout.generation import Application, Registry
from rollout.profiles import NoGenerationError, Route, choose
from rollout.query_sample import QuerySample
from rollout.redis_signal import FrontStatus, RedisSignal
from rollout.registry_watch import RegistryWatch
from rollout.store_registry import RegistryStore

log = logging.getLogger(__name__)


class FrontDoor:
    """One process's front door. `run` blocks until `stop` (from any thread or a signal handler).

    Needs no Kafka. Goes on serving while Redis, the store or both are away.

    Args:
        load: makes the model of a generation.

    Raises:
        FatalError: from the constructor: the address can't be bound, or the store's URL is wrong.
    """

    def __init__(self, settings: Settings, load: LoadModel, name: str = "") -> None:
        self._settings = settings
        self._stop = threading.Event()
        self.app: FastAPI = status_app(self._why_not_ready, self._info, "pinstream front door")
        self.http = HttpServer(self.app, settings.http)
        self.name = name or instance_name("") + f"-{self.http.port}"
        self._generations = Generations(settings, load)
        self._signal = RedisSignal(redis_url(settings), settings.topics.pins, settings.redis.timeout_s)
        self.sample = QuerySample(
            redis_url(settings),
            settings.topics.pins,
            timeout_s=settings.redis.timeout_s,
            max_per_s=settings.rollout.sample_queries_per_s,
        )
        """Of live queries, for validations."""
        self.watch = RegistryWatch(
            registry_store(settings),
            self._signal,
            settings.local_dir / f"registry-{settings.topics.pins}.json",
            poll_redis_s=settings.rollout.poll_redis_ms / 1000,
            poll_store_s=settings.rollout.poll_store_s,
            on_change=self._generations.want,
            status=self.status,
        )

    def run(self) -> None:
        """Serve until stopped, then answer what is under way and return."""
        self.start()
        self._stop.wait()
        self.close()

    def start(self) -> None:
        self._generations.start()
        self.watch.start()
        self.http.start()
        log.info("front door %s, search on %s", self.name, self.http.url)

    def stop(self) -> None:
        """Ask `run` to return. Does not block."""
        self._stop.set()

    def close(self) -> None:
        self.watch.stop()
        self.http.stop()
        self._generations.stop()
        self.sample.close()
        self._signal.close()

    def route(
        self, application: Application, generation: str | None, requester: str | None
    ) -> tuple[Route, ServedGeneration]:
        """What answers a request, by the registry of this moment.

        Raises:
            HTTPException: 503: nothing serves the application, or its generation is not loaded here.
            BadQueryError: `generation` names none or several.
        """
        registry = self.watch.registry()
        try:
            route = choose(registry, application, generation, requester)
        except NoGenerationError as error:
            raise HTTPException(503, str(error), headers=RETRY_SOON) from error
        served = self._generations.served.get(route.model)
        if served is None:
            why = self._generations.faults.get(route.model) or f"it is {registry.generations[route.model].state}"
            raise HTTPException(503, f"generation {route.model[:12]} is not loaded here: {why}", headers=RETRY_SOON)
        metrics.FRONT_SEARCHES.labels(application.value, route.model[:12], route.arm or "none").inc()
        return route, served

    def status(self) -> FrontStatus:
        return FrontStatus(
            name=self.name,
            url=self.http.url,
            number=self.watch.registry().number,
            models=tuple(sorted(self._generations.served)),
            faults=dict(self._generations.faults),
        )

    def _why_not_ready(self) -> str | None:
        registry = self.watch.registry()
        if not registry.live:
            return "no generation is live yet"
        served = self._generations.served
        for model in sorted(set(registry.live.values())):
            one = served.get(model)
            if one is None:
                return f"live generation {model[:12]} is not loaded: {self._generations.faults.get(model, 'loading')}"
            if missing := one.missing(self._settings.topics.partitions):
                return f"no leaf serves shards {', '.join(map(str, missing))} of live generation {model[:12]}"
        return None

    def _info(self) -> Mapping[str, Any]:
        registry: Registry = self.watch.registry()
        return {
            "role": "front",
            "name": self.name,
            "registry": registry.number,
            "live": {application.value: model for application, model in sorted(registry.live.items())},
            "splits": [split.model_dump(mode="json") for split in registry.splits],
            "generations": {
                model: {
                    "state": registry.generations[model].state.value if model in registry.generations else "gone",
                    "missing_shards": one.missing(self._settings.topics.partitions),
                }
                for model, one in self._generations.served.items()
            },
            "faults": dict(self._generations.faults),
        }


def registry_store(settings: Settings) -> RegistryStore:
    """The registry beside the snapshots. Connects to nothing yet. Raises FatalError: the URL is wrong."""
    store = open_store(
        settings.snapshot_url, settings.fetch.store_options, setting="index.snapshot_url", timeout_s=5, retries=2
    )
    return RegistryStore(store)
