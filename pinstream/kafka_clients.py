"""How every Kafka client of ours is configured, and which addresses it talks to."""

from __future__ import annotations

import json
import logging
import os
import socket
import time
from pathlib import Path
from typing import Any, Final, TypeAlias

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from pinstream.errors import FatalError, PinstreamError, RetryableError
from pinstream.settings import Settings

ClientConfig: TypeAlias = dict[str, Any]


class _OnceInAWhile(logging.Filter):
    """librdkafka logs every refused connection, several a second for each client while a broker is away."""

    def __init__(self) -> None:
        super().__init__()
        self._last_s: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        name = record.getMessage().split("]")[0]
        now_s = time.monotonic()
        if now_s - self._last_s.get(name, float("-inf")) < SAME_LOG_LINE_S:
            return False
        self._last_s[name] = now_s
        return True


SAME_LOG_LINE_S: Final = 10.0
_librdkafka = logging.getLogger("librdkafka")
_librdkafka.addFilter(_OnceInAWhile())

LOCAL_STATE: Final = "state.json"
MAX_REQUEST_BYTES: Final = 16 * 1024 * 1024
"""Largest record that a client of ours sends or takes: a dead-lettered event of 8 MiB with its headers fits twice."""


def local_addresses(local_dir: Path) -> dict[str, str]:
    """The addresses that `pinstream local up` left under `local_dir`, or {} if it did not run there."""
    try:
        state = json.loads((local_dir / LOCAL_STATE).read_text(encoding="utf-8"))
        return {name: state[name] for name in ("bootstrap_servers", "redis_url") if state.get(name)}
    except (OSError, ValueError, TypeError):
        return {}


def bootstrap_servers(settings: Settings) -> str:
    """Raises FatalError: no address is set and no local server is known."""
    found = settings.kafka.bootstrap_servers or local_addresses(settings.local_dir).get("bootstrap_servers", "")
    if not found:
        raise FatalError(
            "no Kafka is known: run 'pinstream local up' in this folder, or set PINSTREAM_KAFKA__BOOTSTRAP_SERVERS"
        )
    return found


def redis_url(settings: Settings) -> str:
    """The Redis to use, or an empty string if none is known: Redis is optional."""
    return settings.redis.url or local_addresses(settings.local_dir).get("redis_url", "")


def instance_name(configured: str) -> str:
    """Who this worker is: the setting, or host name and process id."""
    return configured or f"{socket.gethostname()}-{os.getpid()}"


def client_config(settings: Settings, **own: Any) -> ClientConfig:
    """librdkafka's configuration: the user's keys, then ours.

    `topic.metadata.refresh` is quick because a topic that was just created must not cost minutes.
    """
    return {
        "client.id": "pinstream",
        "logger": _librdkafka,
        "topic.metadata.refresh.interval.ms": 60_000,
        "reconnect.backoff.ms": 50,
        "reconnect.backoff.max.ms": 1_000,
        "message.max.bytes": MAX_REQUEST_BYTES,
        **settings.kafka.librdkafka,
        "bootstrap.servers": bootstrap_servers(settings),
        **{key.replace("_", "."): value for key, value in own.items()},
    }


def reachable_admin(settings: Settings) -> AdminClient:
    """An AdminClient to a cluster that has just answered. Blocks up to `kafka.request_timeout_s`.

    Raises:
        FatalError: nothing answers there: a worker must not start and look alive.
    """
    servers = bootstrap_servers(settings)
    try:
        admin = AdminClient(client_config(settings))
        admin.list_topics(timeout=settings.kafka.request_timeout_s)
    except KafkaException as error:
        detail = error.args[0]
        raise FatalError(
            f"Kafka at {servers} did not answer within {settings.kafka.request_timeout_s:g} s "
            f"({detail.str() if isinstance(detail, KafkaError) else detail}): check kafka.bootstrap_servers"
        ) from error
    return admin


def translate(error: KafkaException | KafkaError, doing: str) -> PinstreamError:
    """A Kafka error → the PinstreamError that says what to do about it."""
    detail = error.args[0] if isinstance(error, KafkaException) else error
    if isinstance(detail, KafkaError) and detail.fatal():
        return FatalError(f"Kafka refused {doing}: {detail.str()} ({detail.name()})")
    return RetryableError(f"Kafka did not answer {doing}: {detail}")
