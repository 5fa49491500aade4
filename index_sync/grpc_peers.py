"""Asks other nodes' leaves over gRPC: one channel for each, all requests multiplexed on it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

import grpc

from index_sync.grpc_leaf import LIMITS, RETRY_AFTER

_OPTIONS: Final = (
    *LIMITS,
    ("grpc.enable_http_proxy", 0),  # nodes reach each other directly, whatever the environment says
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.enable_retries", 0),  # the root asks a replica instead
)
_MOST_DETAIL: Final = 300


@dataclass(frozen=True, slots=True)
class Failure:
    """A leaf did not answer."""

    kind: str
    """failed, busy, late, refused: a metric label."""
    detail: str
    retry_after_s: int | None = None


_KINDS: Final = {
    grpc.StatusCode.RESOURCE_EXHAUSTED: "busy",
    grpc.StatusCode.DEADLINE_EXCEEDED: "late",
    grpc.StatusCode.FAILED_PRECONDITION: "refused",
    grpc.StatusCode.INVALID_ARGUMENT: "refused",
}


class GrpcPeers:
    """Thread-safe; nothing blocks. `close` it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._channels: dict[str, grpc.Channel] = {}

    def ask(
        self, address: str, method: str, frame: bytes, timeout_s: float, done: Callable[[bytes | Failure], None]
    ) -> Callable[[], object]:
        """Send a request; `done` is called once, from gRPC's thread, and must be short.

        Returns:
            What cancels the request, here and at the leaf.
        """
        with self._lock:
            channel = self._channels.get(address)
            if channel is None:
                channel = self._channels[address] = grpc.insecure_channel(address, _OPTIONS)
        try:
            call = channel.unary_unary(method).future(frame, timeout=timeout_s)
        except ValueError as error:  # the channel was closed meanwhile: its node's lease is gone
            done(Failure("failed", str(error)))
            return _nothing
        call.add_done_callback(lambda ended: done(_outcome(ended)))
        cancel: Callable[[], object] = call.cancel
        return cancel

    def keep(self, addresses: Collection[str]) -> None:
        """Close the channels to nodes that are gone; their requests under way fail."""
        with self._lock:
            gone = [self._channels.pop(address) for address in self._channels.keys() - set(addresses)]
        for channel in gone:
            channel.close()

    def close(self) -> None:
        self.keep(())


def _nothing() -> None:
    return None


def _outcome(call: grpc.Future) -> bytes | Failure:
    if call.code() is grpc.StatusCode.OK:
        frame: bytes = call.result()
        return frame
    return Failure(_KINDS.get(call.code(), "failed"), _details(call), _retry_after_s(call))


def _details(call: grpc.Future) -> str:
    return f"{call.code().name}: {(call.details() or '')[:_MOST_DETAIL]}"


def _retry_after_s(call: grpc.Future) -> int | None:
    for key, value in call.trailing_metadata() or ():
        if key == RETRY_AFTER and value.isdigit() and len(value) <= 4:
            return int(value)
    return None
