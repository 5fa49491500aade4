"""What only the broker knows of a codes topic: how long its tombstones stay, and whether a worker owns a partition."""

from __future__ import annotations

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType

from pinstream.kafka_clients import client_config, translate
from pinstream.settings import Settings


def delete_retention_ms(settings: Settings, topic: str) -> int:
    """The topic's own `delete.retention.ms`, whatever the settings say: somebody may have altered it. Blocks.

    Raises:
        RetryableError: the broker did not answer.
    """
    admin = AdminClient(client_config(settings))
    resource = ConfigResource(ResourceType.TOPIC, topic)
    try:
        (future,) = admin.describe_configs([resource], request_timeout=settings.kafka.request_timeout_s).values()
        return int(future.result()["delete.retention.ms"].value)
    except KafkaException as error:
        raise translate(error, f"asked for the configuration of {topic}") from error


def owner_of(settings: Settings, group_id: str, topic: str, partition: int) -> str | None:
    """The client id of the group's member that has this partition now; None if nobody has it. Blocks.

    Raises:
        RetryableError: the broker did not answer.
    """
    admin = AdminClient(client_config(settings))
    try:
        (future,) = admin.describe_consumer_groups(
            [group_id], request_timeout=settings.kafka.request_timeout_s
        ).values()
        members = future.result().members
    except KafkaException as error:
        if error.args[0].code() == error.args[0].GROUP_ID_NOT_FOUND:
            return None
        raise translate(error, f"asked who is in group {group_id}") from error
    for member in members:
        if any(tp.topic == topic and tp.partition == partition for tp in member.assignment.topic_partitions):
            return str(member.client_id)
    return None
