"""All settings, in one place. Read once at start; frozen; unknown names are refused.

Sources, the strongest first: command-line options, environment variables (`PINSTREAM_KAFKA__BOOTSTRAP_SERVERS=…`,
nesting by `__`), then the TOML file named by `PINSTREAM_CONFIG`. Units come last in a name.
"""

from __future__ import annotations

import json
import os
import tomllib
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from pinstream.errors import FatalError
from pinstream.events import Domain, Flag

CONFIG_VARIABLE: Final = "PINSTREAM_CONFIG"
SNAPSHOTS_FOLDER: Final = "snapshots"
"""Under `local_dir`; it goes with the servers' data, whose offsets its snapshots are of."""

OWNED_KAFKA_KEYS: Final = {
    "auto.offset.reset": "every reader starts where its checkpoint or its group says",
    "enable.auto.commit": "offsets are committed with the work they cover",
    "enable.auto.offset.store": "offsets are committed with the work they cover",
    "enable.idempotence": "codes are published in transactions",
    "enable.partition.eof": "lag is read from it",
    "group.id": "set embed.group_id or index.group_id",
    "group.instance.id": "set embed.instance_id or index.instance_id",
    "group.protocol": "set kafka.group_protocol",
    "isolation.level": "every reader is read_committed",
    "partitioner": "codes go to their Pin's own partition",
    "transactional.id": "set embed.instance_id",
    "transaction.timeout.ms": "set embed.transaction_timeout_ms",
}
"""librdkafka keys that a user may not set, each with the reason or the setting to use instead."""


class Delivery(StrEnum):
    EXACTLY_ONCE = "exactly_once"
    AT_LEAST_ONCE = "at_least_once"


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class KafkaSettings(_Section):
    bootstrap_servers: str = ""
    """host:port, comma-separated. Empty: the servers that `pinstream local up` started under `local_dir`."""
    group_protocol: Literal["consumer", "classic"] = "consumer"
    """`consumer` is KIP-848 (Kafka 4); `classic` (cooperative-sticky) for brokers that lack it."""
    librdkafka: dict[str, str] = {}
    """librdkafka's own keys, passed through to every client: SASL, TLS, buffer sizes."""
    request_timeout_s: float = Field(default=10.0, gt=0, le=300)
    """How long a start-up request may take before the broker counts as unreachable."""

    @field_validator("librdkafka")
    @classmethod
    def _not_ours(cls, keys: dict[str, str]) -> dict[str, str]:
        for key in keys:
            if key in OWNED_KAFKA_KEYS:
                raise ValueError(f"{key} is owned by pinstream ({OWNED_KAFKA_KEYS[key]}); remove it")
        return keys


class RedisSettings(_Section):
    url: str = ""
    """redis:// or rediss:// URL. Empty: the server that `pinstream local up` started under `local_dir`."""
    timeout_s: float = Field(default=0.25, gt=0, le=10)
    """A slower Redis counts as away: it is a cache, waiting for it costs more than a miss."""


class TopicSettings(_Section):
    pins: str = "pins.v1"
    engagements: str = "engagements.v1"
    """What requesters of A/B tests saw and did."""
    engagements_retention_ms: int = Field(default=90 * 86_400_000, ge=60_000)
    """How long: a test that runs longer loses its beginning."""
    partitions: int = Field(default=4, ge=1, le=4096)
    """P: partitions of every topic and number of index shards. Fixed for a generation."""
    replication_factor: int = Field(default=1, ge=1, le=10)
    """3 in production (with `min_insync_replicas` 2); 1 on the embedded broker."""
    min_insync_replicas: int = Field(default=1, ge=1, le=10)
    delete_retention_ms: int = Field(default=7 * 86_400_000, ge=0)
    """How long tombstones stay: longer than the longest replay, or a slow reader misses deletes."""
    codes_schema_id: int = Field(default=1, ge=0, lt=2**31)
    """The id in the Confluent frame: the one your schema registry gave `pin_code.avsc`."""

    @property
    def dead_letters(self) -> str:
        return f"{self.pins}.dlq"


