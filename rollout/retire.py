"""Removes what a retired generation owns: its codes topic, groups, snapshots, backfill tables and keys in Redis.

The registry says `retired` before anything is removed, so that nobody flips to a half-removed generation. Removing what
is gone already is no error: killed in the middle, it is simply repeated.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

import obstore
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from index_sync.store_files import delete_all, store_errors
from pinstream.codes import Fingerprint
from pinstream.errors import FatalError, RetryableError
from pinstream.kafka_clients import reachable_admin, redis_url, translate
from pinstream.object_store import open_store
from pinstream.redis_client import REDIS_AWAY, connect
from pinstream.settings import Settings
from rollout.backfill.store_tables import backfill_folder
from rollout.kafka_offsets import embed_group, index_group

_GONE_WITHIN_S: Final = 30.0
_KEYS_AT_ONCE: Final = 1000


@dataclass(frozen=True, slots=True)
class Removed:
    """What was there and is not any more."""

    topic: bool
    groups: int
    files: int
    """Of snapshots and of a backfill."""
    redis_keys: int | None
    """None: Redis is away; what is in it runs out by itself."""


def running_workers(settings: Settings, model: str) -> list[str]:
    """`<group>: <client>` of every worker of this generation that is in its group now. Blocks.

    Raises:
        RetryableError: the broker did not answer.
    """
    admin = reachable_admin(settings)
    groups = _groups(admin, model, settings.kafka.request_timeout_s)
    if not groups:
        return []
    members = []
    for group_id, future in admin.describe_consumer_groups(
        groups, request_timeout=settings.kafka.request_timeout_s
    ).items():
        try:
            members += [f"{group_id}: {member.client_id}" for member in future.result().members]
        except KafkaException as error:
            if error.args[0].code() != KafkaError.GROUP_ID_NOT_FOUND:
                raise translate(error, f"asked who is in group {group_id}") from error
    return members


def remove_all(settings: Settings, model: str) -> Removed:
    """Remove everything that only this generation owns; the registry has said `retired` before. Blocks.

    Raises:
        FatalError: workers of it still run: they would write on, and make the topic anew.
        RetryableError: Kafka or the store is away: repeat it.
    """
    if members := running_workers(settings, model):
        raise FatalError(
            f"workers of generation {model[:12]} still run ({', '.join(members)}): stop them, then retire it again"
        )
    admin = reachable_admin(settings)
    topic = Fingerprint(model).codes_topic
    had_topic = _delete_topic(admin, topic)
    groups = _delete_groups(admin, _groups(admin, model, settings.kafka.request_timeout_s))
    files = sum(_delete_files(settings, folder) for folder in (f"{topic}/", backfill_folder(Fingerprint(model))))
    return Removed(had_topic, groups, files, _delete_keys(settings, model))


def _groups(admin: AdminClient, model: str, timeout_s: float) -> list[str]:
    """The generation's groups that Kafka knows, those of replicas among them."""
    try:
        known = admin.list_consumer_groups(request_timeout=timeout_s).result()
    except KafkaException as error:
        raise translate(error, "asked which groups there are") from error
    embed, index = embed_group(model), index_group(model)
    names = (one.group_id for one in known.valid)
    return sorted(name for name in names if name in (embed, index) or name.startswith(f"{index}-r"))


def _delete_topic(admin: AdminClient, topic: str) -> bool:
    """Returns when the topic is gone, so that it can be made anew at once."""
    if not _is_there(admin, topic):
        return False
    (future,) = admin.delete_topics([topic]).values()
    try:
        future.result()
    except KafkaException as error:
        if error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
            raise translate(error, f"asked to delete {topic}") from error
    deadline_s = time.monotonic() + _GONE_WITHIN_S
    while _is_there(admin, topic):
        if time.monotonic() > deadline_s:
            raise RetryableError(f"{topic} is marked for deletion and still there after {_GONE_WITHIN_S:g} s: repeat")
        time.sleep(0.1)
    return True


def _is_there(admin: AdminClient, topic: str) -> bool:
    try:
        return topic in admin.list_topics(timeout=10).topics
    except KafkaException as error:
        raise translate(error, "asked which topics there are") from error


def _delete_groups(admin: AdminClient, groups: list[str]) -> int:
    if not groups:
        return 0
    deleted = 0
    for group_id, future in admin.delete_consumer_groups(groups).items():
        try:
            future.result()
            deleted += 1
        except KafkaException as error:
            if error.args[0].code() != KafkaError.GROUP_ID_NOT_FOUND:
                raise translate(error, f"asked to delete group {group_id}") from error
    return deleted


def _delete_files(settings: Settings, folder: str) -> int:
    store = open_store(settings.snapshot_url, settings.fetch.store_options, setting="index.snapshot_url", retries=3)
    with store_errors("list the files of a retired generation"):
        paths = [one["path"] for page in obstore.list(store, folder) for one in page]
    # manifests and plans first: what is left of a removal that was killed is then no snapshot or backfill any more
    delete_all(store, sorted(paths, key=lambda path: not path.endswith(".json")))
    return len(paths)


def _delete_keys(settings: Settings, model: str) -> int | None:
    url, short = redis_url(settings), Fingerprint(model).short
    if not url:
        return None
    removed = 0
    with connect(url, settings.redis.timeout_s, "retire") as client:
        try:
            for pattern in (f"pinstream:leaves:{short}*", f"pinstream:code:{short}:*", f"pinstream:replay*:{short}"):
                keys: list[bytes] = []
                for key in client.scan_iter(match=pattern, count=_KEYS_AT_ONCE):
                    keys.append(key)
                    if len(keys) == _KEYS_AT_ONCE:
                        removed += int(client.unlink(*keys))
                        keys.clear()
                if keys:
                    removed += int(client.unlink(*keys))
        except REDIS_AWAY:
            return None
    return removed
