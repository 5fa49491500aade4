"""The endpoints that every process of ours answers: /metrics, /livez, /readyz, /info."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Mapping
from typing import Any

import uvicorn
from fastapi import FastAPI, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from pinstream.errors import FatalError
from pinstream.settings import HttpSettings


def status_app(ready: Callable[[], str | None], info: Callable[[], Mapping[str, Any]], title: str) -> FastAPI:
    """An app with the four endpoints; callers add their own.

    Args:
        ready: None if work really goes through, else why not: a sentence for the operator.
        info: what this process is: model, limits, versions.
    """
    app = FastAPI(title=title, docs_url="/docs", redoc_url=None)

    @app.get("/metrics", include_in_schema=False)
    def metrics() -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    @app.get("/livez")
    def livez() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/readyz")
    def readyz(response: Response) -> dict[str, str]:
        why_not = ready()
        if why_not is None:
            return {"status": "ready"}
        response.status_code = 503
        return {"status": "not ready", "reason": why_not}

    @app.get("/info")
    def about() -> Mapping[str, Any]:
        return info()

    return app


class HttpServer:
    """uvicorn in a thread of its own. The port is bound, and so known, when the constructor returns.

    Raises:
        FatalError: the address can't be bound.
    """

    def __init__(self, app: FastAPI, settings: HttpSettings) -> None:
        try:
            self._socket = socket.create_server((settings.host, settings.port), backlog=512)
        except OSError as error:
            raise FatalError(
                f"http address {settings.host}:{settings.port} can't be bound: {error.strerror}"
            ) from error
        self.port: int = self._socket.getsockname()[1]
        self.url = settings.advertise or f"http://{settings.host}:{self.port}"
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, timeout_keep_alive=30, h11_max_incomplete_event_size=64 * 1024
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Answer what is under way, then close. Blocks a few seconds at most."""
        self._server.should_exit = True
        if self._thread.is_alive():
            self._thread.join(timeout=5)
        self._socket.close()

    def _run(self) -> None:
        self._server.run(sockets=[self._socket])
