"""Where http(s) may go: which hosts, and which addresses they may resolve to. Pure: looks nothing up.

Source of the address table: IANA's IPv4 and IPv6 special-purpose address registries (RFC 6890 and its successors).
`ipaddress.is_global` is not used: its answers changed within Python 3.11 and 3.12.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final
from urllib.parse import quote, urlsplit

from consumers.fetch_errors import bad_fetch
from pinstream.errors import FatalError
from pinstream.settings import FetchSettings

_IPV4_REFUSED: Final = tuple(
    (IPv4Network(network), kind)
    for network, kind in (
        ("0.0.0.0/8", "this network"),
        ("10.0.0.0/8", "private"),
        ("100.64.0.0/10", "carrier-grade NAT"),
        ("127.0.0.0/8", "loopback"),
        ("169.254.0.0/16", "link-local"),
        ("172.16.0.0/12", "private"),
        ("192.0.0.0/24", "reserved"),
        ("192.0.2.0/24", "documentation"),
        ("192.88.99.0/24", "6to4 relay"),
        ("192.168.0.0/16", "private"),
        ("198.18.0.0/15", "benchmarking"),
        ("198.51.100.0/24", "documentation"),
        ("203.0.113.0/24", "documentation"),
        ("224.0.0.0/4", "multicast"),
        ("240.0.0.0/4", "reserved"),
    )
)
_IPV6_REFUSED: Final = tuple(
    (IPv6Network(network), kind)
    for network, kind in (
        ("::1/128", "loopback"),
        ("::ffff:0:0/96", "IPv4-mapped"),
        ("fc00::/7", "private"),
        ("fe80::/10", "link-local"),
        ("ff00::/8", "multicast"),
        ("2001::/23", "protocol assignment (Teredo and others)"),
        ("2001:db8::/32", "documentation"),
        ("2002::/16", "6to4"),
        ("3fff::/20", "documentation"),
    )
)
_IPV6_GLOBAL: Final = IPv6Network("2000::/3")
_NAT64: Final = IPv6Network("64:ff9b::/96")

_FORBIDDEN = re.compile(r"[\x00-\x20\x7f\\]")
_HOST = re.compile(r"(?!-)[a-z0-9._-]{1,253}\Z|[0-9a-f:.]+\Z")
_ALLOWED_HOST = re.compile(r"(?:\*\.)?(?:[a-z0-9._-]+|[0-9a-f:.]+)\Z")
_TARGET_SAFE: Final = "/?%:@!$&'()*+,;=-._~[]|"


@dataclass(frozen=True, slots=True)
class HttpTarget:
    """A URI that passed the rules, taken apart."""

    scheme: str
    host: str
    """Lower case; an IPv6 address without its brackets."""
    port: int
    path: str
    """Path and query, ASCII."""

    @property
    def host_header(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == {"http": 80, "https": 443}[self.scheme] else f"{host}:{self.port}"


def refused_kind(address: str) -> str | None:
    """What kind of address it is, if it is one that http(s) may not reach; None for a public one.

    An address within 64:ff9b::/96 is judged by the IPv4 address that NAT64 sends it to (RFC 6052).
    """
    parsed = ip_address(address)
    if isinstance(parsed, IPv6Address) and parsed in _NAT64:
        parsed = IPv4Address(int(parsed) & 0xFFFF_FFFF)
    if isinstance(parsed, IPv4Address):
        return next((kind for network, kind in _IPV4_REFUSED if parsed in network), None)
    kind = next((kind for network, kind in _IPV6_REFUSED if parsed in network), None)
    return kind or (None if parsed in _IPV6_GLOBAL and parsed.scope_id is None else "reserved")


def host_allowed(host: str, allowed_hosts: Sequence[str]) -> bool:
    """`*.example.com` stands for every name below example.com, at any depth, and not for example.com itself."""
    return any(
        host.endswith(allowed[1:]) and len(host) >= len(allowed) if allowed.startswith("*.") else host == allowed
        for allowed in (entry.lower() for entry in allowed_hosts)
    )


def check_allowed_hosts(allowed_hosts: Sequence[str]) -> None:
    """
    Raises:
        FatalError: an entry of `fetch.allowed_hosts` is no host name, so it would never match.
    """
    for entry in allowed_hosts:
        if not _ALLOWED_HOST.match(entry.lower()):
            raise FatalError(
                f"fetch.allowed_hosts has {entry!r}, expected a host name such as images.example.com or *.example.com, "
                "without scheme, port or path"
            )


def http_target(uri: str, settings: FetchSettings) -> HttpTarget:
    """Take a http(s) URI apart and check it against the rules; its addresses are checked when they are known.

    Raises:
        BadRecordError: not http(s), malformed, with user name or password, or a host that is not allowed.
    """
    if _FORBIDDEN.search(uri):
        raise bad_fetch(uri, "bad_uri", "it holds a space, a control character or a backslash, expected %-encoding")
    try:
        parts = urlsplit(uri)
        host, port = (parts.hostname or "").removesuffix("."), parts.port
    except ValueError as error:
        raise bad_fetch(uri, "bad_uri", f"not a URI ({error}), expected https://host/path") from error
    if parts.scheme not in ("http", "https"):
        raise bad_fetch(uri, "scheme_not_allowed", f"scheme is {parts.scheme[:20]!r}, expected https")
    if parts.scheme == "http" and not settings.allow_http:
        raise bad_fetch(uri, "scheme_not_allowed", "plain http is off, expected https: or set fetch.allow_http")
    if "@" in parts.netloc:
        raise bad_fetch(uri, "bad_uri", "it holds a user name or password, expected none")
    if port == 0 or not _HOST.match(host):
        raise bad_fetch(uri, "bad_uri", f"host is {host[:60]!r} and port {port}, expected ASCII (punycode) and 1-65535")
    if not host_allowed(host, settings.allowed_hosts):
        listed = ", ".join(settings.allowed_hosts[:5]) or "nothing"
        raise bad_fetch(
            uri, "host_not_allowed", f"host {host[:60]!r} is not in fetch.allowed_hosts ({listed}): add it there"
        )
    path = quote(f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}", safe=_TARGET_SAFE)
    return HttpTarget(parts.scheme, host, port or (443 if parts.scheme == "https" else 80), path)
