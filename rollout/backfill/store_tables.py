"""The tables of one backfill, as Parquet files beside the snapshots, through obstore.

    backfill/<model>/plan.json                         what is covered; created once
    backfill/<model>/<kind>/<partition>/<start>-<end>.parquet

Kinds: `pins` (upserts as they were received), `keys` (what each record is, 17 bytes of it), `ready` (tombstones and
unreadable records, to be published as they are), `codes-<round>`, `failed-<round>`. A put is atomic, so a file that is
there is whole. `pins` of a part is put last, and `codes` last of a round: they say that the part is done.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import obstore
from obstore.exceptions import AlreadyExistsError
from pydantic import ValidationError

from index_sync.store_files import delete_all, list_sizes, store_errors
from pinstream.codes import Fingerprint
from pinstream.errors import CorruptStateError, FatalError
from pinstream.object_store import open_store
from pinstream.settings import Settings
from producers.kafka_codes import Outgoing
from rollout.backfill.plan import BackfillPlan, Part

if TYPE_CHECKING:
    import pyarrow as pa

_NAME: Final = re.compile(r"\d{5}/\d{20}-\d{20}(?=\.parquet$)")
_ROUND: Final = re.compile(r"(?:codes|failed)-(\d+)$")


def backfill_folder(model: Fingerprint) -> str:
    """Where the tables of this model's backfill are, beside the snapshots."""
    return f"backfill/{model.short}/"


def arrow() -> Any:
    """pyarrow. Raises FatalError: it is not installed."""
    try:
        import pyarrow as pa  # noqa: PLC0415 (an extra: only a backfill needs it)
        import pyarrow.parquet  # noqa: PLC0415
    except ImportError as error:
        raise FatalError(f"a backfill needs pyarrow ({error}): install pinstream[backfill]") from error
    return pa


def outgoing_schema() -> pa.Schema:
    """Of `ready`, `codes` and `failed`: records to publish, by the offset of the Pin event that each came from."""
    pa = arrow()
    headers = pa.list_(pa.struct([("name", pa.string()), ("value", pa.binary())]))
    return pa.schema(
        [
            ("source_offset", pa.int64()),
            ("dead_letter", pa.bool_()),
            ("key", pa.binary()),
            ("value", pa.binary()),
            ("headers", headers),
        ]
    )


def pins_schema() -> pa.Schema:
    """Of `pins`: the Pins table. `event` is the record's value, byte for byte."""
    pa = arrow()
    headers = pa.list_(pa.struct([("name", pa.string()), ("value", pa.binary())]))
    return pa.schema(
        [
            ("pin_id", pa.int64()),
            ("partition", pa.int32()),
            ("source_offset", pa.int64()),
            ("append_ms", pa.int64()),
            ("event_time_ms", pa.int64()),
            ("domain", pa.string()),
            ("key", pa.binary()),
            ("event", pa.binary()),
            ("headers", headers),
        ]
    )


def keys_schema() -> pa.Schema:
    """Of `keys`: every record of the part. `kind` as in `plan`."""
    pa = arrow()
    return pa.schema([("pin_id", pa.int64()), ("source_offset", pa.int64()), ("kind", pa.uint8())])


