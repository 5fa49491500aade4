"""What goes over HTTP: searches and answers. Pure.

Everything is checked and bounded here, before anything is decoded or searched.
"""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Final

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from index_sync.calibration import MAX_PROBES, Effort
from index_sync.segment import SearchFilter
from pinstream.errors import PinstreamError
from pinstream.events import DOMAIN_NUMBER, FLAG_BIT, MAX_PIN_ID, Box, Domain, Flag

MAX_K: Final = 1000
MAX_IMAGE_CHARS: Final = 28 * 1024 * 1024
"""Base64 of an image of 20 MiB."""
MAX_CODE_CHARS: Final = 1024
MAX_TIMEOUT_MS: Final = 120_000


Offsets = Annotated[
    dict[Annotated[int, Field(ge=0, lt=4096)], Annotated[int, Field(ge=0, lt=2**63)]], Field(max_length=4096)
]
"""Partition → next offset of the codes topic."""


class BadQueryError(PinstreamError):
    """The query can't be answered as it was asked: HTTP 400."""


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Filters(_Message):
    """Which Pins may answer: any of the domains (none given: all of them), and all of the flags."""

    domains: Annotated[tuple[Domain, ...], Field(max_length=len(Domain))] = ()
    flags: Annotated[tuple[Flag, ...], Field(max_length=len(Flag))] = ()

    def search_filter(self) -> SearchFilter | None:
        """None: every Pin matches."""
        if not self.domains and not self.flags:
            return None
        bits = 0
        for flag in self.flags:
            bits |= FLAG_BIT[flag]
        return SearchFilter(frozenset(DOMAIN_NUMBER[domain] for domain in self.domains) or None, bits)


class SearchRequest(Filters):
    """A search by exactly one of a Pin's id, a raw code or an image (whole, or a box of it)."""

    pin_id: Annotated[int, Field(ge=1, le=MAX_PIN_ID)] | None = None
    code: Annotated[str, Field(max_length=MAX_CODE_CHARS)] | None = None
    """Base64 of bits / 8 bytes, bit order as in `PinCode`."""
    image: Annotated[str, Field(max_length=MAX_IMAGE_CHARS)] | None = None
    """Base64 of the encoded image; JPEG, PNG, WebP and what else the embed worker takes."""
    box: Box | None = None
    """With `image`: search for this part of it (Flashlight)."""
    k: Annotated[int, Field(ge=1, le=MAX_K)] = 20
    allow_partial: bool = True
    """False: answer 503 rather than leave a shard out."""
    recall_target: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of the true k nearest to find, on average; 1 scans every Pin. Unless given, `index.recall_target`."""
    probes: Annotated[int, Field(ge=1, le=MAX_PROBES)] | None = None
    """Lists to read by hand, whatever the recall."""
    timeout_ms: Annotated[int, Field(ge=1, le=MAX_TIMEOUT_MS)] | None = None
    """Shards that have not answered by then are left out. At most, and unless given, the node's `http.timeout_s`."""
    min_offset: Offsets = {}
    """Read your writes: for these shards wait until everything before this offset of the codes topic is applied. It is
    one more than the offset at which a code was published, or a `checkpoint` of an earlier answer. 412 if it is not
    applied in time."""

    @model_validator(mode="after")
    def _one_query(self) -> SearchRequest:
        given = [name for name in ("pin_id", "code", "image") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"got {' and '.join(given) or 'none'}, expected exactly one of pin_id, code and image")
        if self.box is not None and self.image is None:
            raise ValueError("box is given without image, expected both or neither")
        return self

    def effort(self, recall_target: float) -> Effort | None:
        """How much to read, with the node's own recall target where the request names none; None: everything."""
        wanted = self.recall_target or recall_target
        return None if wanted == 1 and self.probes is None else Effort(wanted, self.probes)


class Hit(_Message):
    pin_id: int
    distance: int
    """Hamming distance in bits: 0 … bits."""
    domain: Domain
    flags: tuple[Flag, ...]


class ShardState(_Message):
    """How fresh a shard's answer is."""

    partition: int
    checkpoint: int
    """Next offset of the codes topic: everything before it is in this answer."""
    pins: int
    newest_event_ms: int | None
    """Newest event time applied; None while the shard is empty."""
    lag_records: int | None
    lag_seconds: float | None
    """None while not known."""


class LeafCode(_Message):
    """What the index holds of one Pin."""

    partition: int
    code: str
    source_offset: int
    event_time_ms: int
    domain: Domain
    flags: tuple[Flag, ...]


class SearchAnswer(_Message):
    generation: str
    """Fingerprint of the model that every code in this answer is from."""
    hits: tuple[Hit, ...]
    """By ascending distance, then Pin id."""
    partial: bool
    missing_shards: tuple[int, ...]
    shards: tuple[ShardState, ...]
    took_ms: float


def encode_code(code_W: npt.NDArray[np.uint8]) -> str:
    """uint8 [W] → base64."""
    return base64.b64encode(code_W.tobytes()).decode()


def decode_code(text: str, bits: int) -> npt.NDArray[np.uint8]:
    """Base64 → uint8 [W].

    Raises:
        BadQueryError: not base64, or another number of bits.
    """
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadQueryError(f"code is not base64: {error}") from error
    if len(raw) != bits // 8:
        raise BadQueryError(f"code has {8 * len(raw)} bits, expected {bits}")
    return np.frombuffer(raw, dtype=np.uint8)


def decode_image_text(text: str) -> bytes:
    """Base64 → encoded image bytes. Raises BadQueryError: not base64."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadQueryError(f"image is not base64: {error}") from error
