"""HTTP of the front door: searches of the three applications. FastAPI; the documents are at /docs."""

from __future__ import annotations

from typing import Annotated

from fastapi import File, HTTPException, Path, Query, UploadFile

from index_sync.http_search import add_limits_and_errors, parse_box
from index_sync.search_protocol import MAX_K, MAX_TIMEOUT_MS, LeafCode, SearchAnswer, SearchRequest
from index_sync.search_service import RETRY_SOON
from pinstream.events import MAX_PIN_ID, Domain, Flag
from pinstream.settings import Settings
from rollout.front import ServedGeneration
from rollout.front_door import FrontDoor
from rollout.generation import Application
from rollout.profiles import FrontAnswer, FrontRequest, Route, check_box, narrowed

Requester = Annotated[str | None, Query(min_length=1, max_length=200)]
GenerationName = Annotated[str | None, Query(pattern="^[0-9a-f]{6,64}$")]


class PinAnswer(LeafCode):
    """What the index of one generation holds of a Pin."""

    generation: str


def add_front(front: FrontDoor, settings: Settings) -> None:
    """Add the front door's endpoints to its app."""
    app, profiles = front.app, settings.rollout.profiles

    @app.post("/v1/search")
    async def search(request: FrontRequest) -> FrontAnswer:
        """Search for one application, by exactly one of `image` (with an optional `box`), `pin_id` and `code`."""
        asked = narrowed(request, profiles)
        route, served = front.route(request.application, request.generation, request.requester)
        found = await served.service.run(lambda until_s: _answer(served, asked, until_s), request.timeout_ms)
        if request.generation is None:
            front.sample.offer(asked, request.application, _nearest(found))
        return _front_answer(found, request.application, route)

    @app.post("/v1/search/image")
    async def search_upload(
        image: Annotated[UploadFile, File(description="The encoded image.")],
        application: Annotated[Application, Query()],
        box: Annotated[str | None, Query(description="x,y,width,height as fractions of the upright image.")] = None,
        k: Annotated[int | None, Query(ge=1, le=MAX_K)] = None,
        domain: Annotated[list[Domain] | None, Query()] = None,
        flag: Annotated[list[Flag] | None, Query()] = None,
        timeout_ms: Annotated[int | None, Query(ge=1, le=MAX_TIMEOUT_MS)] = None,
        allow_partial: Annotated[bool, Query()] = True,
        recall_target: Annotated[float | None, Query(gt=0, le=1)] = None,
        requester: Requester = None,
        generation: GenerationName = None,
    ) -> FrontAnswer:
        """The same as a form upload: `curl -F image=@photo.jpg 'http://…/v1/search/image?application=lens'`."""
        part = parse_box(box)
        check_box(application, getattr(profiles, application.value), part is not None)
        route, served = front.route(application, generation, requester)

        def work(until_s: float) -> tuple[SearchRequest, SearchAnswer]:
            code = served.service.embed(image.file.read(settings.http.max_body_bytes), part)
            request = FrontRequest(
                application=application,
                generation=route.model,
                code=code,
                domains=tuple(domain or ()),
                flags=tuple(flag or ()),
                allow_partial=allow_partial,
                recall_target=recall_target,
                k=getattr(profiles, application.value).k if k is None else k,
            )
            asked = narrowed(request, profiles)
            return asked, _answer(served, asked, until_s)

        asked, found = await served.service.run(work, timeout_ms)
        if generation is None:
            front.sample.offer(asked, application, _nearest(found))
        return _front_answer(found, application, route)

    @app.get("/v1/pins/{pin_id}")
    async def pin(
        pin_id: Annotated[int, Path(ge=1, le=MAX_PIN_ID)],
        application: Annotated[Application, Query()],
        requester: Requester = None,
        generation: GenerationName = None,
    ) -> PinAnswer:
        """What the generation that answers this application and requester holds of a Pin."""
        route, served = front.route(application, generation, requester)
        held = await served.service.run(lambda until_s: served.service.pin(pin_id, until_s), None)
        return PinAnswer(**held.model_dump(), generation=route.model)

    add_limits_and_errors(app, settings.http)


def _answer(served: ServedGeneration, asked: SearchRequest, until_s: float) -> SearchAnswer:
    found = served.service.answer(asked, until_s)
    if not found.shards:
        raise HTTPException(503, f"no shard of generation {served.model[:12]} answers", headers=RETRY_SOON)
    return found


def _nearest(found: SearchAnswer) -> int | None:
    return found.hits[0].pin_id if found.hits else None


def _front_answer(found: SearchAnswer, application: Application, route: Route) -> FrontAnswer:
    return FrontAnswer(
        **{name: getattr(found, name) for name in SearchAnswer.model_fields},
        application=application,
        arm=route.arm,
        test=route.test,
    )
