"""http(s) URIs → bytes, for URIs that may come from an attacker.

Every connection goes to an address that was checked, the very one, so a name that resolves anew to a private address
gains nothing (DNS rebinding); TLS and the Host header still carry the name. Redirects are followed here, each hop under
the same rules. One deadline covers a fetch from name look-up to last byte, however slowly the bytes come. Proxies and
other environment variables are ignored.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from typing import Any, Final
from urllib.parse import urljoin

import httpcore

from consumers.address_rules import check_allowed_hosts, http_target, refused_kind
from consumers.fetch_errors import TryAgainError, bad_fetch, store_away, timed_out, too_large
from pinstream.errors import BadRecordError
from pinstream.settings import FetchSettings

KEEPALIVE_S: Final = 15.0
MAX_IDLE_CONNECTIONS: Final = 64
MAX_LOOKUPS: Final = 64
"""Name look-ups under way. One can't be cut short, so it lives on in its thread after its fetch has timed out."""
REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
REFUSALS: Final = {401: "forbidden", 403: "forbidden", 404: "not_found", 410: "not_found"}

Resolve = Callable[[str, int], Sequence[str]]


def resolve(host: str, port: int) -> list[str]:
    """The addresses of a host name, in the system's order of preference. Blocks as long as the system's resolver does.

    Raises:
        OSError: the name is unknown or the resolver is away.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class HttpReader:
    """Reads http(s) URIs. Thread-safe; `read` blocks for at most `timeout_s`. Connections are kept per host.

    Args:
        resolve: host name → addresses.
        ssl_context: what is trusted; by default the system's certificates and certifi's.
    """

    def __init__(
        self, settings: FetchSettings, *, resolve: Resolve = resolve, ssl_context: ssl.SSLContext | None = None
    ) -> None:
        check_allowed_hosts(settings.allowed_hosts)
        self._settings = settings
        self._call = _Call()
        self._pool = httpcore.ConnectionPool(
            ssl_context=ssl_context or httpcore.default_ssl_context(),
            max_connections=None,  # the threads that fetch are the bound
            max_keepalive_connections=MAX_IDLE_CONNECTIONS,
            keepalive_expiry=KEEPALIVE_S,
            network_backend=_CheckedBackend(settings, self._call, resolve),
        )

    def read(self, uri: str) -> bytes:
        """One try.

        Raises:
            BadRecordError: not allowed, refused by the server, too large, or no complete answer in time.
            TryAgainError: the server is away, overloaded, or broke off.
        """
        self._call.begin(uri, self._settings.timeout_s)
        try:
            hop = uri
            for _ in range(self._settings.max_redirects + 1):
                answer = self._get(hop)
                if isinstance(answer, bytes):
                    return answer
                hop = answer
        except httpcore.TimeoutException as error:
            raise timed_out(uri, self._settings.timeout_s) from error
        except httpcore.NetworkError as error:
            raise store_away(uri, f"the connection failed ({error})") from error
        except httpcore.ProtocolError as error:
            raise self._broken_answer(uri, error) from error
        raise bad_fetch(
            uri,
            "redirected",
            f"it redirects to {hop[:100]!r}, expected at most {self._settings.max_redirects} redirects: put the final "
            "URI into the event or raise fetch.max_redirects",
        )

    def close(self) -> None:
        self._pool.close()

    def _get(self, uri: str) -> bytes | str:
        """The body, or the URI that the answer redirects to."""
        target = http_target(uri, self._settings)
        url = httpcore.URL(scheme=target.scheme, host=target.host, port=target.port, target=target.path)
        headers: dict[bytes | str, bytes | str] = {
            "Host": target.host_header,
            "User-Agent": "pinstream",
            "Accept": "image/*",
            "Accept-Encoding": "identity",
        }
        with self._pool.stream("GET", url, headers=headers) as response:
            fields = {name.lower(): value.decode("utf-8", "replace") for name, value in response.headers}
            if response.status in REDIRECTS and b"location" in fields:
                return _next_hop(uri, fields[b"location"])
            self._check_answer(uri, response.status, fields)
            return self._body(uri, response)

    def _check_answer(self, uri: str, status: int, fields: dict[bytes, str]) -> None:
        if status == 429 or status >= 500:
            raise store_away(uri, f"the server answers {status}")
        if status != 200:
            raise bad_fetch(uri, REFUSALS.get(status, "http_status"), f"the server answers {status}, expected 200")
        encoding = fields.get(b"content-encoding", "identity").strip().lower()
        if encoding not in ("", "identity"):
            raise bad_fetch(
                uri, "content_encoding", f"content-encoding is {encoding[:40]!r}, expected none: images are compressed"
            )
        length = fields.get(b"content-length", "")
        if length.isdecimal() and int(length) > self._settings.max_bytes:
            raise too_large(uri, self._settings.max_bytes)

    def _body(self, uri: str, response: httpcore.Response) -> bytes:
        body = bytearray()
        for chunk in response.iter_stream():
            body += chunk
            if len(body) > self._settings.max_bytes:
                raise too_large(uri, self._settings.max_bytes)
        return bytes(body)

    def _broken_answer(self, uri: str, error: httpcore.ProtocolError) -> TryAgainError:
        if self._call.received_bytes == 0:
            return store_away(uri, "the server closed the connection without an answer")
        return TryAgainError(bad_fetch(uri, "broken_answer", f"the answer is not whole, valid HTTP ({error})"))


def _next_hop(uri: str, location: str) -> str:
    try:
        return urljoin(uri, location)
    except ValueError as error:
        raise bad_fetch(uri, "broken_answer", f"it redirects to {location[:100]!r}, which is no URI") from error


class _Call(threading.local):
    """The fetch that this thread is busy with. Streams outlive it, in the pool, and serve another thread's next."""

    uri = ""
    deadline_s = 0.0
    received_bytes = 0

    def begin(self, uri: str, timeout_s: float) -> None:
        self.uri = uri
        self.deadline_s = time.monotonic() + timeout_s
        self.received_bytes = 0

    def left_s(self) -> float:
        left_s = self.deadline_s - time.monotonic()
        if left_s <= 0:
            raise httpcore.ReadTimeout("deadline passed")
        return left_s


