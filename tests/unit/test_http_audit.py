"""A shard's rows arrive as they were in one state; a node that lies about them is found out and costs nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import httpx
import numpy as np
import pytest
from fastapi import FastAPI, Response

import index_sync.http_audit
from index_sync.http_audit import NodeClient, add_audit, row_dtype
from index_sync.segment import concatenate_rows
from index_sync.shard import Shard
from pinstream.errors import FatalError, RetryableError
from pinstream.http_status import HttpServer, status_app
from pinstream.settings import HttpSettings
from tests.conftest import wait_for
from tests.unit.test_recall_probe import BITS, batch

MODEL = "ab" * 32

Serve = Callable[[FastAPI], NodeClient]


@pytest.fixture
def serve() -> Iterator[Serve]:
    running: list[tuple[HttpServer, NodeClient]] = []

    def start(app: FastAPI) -> NodeClient:
        server = HttpServer(app, HttpSettings())
        server.start()
        running.append((server, NodeClient(server.url)))
        wait_for(lambda: _answers(server.url), "server up")
        return running[-1][1]

    yield start
    for server, client in running:
        client.close()
        server.stop()


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/livez").status_code < 500
    except httpx.HTTPError:
        return False


def shard_of(pins: int) -> Shard:
    shard = Shard(BITS, seal_rows=64)
    shard.apply(batch(list(range(1, pins + 1)), 0))
    return shard


def node_of(shard: Shard) -> FastAPI:
    app = status_app(lambda: None, lambda: {"model": MODEL, "shards": {"2": 5}}, "test")
    add_audit(app, lambda partition: shard.view() if partition == 2 else None, MODEL)
    return app


def test_rows_arrive_as_they_were_while_writes_go_on(serve: Serve) -> None:
    shard = shard_of(20_000)
    expected = concatenate_rows(list(shard.view().items()))
    node = serve(node_of(shard))
    assert node.shards(MODEL) == [2]
    dump = node.read(2, MODEL, BITS)
    shard.apply(batch(list(range(1, 20_001, 2)), 60_000))
    shard.apply(batch(list(range(1, 20_001, 3)), 120_000, delete=True))
    rows = concatenate_rows(list(dump.parts))
    assert (dump.rows, dump.checkpoint, len(rows)) == (20_000, 20_000, 20_000)
    order, expected_order = np.argsort(rows.pin_id), np.argsort(expected.pin_id)
    for column, expected_column in zip(rows.columns, expected.columns, strict=True):
        assert np.array_equal(column[order], expected_column[expected_order])


def test_an_empty_shard_has_no_rows(serve: Serve) -> None:
    dump = serve(node_of(Shard(BITS))).read(2, MODEL, BITS)
    assert (dump.rows, list(dump.parts)) == (0, [])


def test_a_shard_that_is_elsewhere_and_another_model(serve: Serve) -> None:
    node = serve(node_of(shard_of(5)))
    with pytest.raises(RetryableError, match="does not serve shard 3"):
        node.read(3, MODEL, BITS)
    with pytest.raises(FatalError, match="models never mix"):
        node.shards("cd" * 32)
    with pytest.raises(FatalError, match="expected 256 of cdcdcdcdcdcd"):
        node.read(2, "cd" * 32, BITS)
    with pytest.raises(FatalError, match="holds codes of 256 bits of model"):
        node.read(2, MODEL, 512)


def test_one_audit_at_a_time_and_the_place_comes_back(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_sync.http_audit, "_PATIENCE_S", 0.1)
    node = serve(node_of(shard_of(200_000)))
    first = node.read(2, MODEL, BITS)
    with pytest.raises(RetryableError, match="busy"):
        node.read(2, MODEL, BITS)
    assert sum(len(part) for part in first.parts) == 200_000
    wait_for(lambda: _reads(node), "place is free again")


def test_a_reader_that_stalls_is_cut_off(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_sync.http_audit, "MAX_DUMP_S", 0.3)
    monkeypatch.setattr(index_sync.http_audit, "_PATIENCE_S", 0.1)
    node = serve(node_of(shard_of(200_000)))
    stalled = node.read(2, MODEL, BITS)
    wait_for(lambda: _reads(node), "place is free again")
    with pytest.raises(RetryableError, match="stopped in the middle"):
        list(stalled.parts)


def _reads(node: NodeClient) -> bool:
    try:
        node.read(2, MODEL, BITS).parts.close()  # type: ignore[attr-defined]  # a generator
    except RetryableError:
        return False
    return True


GOOD = {"Pinstream-Model": MODEL, "Pinstream-Bits": str(BITS), "Pinstream-Checkpoint": "7", "Pinstream-Rows": "2"}
SIZE = row_dtype(BITS).itemsize


@pytest.mark.parametrize(
    ("headers", "body", "error"),
    [
        ({"Pinstream-Rows": str(2**62)}, b"", "expected numbers"),
        ({"Pinstream-Rows": "-1"}, b"", "expected numbers"),
        ({"Pinstream-Rows": "²"}, b"", "expected numbers"),
        ({"Pinstream-Checkpoint": "x" * 5000}, b"", "expected numbers"),
        ({"Pinstream-Rows": str(2**39)}, b"\0" * 2 * SIZE, f"announces {2 * SIZE} bytes"),
        ({}, b"\0" * (2 * SIZE - 1), f"announces {2 * SIZE - 1} bytes"),
        ({}, b"\0" * 3 * SIZE, f"announces {3 * SIZE} bytes"),
        ({"Pinstream-Model": ""}, b"\0" * 2 * SIZE, "of model"),
    ],
)
def test_a_node_that_lies_is_found_out_before_anything_is_read(
    serve: Serve, headers: dict[str, str], body: bytes, error: str
) -> None:
    app = FastAPI()

    @app.get("/v1/audit/2")
    def lie() -> Response:
        answer = Response(body)
        for name, value in (GOOD | headers).items():
            answer.raw_headers.append((name.lower().encode(), value.encode()))
        return answer

    with pytest.raises(FatalError, match=error):
        serve(app).read(2, MODEL, BITS)


def test_a_node_that_is_away_or_is_no_index_worker(serve: Serve) -> None:
    with pytest.raises(RetryableError, match="does not answer"):
        NodeClient("http://127.0.0.1:9").shards(MODEL)
    app = FastAPI()
    app.get("/info")(lambda: {"role": "embed"})
    with pytest.raises(FatalError, match="no index worker"):
        serve(app).shards(MODEL)
    with pytest.raises(FatalError, match="expected http"):
        NodeClient("localhost:8080")