class FetchSettings(_Section):
    """What may be fetched, how much and how long. Event URIs are hostile: nothing is allowed by default but `data:`."""

    allowed_folders: tuple[Path, ...] = ()
    """Folders under which `file://` may read, after symbolic links are resolved."""
    allowed_hosts: tuple[str, ...] = ()
    """Host names for http(s), exact or `*.example.com`. A listed host may still not resolve to a private address."""
    allowed_buckets: tuple[str, ...] = ()
    """`s3://bucket` or `gs://bucket` prefixes that may be read, with this process's own credentials."""
    allow_private_addresses: bool = False
    """Let http(s) reach loopback, private and link-local addresses. For tests and closed networks only."""
    allow_http: bool = False
    """Let plain `http://` be fetched as well as `https://`."""
    store_options: dict[str, str] = {}
    """obstore client and credential options, such as `endpoint` for an S3-compatible store."""
    max_bytes: int = Field(default=20 * 1024 * 1024, ge=1024)
    """Largest encoded image. Reading stops there, whatever the server's Content-Length says."""
    max_pixels: int = Field(default=50_000_000, ge=4096)
    """Largest width × height, judged by the header before anything is decoded."""
    max_redirects: int = Field(default=0, ge=0, le=5)
    """Each hop is checked as the first URI was. 0 refuses redirects."""
    timeout_s: float = Field(default=5.0, gt=0, le=120)
    """For one fetch, from name look-up to the last byte."""
    attempts: int = Field(default=3, ge=1, le=10)
    """Tries for a store that is away (5xx, connection refused). A 404 is not tried again."""


class EmbedSettings(_Section):
    group_id: str = ""
    """Consumer group on the Pins topic. Empty: `pinstream-embed-<model>`."""
    instance_id: str = ""
    """Names this worker across restarts (a StatefulSet's pod name): its next start ends the transaction that a crash
    left open at once instead of after `transaction_timeout_ms`. Empty: host name and process id."""
    delivery: Delivery = Delivery.EXACTLY_ONCE
    """`at_least_once` publishes without transactions: a crash may repeat codes, never lose one."""
    max_batch_size: int = Field(default=32, ge=1, le=4096)
    """Images per model call. Raise until the device's images/s stop growing; memory grows with it."""
    max_batch_delay_ms: float = Field(default=20, ge=0, le=60_000)
    """Longest wait of a batch's first image for company. Lower is fresher, higher fills batches at low traffic."""
    max_in_flight: int = Field(default=4096, ge=16, le=1_000_000)
    """Records between poll and commit. When reached, partitions are paused until half of them are done."""
    max_in_flight_bytes: int = Field(default=256 * 1024 * 1024, ge=1024 * 1024)
    """Bytes of event values and decoded pixels between poll and commit; the same rule."""
    fetch_threads: int = Field(default=8, ge=1, le=512)
    """Fetch + decode threads. Raise with slow stores; decoding holds a core per ~4,000 images/s."""
    max_publish_records: int = Field(default=2048, ge=1, le=100_000)
    """Largest transaction. Larger ones cost less per record and hold freshness back when behind."""
    transaction_timeout_ms: int = Field(default=10_000, ge=1000, le=900_000)
    """After this the broker aborts the transaction of a worker that died and left no successor of its name."""
    breaker_bad_in_a_row: int = Field(default=500, ge=1)
    """Dead letters without one good record in between that stop the worker: the fault is then not the records'."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Autocast of the model on its device. bf16 pays on GPUs and on CPUs with AMX."""
    device: str = "auto"
    """`auto` (CUDA if there is one), `cpu`, `cuda`, `cuda:1`."""
    drain_timeout_s: float = Field(default=30, gt=0)
    """How long SIGTERM lets in-flight work finish before it is given back to the group."""


