"""A claim: a measured value beside its bar, with all that is needed to measure it again."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

RESULTS = Path(__file__).parent / "results"


def record_claim(
    claim_id: str,
    samples: Sequence[float],
    *,
    bar: float | None,
    better: Literal["higher", "lower"],
    unit: str,
    value: float | None = None,
    faults: int = 0,
    details: dict[str, Any] | None = None,
    results: Path = RESULTS,
) -> dict[str, Any]:
    """Write `bench/results/<id>.json`, print one line, return what was written.

    Args:
        samples: every measurement of this run, in order.
        bar: what the value must reach; None: there is no bar, `holds` is null.
        better: `higher` (value ≥ bar) or `lower` (value ≤ bar).
        value: what is claimed; by default the median of the samples.
        faults: what must be none, such as wrong answers: with one the claim does not hold, whatever its value.
        details: further figures of the same run, such as both sides of a ratio.
    """
    claimed = statistics.median(samples) if value is None else value
    reached = bar is None or (claimed >= bar if better == "higher" else claimed <= bar)
    holds = None if bar is None and not faults else reached and not faults
    claim: dict[str, Any] = {
        "id": claim_id,
        "value": _rounded(claimed),
        "bar": bar,
        "unit": unit,
        "better": better,
        "holds": holds,
        "samples": [_rounded(sample) for sample in samples],
        "command": _command(),
        "machine": machine(),
        "commit": _commit(),
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    if details:
        claim["details"] = details
    results.mkdir(parents=True, exist_ok=True)
    (results / f"{claim_id}.json").write_text(json.dumps(claim, indent=2) + "\n", encoding="utf-8")
    verdict = {True: "holds", False: "DOES NOT HOLD", None: "no bar"}[holds]
    sign = "≥" if better == "higher" else "≤"
    print(f"{claim_id}: {claim['value']} {unit} ({verdict}{'' if bar is None else f', bar {sign} {bar}'})", flush=True)
    return claim


def machine() -> dict[str, Any]:
    """The machine that a figure was seen on."""
    model = "unknown"
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
        flags = next((line for line in lines if line.startswith("flags")), "")
        simd = [name for name in ("avx2", "avx512f", "avx512_vpopcntdq", "amx_bf16") if f" {name}" in flags]
    else:
        simd = []
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "simd": simd,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
    }


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")


def _command() -> str:
    """How this process was started, as anyone can type it."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    name = spec.name.removesuffix(".__main__") if spec is not None else Path(sys.argv[0]).name
    return " ".join(["python -m", name, *sys.argv[1:]])


def _commit() -> str:
    """The commit that was measured, with `+` if the tree had changes."""
    here = Path(__file__).parent
    try:
        head = subprocess.run(
            ["git", "rev-parse", "--short=12", "HEAD"], cwd=here, capture_output=True, text=True, check=True
        )
        dirty = subprocess.run(
            ["git", "status", "--porcelain", "--", ":!bench/results", ":!docs/benchmarks.md"],
            cwd=here,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.stdout.strip() + ("+" if dirty.stdout.strip() else "")
