"""The demo's live table: what an operator watches."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Final

import httpx
from rich.console import Console
from rich.live import Live
from rich.table import Table

from pinstream.worker_metrics import Buckets, Reading, read_workers

INTERVAL_S: Final = 1.0
LINE_INTERVAL_S: Final = 10.0
"""Without a terminal: a line this often instead of a table that redraws itself."""


class LiveTable:
    """Reads the workers once a second in a thread of its own while the `with` block runs."""

    def __init__(self, console: Console, urls: Sequence[str]) -> None:
        self._console = console
        self._urls = urls
        self._phase = "starting"
        self._last: tuple[float, Reading] | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="table", daemon=True)

    def phase(self, name: str) -> None:
        """Name what happens from now on."""
        self._phase = name

    def __enter__(self) -> LiveTable:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        with httpx.Client(timeout=2) as client:
            if not self._console.is_terminal:
                while not self._stop.wait(LINE_INTERVAL_S):
                    self._console.print(self._line(client))
                return
            with Live(console=self._console, refresh_per_second=2, transient=False) as live:
                while not self._stop.wait(INTERVAL_S):
                    live.update(self._table(client))

    def _figures(self, client: httpx.Client) -> list[tuple[str, str]]:
        reading, now_s = read_workers(self._urls, client), time.monotonic()
        done = reading.totals["pinstream_embed_records_total"]
        rate = 0.0
        if self._last is not None:
            before_s, before = self._last
            rate = (done - before.totals["pinstream_embed_records_total"]) / (now_s - before_s)
        self._last = (now_s, reading)
        searchable = reading.freshness.get("searchable")
        batches = reading.totals["pinstream_batch_images_count"]
        fill = reading.totals["pinstream_batch_images_sum"] / batches if batches else 0
        return [
            ("events done", f"{done:,.0f}"),
            ("events/s", f"{rate:,.0f}"),
            ("lag embed", f"{reading.lag_records['embed']:,.0f} rec  {reading.lag_seconds['embed']:.1f} s"),
            ("lag index", f"{reading.lag_records['index']:,.0f} rec  {reading.lag_seconds['index']:.1f} s"),
            ("freshness p50 / p99", f"{_ms(searchable, 0.5)} / {_ms(searchable, 0.99)}"),
            ("images a batch", f"{fill:.1f}"),
            ("cache hits", f"{reading.totals['pinstream_embed_records_total:cached']:,.0f}"),
            ("dead letters", f"{reading.totals['pinstream_dead_letters_total']:,.0f}"),
            ("live rows", f"{reading.totals['pinstream_index_rows:live']:,.0f}"),
        ]

    def _table(self, client: httpx.Client) -> Table:
        table = Table(title=self._phase, title_justify="left", show_header=True)
        figures = self._figures(client)
        for name, _ in figures:
            table.add_column(name, justify="right", no_wrap=True)
        table.add_row(*(figure for _, figure in figures))
        return table

    def _line(self, client: httpx.Client) -> str:
        return f"{self._phase}: " + ", ".join(f"{name} {figure}" for name, figure in self._figures(client))


def _ms(buckets: object, q: float) -> str:
    value = buckets.quantile(q) if isinstance(buckets, Buckets) else None
    return "–" if value is None else f"{1000 * value:,.0f} ms"
