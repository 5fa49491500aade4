"""http(s) rules against a real server that misbehaves in every way a hostile one may."""

import os
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from consumers.fetch_errors import TryAgainError
from consumers.http_fetch import HttpReader, Resolve
from pinstream.errors import BadRecordError, PinstreamError, RetryableError
from pinstream.settings import FetchSettings

NAME = "images.test"
"""A name that no resolver knows: whoever reaches the server by it has connected to the address that was checked."""
TIMEOUT_S = 0.5

Answer = Callable[[BaseHTTPRequestHandler], None]


class Server(ThreadingHTTPServer):
    """Answers a path as the test says and remembers the requests."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: dict[str, Answer] = {}
        self.requests: list[tuple[str, dict[str, str], int]] = []
        self.scheme = "http"

    def uri(self, path: str, host: str = NAME) -> str:
        return f"{self.scheme}://{host}:{self.server_port}{path}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up are what these tests are about."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        self.server.requests.append((self.path, dict(self.headers), self.client_address[1]))
        self.server.answers[self.path](self)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the name in http.server)
        """Keep the test's output clean."""


def body(content: bytes, status: int = 200, **headers: str) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        fields = {"content-length": str(len(content))} | {key.replace("_", "-"): text for key, text in headers.items()}
        for key, text in fields.items():
            handler.send_header(key, text)
        handler.end_headers()
        handler.wfile.write(content)

    return answer


def raw(*pieces: bytes, pause_s: float = 0.0, forever: bool = False) -> Answer:
    """The pieces as they are, the last one again and again if `forever`, then hang up."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.close_connection = True
        for piece in pieces:
            handler.wfile.write(piece)
        while forever:
            time.sleep(pause_s)
            handler.wfile.write(pieces[-1])

    return answer


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def to_loopback(host: str, port: int) -> list[str]:
    return ["127.0.0.1"]


def settings(**changes: object) -> FetchSettings:
    usual: dict[str, object] = {
        "allowed_hosts": (NAME,),
        "allow_http": True,
        "allow_private_addresses": True,
        "timeout_s": TIMEOUT_S,
        "max_bytes": 4096,
    }
    return FetchSettings.model_validate(usual | changes)


OpenReader = Callable[..., HttpReader]


@pytest.fixture
def open_reader() -> Iterator[OpenReader]:
    """Readers that trust no certificate (loading the system's takes a while), closed after the test."""
    readers: list[HttpReader] = []

    def open_reader(resolve: Resolve = to_loopback, **changes: object) -> HttpReader:
        trust_nobody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        readers.append(HttpReader(settings(**changes), resolve=resolve, ssl_context=trust_nobody))
        return readers[-1]

    yield open_reader
    for reader in readers:
        reader.close()


@pytest.fixture
def reader(open_reader: OpenReader) -> HttpReader:
    return open_reader()


def refused(reader: HttpReader, uri: str) -> PinstreamError:
    """What the try came to; no try may take much longer than its time-out."""
    started_s = time.monotonic()
    with pytest.raises((BadRecordError, TryAgainError)) as raised:
        reader.read(uri)
    assert time.monotonic() - started_s < TIMEOUT_S + 2
    error = raised.value.last if isinstance(raised.value, TryAgainError) else raised.value
    assert isinstance(error, PinstreamError)
    return error


def reason(reader: HttpReader, uri: str) -> str:
    error = refused(reader, uri)
    return error.reason if isinstance(error, BadRecordError) else type(error).__name__


def test_a_body_is_read_and_the_connection_kept(server: Server, reader: HttpReader) -> None:
    server.answers = {"/a.jpg?x=1": body(b"picture"), "/b.jpg": body(b"other")}
    assert reader.read(server.uri("/a.jpg?x=1")) == b"picture"
    assert reader.read(server.uri("/b.jpg")) == b"other"
    (_, headers, first_port), (_, _, second_port) = server.requests
    assert headers["Host"] == f"{NAME}:{server.server_port}"
    assert headers["Accept-Encoding"] == "identity"
    assert first_port == second_port


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (404, "not_found"),
        (410, "not_found"),
        (401, "forbidden"),
        (403, "forbidden"),
        (400, "http_status"),
        (418, "http_status"),
        (204, "http_status"),
        (206, "http_status"),
        (304, "http_status"),
        (429, "RetryableError"),
        (500, "RetryableError"),
        (503, "RetryableError"),
    ],
)
def test_each_status_has_its_meaning(server: Server, reader: HttpReader, status: int, expected: str) -> None:
    server.answers = {"/": body(b"", status)}
    assert reason(reader, server.uri("/")) == expected


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(
            raw(b"HTTP/1.1 200 OK\r\nContent-Length: 4096\r\n\r\n", b"x", pause_s=0.02, forever=True), id="body"
        ),
        pytest.param(raw(b"HTTP/1.1 200 OK\r\n", b"A: b\r\n", pause_s=0.02, forever=True), id="headers"),
        pytest.param(raw(b"HTTP/1.1 103 Early Hints\r\n\r\n", pause_s=0.001, forever=True), id="hints"),
        pytest.param(raw(b"", pause_s=0.02, forever=True), id="silence"),
    ],
)
def test_a_server_that_never_ends_is_left_in_time(server: Server, reader: HttpReader, answer: Answer) -> None:
    server.answers = {"/": answer}
    assert reason(reader, server.uri("/")) == "fetch_timeout"
    assert len(server.requests) == 1


