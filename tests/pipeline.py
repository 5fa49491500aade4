"""The real workers in threads of the test's process, with the light model, on the test's own topics."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from confluent_kafka import Producer

from embedder.worker import EmbedWorker
from index_sync.worker import IndexWorker
from pinstream.codes import Fingerprint
from pinstream.kafka_clients import client_config
from pinstream.settings import Settings
from tests.conftest import wait_for
from tests.light_worker import BITS, HashEncoder, encode_query, image_input


@dataclass(frozen=True)
class Pipeline:
    settings: Settings
    embed: EmbedWorker
    index: IndexWorker

    def send(self, records: list[tuple[bytes | None, bytes | None]]) -> None:
        """Put raw records on the Pins topic and wait until Kafka has them."""
        producer = Producer(client_config(self.settings))
        for key, value in records:
            producer.produce(self.settings.topics.pins, value, key)
        assert producer.flush(30) == 0

    def settle(self, timeout_s: float = 60.0) -> None:
        """Wait until both workers know that they are at the end of their topics, in this order."""
        for worker in (self.embed, self.index):
            _wait_until_at_end(worker, self.settings.topics.partitions, timeout_s)


def _wait_until_at_end(worker: EmbedWorker | IndexWorker, partitions: int, timeout_s: float) -> None:
    wait_for(
        lambda: _is_at_end(worker, partitions),
        lambda: f"{worker.group_id} at the end of {partitions} partitions: {worker.lag.lags()}",
        timeout_s,
    )


def _is_at_end(worker: EmbedWorker | IndexWorker, partitions: int) -> bool:
    worker.lag.refresh()
    lags = worker.lag.lags()
    return len(lags) == partitions and all(lag.records == 0 for lag in lags.values())


@contextmanager
def running(settings: Settings, model: Fingerprint) -> Iterator[Pipeline]:
    """One embed and one index worker; both are drained and gone when the block ends."""
    embed = EmbedWorker(settings, HashEncoder(), image_input, model)
    index = IndexWorker(settings, model, BITS, encode_query)
    threads = [threading.Thread(target=worker.run) for worker in (embed, index)]
    for thread in threads:
        thread.start()
    try:
        yield Pipeline(settings, embed, index)
    finally:
        embed.stop()
        index.stop()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive(), "a worker did not stop"
