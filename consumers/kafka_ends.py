"""Asks the broker where partitions end: control records included, as Kafka's own lag tools see it."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import Any

from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from pinstream.kafka_clients import client_config
from pinstream.settings import Settings


class LogEnds:
    """One request for all partitions. Thread-safe; calls take turns.

    librdkafka 2.16 goes on sending the leader epoch that it learned first, so after a leader changed every answer of
    that client is FENCED_LEADER_EPOCH (seen with a broker that was killed and came back). A new client asks again.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._turn = threading.Lock()
        self._admin = self._new_admin()

    def ask(self, topic: str, partitions: list[int], timeout_s: float) -> dict[int, int]:
        """Partition → the offset that its next record will get. Blocks up to twice the time-out.

        A partition whose leader does not answer is left out.
        """
        with self._turn:
            ends = self._ask(topic, partitions, timeout_s)
            missing = [partition for partition in partitions if partition not in ends]
            if missing:
                self._admin = self._new_admin()
                ends |= self._ask(topic, missing, timeout_s)
        return ends

    def _new_admin(self) -> AdminClient:
        return AdminClient(client_config(self._settings))

    def _ask(self, topic: str, partitions: list[int], timeout_s: float) -> dict[int, int]:
        latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]  # the library left it untyped
        wanted = {TopicPartition(topic, partition): latest for partition in partitions}
        if not wanted:
            return {}
        try:
            futures: dict[TopicPartition, Future[Any]] = self._admin.list_offsets(wanted, request_timeout=timeout_s)
        except KafkaException:
            return {}
        ends = {}
        for tp, future in futures.items():
            try:
                offset = future.result(timeout=timeout_s + 1).offset
            except (KafkaException, TimeoutError):
                continue
            if offset >= 0:  # a broker that is just coming up may answer "invalid"
                ends[tp.partition] = offset
        return ends
