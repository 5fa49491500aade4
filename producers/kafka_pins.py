"""For applications that produce Pins themselves: a thin, checked way onto `pins.v1`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer

from pinstream.errors import FatalError, RetryableError
from pinstream.events import MAX_EVENT_BYTES, PinEvent
from pinstream.kafka_clients import client_config
from pinstream.settings import Settings


class PinProducer:
    """Writes Pin events: key and value always agree, one Pin's events stay in order, and nothing is lost in silence.

    Thread-safe. `send` blocks only while the client's queue is full. Use as a context manager, or call `flush`.

    Example:
        with PinProducer(load_settings()) as pins:
            pins.send(PinEvent(pin_id=7, op=Op.UPSERT, event_time=now_ms, image=Image(uri=…), domain=Domain.PIN))
    """

    def __init__(self, settings: Settings) -> None:
        self._topic = settings.topics.pins
        self._errors: list[KafkaError] = []
        self._producer = Producer(
            client_config(
                settings,
                enable_idempotence=True,
                linger_ms=2,
                queue_buffering_max_messages=200_000,
                partitioner="murmur2_random",  # as Java hashes: a Pin goes to one partition, whoever sends it
            )
        )

    def send(self, event: PinEvent, on_delivered: Callable[[int, int], None] | None = None) -> None:
        """Queue an event. `on_delivered(partition, offset)` is called from a later `send` or `flush`.

        Raises:
            FatalError: the event is larger than the topic takes.
            RetryableError: an earlier event was not acknowledged.
        """
        value = event.value()
        if len(value) > MAX_EVENT_BYTES:
            raise FatalError(
                f"event of pin {event.pin_id} has {len(value)} bytes, expected at most {MAX_EVENT_BYTES}: "
                "put the image in a store and send its URI"
            )
        self._queue(event.key(), value, on_delivered)

    def tombstone(self, pin_id: int, on_delivered: Callable[[int, int], None] | None = None) -> None:
        """Delete a Pin by a null value, so that compaction forgets it too."""
        self._queue(b"%d" % pin_id, None, on_delivered)

    def flush(self, timeout_s: float = 30.0) -> None:
        """Wait until everything is acknowledged. Raises RetryableError: something was not."""
        left = self._producer.flush(timeout_s)
        if left:
            raise RetryableError(f"{left} events are not acknowledged after {timeout_s:g} s: is Kafka reachable?")
        self._raise_failed()

    def __enter__(self) -> PinProducer:
        return self

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        if failure is None:
            self.flush()

    def _queue(self, key: bytes, value: bytes | None, on_delivered: Callable[[int, int], None] | None) -> None:
        def delivered(error: KafkaError | None, message: Any) -> None:
            if error is not None:
                self._errors.append(error)
            elif on_delivered is not None:
                on_delivered(message.partition(), message.offset())

        self._raise_failed()
        while True:
            try:
                self._producer.produce(self._topic, value, key, on_delivery=delivered)
            except BufferError:
                self._producer.poll(0.1)
            except KafkaException as error:
                raise FatalError(f"{self._topic} takes no event: {error.args[0].str()}") from error
            else:
                self._producer.poll(0)
                return

    def _raise_failed(self) -> None:
        if self._errors:
            raise RetryableError(f"{len(self._errors)} events were not acknowledged: {self._errors[0].str()}")
