"""Which http(s) URIs are taken, and which addresses their hosts may have."""

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.address_rules import HttpTarget, check_allowed_hosts, host_allowed, http_target, refused_kind
from consumers.fetch_errors import MAX_SHOWN_CHARS, shown
from pinstream.errors import BadRecordError, FatalError
from pinstream.settings import FetchSettings

SETTINGS = FetchSettings(allowed_hosts=("images.example.com", "*.cdn.example.com", "::1"), allow_http=True)


@pytest.mark.parametrize("address", ["93.184.216.34", "1.1.1.1", "172.32.0.1", "100.128.0.1", "2606:4700::1111"])
def test_public_addresses_are_taken(address: str) -> None:
    assert refused_kind(address) is None


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("127.0.0.1", "loopback"),
        ("127.255.255.254", "loopback"),
        ("0.0.0.0", "this network"),  # noqa: S104 (an address to refuse, nothing binds to it)
        ("10.1.2.3", "private"),
        ("172.16.0.1", "private"),
        ("172.31.255.255", "private"),
        ("192.168.1.1", "private"),
        ("169.254.169.254", "link-local"),
        ("100.64.0.1", "carrier-grade NAT"),
        ("100.127.255.255", "carrier-grade NAT"),
        ("224.0.0.1", "multicast"),
        ("255.255.255.255", "reserved"),
        ("::1", "loopback"),
        ("::", "reserved"),
        ("::127.0.0.1", "reserved"),
        ("::ffff:127.0.0.1", "IPv4-mapped"),
        ("::ffff:8.8.8.8", "IPv4-mapped"),
        ("fe80::1", "link-local"),
        ("fe80::1%eth0", "link-local"),
        ("2606:4700::1111%eth0", "reserved"),
        ("fd00::1", "private"),
        ("ff02::1", "multicast"),
        ("2002:7f00:1::", "6to4"),
        ("2001:0:7f00:1::", "protocol assignment (Teredo and others)"),
        ("64:ff9b::7f00:1", "loopback"),
        ("64:ff9b::a9fe:a9fe", "link-local"),
        ("fec0::1", "reserved"),
    ],
)
def test_other_addresses_are_refused_by_kind(address: str, kind: str) -> None:
    assert refused_kind(address) == kind


@given(st.integers(0, 2**32 - 1))
def test_python_calls_no_taken_ipv4_address_private(number: int) -> None:
    address = IPv4Address(number)
    if refused_kind(str(address)) is None:
        assert not (address.is_private or address.is_loopback or address.is_link_local or address.is_multicast)
        assert not (address.is_reserved or address.is_unspecified)


@given(st.integers(0, 2**32 - 1))
def test_an_ipv6_address_hides_no_refused_ipv4_address(number: int) -> None:
    inside = IPv4Address(number)
    nat64 = IPv6Address((0x64FF9B << 96) | number)
    assert refused_kind(str(nat64)) == refused_kind(str(inside))
    assert refused_kind(f"::ffff:{inside}") is not None
    assert refused_kind(str(IPv6Address((0x2002 << 112) | (number << 80)))) is not None


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("images.example.com", True),
        ("a.cdn.example.com", True),
        ("a.b.cdn.example.com", True),
        ("cdn.example.com", False),
        (".cdn.example.com", False),
        ("evilcdn.example.com", False),
        ("images.example.com.evil.org", False),
        ("example.com", False),
        ("", False),
    ],
)
def test_hosts_match_exactly_or_below_a_star(host: str, allowed: bool) -> None:
    assert host_allowed(host, SETTINGS.allowed_hosts) is allowed


def test_a_target_keeps_host_port_and_query() -> None:
    assert http_target("https://IMAGES.example.com./a%20b/ü.jpg?x=1&y=ä#top", SETTINGS) == HttpTarget(
        "https", "images.example.com", 443, "/a%20b/%C3%BC.jpg?x=1&y=%C3%A4"
    )
    odd = http_target("http://a.cdn.example.com:8080", SETTINGS)
    assert (odd.port, odd.path, odd.host_header) == (8080, "/", "a.cdn.example.com:8080")
    assert http_target("https://[::1]/x", SETTINGS).host_header == "[::1]"


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("https://evil.org/a.jpg", "host_not_allowed"),
        ("https://2130706433/a.jpg", "host_not_allowed"),
        ("https://user@images.example.com/a.jpg", "bad_uri"),
        ("https://images.example.com:password@evil.org/", "bad_uri"),
        ("https://images.example.com\\@evil.org/", "bad_uri"),
        ("https://images.example.com/a b.jpg", "bad_uri"),
        ("https://images.example.com/a\r\nX-Header: 1", "bad_uri"),
        ("https://images.example.com:99999/", "bad_uri"),
        ("https://images.example.com:0/", "bad_uri"),
        ("https://images.example.com:x/", "bad_uri"),
        ("https://[::1", "bad_uri"),
        ("https://", "bad_uri"),
        ("https:///path", "bad_uri"),
        ("https://ımages.example.com/", "bad_uri"),
        ("ftp://images.example.com/a.jpg", "scheme_not_allowed"),
        ("file:///etc/passwd", "scheme_not_allowed"),
    ],
)
def test_uris_are_refused_with_their_reason(uri: str, reason: str) -> None:
    with pytest.raises(BadRecordError) as refused:
        http_target(uri, SETTINGS)
    assert (refused.value.reason, refused.value.stage) == (reason, "fetch")


def test_plain_http_needs_its_setting() -> None:
    with pytest.raises(BadRecordError, match=r"fetch\.allow_http"):
        http_target("http://images.example.com/", SETTINGS.model_copy(update={"allow_http": False}))


def test_the_refusal_names_the_setting_and_hides_the_query() -> None:
    with pytest.raises(BadRecordError, match=r"evil\.org/a\.jpg\?….*fetch\.allowed_hosts") as refused:
        http_target("https://evil.org/a.jpg?signature=secret", SETTINGS)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("entry", ["https://a.com", "a.com/x", "a.com:80", "*", "a.*.com", "ü.com", ""])
def test_an_impossible_allowed_host_is_a_wrong_setting(entry: str) -> None:
    with pytest.raises(FatalError, match="allowed_hosts"):
        check_allowed_hosts((entry,))


@given(st.text(max_size=150))
def test_any_uri_is_shown_on_one_short_line(uri: str) -> None:
    text = shown(uri)
    assert len(text) <= MAX_SHOWN_CHARS
    assert text.isprintable()
