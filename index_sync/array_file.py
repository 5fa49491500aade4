"""A file of named arrays, simple enough to read with any language and laid out to be memory-mapped. Pure.

    8 bytes   magic "PINSTRM1"
    4 bytes   H, the header's length, little endian
    H bytes   header, JSON: {"kind", "bits", "arrays": [{"name", "dtype", "shape", "offset"}]}
    zeros     up to a multiple of 64: here the data begin
    arrays    C order, little endian; `offset` counts from the begin of the data and is a multiple of 64

Whether a file is whole is the manifest's to say: it holds each file's size and SHA-256. What is read here has passed
that, and is checked again for every bound before an array is made of it. Arrays of a parsed file are views into it.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Annotated, Final, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from index_sync.code_batch import Bytes
from pinstream.errors import CorruptStateError

MAGIC: Final = b"PINSTRM1"
_PREFIX_BYTES: Final = len(MAGIC) + 4
_ALIGNMENT: Final = 64
_MAX_HEADER_BYTES: Final = 1024 * 1024

Array = npt.NDArray[np.generic]


class _ArrayEntry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: Annotated[str, Field(max_length=64)]
    dtype: Literal["<i8", "<u4", "|u1"]
    shape: Annotated[list[Annotated[int, Field(ge=0, lt=2**48)]], Field(min_length=1, max_length=2)]
    offset: Annotated[int, Field(ge=0, lt=2**48, multiple_of=_ALIGNMENT)]


class _Header(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    kind: Annotated[str, Field(max_length=32)]
    bits: int
    arrays: Annotated[list[_ArrayEntry], Field(max_length=4096)]


def write_arrays(kind: str, bits: int, arrays: Mapping[str, Array]) -> list[memoryview]:
    """The file's bytes in pieces; the arrays are not copied unless they must be turned or swapped."""
    entries = []
    pieces: list[memoryview] = []
    offset = 0
    for name, array in arrays.items():
        little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
        entries.append(_ArrayEntry(name=name, dtype=little.dtype.str, shape=list(little.shape), offset=offset))  # type: ignore[arg-type]  # pydantic checks the name
        padding = -little.nbytes % _ALIGNMENT
        pieces += [little.reshape(-1).view(np.uint8).data, memoryview(bytes(padding))]
        offset += little.nbytes + padding
    header = _Header(kind=kind, bits=bits, arrays=entries).model_dump_json().encode()
    front = MAGIC + len(header).to_bytes(4, "little") + header
    return [memoryview(front + bytes(-len(front) % _ALIGNMENT)), *(piece for piece in pieces if len(piece))]


def read_arrays(content: Bytes, kind: str, bits: int) -> dict[str, Array]:
    """The arrays of a file of this kind and code length, as views into `content`, uint8 [any length].

    Raises:
        CorruptStateError: it is not such a file, or an array does not fit into it.
    """
    front = content[:_PREFIX_BYTES].tobytes()
    if len(front) < _PREFIX_BYTES or front[: len(MAGIC)] != MAGIC:
        raise CorruptStateError(f"file begins with {front[:8]!r}, expected {MAGIC!r}: rebuild it")
    header_bytes = int.from_bytes(front[len(MAGIC) :], "little")
    end = _PREFIX_BYTES + header_bytes
    if header_bytes > _MAX_HEADER_BYTES or end > len(content):
        raise CorruptStateError(f"file names a header of {header_bytes} bytes, expected at most {_MAX_HEADER_BYTES}")
    try:
        header = _Header.model_validate_json(content[_PREFIX_BYTES:end].tobytes())
    except ValidationError as error:
        raise CorruptStateError(f"file's header can't be read: {error.errors()[0]['msg']}") from error
    if (header.kind, header.bits) != (kind, bits):
        raise CorruptStateError(f"file is a {header.kind!r} of {header.bits} bits, expected a {kind!r} of {bits}")
    data = content[end + -end % _ALIGNMENT :]
    arrays: dict[str, Array] = {}
    for entry in header.arrays:
        dtype = np.dtype(entry.dtype)
        size = prod(entry.shape) * dtype.itemsize
        if entry.offset + size > len(data) or entry.name in arrays:
            raise CorruptStateError(f"array {entry.name!r} does not fit into its file: rebuild it")
        arrays[entry.name] = data[entry.offset : entry.offset + size].view(dtype).reshape(entry.shape)
    return arrays