def test_endless_headers_are_left_early(server: Server, reader: HttpReader) -> None:
    server.answers = {"/": raw(b"HTTP/1.1 200 OK\r\n", b"A: b\r\n" * 1000, forever=True)}
    assert reason(reader, server.uri("/")) in ("broken_answer", "fetch_timeout")


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(raw(b"HTTP/1.1 200 OK\r\n\r\n", bytes(1000), forever=True), id="no length"),
        pytest.param(
            raw(
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
                b"3e8\r\n" + bytes(1000) + b"\r\n",
                forever=True,
            ),
            id="chunked",
        ),
        pytest.param(raw(b"HTTP/1.1 200 OK\r\nContent-Length: 4097\r\n\r\n"), id="said so"),
        pytest.param(raw(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n"), id="said absurdly"),
    ],
)
def test_reading_stops_at_max_bytes(server: Server, reader: HttpReader, answer: Answer) -> None:
    server.answers = {"/": answer}
    assert reason(reader, server.uri("/")) == "image_too_large"


def test_a_length_of_exactly_max_bytes_is_read(server: Server, reader: HttpReader) -> None:
    server.answers = {"/": body(bytes(4096))}
    assert len(reader.read(server.uri("/"))) == 4096


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(raw(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort"), id="shorter than said"),
        pytest.param(
            raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n"), id="chunks break off"
        ),
        pytest.param(raw(b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nx"), id="negative length"),
        pytest.param(raw(b"SSH-2.0-OpenSSH_9.6\r\n"), id="not HTTP"),
    ],
)
def test_half_an_answer_is_never_taken_for_whole(server: Server, reader: HttpReader, answer: Answer) -> None:
    server.answers = {"/": answer}
    assert reason(reader, server.uri("/")) == "broken_answer"


def test_no_answer_and_no_listener_mean_that_the_store_is_away(server: Server, reader: HttpReader) -> None:
    server.answers = {"/": raw()}
    assert isinstance(refused(reader, server.uri("/")), RetryableError)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        assert isinstance(refused(reader, f"http://{NAME}:{unused.getsockname()[1]}/"), RetryableError)


def test_compressed_answers_are_refused(server: Server, reader: HttpReader) -> None:
    server.answers = {
        "/": body(b"\x1f\x8b", content_encoding="gzip"),
        "/plain": body(b"x", content_encoding="identity"),
    }
    assert reason(reader, server.uri("/")) == "content_encoding"
    assert reader.read(server.uri("/plain")) == b"x"


def test_redirects_are_refused_by_default(server: Server, reader: HttpReader) -> None:
    server.answers = {"/": body(b"", 302, location="/a.jpg"), "/a.jpg": body(b"picture")}
    with pytest.raises(BadRecordError, match=r"fetch\.max_redirects") as error:
        reader.read(server.uri("/"))
    assert error.value.reason == "redirected"
    assert [path for path, _, _ in server.requests] == ["/"]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_followed_as_far_as_allowed(server: Server, status: int, open_reader: OpenReader) -> None:
    reader = open_reader(max_redirects=2)
    server.answers = {
        "/3": body(b"", status, location="2"),
        "/2": body(b"", status, location=f"//{NAME}:{server.server_port}/1"),
        "/1": body(b"", status, location=server.uri("/0")),
        "/0": body(b"picture"),
    }
    assert reader.read(server.uri("/2")) == b"picture"
    assert reason(reader, server.uri("/3")) == "redirected"


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("http://127.0.0.1:{port}/secret", "host_not_allowed"),
        ("http://[::1]/secret", "host_not_allowed"),
        ("http://user@images.test/secret", "bad_uri"),
        ("https://evil.test/", "host_not_allowed"),
        ("file:///etc/passwd", "scheme_not_allowed"),
        ("data:,x", "scheme_not_allowed"),
        ("http://[", "broken_answer"),
    ],
)
def test_each_hop_is_checked_anew(server: Server, location: str, expected: str, open_reader: OpenReader) -> None:
    reader = open_reader(max_redirects=5)
    server.answers = {
        "/": body(b"", 302, location=location.format(port=server.server_port)),
        "/secret": body(b"secret"),
    }
    assert reason(reader, server.uri("/")) == expected
    assert len(server.requests) == 1


