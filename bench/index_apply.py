"""`index.apply_vs_consume`, `index.rebuild_codes_s`: applying a codes topic ÷ consuming it with bare confluent-kafka.

A real Kafka holds `--codes` records on the codes topic. The bare side calls `Consumer.consume` and drops what it gets,
with the fetch settings of ours; the details also hold it with librdkafka's own, which wait a second for a full queue.
Ours is the index worker's own path: `KafkaSource.poll`, `build_code_batch`, `Shard.apply` for each partition, upkeep
in a thread beside it; every round starts with empty shards, so it is a rebuild. Both count from their first record.

    python -m bench.index_apply
"""

from __future__ import annotations

import hashlib
import time
import uuid
from typing import Any

import faiss
import numpy as np
from confluent_kafka import Consumer, Producer
from obstore.store import MemoryStore

from bench.claims import record_claim
from bench.codes_like_real import CodesLikeReal
from bench.index_setup import ShardUpkeep, make_shard, options, settle, upkeep
from bench.index_timing import ratios
from bench.servers import bench_servers
from consumers.kafka_source import KafkaSource, by_partition
from index_sync.code_batch import build_code_batch
from index_sync.shard import Shard
from pinstream.codes import Fingerprint, empty_records, encode_records
from pinstream.kafka_clients import client_config, reachable_admin
from pinstream.kafka_topics import codes_topic, ensure_topics
from pinstream.settings import Settings

MODEL = Fingerprint(hashlib.sha256(b"bench.index_apply").hexdigest())


def main() -> None:
    given = options(__doc__)
    world = CodesLikeReal(seed=given.seed)
    faiss.omp_set_num_threads(1)
    with bench_servers() as settings:
        fill(settings, world, given.codes)
        bare, ours, plain = [], [], []
        for number in range(given.rounds):
            settle()
            for side in ("bare", "ours") if number % 2 else ("ours", "bare"):
                if side == "bare":
                    bare.append(consume_rate(settings, given.codes, fetch_queue_backoff_ms=10))
                else:
                    ours.append(apply_rate(settings, world, given.codes))
            plain.append(consume_rate(settings, given.codes))
            print(f"bare {bare[-1]:.0f}/s, by default {plain[-1]:.0f}/s, applied {ours[-1]:.0f}/s", flush=True)
    rates = {"bare_per_s": bare, "bare_by_default_per_s": plain, "applied_per_s": ours}
    details: dict[str, Any] = {"records": given.codes, **rates}
    record_claim(
        "index.apply_vs_consume",
        ratios(ours, bare),
        bar=0.5,
        better="higher",
        unit="ratio of records/s",
        details=details,
    )
    record_claim("index.rebuild_codes_s", ours, bar=250_000, better="higher", unit="codes/s", details=details)


def fill(settings: Settings, world: CodesLikeReal, codes: int) -> None:
    """Publish every code once, Pin by Pin over the partitions."""
    ensure_topics(reachable_admin(settings), (codes_topic(settings.topics, MODEL),), settings.topics)
    producer = Producer(client_config(settings, linger_ms=20, queue_buffering_max_messages=1_000_000))
    done = 0
    for code_NW, _ in world.chunks(codes):
        records = empty_records(len(code_NW), world.bits, MODEL, 1)
        records["pin_id"] = np.arange(done + 1, done + len(code_NW) + 1)
        records["source_offset"] = (records["pin_id"] - 1) // settings.topics.partitions
        records["event_time_ms"] = time.time_ns() // 1_000_000
        records["code"] = code_NW
        for pin_id, value in enumerate(encode_records(records), start=done + 1):
            producer.produce(MODEL.codes_topic, value, b"%d" % pin_id, pin_id % settings.topics.partitions)
        done += len(code_NW)
        producer.flush()


def consume_rate(settings: Settings, records: int, **own: Any) -> float:
    """Records/s of consuming and nothing else."""
    consumer = Consumer(
        client_config(
            settings,
            group_id=f"bare-{uuid.uuid4()}",
            group_protocol=settings.kafka.group_protocol,
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            isolation_level="read_committed",
            fetch_wait_max_ms=100,
            **own,
        )
    )
    consumer.subscribe([MODEL.codes_topic])
    done, started_s, first = 0, 0.0, 0
    while done < records:
        done += len(consumer.consume(settings.index.max_apply_records, 0.05))
        if done and not started_s:
            started_s, first = time.monotonic(), done
    rate = (records - first) / (time.monotonic() - started_s)
    consumer.close()
    return rate


class EveryPartition:
    """Takes whatever the group gives, from the beginning."""

    def assigned(self, partitions: list[int]) -> dict[int, int]:
        return dict.fromkeys(partitions, 0)

    def revoked(self, partitions: list[int]) -> None:
        """Nothing is kept."""

    def lost(self, partitions: list[int]) -> None:
        """Nothing is kept."""


def apply_rate(settings: Settings, world: CodesLikeReal, records: int) -> float:
    """Codes/s of a rebuild: from the first record polled to the last one applied."""
    partitions = range(settings.topics.partitions)
    shards: list[Shard] = [make_shard(world, records // len(partitions)) for _ in partitions]
    source = KafkaSource(settings, MODEL.codes_topic, f"ours-{uuid.uuid4()}", "bench", EveryPartition())
    done, started_s, first = 0, 0.0, 0
    store = MemoryStore()  # of the generation: its quantizer is trained once
    with upkeep([ShardUpkeep(shard, records // len(partitions), store) for shard in shards]):
        while done < records:
            messages = source.poll(settings.index.max_apply_records, 0.05, lambda _, __: None)
            for partition, group in by_partition(messages).items():
                batch, refused = build_code_batch(group, world.bits, MODEL)
                assert not refused, refused[0].message
                shards[partition].apply(batch)
                done += len(batch)
            if done and not started_s:
                started_s, first = time.monotonic(), done
        rate = (records - first) / (time.monotonic() - started_s)
    source.close()
    assert sum(shard.view().live_rows for shard in shards) == records
    return rate


if __name__ == "__main__":
    main()
