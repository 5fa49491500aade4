"""`index.model_check`: 100,000 random operations on a shard, with no difference from a model made of dicts."""

from __future__ import annotations

import argparse
import time
from collections import Counter

from bench.claims import record_claim
from tests.model_check import run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--operations", type=int, default=100_000)
    parser.add_argument("--seeds", type=int, default=4)
    arguments = parser.parse_args()
    started_s = time.monotonic()
    done: Counter[str] = Counter()
    for seed in range(arguments.seeds):
        done += run(-(-arguments.operations // arguments.seeds), seed)
        print(f"seed {seed}: {done.total()} operations, no difference", flush=True)
    record_claim(
        "index.model_check",
        [done.total()],
        bar=100_000,
        better="higher",
        unit="operations without a difference",
        details={"kinds": dict(done.most_common()), "seconds": round(time.monotonic() - started_s)},
    )


if __name__ == "__main__":
    main()
