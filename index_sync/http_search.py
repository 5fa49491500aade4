"""HTTP search: by image, by box of an image, by Pin id, by raw code. FastAPI; the documents are at /docs."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import FastAPI, File, HTTPException, Query, Request, UploadFile
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from starlette.responses import Response

from index_sync.search_protocol import (
    MAX_K,
    MAX_TIMEOUT_MS,
    BadQueryError,
    LeafCode,
    SearchAnswer,
    SearchRequest,
)
from index_sync.search_service import SearchService
from pinstream import metrics
from pinstream.errors import BadRecordError
from pinstream.events import MAX_PIN_ID, Box, Domain, Flag
from pinstream.settings import HttpSettings


def add_search(app: FastAPI, service: SearchService, settings: HttpSettings) -> None:
    """Add the search endpoints to a node's app."""

    @app.post("/v1/search")
    async def search(request: SearchRequest) -> SearchAnswer:
        """Search by exactly one of `image` (with an optional `box`), `pin_id` and `code`."""
        return await service.run(lambda deadline_s: service.answer(request, deadline_s), request.timeout_ms)

    @app.post("/v1/search/image")
    async def search_upload(
        image: Annotated[UploadFile, File(description="The encoded image.")],
        box: Annotated[str | None, Query(description="x,y,width,height as fractions of the upright image.")] = None,
        k: Annotated[int, Query(ge=1, le=MAX_K)] = 20,
        domain: Annotated[list[Domain] | None, Query()] = None,
        flag: Annotated[list[Flag] | None, Query()] = None,
        timeout_ms: Annotated[int | None, Query(ge=1, le=MAX_TIMEOUT_MS)] = None,
        allow_partial: Annotated[bool, Query()] = True,
    ) -> SearchAnswer:
        """The same as a form upload: `curl -F image=@photo.jpg 'http://…/v1/search/image?k=10&domain=product'`."""

        def work(deadline_s: float) -> SearchAnswer:
            code = service.embed(image.file.read(settings.max_body_bytes), parse_box(box))
            request = SearchRequest(
                code=code, k=k, domains=tuple(domain or ()), flags=tuple(flag or ()), allow_partial=allow_partial
            )
            return service.answer(request, deadline_s)

        return await service.run(work, timeout_ms)

    @app.get("/v1/pins/{pin_id}")
    async def pin(pin_id: int) -> LeafCode:
        """What the index holds of a Pin."""
        if not 1 <= pin_id <= MAX_PIN_ID:
            raise HTTPException(400, f"pin id is {pin_id}, expected 1 to {MAX_PIN_ID}")
        return await service.run(lambda deadline_s: service.pin(pin_id, deadline_s), None)

    add_limits_and_errors(app, settings)


def parse_box(text: str | None) -> Box | None:
    """`x,y,width,height` → a box. Raises BadQueryError."""
    if text is None:
        return None
    try:
        x, y, width, height = (float(part) for part in text.split(","))
        return Box(x=x, y=y, width=width, height=height)
    except ValidationError as error:
        raise BadQueryError(f"box is {text[:60]!r}: {error.errors()[0]['msg']}") from error
    except ValueError as error:
        raise BadQueryError(f"box is {text[:60]!r}, expected x,y,width,height as fractions") from error


def add_limits_and_errors(app: FastAPI, settings: HttpSettings) -> None:
    """Refuse bodies that are too large before they are read, count searches, and answer 400 to bad queries."""
    # base64 in JSON is a third larger than the image that it carries
    max_body = settings.max_body_bytes * 4 // 3 + 64 * 1024

    @app.middleware("http")
    async def limit_body(request: Request, call_next: Any) -> Response:
        length = request.headers.get("content-length")
        if request.method == "POST" and (length is None or not length.isdigit()):
            response: Response = JSONResponse({"detail": "Content-Length is missing"}, 411)
        elif length is not None and int(length) > max_body:
            response = JSONResponse({"detail": f"body has {length} bytes, expected at most {max_body}"}, 413)
        else:
            response = await call_next(request)
        if request.url.path.startswith("/v1/search"):
            metrics.SEARCHES.labels(str(response.status_code)).inc()
        return response

    @app.exception_handler(BadQueryError)
    def bad_query(_request: Request, error: BadQueryError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 400)

    @app.exception_handler(BadRecordError)
    def bad_image(_request: Request, error: BadRecordError) -> JSONResponse:
        return JSONResponse({"detail": f"the query image can't be embedded: {error}"}, 400)
