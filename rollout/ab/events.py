"""What requesters saw and did: as front doors receive it, and as it stands on `engagements.v1`.

Both are hostile until parsed. On the topic the key is the requester's pseudonym (32 hex digits), so that the events of
one requester lie in one partition; the value is an `Engagement` as JSON. No raw requester id is ever on the topic.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pinstream.errors import BadRecordError
from pinstream.events import EventTime
from rollout.ab.assignment import Arm
from rollout.generation import Application, Model

MAX_EVENTS: Final = 500
"""In one request."""
MAX_RECORD_BYTES: Final = 4096
"""On the topic; ours have about 350."""


class Kind(StrEnum):
    """An impression is one answer that was shown; the others are engagements with one of its Pins."""

    IMPRESSION = "impression"
    SAVE = "save"
    CLICK = "click"
    LONG_CLICK = "long_click"


EventId = Annotated[str, Field(pattern=r"^[A-Za-z0-9._:-]{1,64}$")]
Test = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
Requester = Annotated[str, Field(min_length=1, max_length=256)]


class _Contract(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class ReportedEvent(_Contract):
    """What an application reports; `test`, `arm` and `model` are those that the search's answer named."""

    event_id: EventId
    """The reporter's own: an event that is sent again under the same one counts once."""
    application: Annotated[Application, Field(strict=False)]
    test: Test
    arm: Annotated[Arm, Field(strict=False)]
    model: Model
    requester: Requester
    kind: Annotated[Kind, Field(strict=False)]
    event_time: EventTime | None = None
    """RFC 3339 with a zone, or epoch ms. None: when it is received."""


class ReportedEvents(_Contract):
    events: Annotated[tuple[ReportedEvent, ...], Field(min_length=1, max_length=MAX_EVENTS, strict=False)]


class Engagement(_Contract):
    """A record of `engagements.v1`."""

    event_id: EventId
    application: Annotated[Application, Field(strict=False)]
    test: Test
    """The split's salt."""
    share: Annotated[float, Field(gt=0, lt=1)]
    """Of requesters in the treatment, when this was received: what the sample ratio is held against."""
    arm: Annotated[Arm, Field(strict=False)]
    model: Model
    user: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    """The requester's pseudonym."""
    kind: Annotated[Kind, Field(strict=False)]
    event_time: EventTime
    """Epoch ms."""

    def key(self) -> bytes:
        return self.user.encode()

    def value(self) -> bytes:
        return self.model_dump_json().encode()


_VALIDATOR: Final = Engagement.__pydantic_validator__


def parse_engagement(value: bytes | None) -> Engagement:
    """A record of `engagements.v1`. Thread-safe; never blocks.

    Raises:
        BadRecordError: null, too large, or not an `Engagement`.
    """
    if value is None or len(value) > MAX_RECORD_BYTES:
        size = "no value" if value is None else f"{len(value)} bytes"
        raise BadRecordError(
            f"engagement has {size}, expected 1 to {MAX_RECORD_BYTES} bytes", stage="parse", reason="bad_engagement"
        )
    try:
        engagement: Engagement = _VALIDATOR.validate_json(value)
    except ValidationError as error:
        raise BadRecordError(explain(error), stage="parse", reason="bad_engagement") from error
    return engagement


def explain(error: ValidationError) -> str:
    """The first three faults, each with its field and its value, cut short."""
    faults = []
    for fault in error.errors(include_url=False, include_context=False)[:3]:
        where = ".".join(str(part)[:40] for part in fault["loc"][:4]) or "value"
        faults.append(f"{where}: {fault['msg'][:200]} (got {repr(fault['input'])[:60]})")
    return "; ".join(faults)
