"""Objects from allowed buckets: obstore's own stores, and its S3 client against a server on loopback."""

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from obstore.store import LocalStore, MemoryStore

from consumers.fetch_errors import TryAgainError
from consumers.store_fetch import StoreReader, read_object
from pinstream.errors import BadRecordError, FatalError
from pinstream.object_store import open_store
from pinstream.settings import FetchSettings

TIMEOUT_S = 0.5


class Handler(BaseHTTPRequestHandler):
    """The part of S3 that a read needs: GET /bucket/key. The key's last part says how it goes."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        name = self.path.rpartition("/")[2]
        if name.isdecimal():
            self._begin(int(name), 0)
        elif name == "silent":
            time.sleep(2 * TIMEOUT_S)
            self.close_connection = True
        elif name == "slow":
            self._begin(200, 1000)
            for _ in range(100):
                self.wfile.write(b"x")
                time.sleep(0.02)
        elif name == "short":
            self._begin(200, 1000)
            self.close_connection = True
        else:
            self._begin(200, len(self.path))
            self.wfile.write(self.path.encode())

    def _begin(self, status: int, length: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        self.send_header("Last-Modified", "Wed, 21 Oct 2015 07:28:00 GMT")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the name in http.server)
        """Keep the test's output clean."""


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up are what these tests are about."""


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with Server(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def settings(endpoint: str, **changes: Any) -> FetchSettings:
    options = {"endpoint": endpoint, "aws_allow_http": "true", "skip_signature": "true"}
    usual = {"allowed_buckets": ("s3://pins/2026", "s3://all"), "store_options": options, "timeout_s": TIMEOUT_S}
    return FetchSettings.model_validate(usual | changes)


def reason(reader: StoreReader, uri: str) -> str:
    with pytest.raises(BadRecordError) as refused:
        reader.read(uri)
    assert refused.value.stage == "fetch"
    return refused.value.reason


def test_a_key_is_taken_literally(endpoint: str) -> None:
    reader = StoreReader(settings(endpoint))
    assert reader.read("s3://pins/2026/a.jpg") == b"/pins/2026/a.jpg"
    assert reader.read("s3://all/a%20b c?d#ü.jpg") == b"/all/a%2520b%20c%3Fd%23%C3%BC.jpg"


@pytest.mark.parametrize(
    "uri", ["s3://pins/2025/a", "s3://pins/20260/a", "s3://pins/a", "gs://pins/2026/a", "s3://other/a", "gs://all/a"]
)
def test_other_buckets_and_prefixes_are_refused(endpoint: str, uri: str) -> None:
    assert reason(StoreReader(settings(endpoint)), uri) == "bucket_not_allowed"


def test_nothing_is_allowed_by_default() -> None:
    with pytest.raises(BadRecordError, match=r"fetch\.allowed_buckets \(nothing\): add its bucket"):
        StoreReader(FetchSettings()).read("s3://pins/a.jpg")


@pytest.mark.parametrize(
    "uri",
    [
        "s3://",
        "s3://all",
        "s3://all/",
        "s3:///a",
        "s3:/all/a",
        "s3://all//a",
        "s3://all/a//b",
        "s3://all/a/",
        "s3://pins/2026/../2025/a",
        "s3://pins/2026/./a",
        "s3://all/a\nb",
        "s3://all/a\0b",
        "s3://user@all/a",
        "s3://ALL/a",
        "s3://all/" + "ü" * 513,
    ],
)
def test_malformed_uris_are_refused(endpoint: str, uri: str) -> None:
    assert reason(StoreReader(settings(endpoint)), uri) == "bad_uri"


@pytest.mark.parametrize(("status", "expected"), [(404, "not_found"), (403, "forbidden")])
def test_what_the_store_refuses_is_a_bad_record(endpoint: str, status: int, expected: str) -> None:
    assert reason(StoreReader(settings(endpoint)), f"s3://all/{status}") == expected


@pytest.mark.parametrize("name", ["401", "429", "500", "503", "short"])
def test_a_store_that_fails_is_away(endpoint: str, name: str) -> None:
    with pytest.raises(TryAgainError, match="the store fails"):
        StoreReader(settings(endpoint)).read(f"s3://all/{name}")


def test_a_store_that_refuses_connections_is_away() -> None:
    with pytest.raises(TryAgainError):
        StoreReader(settings("http://127.0.0.1:1")).read("s3://all/a")


@pytest.mark.parametrize("name", ["silent", "slow"])
def test_a_store_that_never_ends_is_left_in_time(endpoint: str, name: str) -> None:
    started_s = time.monotonic()
    assert reason(StoreReader(settings(endpoint)), f"s3://all/{name}") == "fetch_timeout"
    assert time.monotonic() - started_s < TIMEOUT_S + 2


@pytest.mark.parametrize("kind", [MemoryStore, LocalStore])
def test_the_size_limit_is_exact(kind: type[MemoryStore | LocalStore], tmp_path: Path) -> None:
    store = LocalStore(tmp_path) if kind is LocalStore else MemoryStore()
    store.put("fits", bytes(1024))
    store.put("too-large", bytes(1025))
    limits = FetchSettings(max_bytes=1024)
    assert len(read_object(store, "fits", "s3://all/fits", limits)) == 1024
    with pytest.raises(BadRecordError, match=r"fetch\.max_bytes"):
        read_object(store, "too-large", "s3://all/too-large", limits)
    with pytest.raises(BadRecordError, match="no such object"):
        read_object(store, "nothing", "s3://all/nothing", limits)


@pytest.mark.parametrize("entry", ["pins", "s3:pins", "s3://", "https://pins", "s3://UPPER/x", "az://pins"])
def test_an_impossible_allowed_bucket_is_a_wrong_setting(entry: str) -> None:
    with pytest.raises(FatalError, match="allowed_buckets"):
        StoreReader(FetchSettings(allowed_buckets=(entry,)))


def test_an_unknown_store_option_is_a_wrong_setting() -> None:
    with pytest.raises(FatalError, match=r"options \(nonsense\).*'nonsense'"):
        open_store("gs://pins", {"nonsense": "1"}, setting="fetch.allowed_buckets")


def test_any_client_option_reaches_the_client() -> None:
    """obstore panics when one of these is given as an option of the store."""
    for prefix in ("", "AWS_", "google_"):
        open_store(
            "s3://pins", {f"{prefix}allow_http": "true", "timeout": "9s", "pool_idle_timeout": "1s"}, setting="x"
        )
        open_store("gs://pins", {f"{prefix}allow_http": "true", "http2_keep_alive_interval": "1s"}, setting="x")