class _CheckedBackend(httpcore.NetworkBackend):
    """Connects to checked addresses only, within the calling thread's deadline."""

    def __init__(self, settings: FetchSettings, call: _Call, resolve: Resolve) -> None:
        self._tcp = httpcore.SyncBackend()
        self._settings = settings
        self._call = call
        self._resolve = resolve
        self._lookups = threading.BoundedSemaphore(MAX_LOOKUPS)

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        del timeout, local_address  # the call's deadline rules; connections leave by any interface
        addresses = self._checked_addresses(host, port)
        for position, address in enumerate(addresses):
            share_s = self._call.left_s() / (len(addresses) - position)
            try:
                stream = self._tcp.connect_tcp(address, port, share_s, None, socket_options)
                return _DeadlineStream(stream, self._call)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                if position == len(addresses) - 1:
                    raise
        raise httpcore.ConnectError(f"{host} has no address")

    def _checked_addresses(self, host: str, port: int) -> Sequence[str]:
        """All addresses of the host; one that is refused refuses the host, since nobody needs a mixture."""
        addresses = self._look_up(host, port)
        for address in addresses:
            kind = None if self._settings.allow_private_addresses else refused_kind(address)
            if kind is not None:
                raise bad_fetch(
                    self._call.uri,
                    "address_not_allowed",
                    f"host {host!r} has address {address} ({kind}), expected a public one: set "
                    "fetch.allow_private_addresses on a closed network only",
                )
        return addresses

    def _look_up(self, host: str, port: int) -> Sequence[str]:
        if not self._lookups.acquire(timeout=self._call.left_s()):
            raise httpcore.ConnectTimeout("too many name look-ups hang")
        answer: Future[Sequence[str]] = Future()
        threading.Thread(target=self._answer, args=(answer, host, port), name="name-look-up", daemon=True).start()
        try:
            return answer.result(self._call.left_s())
        except TimeoutError as error:
            raise httpcore.ConnectTimeout("the name look-up hangs") from error
        except (OSError, UnicodeError) as error:
            raise self._unresolved(host, error) from error

    def _answer(self, answer: Future[Sequence[str]], host: str, port: int) -> None:
        try:
            answer.set_result(self._resolve(host, port))
        except (OSError, UnicodeError) as error:
            answer.set_exception(error)
        finally:
            self._lookups.release()

    def _unresolved(self, host: str, error: OSError | UnicodeError) -> BadRecordError | TryAgainError:
        unknown = isinstance(error, UnicodeError) or error.errno in (socket.EAI_NONAME, socket.EAI_NODATA)
        if unknown:
            return bad_fetch(self._call.uri, "unknown_host", f"host {host!r} has no address in the DNS")
        return store_away(self._call.uri, f"the look-up of {host!r} failed ({error})")


class _DeadlineStream(httpcore.NetworkStream):
    """A connection whose every operation ends with the deadline of the thread that uses it."""

    def __init__(self, stream: httpcore.NetworkStream, call: _Call) -> None:
        self._stream = stream
        self._call = call

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        del timeout
        received = self._stream.read(max_bytes, self._call.left_s())
        self._call.received_bytes += len(received)
        return received

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        del timeout
        self._stream.write(buffer, self._call.left_s())

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        del timeout
        try:
            secured = self._stream.start_tls(ssl_context, server_hostname, self._call.left_s())
        except httpcore.ConnectError as error:
            fault = error.__cause__
            if isinstance(fault, ssl.SSLError) and not isinstance(fault, ssl.SSLEOFError):
                raise bad_fetch(self._call.uri, "tls_failed", f"no trusted TLS connection ({fault})") from error
            raise
        return _DeadlineStream(secured, self._call)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