class IndexSettings(_Section):
    group_id: str = ""
    """Consumer group on the codes topic. Empty: `pinstream-index-<model>`."""
    instance_id: str = ""
    """Names this worker across restarts. Empty: host name and process id."""
    snapshot_url: str = ""
    """Where snapshots live: `file:///folder`, `s3://bucket/prefix`, `gs://…`; with `fetch.store_options`. All workers
    share it. Empty: `snapshots/` under `local_dir`, beside the servers that `pinstream local` runs there."""
    snapshot_interval_s: float = Field(default=60, gt=0)
    """A restart replays at most about this much of the topic."""
    keep_snapshots: int = Field(default=3, ge=1, le=1000)
    """Older ones are removed: each that remains is a fallback when a newer one is damaged."""
    seal_rows: int = Field(default=16_384, ge=64, le=10_000_000)
    """Codes in the fresh segment before it is sealed. It is scanned exactly: 16,384 take ~0.4 ms a query and core. A
    writer faster than the sealing makes it up to 8 times as large."""
    recall_target: float = Field(default=0.99, gt=0, le=1)
    """Share of the true nearest neighbours that a search finds, on average, unless it names its own. 1 scans all."""
    coarse_lists: int = Field(default=1024, ge=2, le=65_536)
    """Lists of the quantizer that is trained for a new generation; about the square root of the codes of a shard.
    Sealing costs ~25 ns × lists a code."""
    train_rows: int = Field(default=65_536, ge=64, le=100_000_000)
    """Codes in a shard before a quantizer is trained on them. Until then searches scan every code."""
    max_apply_records: int = Field(default=10_000, ge=1, le=1_000_000)
    """Largest batch applied at once; the next search sees it whole."""
    search_threads: int = Field(default=2, ge=1, le=256)
    """Segments scanned at once, by all searches together. The cores that searching may have."""
    device: str = "cpu"
    """Where sealed segments are scanned exactly: `cpu`, or a torch device such as `cuda` or `cuda:1`. Lists are read on
    the CPU: with a device, set `recall_target` to 1, so that searches scan."""
    device_memory_gib: float = Field(default=4.0, gt=0, le=4096)
    """Sealed segments on the device; others are scanned on the CPU. 1 M codes of 2048 bits take 0.26."""
    recall_sample_per_s: float = Field(default=1.0, ge=0, le=1000)
    """Live searches that are searched again exactly, a second on average, to measure recall; fewer where that would
    take more than 3 % of the time of searching and 0.5 % of a core. 0 measures nothing."""
    max_batch_queries: int = Field(default=32, ge=1, le=1024)
    """Concurrent queries that share one scan. Larger batches read memory less often and let each query wait longer."""
    replica: int = Field(default=0, ge=0, le=63)
    """0: this worker's shards are the ones that are snapshotted. r > 0: it serves one more copy of each shard, reads
    the topic in the group `…-r<r>` beside the other workers of its number, and starts from replica 0's snapshots."""
    max_replica_lag_s: float = Field(default=2.0, ge=0, le=3600)
    """How far behind the freshest replica another one may be and still be asked as readily. Lags are a second old."""


class HttpSettings(_Section):
    host: str = "127.0.0.1"
    port: int = Field(default=0, ge=0, le=65535)
    """0: a free one, printed and registered."""
    advertise: str = ""
    """http://host:port under which other nodes reach this one. Empty: host and port as bound."""
    max_body_bytes: int = Field(default=20 * 1024 * 1024, ge=1024)
    timeout_s: float = Field(default=5.0, gt=0, le=120)
    """Longest deadline of a search, its fan-out included; a query's `timeout_ms` may set an earlier one."""
    max_concurrent: int = Field(default=64, ge=1, le=10_000)
    """Searches under way; more of them wait."""
    max_waiting: int = Field(default=64, ge=0, le=10_000)
    """Searches that wait for a place; one more is answered 429 with Retry-After."""
    leaf_port: int = Field(default=0, ge=0, le=65535)
    """Where other nodes ask this one over gRPC, on `host`; keep it inside your network. 0: a free one, registered."""


class ProfileSettings(_Section):
    """What one application searches. A request may narrow it, never widen it."""

    domains: tuple[Domain, ...] = ()
    """Pins of these domains are found; empty: of all."""
    flags: tuple[Flag, ...] = ()
    """Only Pins that have all of these."""
    k: int = Field(default=20, ge=1, le=1000)
    """Hits, unless the request asks for another number."""
    box: Literal["required", "optional", "refused"] = "optional"
    """Whether a query image comes with the part of it that is searched for."""


class ProfilesSettings(_Section):
    flashlight: ProfileSettings = ProfileSettings(domains=(Domain.PIN, Domain.PRODUCT), box="required")
    """Part of a Pin's image → Pins like it."""
    lens: ProfileSettings = ProfileSettings(domains=(Domain.PIN, Domain.PRODUCT))
    """A photo → Pins like it."""
    shop_the_look: ProfileSettings = ProfileSettings(domains=(Domain.PRODUCT,), flags=(Flag.SHOPPABLE,), box="required")
    """Part of a scene → products to buy."""


