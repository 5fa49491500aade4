"""Topics: created as the design says, and refused if they exist otherwise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, ResourceType

from pinstream.codes import Fingerprint
from pinstream.errors import FatalError
from pinstream.events import MAX_EVENT_BYTES
from pinstream.settings import TopicSettings

DLQ_RETENTION_MS: Final = 14 * 86_400_000
_EVENT_RECORD_BYTES: Final = MAX_EVENT_BYTES + 64 * 1024
_DEAD_LETTER_BYTES: Final = MAX_EVENT_BYTES + 1024 * 1024


@dataclass(frozen=True, slots=True)
class TopicSpec:
    name: str
    partitions: int
    cleanup_policy: str
    config: tuple[tuple[str, str], ...] = ()


def pins_topics(settings: TopicSettings) -> tuple[TopicSpec, TopicSpec]:
    """`pins.v1` and its dead letters."""
    compacted = (("delete.retention.ms", str(settings.delete_retention_ms)),)
    return (
        TopicSpec(
            settings.pins,
            settings.partitions,
            "compact",
            (*compacted, ("max.message.bytes", str(_EVENT_RECORD_BYTES))),
        ),
        TopicSpec(
            settings.dead_letters,
            settings.partitions,
            "delete",
            (("retention.ms", str(DLQ_RETENTION_MS)), ("max.message.bytes", str(_DEAD_LETTER_BYTES))),
        ),
    )


def codes_topic(settings: TopicSettings, model: Fingerprint) -> TopicSpec:
    """The codes topic of one generation, with as many partitions as the Pins topic."""
    return TopicSpec(
        model.codes_topic,
        settings.partitions,
        "compact",
        (("delete.retention.ms", str(settings.delete_retention_ms)),),
    )


def ensure_topics(admin: AdminClient, specs: tuple[TopicSpec, ...], settings: TopicSettings) -> list[str]:
    """Create what is missing; check what exists. Idempotent, safe beside other workers doing the same. Blocks.

    Returns:
        The names of the topics that this call created.

    Raises:
        FatalError: a topic exists with another partition count or cleanup policy, or can't be created.
    """
    created = []
    futures = admin.create_topics(
        [
            NewTopic(
                spec.name,
                num_partitions=spec.partitions,
                replication_factor=settings.replication_factor,
                config={
                    "cleanup.policy": spec.cleanup_policy,
                    "min.insync.replicas": str(settings.min_insync_replicas),
                    **dict(spec.config),
                },
            )
            for spec in specs
        ]
    )
    for name, future in futures.items():
        try:
            future.result()
            created.append(name)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise FatalError(f"topic {name} can't be created: {error.args[0].str()}") from error
    check_topics(admin, tuple(spec for spec in specs if spec.name not in created))
    return created


def check_topics(admin: AdminClient, specs: tuple[TopicSpec, ...]) -> None:
    """Raises FatalError unless every topic exists with its partition count and cleanup policy. Blocks."""
    if not specs:
        return
    found = admin.list_topics(timeout=10).topics
    configs = admin.describe_configs([ConfigResource(ResourceType.TOPIC, spec.name) for spec in specs])
    policies = {}
    for resource, future in configs.items():
        try:
            policies[resource.name] = future.result()["cleanup.policy"].value
        except KafkaException as error:
            raise FatalError(
                f"topic {resource.name} can't be described ({error.args[0].str()}): "
                "create it with 'pinstream topics create'"
            ) from error
    for spec in specs:
        topic = found.get(spec.name)
        if topic is None or topic.error is not None:
            raise FatalError(f"topic {spec.name} does not exist: create it with 'pinstream topics create'")
        if len(topic.partitions) != spec.partitions:
            raise FatalError(
                f"topic {spec.name} has {len(topic.partitions)} partitions, expected {spec.partitions} "
                "(topics.partitions): a generation's partition count is fixed, since a Pin's partition is its shard"
            )
        if policies[spec.name] != spec.cleanup_policy:
            raise FatalError(
                f"topic {spec.name} has cleanup.policy={policies[spec.name]}, expected {spec.cleanup_policy}: "
                "alter it, or use another topic name"
            )
