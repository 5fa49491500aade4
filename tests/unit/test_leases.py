"""A lease comes out of Redis as it went in; what others put there is none, and no address that gRPC would follow."""

from __future__ import annotations

import json

import pytest

from index_sync.leaf import LeafStatus, ServedShard
from index_sync.redis_leases import MAX_LEASE_BYTES, Lease, _parse, _write

STATUS = LeafStatus({3: ServedShard(10, None), 0: ServedShard(2**40, 1.5)}, 4, 0.02)
GOOD = {
    "leaf": "10.0.0.1:5",
    "replica": 0,
    "shards": {"1": {"checkpoint": 1, "lag_s": 0}},
    "in_flight": 0,
    "latency_s": 0,
}


@pytest.mark.parametrize("address", ["10.0.0.1:4711", "leaf-3.index.svc:80", "[::1]:9"])
def test_a_lease_comes_out_as_it_went_in(address: str) -> None:
    assert _parse("a", _write(address, 2, STATUS).encode()) == Lease("a", address, 2, STATUS)


def test_the_largest_generation_fits() -> None:
    shards = {p: ServedShard(2**62, 1.234_567_890_123) for p in range(4096)}
    lease = _write("h:1", 0, LeafStatus(shards, 1, 1.0)).encode()
    assert len(lease) <= MAX_LEASE_BYTES
    assert _parse("a", lease) is not None


@pytest.mark.parametrize(
    "change",
    [
        {"leaf": "unix:/tmp/socket"},
        {"leaf": "unix-abstract:x:1"},
        {"leaf": "http://host:1"},
        {"leaf": "host"},
        {"leaf": "a b:1"},
        {"leaf": "ipv4:1.2.3.4:5"},
        {"replica": -1},
        {"shards": {"x": {"checkpoint": 1, "lag_s": 0}}},
        {"shards": {"5000": {"checkpoint": 1, "lag_s": 0}}},
        {"shards": {"1": {"checkpoint": -1, "lag_s": 0}}},
        {"shards": [1, 2]},
        {"in_flight": "many"},
        {"latency_s": None},
    ],
)
def test_anything_else_is_no_lease(change: dict[str, object]) -> None:
    assert _parse("a", json.dumps(GOOD).encode()) is not None
    assert _parse("a", json.dumps(GOOD | change).encode()) is None


@pytest.mark.parametrize("value", [None, b"", b"{", b"[]", b"NaN", b" " * (MAX_LEASE_BYTES + 1)])
def test_noise_is_no_lease(value: bytes | None) -> None:
    assert _parse("a", value) is None


def test_a_lease_without_a_name_is_none() -> None:
    assert _parse("", json.dumps(GOOD).encode()) is None
