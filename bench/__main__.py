"""`python -m bench`: runs the claims that fit in 15 minutes; prints all as one table, kept in docs/benchmarks.md."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.claims import RESULTS

QUICK = ("bench.stream_cache_hit", "bench.demo_freshness")
PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"
HEAD = """# Benchmarks

Every figure is written by the command beside it into `bench/results/<id>.json`, with its samples and its machine.
`make bench` measures those that fit in 15 minutes again and rewrites this page. Speed is a ratio of two things measured
side by side in one run; absolute figures are those of the machine named.

"""


def main() -> int:
    failed = [name for name in QUICK if subprocess.run([sys.executable, "-m", name], check=False).returncode]
    claims = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob("*.json"))]
    table = Table(title="claims")
    for column in ("id", "value", "bar", "holds", "unit", "command"):
        table.add_column(column)
    lines = ["| id | value | bar | holds | unit | command | machine | date |", "|---|---|---|---|---|---|---|---|"]
    for claim in claims:
        sign = "≥" if claim["better"] == "higher" else "≤"
        bar = "–" if claim["bar"] is None else f"{sign} {claim['bar']}"
        holds = {True: "yes", False: "**no**", None: "–"}[claim["holds"]]
        table.add_row(claim["id"], str(claim["value"]), bar, holds.strip("*"), claim["unit"], claim["command"])
        where = f"{claim['machine']['cpu']}, {claim['machine']['cores']} cores"
        lines.append(
            f"| `{claim['id']}` | {claim['value']} | {bar} | {holds} | {claim['unit']} | `{claim['command']}` "
            f"| {where} | {claim['date'][:10]} |"
        )
    PAGE.write_text(HEAD + "\n".join(lines) + "\n", encoding="utf-8")
    Console().print(table)
    if failed:
        print(f"these did not run through: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
