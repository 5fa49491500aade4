"""`stream.cache_hit_vs_bare`: the embed worker with every code answered by the cache ÷ a bare loop of confluent-kafka
that consumes the same events and produces records of the same size in transactions as large.

Both run in turn in this process, against the same broker and topics, several rounds in one run.
"""

from __future__ import annotations

import argparse
import hashlib
import threading
import time
import uuid

import numpy as np
import numpy.typing as npt
from confluent_kafka import Consumer, Producer, TopicPartition
from redis import Redis

from bench.claims import record_claim
from bench.servers import bench_servers
from embedder.worker import EmbedWorker
from pinstream.codes import Fingerprint, record_dtype
from pinstream.events import Domain, Image, Op, PinEvent
from pinstream.interpreter import calm_garbage_collector
from pinstream.kafka_clients import client_config, reachable_admin, redis_url
from pinstream.kafka_topics import codes_topic, ensure_topics, pins_topics
from pinstream.settings import Settings

BITS = 2048
BATCH = 2048


class NoModel:
    """Every code comes from the cache; a call would be a fault of the benchmark."""

    bits = BITS
    input_size = 96

    def encode(self, images_BHWC: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        raise AssertionError(f"the cache missed {len(images_BHWC)} images")


def fill(settings: Settings, records: int, images: int, model: Fingerprint) -> None:
    """Put `records` upserts over `images` different images on the Pins topic, and every image's code in Redis."""
    admin = reachable_admin(settings)
    ensure_topics(admin, (*pins_topics(settings.topics), codes_topic(settings.topics, model)), settings.topics)
    signatures = [hashlib.sha256(b"%d" % i).hexdigest() for i in range(images)]
    pipeline = Redis.from_url(redis_url(settings)).pipeline(transaction=False)
    for signature in signatures:
        key = f"pinstream:code:{model.short}:".encode() + bytes.fromhex(signature[:32])
        pipeline.set(key, np.random.default_rng(0).bytes(BITS // 8))
    pipeline.execute()
    producer = Producer(client_config(settings, linger_ms=20, queue_buffering_max_messages=1_000_000))
    for i in range(records):
        event = PinEvent(
            pin_id=i + 1,
            op=Op.UPSERT,
            event_time=time.time_ns() // 1_000_000,
            image=Image(uri=f"https://images.example.com/{i % images}.jpg", signature=signatures[i % images]),
            domain=Domain.PIN,
        )
        producer.produce(settings.topics.pins, event.value(), event.key())
        if i % 1000 == 0:
            producer.poll(0)
    producer.flush()


def bare_loop(settings: Settings, records: int, model: Fingerprint) -> float:
    """Records/s of consume → produce → commit in transactions, with nothing in between."""
    consumer = Consumer(
        client_config(
            settings,
            group_id=f"bare-{uuid.uuid4()}",
            group_protocol="consumer",
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            isolation_level="read_committed",
        )
    )
    producer = Producer(
        client_config(settings, transactional_id=f"bare-{uuid.uuid4()}", linger_ms=1, retry_backoff_ms=1)
    )
    producer.init_transactions(30)
    consumer.subscribe([settings.topics.pins])
    value = bytes(record_dtype(BITS).itemsize)
    done, started_s = 0, 0.0
    while done < records:
        batch = consumer.consume(BATCH, 0.05)
        if not batch:
            continue
        started_s = started_s or time.monotonic()
        producer.begin_transaction()
        offsets: dict[int, int] = {}
        for message in batch:
            partition, offset = message.partition(), message.offset()
            assert partition is not None
            assert offset is not None
            producer.produce(model.codes_topic, value, message.key(), partition)
            offsets[partition] = offset + 1
        positions = [TopicPartition(settings.topics.pins, p, o) for p, o in offsets.items()]
        producer.send_offsets_to_transaction(positions, consumer.consumer_group_metadata(), 30)
        producer.commit_transaction(30)
        done += len(batch)
    rate = done / (time.monotonic() - started_s)
    consumer.close()
    return rate


def worker_rate(settings: Settings, records: int, model: Fingerprint) -> float:
    """Records/s of the embed worker over the same topic, from its first record to its last commit."""
    embed = settings.embed.model_copy(
        update={
            "group_id": f"bench-{uuid.uuid4()}",
            "instance_id": str(uuid.uuid4()),
            "max_publish_records": BATCH,
            "max_in_flight": 4 * BATCH,
        }
    )
    worker = EmbedWorker(settings.model_copy(update={"embed": embed}), NoModel(), _no_pixels, model)
    thread = threading.Thread(target=worker.run)
    thread.start()
    started_s = 0.0
    while True:
        lags = worker.lag.lags()
        done = records - sum(lag.records for lag in lags.values()) if len(lags) == settings.topics.partitions else 0
        if done > 0 and not started_s:
            started_s, first = time.monotonic(), done
        if done >= records:
            break
        time.sleep(0.02)
    rate = (records - first) / (time.monotonic() - started_s)
    worker.stop()
    thread.join()
    return rate


def _no_pixels(*_: object) -> npt.NDArray[np.uint8]:
    raise AssertionError("the cache missed an image")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=200_000)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    model = Fingerprint(hashlib.sha256(b"bench").hexdigest())
    with bench_servers() as settings:
        fill(settings, arguments.records, arguments.images, model)
        calm_garbage_collector()  # as the worker's command does; it serves the bare loop as well
        ratios, rates = [], []
        for _ in range(arguments.rounds):
            bare = bare_loop(settings, arguments.records, model)
            ours = worker_rate(settings, arguments.records, model)
            ratios.append(ours / bare)
            rates.append({"bare_per_s": round(bare), "worker_per_s": round(ours)})
            print(rates[-1], flush=True)
    record_claim(
        "stream.cache_hit_vs_bare",
        ratios,
        bar=0.3,
        better="higher",
        unit="ratio",
        details={"rounds": rates, "records": arguments.records, "batch": BATCH},
    )


if __name__ == "__main__":
    main()
