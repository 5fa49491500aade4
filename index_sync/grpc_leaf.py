"""Answers other nodes' roots over gRPC: searches of this node's shards, and look-ups of Pins.

Generic methods that take and give bytes (`leaf_messages.py`): nothing is generated. A request's deadline and its
cancellation come with the call, so a search that nobody waits for is not begun.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Final, NoReturn, TypeVar
from urllib.parse import urlsplit

import grpc
import numpy as np

from index_sync.admission import BusyError
from index_sync.coalescer import DeadlinePassedError
from index_sync.leaf import LocalLeaf
from index_sync.leaf_messages import (
    HIT,
    MAX_MESSAGE_BYTES,
    BadMessageError,
    LeafFound,
    LeafQuery,
    read_pin_query,
    read_query,
    write_found,
    write_pin_found,
)
from pinstream.errors import FatalError
from pinstream.settings import HttpSettings

T = TypeVar("T")

SERVICE: Final = "pinstream.Leaf"
SEARCH: Final = f"/{SERVICE}/Search"
PIN: Final = f"/{SERVICE}/Pin"
RETRY_AFTER: Final = "retry-after-s"
"""Trailing metadata of RESOURCE_EXHAUSTED."""
LIMITS: Final = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_metadata_size", 16 * 1024),
)
_MARGIN: Final = 0.1
"""Share of the time left that is kept for telling the root that a wait for an offset was in vain."""
_MOST_MARGIN_S: Final = 0.05


class GrpcLeafServer:
    """Serves `leaf` from the constructor's port on, once `start` was called. Thread-safe.

    Args:
        model, bits: what this node serves; a query of another model is refused.

    Raises:
        FatalError: the address can't be bound.
    """

    def __init__(self, leaf: LocalLeaf, settings: HttpSettings, model: str, bits: int) -> None:
        self._leaf = leaf
        self._model = model
        self._bits = bits
        self._timeout_s = settings.timeout_s
        self._server = grpc.server(
            ThreadPoolExecutor(settings.max_concurrent, thread_name_prefix="grpc-leaf"),
            options=(
                *LIMITS,
                ("grpc.so_reuseport", 0),  # two processes on one port would answer in turn, unseen
                ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
                ("grpc.keepalive_permit_without_calls", 1),
            ),
            maximum_concurrent_rpcs=settings.max_concurrent + settings.max_waiting,
        )
        methods = {"Search": self._search, "Pin": self._pin}
        handlers = {name: grpc.unary_unary_rpc_method_handler(method) for name, method in methods.items()}
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        try:
            port = self._server.add_insecure_port(f"{_bracketed(settings.host)}:{settings.leaf_port}")
        except RuntimeError as error:
            raise FatalError(f"leaf address {settings.host}:{settings.leaf_port} can't be bound: {error}") from error
        host = urlsplit(settings.advertise).hostname or settings.host
        self.address = f"{_bracketed(host)}:{port}"

    def start(self) -> None:
        self._server.start()

    def stop(self) -> None:
        """Take no more calls, let those under way end. Blocks two seconds at most."""
        self._server.stop(grace=2).wait()

    def _search(self, frame: bytes, context: grpc.ServicerContext) -> bytes:
        deadline_s = self._deadline_s(context)
        query = _checked(context, lambda: read_query(frame, self._bits))
        self._refuse_other_model(context, query.model)
        answer = self._leaf.submit(query, deadline_s)
        context.add_callback(answer.cancel)  # the root hangs up: not begun if it still waits
        return write_found(self._wait(context, query, answer, deadline_s))

    def _wait(
        self, context: grpc.ServicerContext, query: LeafQuery, answer: Future[LeafFound], deadline_s: float
    ) -> LeafFound:
        left_s = deadline_s - time.monotonic()
        margin_s = min(_MOST_MARGIN_S, _MARGIN * left_s) if query.min_offset else 0.0
        try:
            return answer.result(timeout=max(0.0, left_s - margin_s))
        except BusyError as error:
            context.set_trailing_metadata(((RETRY_AFTER, str(error.retry_after_s)),))
            _abort(context, grpc.StatusCode.RESOURCE_EXHAUSTED, str(error))
        except CancelledError:
            _abort(context, grpc.StatusCode.CANCELLED, "the root hung up")
        except (FutureTimeoutError, DeadlinePassedError):
            answer.cancel()
        behind = self._leaf.behind(query)
        if not behind:
            _abort(context, grpc.StatusCode.DEADLINE_EXCEEDED, "not answered by the deadline")
        return LeafFound(self._model, np.empty(0, dtype=HIT), (), behind)

    def _pin(self, frame: bytes, context: grpc.ServicerContext) -> bytes:
        query = _checked(context, lambda: read_pin_query(frame))
        self._refuse_other_model(context, query.model)
        return write_pin_found(self._leaf.pin(query))

    def _deadline_s(self, context: grpc.ServicerContext) -> float:
        """The root's, but no later than a root of ours would set."""
        left_s = context.time_remaining()
        return time.monotonic() + (self._timeout_s if left_s is None else min(left_s, self._timeout_s))

    def _refuse_other_model(self, context: grpc.ServicerContext, model: str) -> None:
        if model != self._model:
            _abort(
                context,
                grpc.StatusCode.FAILED_PRECONDITION,
                f"query is of model {model[:12]}, this leaf serves {self._model[:12]}",
            )


def _checked(context: grpc.ServicerContext, read: Callable[[], T]) -> T:
    try:
        return read()
    except BadMessageError as error:
        _abort(context, grpc.StatusCode.INVALID_ARGUMENT, str(error))


def _abort(context: grpc.ServicerContext, code: grpc.StatusCode, details: str) -> NoReturn:
    context.abort(code, details)  # raises
    raise AssertionError


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
