"""HTTP search: by image, by box of an image, by Pin id, by raw code. FastAPI; the documents are at /docs."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import FastAPI, File, HTTPException, Query, Request, UploadFile
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from starlette.responses import Response

from index_sync.root import Leaf
from index_sync.search_protocol import (
    MAX_K,
    BadQueryError,
    LeafAnswer,
    LeafCode,
    LeafRequest,
    SearchAnswer,
    SearchRequest,
    decode_code,
)
from index_sync.search_service import SearchService
from pinstream import metrics
from pinstream.errors import BadRecordError
from pinstream.events import MAX_PIN_ID, Box, Domain, Flag
from pinstream.settings import HttpSettings


def add_search(app: FastAPI, service: SearchService, leaf: Leaf, settings: HttpSettings) -> None:
    """Add the search endpoints to a node's app."""

    @app.post("/v1/search")
    def search(request: SearchRequest) -> SearchAnswer:
        """Search by exactly one of `image` (with an optional `box`), `pin_id` and `code`."""
        return service.answer(request)

    @app.post("/v1/search/image")
    def search_upload(
        image: Annotated[UploadFile, File(description="The encoded image.")],
        box: Annotated[str | None, Query(description="x,y,width,height as fractions of the upright image.")] = None,
        k: Annotated[int, Query(ge=1, le=MAX_K)] = 20,
        domain: Annotated[list[Domain] | None, Query()] = None,
        flag: Annotated[list[Flag] | None, Query()] = None,
    ) -> SearchAnswer:
        """The same as a form upload: `curl -F image=@photo.jpg 'http://…/v1/search/image?k=10&domain=product'`."""
        code = service.embed(image.file.read(settings.max_body_bytes), _box(box))
        return service.answer(SearchRequest(code=code, k=k, domains=tuple(domain or ()), flags=tuple(flag or ())))

    @app.get("/v1/pins/{pin_id}")
    def pin(pin_id: int) -> LeafCode:
        """What the index holds of a Pin."""
        if not 1 <= pin_id <= MAX_PIN_ID:
            raise HTTPException(400, f"pin id is {pin_id}, expected 1 to {MAX_PIN_ID}")
        held = service.root.code(pin_id)
        if held is None:
            raise HTTPException(404, f"pin {pin_id} is not in the index")
        return held

    _add_leaf(app, service, leaf)
    _add_limits_and_errors(app, settings)


def _add_leaf(app: FastAPI, service: SearchService, leaf: Leaf) -> None:
    """What other nodes ask of this one."""

    @app.post("/v1/leaf/search", include_in_schema=False)
    def leaf_search(request: LeafRequest) -> LeafAnswer:
        if request.model != service.model:
            raise HTTPException(409, f"query is of model {request.model[:12]}, this leaf serves {service.model[:12]}")
        decode_code(request.code, service.bits)
        with metrics.SEARCH_SECONDS.labels("leaf").time():
            return leaf.search(request)

    @app.get("/v1/leaf/pins/{pin_id}", include_in_schema=False)
    def leaf_pin(pin_id: int) -> LeafCode:
        held = leaf.code(pin_id) if 1 <= pin_id <= MAX_PIN_ID else None
        if held is None:
            raise HTTPException(404, f"pin {pin_id} is not on this leaf")
        return held


def _box(text: str | None) -> Box | None:
    if text is None:
        return None
    try:
        x, y, width, height = (float(part) for part in text.split(","))
        return Box(x=x, y=y, width=width, height=height)
    except ValidationError as error:
        raise BadQueryError(f"box is {text[:60]!r}: {error.errors()[0]['msg']}") from error
    except ValueError as error:
        raise BadQueryError(f"box is {text[:60]!r}, expected x,y,width,height as fractions") from error


def _add_limits_and_errors(app: FastAPI, settings: HttpSettings) -> None:
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
