"""Every metric: its name, type, unit and meaning. Base units; counters end in `_total`, times in `_seconds`.

Lag keeps kafka-lag-exporter's names, so that existing dashboards and alerts work. A series that isn't known is
absent, never NaN and never 0. No label is ever a Pin id, a URI or anything else that grows with the data.
"""

from __future__ import annotations

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

from pinstream.bulk_histogram import BulkHistogram

_FRESHNESS_S: Final = (
    *(0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1, 0.125, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.75),
    *(1, 1.5, 2, 3, 5, 10, 30, 60, 300, 1800, 7200, 86400),
)
_SHORT_S: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
_LAG_LABELS: Final = ("cluster_name", "group", "topic", "partition")

# --- lag: kafka-lag-exporter's names ---
GROUP_LAG: Final = Gauge(
    "kafka_consumergroup_group_lag", "Records between the group's committed offset and the end of the log", _LAG_LABELS
)
GROUP_LAG_SECONDS: Final = Gauge(
    "kafka_consumergroup_group_lag_seconds", "Seconds since the oldest record not yet done was appended", _LAG_LABELS
)
GROUP_MAX_LAG: Final = Gauge(
    "kafka_consumergroup_group_max_lag", "Largest offset lag of this worker's partitions", ("cluster_name", "group")
)
GROUP_MAX_LAG_SECONDS: Final = Gauge(
    "kafka_consumergroup_group_max_lag_seconds",
    "Largest time lag of this worker's partitions",
    ("cluster_name", "group"),
)

# --- the way of a Pin ---
FRESHNESS: Final = BulkHistogram(
    "pinstream_freshness_seconds",
    "From a Pin's event time until it was polled, encoded, published (embed worker) or searchable (index worker)",
    "stage",
    _FRESHNESS_S,
)
PAUSED_PARTITIONS: Final = Gauge("pinstream_paused_partitions", "Partitions paused: downstream is slow, or a replay is")
ASSIGNED_PARTITIONS: Final = Gauge("pinstream_assigned_partitions", "Partitions that this worker owns now")
QUEUE_DEPTH: Final = Gauge("pinstream_queue_depth", "Items waiting in a bounded queue", ("queue",))
IN_FLIGHT_RECORDS: Final = Gauge("pinstream_in_flight_records", "Records between poll and commit")
IN_FLIGHT_BYTES: Final = Gauge("pinstream_in_flight_bytes", "Bytes of records and pixels between poll and commit")

# --- embed worker ---
EMBED_RECORDS: Final = Counter(
    "pinstream_embed_records_total",
    "Pin events done, by what became of them: embedded, cached, deleted, superseded, left_out, dead_letter",
    ("outcome",),
)
DEAD_LETTERS: Final = Counter("pinstream_dead_letters_total", "Records sent to the DLQ", ("stage", "reason"))
BATCHES: Final = Counter(
    "pinstream_batches_total", "Micro-batches, by why they closed: full, delay, flush", ("reason",)
)
BATCH_IMAGES: Final = Histogram(
    "pinstream_batch_images", "Images per model call", buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
)
BATCH_AGE: Final = Histogram("pinstream_batch_age_seconds", "Age of a batch's first image at close", buckets=_SHORT_S)
ENCODE_SECONDS: Final = Histogram("pinstream_encode_seconds", "One model call", buckets=_SHORT_S)
CACHE_LOOKUPS: Final = Counter(
    "pinstream_code_cache_lookups_total", "Look-ups of image signatures: hit, miss, unavailable", ("result",)
)
REDIS_UP: Final = Gauge("pinstream_redis_up", "1 while Redis answers, 0 while it is away; work goes on without it")
TRANSACTIONS: Final = Counter("pinstream_transactions_total", "Kafka transactions: committed, aborted", ("outcome",))
TRANSACTION_SECONDS: Final = Histogram(
    "pinstream_transaction_seconds", "One transaction, begin to commit", buckets=_SHORT_S
)
RETRIES: Final = Counter("pinstream_retries_total", "Operations tried again because something was away", ("what",))

# --- replay, as the controller of rollouts sees it ---
REPLAY_PROGRESS: Final = Gauge(
    "pinstream_replay_progress_ratio", "Records of a replay that are done, of all", ("generation", "partition")
)
REPLAY_RATE: Final = Gauge("pinstream_replay_records_per_second", "How fast a replay goes", ("generation",))
REPLAY_ETA: Final = Gauge("pinstream_replay_eta_seconds", "Until a replay will have caught up", ("generation",))
REPLAY_LIMIT: Final = Gauge(
    "pinstream_replay_limit_records_per_second", "What a replay is held to; absent: nothing", ("generation",)
)

