"""`demo.freshness_p99_ms`: event time → searchable at 50 events a second, in the demo, by the workers' own histogram.

And `model.lens_p1`: the share of Lens searches whose first hit is right, through that pipeline, with the other
applications and an untrained network of the same shape in the details.
"""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console

from bench.claims import record_claim
from pinstream.cli.demo.scenario import Demo, Plan
from pinstream.worker_metrics import Buckets

QUERIES = 500


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="pinstream-bench-") as folder, ExitStack() as stack:
        result = Demo(Path(folder), Plan(pins=5000, rate=50, queries=QUERIES, seed=2026), Console(), stack).run()
    searchable = result.freshness.get("searchable", Buckets())
    quantiles = {f"p{100 * q:g}_ms": round(1000 * (searchable.quantile(q) or 0), 1) for q in (0.5, 0.9, 0.99)}
    record_claim(
        "demo.freshness_p99_ms",
        [quantiles["p99_ms"]],
        bar=500,
        better="lower",
        unit="ms",
        details={**quantiles, "events": searchable.total, "faults": len(result.faults)},
    )
    p_at_1 = {score.application.name: score.p_at_1 for score in result.scores}
    record_claim(
        "model.lens_p1",
        [p_at_1["Lens"]],
        bar=0.8,
        better="higher",
        unit="P@1, camera photo → Pins and products, 250 held-out products",
        details={"trained": p_at_1, "untrained": result.untrained, "searches_each": QUERIES},
    )


if __name__ == "__main__":
    main()
