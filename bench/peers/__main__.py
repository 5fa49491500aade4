"""`index.search_vs_usearch`, `index.search_vs_stores`: ours at recall@100 ≥ 0.99 ÷ what users would pick instead.

Every contender holds the codes that live in the state that streaming left ours in, and is tuned to the recall on the
same queries; all answer in turn, several rounds, one query at a time and 16 at once; the claims are the worse of the
two. Then come upserts, deletes, freshness and SIGKILL. The machine's memory bandwidth is measured in the same run.

    make bench-peers
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.claims import record_claim
from bench.codes_like_real import CodesLikeReal
from bench.index_setup import RECALL, THREADS, K, options
from bench.index_timing import ratios
from bench.peers.bandwidth import read_gib_s
from bench.peers.contest import MODES, Contender, Contest
from bench.peers.peer import PEERS, STORES
from bench.peers.process import PeerError

COLUMNS = (
    "one_at_a_time",
    "16_at_once",
    "recall",
    "effort",
    "build_per_s",
    "upserts_per_s",
    "deletes_per_s",
    "upsert_to_found_ms",
    "first_search_finds_it",
    "deleted_ones_found",
    "survives_kill",
    "memory_mib",
)


def main() -> int:
    given = options(__doc__, python=".venv-peers/bin/python", only=",".join(PEERS), batches=10)
    peer_python = Path(given.python).absolute()
    if not peer_python.exists():
        print(f"{given.python} is missing: make bench-peers installs the peers", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="pinstream-bench-") as folder:
        contest = Contest(CodesLikeReal(seed=given.seed), given.codes, given.queries, Path(folder), peer_python)
        contenders = started(contest, ["pinstream", *(name for name in given.only.split(",") if name != "pinstream")])
        for number in range(given.rounds + 1):
            for name in sorted(contenders, reverse=bool(number % 2)):
                for mode in MODES:
                    contest.measure(contenders[name], mode)
        for one in contenders.values():
            one.row |= {mode: round(statistics.median(seen[1:]), 1) for mode, seen in one.queries_per_s.items()}
        limits = limits_of(contest, contenders["pinstream"], given.rounds)
        for name, one in contenders.items():
            try:
                contest.write(one, given.batches)
                contest.kill(one)
            except PeerError as error:
                one.row["failed"] = str(error)
                one.process.close()
            print(f"{name}: {one.row}", flush=True)
    show(contenders)
    details = {"codes": given.codes, "table": {name: one.row for name, one in contenders.items()}, "limits": limits}
    if "usearch" in contenders:
        claim("index.search_vs_usearch", contenders, ("usearch",), 1.0, details)
    if any(name in STORES for name in contenders):
        claim("index.search_vs_stores", contenders, STORES, 20.0, details)
    return 0


def started(contest: Contest, names: list[str]) -> dict[str, Contender]:
    """Those contenders that can hold the codes, ours first; what fails is said and left out."""
    contenders = {}
    for name in names:
        try:
            contenders[name] = contest.start(name)
            print(f"{name}: {contenders[name].row}", flush=True)
        except PeerError as error:
            if name == "pinstream":
                raise
            print(f"{name} is left out: {error}", flush=True)
    return contenders


def limits_of(contest: Contest, ours: Contender, rounds: int) -> dict[str, Any]:
    """Memory bandwidth, and the share of it that our exact scan reaches, one query at a time; measured in turn."""
    ours.process.ask("set_effort", 1000)
    one_core, all_cores, scans = [], [], []
    for _ in range(rounds):
        one_core.append(read_gib_s(contest.code_NW, 1))
        all_cores.append(read_gib_s(contest.code_NW, THREADS))
        scans.append(ours.process.ask("rate", contest.code_QW[:32], K, 1))
    ours.process.ask("set_effort", ours.row["effort"])
    read = statistics.median(scans) * contest.code_NW.nbytes / 2**30
    return {
        "read_gib_s_one_core": round(max(one_core), 2),
        f"read_gib_s_{THREADS}_cores": round(max(all_cores), 2),
        "exact_scan_queries_per_s": round(statistics.median(scans), 1),
        "exact_scan_gib_s": round(read, 2),
        "share_of_limit": round(read / max(all_cores), 3),
    }


def claim(
    claim_id: str, contenders: dict[str, Contender], others: tuple[str, ...], bar: float, details: dict[str, Any]
) -> None:
    """Ours ÷ the fastest of the others, in the worse of the two modes."""
    ours = contenders["pinstream"]
    samples, best = {}, {}
    for mode in MODES:
        best[mode] = max((name for name in others if name in contenders), key=lambda name: contenders[name].row[mode])
        samples[mode] = ratios(ours.queries_per_s[mode][1:], contenders[best[mode]].queries_per_s[mode][1:])
    medians = {mode: statistics.median(seen) for mode, seen in samples.items()}
    worse = min(medians, key=medians.__getitem__)
    record_claim(
        claim_id,
        samples[worse],
        value=medians[worse] if ours.row["recall"] >= RECALL else 0.0,
        bar=bar,
        better="higher",
        unit=f"ratio of queries/s at recall@{K} ≥ {RECALL}, {worse.replace('_', ' ')}",
        details={"against": best, "ratios": medians, **details},
    )


def show(contenders: dict[str, Contender]) -> None:
    table = Table(title="side by side")
    for column in ("", *COLUMNS):
        table.add_column(column.replace("_", " "))
    for name, one in contenders.items():
        table.add_row(name, *(str(one.row.get(column, "–")) for column in COLUMNS))
    Console(width=200).print(table)


if __name__ == "__main__":
    sys.exit(main())
