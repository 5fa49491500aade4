"""The two things that a root asks its leaves, each with how it travels and what the node's own leaf says to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from index_sync.admission import BusyError
from index_sync.coalescer import DeadlinePassedError
from index_sync.grpc_leaf import PIN, SEARCH
from index_sync.grpc_peers import Failure
from index_sync.leaf import LocalLeaf
from index_sync.leaf_messages import (
    LeafFound,
    LeafQuery,
    PinFound,
    PinQuery,
    read_found,
    read_pin_found,
    write_pin_query,
    write_query,
)


class Found(Protocol):
    @property
    def model(self) -> str: ...

    @property
    def partitions(self) -> frozenset[int]: ...


F_co = TypeVar("F_co", bound=Found, covariant=True)


class Question(Protocol[F_co]):
    """Asked of any number of leaves, each time for some shards."""

    @property
    def method(self) -> str: ...

    @property
    def waits(self) -> bool:
        """Whether a leaf may take long for the question's sake, and not its own."""

    def own_behind(self, leaf: LocalLeaf) -> Mapping[int, int]:
        """The shards of this node's leaf that the question waits for, each with its applied offset."""

    def write(self, partitions: tuple[int, ...]) -> bytes: ...

    def read(self, frame: bytes, partitions: tuple[int, ...]) -> F_co:
        """Raises BadMessageError."""

    def ask_own(
        self,
        leaf: LocalLeaf,
        partitions: tuple[int, ...],
        deadline_s: float,
        done: Callable[[Found | Failure], None],
    ) -> Callable[[], object]:
        """Ask this node's leaf; `done` is called once. Never blocks for a scan. Returns what cancels it."""


@dataclass(frozen=True, slots=True)
class SearchQuestion:
    query: LeafQuery
    bits: int

    method = SEARCH

    @property
    def waits(self) -> bool:
        return bool(self.query.min_offset)

    def own_behind(self, leaf: LocalLeaf) -> Mapping[int, int]:
        return leaf.behind(self.query)

    def write(self, partitions: tuple[int, ...]) -> bytes:
        return write_query(self._for(partitions))

    def read(self, frame: bytes, partitions: tuple[int, ...]) -> LeafFound:
        return read_found(frame, self._for(partitions), self.bits)

    def ask_own(
        self,
        leaf: LocalLeaf,
        partitions: tuple[int, ...],
        deadline_s: float,
        done: Callable[[Found | Failure], None],
    ) -> Callable[[], object]:
        answer = leaf.submit(self._for(partitions), deadline_s)
        answer.add_done_callback(lambda ended: done(_outcome(ended)))
        return answer.cancel

    def _for(self, partitions: tuple[int, ...]) -> LeafQuery:
        wanted = {p: offset for p, offset in self.query.min_offset.items() if p in partitions}
        return replace(self.query, partitions=partitions, min_offset=wanted)


@dataclass(frozen=True, slots=True)
class PinQuestion:
    model: str
    pin_id: int

    method = PIN
    waits = False

    def own_behind(self, leaf: LocalLeaf) -> Mapping[int, int]:  # noqa: ARG002 (it waits for nothing)
        return {}

    def write(self, partitions: tuple[int, ...]) -> bytes:
        return write_pin_query(self._for(partitions))

    def read(self, frame: bytes, partitions: tuple[int, ...]) -> PinFound:
        return read_pin_found(frame, self._for(partitions))

    def ask_own(
        self,
        leaf: LocalLeaf,
        partitions: tuple[int, ...],
        deadline_s: float,  # noqa: ARG002 (it takes a fraction of a millisecond)
        done: Callable[[Found | Failure], None],
    ) -> Callable[[], object]:
        done(leaf.pin(self._for(partitions)))
        return lambda: None

    def _for(self, partitions: tuple[int, ...]) -> PinQuery:
        return PinQuery(self.model, self.pin_id, partitions)


def _outcome(answer: Future[LeafFound]) -> LeafFound | Failure:
    try:
        return answer.result()
    except BusyError as error:
        return Failure("busy", str(error), error.retry_after_s)
    except (DeadlinePassedError, CancelledError) as error:
        return Failure("late", str(error) or "cancelled")
    except Exception as error:  # noqa: BLE001 (as a remote leaf's: this one's shards are missing, said so)
        return Failure("failed", f"{type(error).__name__}: {error}")
