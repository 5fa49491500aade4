"""The registry of generations beside the snapshots: numbered documents, each created once.

    registry/registry-<number>.json       the newest counts; fifty before it, at least, are kept for people

Creating number n + 1 is the compare-and-set: of two writers that both read n, one wins and the other is told who did
what and when. It works the same on local disk and on S3-compatible stores, and needs no Redis.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any, Final

import obstore
from obstore.exceptions import AlreadyExistsError
from obstore.store import ObjectStore
from pydantic import ValidationError

from pinstream.errors import CorruptStateError, FatalError, RetryableError
from rollout.generation import Registry, utc

MAX_REGISTRY_BYTES: Final = 8 * 1024 * 1024
_FOLDER: Final = "registry/"
_NAME: Final = re.compile(r"registry/registry-(\d{10})\.json$")
_KEPT: Final = 50
_TIDIED_EVERY: Final = 10


class RegistryConflictError(FatalError):
    """Another operator changed the registry meanwhile; the message says who, what and when."""


class RegistryStore:
    """Thread-safe; every method blocks.

    Raises:
        RetryableError: from every method: the store is away. Try again.
        CorruptStateError: from every method: the newest document can't be read.
    """

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def read(self) -> Registry:
        """The newest registry; an empty one if there is none."""
        numbers = self._numbers()
        return self._load(numbers[-1]) if numbers else Registry()

    def update(
        self,
        change: Callable[[Registry], Registry],
        *,
        by: str,
        action: str,
        at_ms: int,
        expected: int | None = None,
    ) -> Registry:
        """Apply a change to the newest registry and publish it; unchanged, nothing is published.

        Args:
            expected: the number of the registry that the decision was made on; None: whatever is newest.

        Raises:
            RegistryConflictError: somebody else published first: look again before you repeat it.
            FatalError: the change itself is refused.
        """
        numbers = self._numbers()
        before = self._load(numbers[-1]) if numbers else Registry()
        if expected is not None and before.number != expected:
            raise _conflict(before)
        after = change(before)
        if after == before:
            return before
        named: dict[str, Any] = {"number": before.number + 1, "by": by, "action": action, "at_ms": at_ms}
        after = Registry.model_validate(after.model_copy(update=named).model_dump(mode="json"))
        if after.number % _TIDIED_EVERY == 0:  # before the change: nothing comes between it and its announcement
            self._tidy([number for number in numbers if number < after.number - _KEPT])
        try:
            self._put(after)
        except AlreadyExistsError as error:
            winner = self._load(after.number)
            if winner != after:  # else it is ours: the store's answer to an earlier try was lost
                raise _conflict(winner) from error
        return after

    def _numbers(self) -> list[int]:
        try:
            paths = [one["path"] for page in obstore.list(self._store, _FOLDER) for one in page]
        except Exception as error:
            raise RetryableError(f"the registry can't be listed: {_first_line(error)}") from error
        return sorted(int(found[1]) for path in paths if (found := _NAME.search(path)))

    def _load(self, number: int) -> Registry:
        path = _path(number)
        try:
            found = obstore.get(self._store, path)  # reads nothing yet but the size
            if found.meta["size"] > MAX_REGISTRY_BYTES:
                raise CorruptStateError(f"{path} has {found.meta['size']} bytes, expected at most {MAX_REGISTRY_BYTES}")
            content = bytes(found.bytes())
        except CorruptStateError:
            raise
        except Exception as error:
            raise RetryableError(f"{path} can't be read: {_first_line(error)}") from error
        try:
            registry = Registry.model_validate_json(content)
        except ValidationError as error:
            raise CorruptStateError(f"{path} is no registry: {error.errors()[0]['msg']}") from error
        if registry.number != number:
            raise CorruptStateError(f"{path} says that it is number {registry.number}")
        return registry

    def _put(self, registry: Registry) -> None:
        content = json.dumps(registry.model_dump(mode="json"), indent=1, sort_keys=True).encode()
        try:
            obstore.put(self._store, _path(registry.number), content, mode="create", use_multipart=False)
        except AlreadyExistsError:
            raise
        except Exception as error:
            raise RetryableError(f"the registry can't be published: {_first_line(error)}") from error

    def _tidy(self, numbers: Sequence[int]) -> None:
        try:
            for number in numbers:
                obstore.delete(self._store, _path(number))
        except Exception:  # noqa: BLE001 (a later change tidies again)
            return


def _conflict(winner: Registry) -> RegistryConflictError:
    return RegistryConflictError(
        f"{winner.by} did {winner.action!r} at {utc(winner.at_ms)}, meanwhile: look at `pinstream rollout status` and "
        "repeat the command if it still makes sense"
    )


def _path(number: int) -> str:
    return f"{_FOLDER}registry-{number:010d}.json"


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
