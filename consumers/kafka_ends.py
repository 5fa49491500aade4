"""Asks the broker where partitions end: control records included, as Kafka's own lag tools see it."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from typing import Any, Final

from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from pinstream.errors import RetryableError
from pinstream.kafka_clients import client_config
from pinstream.settings import Settings

_AGAIN_S: Final = 0.1
_ONE_ANSWER_S: Final = 5.0


class LogEnds:
    """One request for all partitions. Thread-safe; calls take turns.

    librdkafka 2.16 goes on sending the leader epoch that it learned first, so after a leader changed every answer of
    that client is FENCED_LEADER_EPOCH (seen with a broker that was killed and came back). A new client asks again.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._turn = threading.Lock()
        self._admin = self._new_admin()
        self._why_missing = ""

    def ask(self, topic: str, partitions: list[int], timeout_s: float) -> dict[int, int]:
        """Partition → the offset that its next record will get. Blocks up to twice the time-out.

        A partition whose leader does not answer is left out.
        """
        return self._found(topic, partitions, timeout_s, None)

    def ask_all(self, topic: str, partitions: list[int], timeout_s: float) -> dict[int, int]:
        """The same of every partition, asked again while a leader does not answer. Blocks up to three times the time.

        Raises:
            RetryableError: not all answered in `timeout_s`, a while in which a new topic finds its leaders.
        """
        return self._all(topic, partitions, timeout_s, None)

    def first_at(self, topic: str, partitions: list[int], time_ms: int, timeout_s: float) -> dict[int, int | None]:
        """Partition → its first offset of that epoch time or later; None: there is none. Otherwise as `ask_all`."""
        found = self._all(topic, partitions, timeout_s, time_ms)
        return {partition: offset if offset >= 0 else None for partition, offset in found.items()}

    def _all(self, topic: str, partitions: list[int], timeout_s: float, time_ms: int | None) -> dict[int, int]:
        deadline_s = time.monotonic() + timeout_s
        known: dict[int, int] = {}
        while True:
            missing = [partition for partition in partitions if partition not in known]
            left_s = deadline_s - time.monotonic()
            known |= self._found(topic, missing, min(_ONE_ANSWER_S, max(left_s, _AGAIN_S)), time_ms)
            missing = [partition for partition in partitions if partition not in known]
            if not missing:
                return known
            if time.monotonic() + _AGAIN_S > deadline_s:
                raise RetryableError(
                    f"{topic} did not answer for partitions {missing} in {timeout_s:g} s ({self._why_missing}): "
                    "is a broker away?"
                )
            time.sleep(_AGAIN_S)

    def _found(self, topic: str, partitions: list[int], timeout_s: float, time_ms: int | None) -> dict[int, int]:
        """What the leaders answer, by this client or else by a new one."""
        with self._turn:
            found = self._ask(topic, partitions, timeout_s, time_ms)
            missing = [partition for partition in partitions if partition not in found]
            if missing:
                self._admin = self._new_admin()
                found |= self._ask(topic, missing, timeout_s, time_ms)
        return found

    def _new_admin(self) -> AdminClient:
        return AdminClient(client_config(self._settings))

    def _ask(self, topic: str, partitions: list[int], timeout_s: float, time_ms: int | None) -> dict[int, int]:
        spec = (
            OffsetSpec.latest()  # type: ignore[no-untyped-call]  # the library left it untyped
            if time_ms is None
            else OffsetSpec.for_timestamp(time_ms)
        )
        wanted = {TopicPartition(topic, partition): spec for partition in partitions}
        if not wanted:
            return {}
        found = {}
        try:
            futures: dict[TopicPartition, Future[Any]] = self._admin.list_offsets(wanted, request_timeout=timeout_s)
        except KafkaException as error:
            self._why_missing = str(error)
            return {}
        for tp, future in futures.items():
            try:
                offset = future.result(timeout=timeout_s + 1).offset
            except (KafkaException, TimeoutError) as error:
                self._why_missing = str(error) or "no answer"
                continue
            if offset >= 0 or time_ms is not None:  # a broker that is just coming up may answer "invalid"
                found[tp.partition] = offset
        return found