class BackfillTables:
    """Thread-safe. Every method blocks.

    Raises:
        RetryableError: from every method: the store is away.
        FatalError: from every method: the store refuses us, or pyarrow is not installed.
    """

    def __init__(self, settings: Settings, model: Fingerprint) -> None:
        self._store = open_store(
            settings.snapshot_url, settings.fetch.store_options, setting="index.snapshot_url", retries=3
        )
        self._folder = backfill_folder(model)

    def plan(self) -> BackfillPlan | None:
        """The plan of the backfill under way. Raises CorruptStateError: it can't be read."""
        with store_errors("read the plan of a backfill"):
            try:
                content = bytes(obstore.get(self._store, f"{self._folder}plan.json").bytes())
            except FileNotFoundError:
                return None
        try:
            return BackfillPlan.model_validate_json(content)
        except ValidationError as error:
            raise CorruptStateError(f"{self._folder}plan.json is no plan: begin anew with --anew") from error

    def keep_plan(self, plan: BackfillPlan) -> BackfillPlan:
        """Make it the plan, unless there is one meanwhile; returns that which counts."""
        with store_errors("keep the plan of a backfill"), suppress(AlreadyExistsError):
            content = plan.model_dump_json(indent=1).encode()
            obstore.put(self._store, f"{self._folder}plan.json", content, mode="create", use_multipart=False)
        return self.plan() or plan

    def parts(self, kind: str, partition: int | None = None) -> list[Part]:
        """The parts that have this table, in order."""
        folder = f"{self._folder}{kind}/" + ("" if partition is None else f"{partition:05d}/")
        names = (_NAME.search(path) for path in list_sizes(self._store, folder))
        return sorted(Part.named(name[0]) for name in names if name is not None)

    def rounds(self) -> int:
        """How many rounds of embedding were begun."""
        with store_errors("list the tables of a backfill"):
            folders = obstore.list_with_delimiter(self._store, self._folder)["common_prefixes"]
        numbers = [int(found[1]) for folder in folders if (found := _ROUND.search(folder.rstrip("/")))]
        return 1 + max(numbers, default=-1)

    def put(self, kind: str, part: Part, table: pa.Table) -> None:
        """Again is harmless: the last one counts."""
        sink = io.BytesIO()
        arrow().parquet.write_table(table, sink, compression="zstd")
        with store_errors("put a table of a backfill"):
            obstore.put(self._store, self._path(kind, part), sink.getbuffer())

    def has(self, kind: str, part: Part) -> bool:
        with store_errors("look for a table of a backfill"):
            try:
                obstore.head(self._store, self._path(kind, part))
            except FileNotFoundError:
                return False
        return True

    def get(self, kind: str, part: Part) -> pa.Table | None:
        """None: there is none. Raises CorruptStateError: it is torn."""
        pa = arrow()
        path = self._path(kind, part)
        with store_errors("read a table of a backfill"):
            try:
                content = obstore.get(self._store, path).bytes()
            except FileNotFoundError:
                return None
        try:
            return pa.parquet.read_table(pa.BufferReader(pa.py_buffer(content)))
        except pa.ArrowException as error:
            raise CorruptStateError(f"{path} can't be read ({error}): begin anew with --anew") from error

    def clear(self) -> int:
        """Remove everything, the plan last. Returns how many files."""
        paths = sorted(list_sizes(self._store, self._folder), key=lambda path: path.endswith("plan.json"))
        delete_all(self._store, paths)
        return len(paths)

    def _path(self, kind: str, part: Part) -> str:
        return f"{self._folder}{kind}/{part.name}.parquet"


def outgoing_table(offsets: Sequence[int], records: Sequence[Outgoing], dead_letters: Sequence[bool]) -> pa.Table:
    """Records to publish, with the offset of the Pin event of each."""
    columns = [
        list(offsets),
        list(dead_letters),
        [key for _, _, key, _, _ in records],
        [value for _, _, _, value, _ in records],
        [_stored_headers(headers) for _, _, _, _, headers in records],
    ]
    return arrow().Table.from_arrays(
        [arrow().array(column, field.type) for column, field in zip(columns, outgoing_schema(), strict=True)],
        schema=outgoing_schema(),
    )


def outgoing_records(
    table: pa.Table, partition: int, codes_topic: str, dead_letter_topic: str
) -> list[tuple[int, Outgoing]]:
    """The same as `outgoing_table` took them: (source offset, record)."""
    columns = (table.column(name).to_pylist() for name in outgoing_schema().names)
    return [
        (offset, (dead_letter_topic if is_dead else codes_topic, partition, key, value, read_headers(headers)))
        for offset, is_dead, key, value, headers in zip(*columns, strict=True)
    ]


def read_headers(stored: list[dict[str, Any]] | None) -> list[tuple[str, bytes]] | None:
    return None if stored is None else [(one["name"], one["value"]) for one in stored]


def _stored_headers(headers: Sequence[tuple[str, bytes]] | None) -> list[dict[str, Any]] | None:
    return None if headers is None else [{"name": name, "value": value} for name, value in headers]


def headers_column(received: Sequence[Sequence[tuple[str, bytes]] | None]) -> list[list[dict[str, Any]] | None]:
    """Received headers, as the tables hold them."""
    return [_stored_headers(headers) for headers in received]