class GateSettings(_Section):
    """What a new generation must show before it may be flipped to. The comparisons are with what is live now."""

    queries: Path | None = None
    """Golden queries: a folder or a JSON lines file (docs/formats.md). None: a sample of live queries only."""
    live_queries: int = Field(default=200, ge=0, le=2000)
    """Of the newest live queries, how many are asked again."""
    min_queries: int = Field(default=20, ge=1, le=100_000)
    """Fewer queries of an application judge nothing."""
    catch_up_s: float = Field(default=60, gt=0, le=3600)
    """How long a validation waits until the generation holds what the Pins topic held when it began."""
    max_coverage_faults: int = Field(default=0, ge=0)
    """Pins that are missing, stale, or in the shards and not on the Pins topic."""
    max_dead_letter_share: float = Field(default=0.01, ge=0, le=1)
    """Of the living Pins, those that this model could not embed."""
    reembed_pins: int = Field(default=64, ge=1, le=10_000)
    """Pins that are embedded again here, by the artifact, to be compared with their codes in the shards."""
    max_reembed_share: float = Field(default=0.005, ge=0, le=1)
    """Of their bits, those that differ: other devices and precisions round otherwise."""
    max_dead_bit_share: float = Field(default=0.02, ge=0, le=1)
    """Bits that are the same in nearly all codes."""
    max_bit_imbalance: float = Field(default=0.5, ge=0, le=1)
    """Mean over the bits: 0 if half of the codes have it, 1 if all or none."""
    max_collision_share: float = Field(default=0.001, ge=0, le=1)
    """Of pairs of Pins, those with the same code. Raise it if very many Pins show one image."""
    min_effective_bits: float = Field(default=12, ge=0)
    """As many independent bits as would tell Pins apart as these do; far fewer than the bits of a code."""
    overlap_k: int = Field(default=10, ge=1, le=100)
    """Hits that are compared and shown, and the k of recall@k."""
    min_overlap: float = Field(default=0.2, ge=0, le=1)
    """Share of the live generation's first hits that are the new one's too. Another training of the same kind keeps
    half; raise it for a small change, lower it for another architecture."""
    min_p_at_1: float = Field(default=0, ge=0, le=1)
    """Share of labelled queries whose first hit is right, whatever is live."""
    max_p_at_1_drop: float = Field(default=0.02, ge=0, le=1)
    """How far below the live generation's it may be."""
    max_recall_drop: float = Field(default=0.02, ge=0, le=1)
    """The same of recall@k."""
    max_latency_ratio: float = Field(default=1.5, ge=1, le=100)
    """Embedding the query and searching, against the live generation: p50, and p99 too from 200 queries on."""
    max_freshness_s: float = Field(default=2.0, gt=0)
    """Event time → searchable, p99, of the Pins that come while the validation runs."""
    required: tuple[str, ...] = ("model", "coverage", "golden inputs", "codes", "code health", "overlap")
    """Gates that block the flip when they could not be judged, too; `overlap` only while something is live."""


class RolloutSettings(_Section):
    """Generations of models: how a swap is followed. Durable state is beside the snapshots (`index.snapshot_url`)."""

    profiles: ProfilesSettings = ProfilesSettings()
    gates: GateSettings = GateSettings()
    sample_queries_per_s: float = Field(default=1.0, ge=0, le=1000)
    """Live queries that a front door keeps in Redis for the next validation: their Pin ids, never their images."""
    poll_redis_ms: float = Field(default=50, ge=5, le=5000)
    """How often a front door looks at Redis for a newer registry, beside the announcement that it listens to."""
    poll_store_s: float = Field(default=1.0, ge=0.05, le=60)
    """How often a front door looks at the store itself: how late it sees a flip while Redis is away."""
    controller_interval_s: float = Field(default=1.0, ge=0.05, le=60)
    """How often the controller looks how far a replay is."""
    caught_up_s: float = Field(default=2.0, gt=0, le=3600)
    """A replay has caught up when its embed and index workers are at most this far behind in every partition."""
    fallen_behind_s: float = Field(default=60.0, gt=0, le=86_400)
    """A generation that waits for its flip and gets this far behind must catch up again."""
    requester_key: str = ""
    """Secret, the same on all front doors, under which the requesters of an A/B test are recorded. Without one, whoever
    can list all requesters can find out who is who on the topic. Don't change it while a test runs."""
    freshness_objective_s: float = Field(default=1.0, gt=0, le=3600)
    """p99 of live freshness above which replays yield. Set it a little above what live traffic alone reaches."""
    freshness_window_s: float = Field(default=10.0, ge=2, le=600)
    """Over how long that p99 is taken, and how long a replay that has just yielded waits to see what it helped."""
    replay_floor_per_s: float = Field(default=10.0, gt=0)
    """Records/s, of all workers of a replay together, below which it never yields: it must end one day. For the same
    reason never below 1.25 times what is appended to the topic meanwhile."""


