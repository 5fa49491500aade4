"""HTTP intake of impressions and engagements: POST /v1/events."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Protocol

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.responses import Response

from pinstream import metrics
from pinstream.clock import Clock, SystemClock
from pinstream.errors import RetryableError
from rollout.ab.events import MAX_EVENTS, Engagement, ReportedEvents, explain
from rollout.ab.intake import Intake, Refusal
from rollout.generation import Registry

PATH: Final = "/v1/events"
MAX_BODY_BYTES: Final = 512 * 1024
"""MAX_EVENTS of the longest requesters, in ASCII."""
_THREADS: Final = 4
_MAX_INSIDE: Final = 32
"""Requests that are being published or wait for it; one more is refused, so that a Kafka which is away costs neither
memory nor the threads that searches need."""
_RETRY_SOON: Final = {"Retry-After": "1"}


class EngagementSink(Protocol):
    """What `EngagementProducer` does."""

    def publish(self, engagements: list[Engagement], /) -> None:
        """Blocks until they are kept. Raises RetryableError: perhaps they are not."""


class EventsAnswer(BaseModel):
    model_config = ConfigDict(extra="forbid")

    accepted: int
    refused: dict[Refusal, int]
    """By reason. These are of no use to the test: don't send them again."""


class EventIntake:
    """Parses, checks and publishes one request at a time in each of a few threads. `close` it."""

    def __init__(
        self, sink: EngagementSink, registry: Callable[[], Registry], key: str, clock: Clock | None = None
    ) -> None:
        self._sink = sink
        self._registry = registry
        self._key = key
        self._clock = clock or SystemClock()
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="events")
        self._inside = 0  # touched by the event loop only

    def close(self) -> None:
        """Publish nothing more. Waits for what is under way."""
        self._pool.shutdown(cancel_futures=True)

    async def take(self, body: bytes) -> EventsAnswer:
        """Raises HTTPException: 422 malformed; 429 too many requests at once; 503 Kafka is away: send it again."""
        if self._inside >= _MAX_INSIDE:
            metrics.AB_EVENTS_REFUSED.labels("busy").inc()
            raise HTTPException(429, f"{self._inside} requests are being published", headers=_RETRY_SOON)
        self._inside += 1
        try:
            return await asyncio.wrap_future(self._pool.submit(self._publish, body))
        finally:
            self._inside -= 1

    def _publish(self, body: bytes) -> EventsAnswer:
        try:
            reported = ReportedEvents.model_validate_json(body)
        except ValidationError as error:
            metrics.AB_EVENTS_REFUSED.labels("malformed").inc()
            raise HTTPException(422, explain(error)) from error
        intake = Intake(self._registry(), self._key)
        checked = [intake.check(event, self._clock.wall_ms()) for event in reported.events]
        accepted = [one for one in checked if isinstance(one, Engagement)]
        refused = Counter(one for one in checked if isinstance(one, Refusal))
        try:
            self._sink.publish(accepted)
        except RetryableError as error:
            metrics.AB_EVENTS_REFUSED.labels("kafka_away").inc(len(accepted))
            raise HTTPException(503, str(error), headers=_RETRY_SOON) from error
        for one in accepted:
            metrics.AB_EVENTS.labels(one.application, one.arm, one.kind).inc()
        for reason, count in refused.items():
            metrics.AB_EVENTS_REFUSED.labels(reason).inc(count)
        return EventsAnswer(accepted=len(accepted), refused=dict(refused))


def add_ab(app: FastAPI, intake: EventIntake) -> None:
    """Add the intake to a front door's app."""

    @app.middleware("http")
    async def limit_events(request: Request, call_next: Any) -> Response:
        if request.url.path != PATH or request.method != "POST":
            answer: Response = await call_next(request)
            return answer
        length = request.headers.get("content-length")
        if length is None or not length.isdigit():
            return JSONResponse({"detail": "Content-Length is missing"}, 411)
        if int(length) > MAX_BODY_BYTES:
            return JSONResponse({"detail": f"body has {length} bytes, expected at most {MAX_BODY_BYTES}"}, 413)
        return await call_next(request)  # type: ignore[no-any-return]  # starlette leaves call_next untyped here

    @app.post(
        PATH,
        status_code=202,
        description=f"Report what requesters of A/B tests saw and did, up to {MAX_EVENTS} events: docs/formats.md.",
    )
    async def events(request: Request) -> EventsAnswer:
        return await intake.take(await request.body())
