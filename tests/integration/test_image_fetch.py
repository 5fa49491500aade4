"""One fetcher for all schemes: dispatch, tries, signatures, threads."""

import base64
import hashlib
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from consumers.image_fetch import ImageFetcher
from pinstream.errors import BadRecordError, RetryableError
from pinstream.events import Image
from pinstream.settings import FetchSettings


class Handler(BaseHTTPRequestHandler):
    """Answers with the statuses still listed, then 200."""

    statuses: list[int]

    def do_GET(self) -> None:
        self.send_response(self.statuses.pop(0) if self.statuses else 200)
        self.end_headers()
        self.wfile.write(b"picture")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the name in http.server)
        """Keep the test's output clean."""


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    Handler.statuses = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def fetcher(tmp_path: Path) -> Iterator[ImageFetcher]:
    fetcher = ImageFetcher(
        FetchSettings(
            allowed_folders=(tmp_path,),
            allowed_hosts=("127.0.0.1",),
            allow_http=True,
            allow_private_addresses=True,
            timeout_s=2,
            attempts=3,
        )
    )
    yield fetcher
    fetcher.close()


def uri_of(server: ThreadingHTTPServer) -> str:
    return f"http://127.0.0.1:{server.server_port}/a.jpg"


def test_each_scheme_has_its_reader(fetcher: ImageFetcher, server: ThreadingHTTPServer, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"file")
    assert fetcher.fetch(Image(uri="data:,text")) == b"text"
    assert fetcher.fetch(Image(uri=f"file://{tmp_path}/a.jpg")) == b"file"
    assert fetcher.fetch(Image(uri=uri_of(server))) == b"picture"


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("file:///etc/passwd", "file_not_allowed"),
        ("http://127.0.0.1/", "scheme_not_allowed"),
        ("https://127.0.0.1/", "host_not_allowed"),
        ("s3://bucket/key", "bucket_not_allowed"),
        ("gs://bucket/key", "bucket_not_allowed"),
        ("javascript:alert(1)", "scheme_not_allowed"),
    ],
)
def test_only_data_is_allowed_by_default(uri: str, reason: str) -> None:
    fetcher = ImageFetcher(FetchSettings())
    assert fetcher.fetch(Image(uri="data:,x")) == b"x"
    with pytest.raises(BadRecordError) as refused:
        fetcher.fetch(Image.model_construct(uri=uri))
    assert refused.value.reason == reason
    fetcher.close()


def test_a_store_that_comes_back_in_time_is_no_failure(fetcher: ImageFetcher, server: ThreadingHTTPServer) -> None:
    Handler.statuses = [503, 500]
    assert fetcher.fetch(Image(uri=uri_of(server))) == b"picture"


def test_a_store_that_stays_away_is_retryable(fetcher: ImageFetcher, server: ThreadingHTTPServer) -> None:
    Handler.statuses = [503] * 4
    with pytest.raises(RetryableError, match="the server answers 503"):
        fetcher.fetch(Image(uri=uri_of(server)))
    assert len(Handler.statuses) == 1


def test_what_is_not_there_is_not_tried_again(fetcher: ImageFetcher, server: ThreadingHTTPServer) -> None:
    Handler.statuses = [404] * 2
    with pytest.raises(BadRecordError, match="the server answers 404"):
        fetcher.fetch(Image(uri=uri_of(server)))
    assert len(Handler.statuses) == 1


def test_refused_connections_are_retryable(fetcher: ImageFetcher) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(RetryableError):
            fetcher.fetch(Image(uri=f"http://127.0.0.1:{unused.getsockname()[1]}/"))


def test_closing_ends_the_wait_between_tries(server: ThreadingHTTPServer) -> None:
    Handler.statuses = [503] * 100
    fetcher = ImageFetcher(
        FetchSettings(allowed_hosts=("127.0.0.1",), allow_http=True, allow_private_addresses=True, attempts=10)
    )
    outcome: list[Exception] = []

    def fetch() -> None:
        try:
            fetcher.fetch(Image(uri=uri_of(server)))
        except RetryableError as error:
            outcome.append(error)

    thread = threading.Thread(target=fetch)
    thread.start()
    deadline_s = time.monotonic() + 5
    while len(Handler.statuses) > 98 and time.monotonic() < deadline_s:
        time.sleep(0.005)
    fetcher.close()
    thread.join(timeout=1)
    assert not thread.is_alive()
    assert len(outcome) == 1
    assert len(Handler.statuses) > 90


@pytest.mark.parametrize("digits", [32, 48, 64])
def test_the_signature_is_the_beginning_of_the_sha_256(fetcher: ImageFetcher, digits: int) -> None:
    signature = hashlib.sha256(b"picture").hexdigest()[:digits]
    uri = f"data:;base64,{base64.b64encode(b'picture').decode()}"
    assert fetcher.fetch(Image(uri=uri, signature=signature)) == b"picture"
    wrong = "0" * digits
    with pytest.raises(BadRecordError, match=f"expected {wrong[:16]}") as refused:
        fetcher.fetch(Image(uri=uri, signature=wrong))
    assert (refused.value.stage, refused.value.reason) == ("fetch", "signature_mismatch")