def test_one_deadline_covers_all_hops(server: Server, open_reader: OpenReader) -> None:
    def slow(handler: BaseHTTPRequestHandler) -> None:
        time.sleep(0.6 * TIMEOUT_S)
        body(b"", 302, location="/")(handler)

    reader = open_reader(max_redirects=5)
    server.answers = {"/": slow}
    assert reason(reader, server.uri("/")) == "fetch_timeout"


@pytest.mark.parametrize(
    "addresses", [["127.0.0.1"], ["::1"], ["93.184.216.34", "127.0.0.1"], ["169.254.169.254"], ["::ffff:127.0.0.1"]]
)
def test_a_host_with_any_private_address_is_refused_unconnected(
    server: Server, addresses: list[str], open_reader: OpenReader
) -> None:
    reader = open_reader(lambda host, port: addresses, allow_private_addresses=False)
    assert reason(reader, server.uri("/")) == "address_not_allowed"
    assert server.requests == []


def test_a_connection_goes_to_the_address_that_was_checked(server: Server, open_reader: OpenReader) -> None:
    """DNS rebinding gives one address to the check and another to the connection. Here one look-up serves both."""
    answers = [["127.0.0.1"], ["192.0.2.1"]]
    server.answers = {"/": body(b"picture")}
    reader = open_reader(lambda host, port: answers.pop(0))
    assert reader.read(server.uri("/")) == b"picture"
    assert len(answers) == 1


def test_the_next_address_is_tried(server: Server, open_reader: OpenReader) -> None:
    server.answers = {"/": body(b"picture")}
    reader = open_reader(lambda host, port: ["127.0.0.2", "127.0.0.1"])
    assert reader.read(server.uri("/")) == b"picture"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (socket.gaierror(socket.EAI_NONAME, "unknown"), "unknown_host"),
        (socket.gaierror(socket.EAI_AGAIN, "try again"), "RetryableError"),
        (UnicodeError("label too long"), "unknown_host"),
    ],
)
def test_failed_look_ups_have_their_meaning(error: Exception, expected: str, open_reader: OpenReader) -> None:
    def failing(host: str, port: int) -> list[str]:
        raise error

    reader = open_reader(failing)
    assert reason(reader, f"http://{NAME}/") == expected