class Settings(BaseSettings):
    """Everything that can be set. Raises FatalError through `load_settings`, never a pydantic traceback."""

    model_config = SettingsConfigDict(env_prefix="PINSTREAM_", env_nested_delimiter="__", extra="forbid", frozen=True)

    kafka: KafkaSettings = KafkaSettings()
    redis: RedisSettings = RedisSettings()
    topics: TopicSettings = TopicSettings()
    fetch: FetchSettings = FetchSettings()
    embed: EmbedSettings = EmbedSettings()
    index: IndexSettings = IndexSettings()
    http: HttpSettings = HttpSettings()
    rollout: RolloutSettings = RolloutSettings()
    model_path: Path | None = None
    """Folder of the model artifact. None: the one that ships with pinstream."""
    local_dir: Path = Path(".pinstream")
    """Where `pinstream local` keeps its servers' data and addresses."""
    cluster_name: str = "local"
    """The `cluster_name` label of the lag metrics."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["text", "json"] = "text"

    def environment(self) -> dict[str, str]:
        """What was set, as the environment variables of a process that shall have the same settings."""
        return {
            f"PINSTREAM_{section.upper()}": fields if isinstance(fields, str) else json.dumps(fields)
            for section, fields in self.model_dump(mode="json", exclude_unset=True).items()
        }

    @property
    def snapshot_url(self) -> str:
        """`index.snapshot_url`, or the folder that stands in for it."""
        return self.index.snapshot_url or (self.local_dir.resolve() / SNAPSHOTS_FOLDER).as_uri()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        del dotenv_settings, file_secret_settings
        path = os.environ.get(CONFIG_VARIABLE)
        if path is None:
            return (init_settings, env_settings)
        return (init_settings, env_settings, TomlConfigSettingsSource(settings_cls, toml_file=path))


def load_settings(**overrides: Any) -> Settings:
    """Read the settings once, at start.

    Raises:
        FatalError: a setting is unknown, out of range or owned by pinstream, or the TOML file can't be read.
    """
    path = os.environ.get(CONFIG_VARIABLE)
    if path is not None and not Path(path).is_file():
        raise FatalError(f"{CONFIG_VARIABLE} is {path!r}, expected a TOML file: correct the path or unset it")
    for name in os.environ:
        _check_variable(name)
    try:
        return Settings(**overrides)
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(map(str, fault['loc']))} is {fault['input']!r}: {fault['msg']}" for fault in error.errors()[:5]
        )
        raise FatalError(f"settings are wrong: {faults}") from error
    except (tomllib.TOMLDecodeError, OSError, UnicodeDecodeError) as error:
        raise FatalError(f"settings file {path!r} can't be read: {error}") from error


def _check_variable(name: str) -> None:
    """A misspelt PINSTREAM_ variable would be ignored in silence; refuse it instead."""
    if not name.startswith("PINSTREAM_") or name in (CONFIG_VARIABLE, "PINSTREAM_CACHE_DIR"):
        return
    head = name.removeprefix("PINSTREAM_").split("__")[0].lower()
    if head not in Settings.model_fields:
        known = ", ".join(sorted(f"PINSTREAM_{field.upper()}" for field in Settings.model_fields))
        raise FatalError(f"environment variable {name} names no setting, expected one that begins with: {known}")
