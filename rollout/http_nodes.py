"""A generation's index workers over HTTP, as a validation asks them: searches, Pins, rows, freshness.

Every method blocks.

Raises:
    RetryableError: from every method: a worker does not answer, or not all of its shards do.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from index_sync.http_audit import NodeClient
from index_sync.search_protocol import LeafCode, SearchAnswer
from index_sync.segment import CodeRows
from pinstream.errors import FatalError, RetryableError
from pinstream.worker_metrics import Buckets, read_workers

TIMEOUT_S: Final = 30.0
_PATIENCE: Final = 5
_AGAIN_S: Final = 0.5

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Node:
    url: str
    model: str
    bits: int
    shards: Mapping[int, int]
    """Partition → living rows."""


def ask_nodes(urls: Sequence[str]) -> list[Node]:
    """What each worker says of itself.

    Raises:
        FatalError: one is no index worker.
    """
    found = []
    with httpx.Client(timeout=TIMEOUT_S, trust_env=False) as client:
        for url in urls:
            if not url.startswith(("http://", "https://")):
                raise FatalError(f"--url is {url[:200]!r}, expected http://host:port of an index worker")
            info = _json(client, "GET", f"{url.rstrip('/')}/info")
            try:
                shards = {int(partition): int(rows) for partition, rows in info["shards"].items()}
                found.append(Node(url.rstrip("/"), str(info["model"]), int(info["bits"]), shards))
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise FatalError(f"{url} is no index worker: its /info names no model and shards") from error
    return found


class GenerationNodes:
    """The workers of one generation; searches go to the first of them, which asks the others. Close it."""

    def __init__(self, nodes: Sequence[Node], model: str, bits: int) -> None:
        self.nodes = nodes
        self.model = model
        self.bits = bits
        self._client = httpx.Client(timeout=TIMEOUT_S, trust_env=False)

    def close(self) -> None:
        self._client.close()

    @property
    def shards(self) -> dict[int, Node]:
        """Partition → a worker that serves it."""
        return {partition: node for node in self.nodes for partition in node.shards}

    def search(self, body: dict[str, Any]) -> SearchAnswer | None:
        """A search over all shards; None: it asks for a Pin that is not there."""
        answer = _ask(self._client, "POST", f"{self.nodes[0].url}/v1/search", {**body, "allow_partial": False})
        if answer.status_code == httpx.codes.NOT_FOUND:
            return None
        found = self._checked(SearchAnswer, answer)
        if found.generation != self.model:
            raise FatalError(f"{answer.url} answers for model {found.generation[:12]}, expected {self.model[:12]}")
        return found

    def pin(self, pin_id: int) -> LeafCode | None:
        """What the generation holds of a Pin."""
        answer = _ask(self._client, "GET", f"{self.nodes[0].url}/v1/pins/{pin_id}")
        if answer.status_code == httpx.codes.NOT_FOUND:
            return None
        return self._checked(LeafCode, answer)

    def has_applied(self, next_offsets: Mapping[int, int]) -> bool:
        """Whether every shard has applied what is before these offsets of the codes topic; waits a little for it."""
        code = base64.b64encode(bytes(self.bits // 8)).decode()
        body = {"code": code, "k": 1, "min_offset": dict(next_offsets), "allow_partial": False}
        answer = _ask(self._client, "POST", f"{self.nodes[0].url}/v1/search", body)
        return answer.status_code == httpx.codes.OK

    def rows(self, partition: int) -> Iterator[CodeRows]:
        """One state of a shard, part by part."""
        client = NodeClient(self.shards[partition].url)
        try:
            yield from client.read(partition, self.model, self.bits).parts
        finally:
            client.close()

    def freshness(self) -> Buckets:
        """Event time → searchable, since the workers started."""
        reading = read_workers([node.url for node in self.nodes], self._client)
        return reading.freshness.get("searchable", Buckets())

    def _checked(self, kind: type[M], answer: httpx.Response) -> M:
        if answer.status_code != httpx.codes.OK:
            raise RetryableError(f"{answer.url} answers {answer.status_code}: {answer.text[:200]}")
        try:
            return kind.model_validate_json(answer.content)
        except ValidationError as error:
            raise FatalError(f"{answer.url} answers nonsense: {error.errors()[0]['msg']}") from error


def _ask(client: httpx.Client, method: str, url: str, body: dict[str, Any] | None = None) -> httpx.Response:
    """A worker that is too busy, or waits for a shard, is asked again a few times."""
    try:
        answer = client.request(method, url, json=body)
        for _ in range(_PATIENCE):
            if answer.status_code not in (httpx.codes.TOO_MANY_REQUESTS, httpx.codes.SERVICE_UNAVAILABLE):
                break
            time.sleep(_AGAIN_S)
            answer = client.request(method, url, json=body)
        return answer
    except httpx.HTTPError as error:
        raise RetryableError(f"{url} does not answer: {error or type(error).__name__}") from error


def _json(client: httpx.Client, method: str, url: str) -> Any:
    answer = _ask(client, method, url)
    try:
        return answer.raise_for_status().json()
    except (httpx.HTTPStatusError, ValueError) as error:
        raise FatalError(f"{url} is no index worker: it answers {answer.status_code}") from error
