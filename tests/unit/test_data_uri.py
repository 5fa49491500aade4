"""`data:` URIs carry any bytes up to the limit, and nothing else gets through."""

import base64
from urllib.parse import quote_from_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.data_uri import read_data_uri
from pinstream.errors import BadRecordError


@given(st.binary(max_size=300), st.sampled_from(["", "image/png", "text/plain;charset=utf-8"]))
def test_what_was_written_is_read(content: bytes, media_type: str) -> None:
    encoded = base64.b64encode(content).decode()
    assert read_data_uri(f"data:{media_type};base64,{encoded}", 1024) == content
    assert read_data_uri(f"data:{media_type};BASE64,{encoded.rstrip('=')}", 1024) == content
    assert read_data_uri(f"data:{media_type};base64,{quote_from_bytes(encoded.encode())}", 1024) == content
    assert read_data_uri(f"data:{media_type},{quote_from_bytes(content)}", 1024) == content


@given(st.binary(min_size=1, max_size=300))
def test_the_limit_is_exact(content: bytes) -> None:
    for uri in (f"data:;base64,{base64.b64encode(content).decode()}", f"data:,{quote_from_bytes(content, safe='')}"):
        assert len(read_data_uri(uri, len(content))) == len(content)
        with pytest.raises(BadRecordError, match=r"fetch\.max_bytes") as refused:
            read_data_uri(uri, len(content) - 1)
        assert refused.value.reason == "image_too_large"


@pytest.mark.parametrize(
    "uri",
    ["data:", "data:image/png;base64", "data:;base64,####", "data:;base64,A", "data:;base64,ü", "data:;base64,a=b"],
)
def test_malformed_uris_are_refused(uri: str) -> None:
    with pytest.raises(BadRecordError) as refused:
        read_data_uri(uri, 1024)
    assert (refused.value.reason, refused.value.stage) == ("bad_uri", "fetch")


def test_white_space_in_base64_is_skipped() -> None:
    assert read_data_uri("data:;base64,aGVs%0A bG8=\n", 1024) == b"hello"


@given(st.text(max_size=100))
def test_anything_else_is_a_bad_record(rest: str) -> None:
    try:
        read_data_uri(f"data:{rest}", 64)
    except BadRecordError as refused:
        assert len(str(refused)) < 400  # noqa: PT017 (most examples are refused, some are not)
