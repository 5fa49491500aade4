"""One record of the Pins topic on its way through the embed worker."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable
from enum import StrEnum
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
from confluent_kafka import Message

from consumers.replay_plan import ReplayPlan
from pinstream.errors import BadRecordError
from pinstream.events import Op, PinEvent, parse_event, parse_key

ImageArray: TypeAlias = npt.NDArray[np.uint8]
"""RGB uint8 [S, S, 3], S = the model's input size."""

SIGNATURE_BYTES: Final = 16


class Outcome(StrEnum):
    """What became of a record; also the label of `pinstream_embed_records_total`."""

    EMBEDDED = "embedded"
    CACHED = "cached"
    DELETED = "deleted"
    SUPERSEDED = "superseded"
    LEFT_OUT = "left_out"
    """Not of a domain that is replayed (`consumers.replay_plan`): an older code of its Pin is deleted."""
    DEAD_LETTER = "dead_letter"


class PinWork:
    """A record, and what is known of it so far. Handed from stage to stage; only its holder writes to it.

    `done` turns true last, once, and only then may the publisher read the rest.
    """

    __slots__ = (
        "append_ms",
        "attempts",
        "code",
        "done",
        "dropped",
        "error",
        "event",
        "event_time_ms",
        "headers",
        "image",
        "key",
        "looked_up",
        "offset",
        "outcome",
        "partition",
        "pin_id",
        "signature",
        "size_bytes",
        "value",
    )

    def __init__(
        self,
        partition: int,
        offset: int,
        append_ms: int,
        key: bytes | None,
        value: bytes | None,
        headers: list[tuple[str, bytes]] | None = None,
    ) -> None:
        self.partition = partition
        self.offset = offset
        self.append_ms = append_ms
        self.key = key
        self.value = value
        self.headers = headers
        self.event: PinEvent | None = None
        self.pin_id = 0
        self.event_time_ms = append_ms
        self.signature: bytes | None = None
        self.image: ImageArray | None = None
        self.looked_up = False
        self.code: bytes | None = None
        self.error: BadRecordError | None = None
        self.attempts = 0
        self.outcome: Outcome | None = None
        self.done = False
        self.dropped = False
        self.size_bytes = len(value or b"") + len(key or b"")

    def parse(self) -> None:
        """Read key and value; a delete and a bad record are done with that."""
        try:
            if self.value is None:
                self.pin_id = parse_key(self.key)
                self.finish(Outcome.DELETED)
                return
            event = parse_event(self.key, self.value)
        except BadRecordError as error:
            self.fail(error)
            return
        self.event = event
        self.pin_id = event.pin_id
        self.event_time_ms = event.event_time
        if event.op is Op.DELETE:
            self.finish(Outcome.DELETED)
        elif event.image is not None and event.image.signature is not None:
            self.signature = bytes.fromhex(event.image.signature[: 2 * SIGNATURE_BYTES])

    def sign(self, image_bytes: bytes) -> None:
        """Name the image by its content, where the event did not."""
        if self.signature is None:
            self.signature = hashlib.sha256(image_bytes).digest()[:SIGNATURE_BYTES]

    @property
    def cache_key(self) -> bytes | None:
        """Names the pixels that are embedded: the image's content and the crop. None while the content is unknown."""
        if self.signature is None or self.event is None or self.event.image is None:
            return None
        box = self.event.image.box
        if box is None:
            return self.signature
        return self.signature + struct.pack(">4d", box.x, box.y, box.width, box.height)

    def finish(self, outcome: Outcome, code: bytes | None = None) -> None:
        """The record's way ends here: it can be published as soon as those before it can."""
        self.code = code
        self.outcome = outcome
        self.image = None
        self.done = True

    def fail(self, error: BadRecordError) -> None:
        self.error = error
        self.finish(Outcome.DEAD_LETTER)


def work_of(message: Message) -> PinWork:
    """A polled record without an error, not yet parsed."""
    partition, offset = message.partition(), message.offset()
    assert partition is not None
    assert offset is not None
    headers = message.headers()
    return PinWork(
        partition,
        offset,
        message.timestamp()[1],
        message.key(),
        message.value(),
        list(headers) if headers else None,  # type: ignore[arg-type]  # received headers are pairs of str and bytes
    )


def leave_out(works: Iterable[PinWork], plan: ReplayPlan) -> None:
    """Finish the upserts that the replay leaves out. In place.

    Each becomes a tombstone: an older version of the Pin may have been of a domain that is replayed.
    """
    if not plan.domains:
        return
    for work in works:
        if not work.done and work.event and plan.leaves_out(work.partition, work.offset, work.event.domain):
            work.finish(Outcome.LEFT_OUT)


def supersede_deleted(works: list[PinWork]) -> None:
    """Records that are deleted later in the same poll need no image: their delete is certain. In place."""
    deleted: set[int] = set()
    for work in reversed(works):
        if work.done:
            if work.outcome in (Outcome.DELETED, Outcome.LEFT_OUT):
                deleted.add(work.pin_id)
        elif work.pin_id in deleted:
            work.finish(Outcome.SUPERSEDED)