def test_a_look_up_that_hangs_is_left_in_time(open_reader: OpenReader) -> None:
    release = threading.Event()

    def hanging(host: str, port: int) -> list[str]:
        release.wait()
        return []

    reader = open_reader(hanging)
    assert reason(reader, f"http://{NAME}/") == "fetch_timeout"
    release.set()


def test_the_system_resolver_is_used_by_default(server: Server) -> None:
    server.answers = {"/": body(b"picture")}
    reader = HttpReader(settings(allowed_hosts=("localhost",)))
    assert reader.read(server.uri("/", "localhost")) == b"picture"
    reader.close()


def test_proxies_from_the_environment_are_ignored(
    server: Server, reader: HttpReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    server.answers = {"/": body(b"picture")}
    assert reader.read(server.uri("/")) == b"picture"


def test_threads_keep_their_deadlines_and_bodies_apart(server: Server, reader: HttpReader) -> None:
    server.answers = {f"/{number}": body(b"%d" % number * 50) for number in range(8)}
    server.answers["/slow"] = raw(b"", pause_s=0.02, forever=True)
    wrong: list[object] = []

    def read(number: int) -> None:
        contents = {reader.read(server.uri(f"/{number}")) for _ in range(20)}
        wrong.extend(contents - {b"%d" % number * 50})
        wrong.extend({reason(reader, server.uri("/slow"))} - {"fetch_timeout"})

    threads = [threading.Thread(target=read, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and a certificate of this run for images.test."""
    openssl = shutil.which("openssl")
    if openssl is None:
        if os.environ.get("CI"):
            pytest.fail("openssl is missing, install it")
        pytest.skip("needs openssl to make a certificate")
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    arguments = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=images.test"
    subprocess.run(
        [openssl, *arguments.split(), "-addext", f"subjectAltName=DNS:{NAME}", "-keyout", path, "-out", f"{path}.crt"],
        check=True,
        capture_output=True,
    )
    with path.open("ab") as both:
        both.write(Path(f"{path}.crt").read_bytes())
    return path


@pytest.fixture
def tls_server(server: Server, certificate: Path) -> Server:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.scheme = "https"
    server.answers = {"/": body(b"picture")}
    return server


def test_tls_checks_the_name_and_not_the_address(tls_server: Server, certificate: Path) -> None:
    trusting = ssl.create_default_context(cafile=f"{certificate}.crt")
    reader = HttpReader(
        settings(allow_http=False, allowed_hosts=(NAME, "other.test")), resolve=to_loopback, ssl_context=trusting
    )
    assert reader.read(tls_server.uri("/")) == b"picture"
    assert reason(reader, tls_server.uri("/", "other.test")) == "tls_failed"
    reader.close()


def test_an_unknown_certificate_is_refused(tls_server: Server, reader: HttpReader) -> None:
    assert reason(reader, tls_server.uri("/")) == "tls_failed"
    assert tls_server.requests == []


def test_plain_http_on_a_tls_port_is_refused(server: Server, reader: HttpReader) -> None:
    server.scheme = "https"
    assert reason(reader, server.uri("/")) == "tls_failed"


def test_a_handshake_that_never_ends_is_left_in_time(reader: HttpReader) -> None:
    def drip(connection: socket.socket) -> None:
        with connection:
            # A handshake record of 16 KiB, a byte at a time.
            connection.sendall(b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc")
            try:
                while True:
                    connection.sendall(b"\x03")
                    time.sleep(0.02)
            except OSError:
                return

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=lambda: drip(listener.accept()[0]))
        thread.start()
        assert reason(reader, f"https://{NAME}:{listener.getsockname()[1]}/") == "fetch_timeout"
        thread.join()
