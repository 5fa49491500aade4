"""A manifest comes back as it was or not at all, whichever bit of it is wrong."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress

import pytest

from index_sync.checkpoint import FileEntry, Manifest, SegmentEntry, ShardIdentity, parse_manifest, write_manifest
from pinstream.errors import CorruptStateError, PinstreamError

MANIFEST = Manifest(
    format=2,
    number=7,
    shard=ShardIdentity(topic="codes.v1.0123456789ab", partition=0, partitions=4, bits=2048, model="0" * 64),
    writer="w",
    created_ms=1,
    complete_ms=0,
    checkpoint=2**40,
    newest_event_time_ms=None,
    live_rows=12,
    segments=(SegmentEntry(sha256="a" * 64, size_bytes=5, rows=10, dead_rows=1),),
    state=FileEntry(sha256="b" * 64, size_bytes=6),
)


def test_a_manifest_comes_back_as_it_was() -> None:
    assert parse_manifest(write_manifest(MANIFEST), 7) == MANIFEST


def test_format_1_counts_its_age_from_when_it_was_written() -> None:
    fields = json.loads(write_manifest(MANIFEST))["manifest"] | {"format": 1, "created_ms": 5}
    del fields["complete_ms"]
    canonical = json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()
    old = json.dumps({"manifest": fields, "sha256": hashlib.sha256(canonical).hexdigest()}).encode()
    assert parse_manifest(old, 7).trusted_from_ms == 5
    assert MANIFEST.trusted_from_ms == 0


def test_no_single_flipped_bit_changes_what_a_manifest_says() -> None:
    content = write_manifest(MANIFEST)
    for at in range(len(content)):
        for bit in range(8):
            damaged = bytearray(content)
            damaged[at] ^= 1 << bit
            with suppress(CorruptStateError):
                assert parse_manifest(bytes(damaged), 7) == MANIFEST  # white space


@pytest.mark.parametrize("size", range(0, len(write_manifest(MANIFEST)), 13))
def test_a_torn_manifest_is_corrupt(size: int) -> None:
    with pytest.raises(CorruptStateError):
        parse_manifest(write_manifest(MANIFEST)[:size], 7)


@pytest.mark.parametrize(
    "content",
    [b"", b"null", b"[]", b"{}", b'{"manifest": 1, "sha256": 2}', b"[" * 100_000, b"1" * 10_000, b"\xff\xfe", b"NaN"],
)
def test_hostile_content_is_corrupt(content: bytes) -> None:
    with pytest.raises(CorruptStateError):
        parse_manifest(content, 7)


def test_a_manifest_under_another_number_is_corrupt() -> None:
    with pytest.raises(PinstreamError, match="says that it is number 7"):
        parse_manifest(write_manifest(MANIFEST), 8)
    assert json.loads(write_manifest(MANIFEST))["manifest"]["checkpoint"] == 2**40
