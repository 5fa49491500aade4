"""`PinEvent`, the contract of `pins.v1`: key = Pin id in decimal UTF-8, value = this as JSON, null = deleted.

Per key, the order on the topic is the truth; there is no version field. Everything here is hostile until parsed.
"""

from __future__ import annotations

import re
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Final

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from pinstream.errors import BadRecordError

MAX_PIN_ID: Final = 2**63 - 1
MAX_EVENT_BYTES: Final = 8 * 1024 * 1024
"""Largest event value accepted: room for an inline `data:` image, and the local broker's `message.max.bytes`."""
MAX_TIME_MS: Final = 253_402_300_799_999
"""9999-12-31T23:59:59.999Z, the last moment that RFC 3339 can write."""
URI_SCHEMES: Final = ("s3", "gs", "https", "http", "file", "data")

_KEY = re.compile(rb"[1-9][0-9]{0,18}\Z")
_EXPECTED: Final = {
    "event_time": "expected RFC 3339 with a time zone, or epoch milliseconds from 0",
    "uri": f"expected a URI that starts with one of {', '.join(scheme + ':' for scheme in URI_SCHEMES)}",
    "signature": "expected 32 to 64 lower-case hex digits: the SHA-256 of the image's bytes, or its beginning",
}
"""What to say instead of the pattern or the kinds of value that did not match."""


class Op(StrEnum):
    UPSERT = "upsert"
    DELETE = "delete"


class Domain(StrEnum):
    """Which of the three worlds an image comes from; the value in a code is its position here, from 0."""

    CAMERA = "camera"
    PIN = "pin"
    PRODUCT = "product"


class Flag(StrEnum):
    """Named bits for search filters; bit n of the 24 in a code is the n-th name here."""

    SHOPPABLE = "shoppable"
    VIDEO = "video"
    PROMOTED = "promoted"
    MATURE = "mature"


DOMAIN_NUMBER: Final = {domain: number for number, domain in enumerate(Domain)}
FLAG_BIT: Final = {flag: 1 << number for number, flag in enumerate(Flag)}