# --- index worker ---
INDEX_RECORDS: Final = Counter(
    "pinstream_index_records_total",
    "Code records by effect: inserted, updated, deleted, absent, superseded, stale, refused",
    ("effect",),
)
INDEX_ROWS: Final = Gauge("pinstream_index_rows", "Rows of a shard: live or dead", ("partition", "state"))
INDEX_SEGMENTS: Final = Gauge("pinstream_index_segments", "Sealed segments of a shard", ("partition",))
INDEX_CHECKPOINT: Final = Gauge("pinstream_index_checkpoint_offset", "Next codes offset of a shard", ("partition",))
APPLY_SECONDS: Final = Histogram("pinstream_apply_seconds", "One batch applied to its shards", buckets=_SHORT_S)
SNAPSHOT_SECONDS: Final = Histogram("pinstream_snapshot_seconds", "One snapshot of one shard, taken and published")
SNAPSHOTS: Final = Counter("pinstream_snapshots_total", "Snapshots: published, fenced, failed", ("outcome",))
SNAPSHOT_TIME: Final = Gauge(
    "pinstream_snapshot_timestamp_seconds", "When a shard's newest snapshot was published", ("partition",)
)

# --- search ---
SEARCH_SECONDS: Final = Histogram(
    "pinstream_search_seconds", "One search, request to answer, by role: root or leaf", ("role",), buckets=_SHORT_S
)
SEARCHES: Final = Counter("pinstream_searches_total", "Searches answered, by HTTP status", ("status",))
SEARCH_MISSING_SHARDS: Final = Counter(
    "pinstream_search_missing_shards_total", "Shards that a search's answer had to do without"
)
SEARCH_BATCH_QUERIES: Final = Histogram(
    "pinstream_search_batch_queries", "Concurrent queries that shared one scan", buckets=(1, 2, 4, 8, 16, 32, 64, 128)
)
SEARCHES_IN_FLIGHT: Final = Gauge(
    "pinstream_searches_in_flight", "Searches that this node has let in as a root: running or waiting"
)
LEAF_CALLS: Final = Counter(
    "pinstream_leaf_calls_total",
    "Requests to leaves, this node's own included: answered, failed, busy, late, refused, cancelled",
    ("outcome",),
)
LEAF_HEDGES: Final = Counter(
    "pinstream_leaf_hedges_total",
    "Second requests for the shards of a slow leaf: sent; won (answered first); withheld (the budget was spent)",
    ("outcome",),
)

# --- online recall: live searches that were searched again exactly ---
RECALL_AT_K: Final = Gauge(
    "pinstream_index_recall_at_k",
    "Share of their k nearest Pins that checked searches returned: mean over those of the last 10 minutes",
    ("generation",),
)
RECALL_BOUND: Final = Gauge(
    "pinstream_index_recall_at_k_bound",
    "95 % confidence bounds of pinstream_index_recall_at_k: lower, upper",
    ("generation", "bound"),
)
RECALL_SAMPLES: Final = Counter(
    "pinstream_index_recall_samples_total",
    "Searches that were chosen to be searched again exactly: checked, dropped (one was under way), failed",
    ("generation", "outcome"),
)
RECALL_CHECKED: Final = Counter(
    "pinstream_index_recall_neighbors_checked_total", "Nearest Pins of the checked searches", ("generation",)
)
RECALL_MISSED: Final = Counter(
    "pinstream_index_recall_neighbors_missed_total", "Of those, Pins that the search had left out", ("generation",)
)
RECALL_SECONDS: Final = Counter(
    "pinstream_index_recall_scan_seconds_total", "Time spent on searching again exactly", ("generation",)
)

# --- rollout ---
REGISTRY_NUMBER: Final = Gauge("pinstream_registry_number", "Number of the registry that this process goes by")
FRONT_SEARCHES: Final = Counter(
    "pinstream_front_searches_total",
    "Searches that a front door answered, by application, generation and arm (none, control, treatment)",
    ("application", "generation", "arm"),
)
GENERATIONS_LOADED: Final = Gauge("pinstream_front_generations", "Generations that this front door can answer from")

# --- A/B tests ---
AB_EVENTS: Final = Counter(
    "pinstream_ab_events_total",
    "Impressions and engagements that were published: kind is impression, save, click or long_click",
    ("application", "arm", "kind"),
)
AB_EVENTS_REFUSED: Final = Counter(
    "pinstream_ab_events_refused_total",
    "Reported events that were not: malformed (counted by request), unknown_test, wrong_arm, wrong_model, wrong_time, "
    "busy, kafka_away",
    ("reason",),
)