class _Contract(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Box(_Contract):
    """A crop, as fractions of the image's width and height after EXIF rotation; x and y are the top left corner."""

    x: float = Field(ge=0, lt=1, allow_inf_nan=False)
    y: float = Field(ge=0, lt=1, allow_inf_nan=False)
    width: float = Field(gt=0, le=1, allow_inf_nan=False)
    height: float = Field(gt=0, le=1, allow_inf_nan=False)

    @model_validator(mode="after")
    def _inside(self) -> Box:
        if self.x + self.width > 1.000001 or self.y + self.height > 1.000001:
            raise ValueError(
                f"box ends at x={self.x + self.width:.3f}, y={self.y + self.height:.3f}, expected at most 1"
            )
        return self


class Image(_Contract):
    """Where the pixels are.

    `signature` is the SHA-256 of the image's bytes in hex, or at least its first 16 bytes. With it an image that this
    model has embedded before is neither fetched nor embedded again. It is checked whenever the bytes are fetched.
    """

    uri: Annotated[str, Field(min_length=5, max_length=MAX_EVENT_BYTES, pattern=rf"^(?:{'|'.join(URI_SCHEMES)}):")]
    signature: Annotated[str, Field(pattern=r"^(?:[0-9a-f]{2}){16,32}$")] | None = None
    box: Box | None = None


def _not_before_1970(epoch_ms: int) -> int:
    if epoch_ms < 0:
        raise ValueError(f"event_time is {epoch_ms} ms, expected 1970 or later")
    return epoch_ms


def _epoch_ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


if TYPE_CHECKING:
    EventTime = int
else:
    EventTime = Annotated[
        Annotated[int, Field(ge=0, le=MAX_TIME_MS)]
        | Annotated[AwareDatetime, AfterValidator(_epoch_ms), AfterValidator(_not_before_1970)],
        Field(union_mode="left_to_right"),
    ]
"""RFC 3339 with a zone, or epoch milliseconds → epoch milliseconds."""


class PinEvent(_Contract):
    """One event of one Pin. `event_time` is kept as epoch milliseconds, whichever way it was written."""

    pin_id: int = Field(ge=1, le=MAX_PIN_ID)
    op: Annotated[Op, Field(strict=False)]
    event_time: EventTime
    image: Image | None = None
    domain: Annotated[Domain, Field(strict=False)] | None = None
    flags: Annotated[tuple[Annotated[Flag, Field(strict=False)], ...], Field(max_length=24, strict=False)] = ()

    @model_validator(mode="after")
    def _complete(self) -> PinEvent:
        if self.op is Op.UPSERT and (self.image is None or self.domain is None):
            missing = "image" if self.image is None else "domain"
            raise ValueError(f"op is 'upsert' and {missing} is missing, expected an image and a domain")
        return self

    @property
    def flag_bits(self) -> int:
        """The flags as the 24-bit number that codes carry."""
        bits = 0
        for flag in self.flags:
            bits |= FLAG_BIT[flag]
        return bits

    def key(self) -> bytes:
        """The Kafka key of this Pin."""
        return b"%d" % self.pin_id

    def value(self) -> bytes:
        """This event as the JSON value of its Kafka record."""
        return self.model_dump_json(exclude_none=True, exclude_defaults=True).encode()


_VALIDATOR: Final = PinEvent.__pydantic_validator__
"""What `PinEvent.model_validate_json` calls; a tenth of the cost of an event is the way there."""


def parse_key(key: bytes | None) -> int:
    """Kafka key → Pin id.

    Raises:
        BadRecordError: no key, or not a decimal number of 1 … 2^63-1 without leading zeros.
    """
    if key is not None and _KEY.match(key):
        pin_id = int(key)
        if pin_id <= MAX_PIN_ID:
            return pin_id
    shown = "missing" if key is None else repr(key[:40])
    raise BadRecordError(
        f"key is {shown}, expected a Pin id from 1 to {MAX_PIN_ID} in decimal", stage="parse", reason="bad_key"
    )


def parse_event(key: bytes | None, value: bytes) -> PinEvent:
    """A record of `pins.v1` that is not a tombstone → `PinEvent`. Thread-safe; never blocks.

    Raises:
        BadRecordError: invalid JSON, wrong or unknown fields, or a key that names another Pin than the value.
    """
    pin_id = parse_key(key)
    if len(value) > MAX_EVENT_BYTES:
        raise BadRecordError(
            f"event has {len(value)} bytes, expected at most {MAX_EVENT_BYTES}", stage="parse", reason="event_too_large"
        )
    try:
        event: PinEvent = _VALIDATOR.validate_json(value)
    except ValidationError as error:
        raise BadRecordError(
            f"event is not a PinEvent: {_explain(error)}", stage="parse", reason="bad_event"
        ) from error
    if event.pin_id != pin_id:
        raise BadRecordError(
            f"key says pin {pin_id} and the value says pin {event.pin_id}, expected the same",
            stage="parse",
            reason="key_value_differ",
        )
    return event


def _explain(error: ValidationError) -> str:
    """The first three faults, each with its field, its value (cut short) and what was expected."""
    faults = []
    for fault in error.errors(include_url=False, include_context=False)[:3]:
        named = [str(part) for part in fault["loc"] if str(part).isidentifier() or isinstance(part, int)]
        where = ".".join(named) or "value"
        shown = repr(fault["input"])
        message = fault["msg"]
        if fault["type"] == "string_pattern_mismatch" or where == "event_time":
            message = _EXPECTED[named[-1]]
        faults.append(f"{where}: {message} (got {shown[:60]}{'…' if len(shown) > 60 else ''})")
    return "; ".join(dict.fromkeys(faults))
