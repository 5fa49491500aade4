"""`index.search_vs_usearch`, `index.search_vs_stores`: ours at recall@100 ≥ 0.99 ÷ what users would pick instead.

Every contender holds the codes that live in the state that streaming left ours in, and is tuned to the recall on the
same queries; all answer in turn, several rounds, one query at a time and 16 at once; the claims are the worse of the
two, against those that reach the recall or just miss it. Then come upserts, deletes, freshness and SIGKILL. The
machine's memory bandwidth is measured in the same run. A contender that fails, or takes longer than the limit for one
call, is out from there on, and its line of the table says so. All figures are of as many codes as the run has: nothing
is extrapolated.

    make bench-peers
    make bench-peers CODES=100000
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from bench.claims import record_claim
from bench.codes_like_real import CodesLikeReal
from bench.index_setup import RECALL, THREADS, K, options
from bench.index_timing import ratios
from bench.peers.bandwidth import read_gib_s
from bench.peers.contest import MODES, Contender, Contest
from bench.peers.peer import PEERS, STORES
from bench.peers.process import PeerProcess

COLUMNS = (
    "one_at_a_time",
    "16_at_once",
    "recall",
    "effort",
    "build_per_s",
    "upserts_per_s",
    "deletes_per_s",
    "visible_ms",
    "first_search_finds",
    "deleted_found",
    "survives_kill",
    "restart_s",
    "memory_mib",
    "remark",
)
CONTEST_CODES = 1_000_000
"""What the claims are about; a smaller run is shown, and holds nothing."""
NEARLY: Final = 0.005
"""A rival that was tuned and misses the recall by this much counts all the same: it is only faster for it."""


def main() -> int:
    given = options(__doc__, python=".venv-peers/bin/python", only=",".join(PEERS), batches=10, rounds=3, limit=300)
    peer_python = Path(given.python).absolute()
    if not peer_python.exists():
        print(f"{given.python} is missing: make bench-peers installs the peers", file=sys.stderr)
        return 1
    names = ["pinstream", *(name for name in given.only.split(",") if name != "pinstream")]
    if unknown := [name for name in names if name not in PEERS]:
        print(f"there is no contender {unknown[0]!r}, expected some of {', '.join(PEERS)}", file=sys.stderr)
        return 1
    contenders: dict[str, Contender] = {}
    with tempfile.TemporaryDirectory(prefix="pinstream-bench-") as folder:
        world = CodesLikeReal(seed=given.seed)
        contest = Contest(world, given.codes, given.queries, Path(folder), peer_python, given.limit)
        try:
            for name in names:
                contenders[name] = contest.start(name)
                print(f"{name}: {contenders[name].row}", flush=True)
                if contenders["pinstream"].process is None:
                    return 1
            limits = run(contest, contenders, given.rounds, given.batches)
        finally:
            for one in contenders.values():
                if one.process is not None:
                    one.process.close()
    show(contenders, given.codes)
    details = {"codes": given.codes, "table": {name: one.row for name, one in contenders.items()}, "limits": limits}
    claims = [
        claim("index.search_vs_usearch", contenders, ("usearch",), 1.0, details),
        claim("index.search_vs_stores", contenders, STORES, 20.0, details),
    ]
    return 0 if all(claims) else 1


def run(contest: Contest, contenders: dict[str, Contender], rounds: int, batches: int) -> dict[str, Any]:
    """All that is measured once every contender holds the codes; returns the machine's limits."""
    for number in range(rounds + 1):
        for name in sorted(contenders, reverse=bool(number % 2)):
            for mode in MODES:
                contenders[name].attempt(partial(contest.measure, contenders[name], mode=mode))
    for one in contenders.values():
        whole = {mode: seen[1:] for mode, seen in one.queries_per_s.items() if len(seen) > rounds}
        one.row |= {mode: round(statistics.median(seen), 1) for mode, seen in whole.items()}
    ours = contenders["pinstream"].process
    limits = {} if ours is None else limits_of(contest, ours, contenders["pinstream"].row["effort"], rounds)
    for name, one in contenders.items():
        one.attempt(partial(contest.write, one, batches=batches))
        one.attempt(partial(contest.kill, one))
        print(f"{name}: {one.row}", flush=True)
    return limits


def limits_of(contest: Contest, ours: PeerProcess, effort: int, rounds: int) -> dict[str, Any]:
    """Memory bandwidth, and the share of it that our exact scan reaches, one query at a time; measured in turn."""
    ours.ask("set_effort", 1000)
    one_core, all_cores, scans = [], [], []
    for _ in range(rounds):
        one_core.append(read_gib_s(contest.code_NW, 1))
        all_cores.append(read_gib_s(contest.code_NW, THREADS))
        scans.append(ours.ask("rate", contest.code_QW[:32], K, 1))
    ours.ask("set_effort", effort)
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
) -> bool:
    """Record ours ÷ the fastest of the others that reach the recall, or nearly, in the worse of the two modes.

    False, and nothing recorded, if none of them was asked for and got through.
    """
    ours = contenders["pinstream"]
    rivals = [one for name in others if (one := contenders.get(name)) and one.row.get("recall", 0.0) >= RECALL - NEARLY]
    rivals = [one for one in rivals if all(mode in one.row for mode in MODES)]
    if not rivals or not all(mode in ours.row for mode in MODES):
        asked = any(name in contenders for name in others)
        print(f"{claim_id} is not measured: {'nothing to compare with' if asked else 'not asked for'}", flush=True)
        return not asked
    best = {mode: max((one.row[mode], one.name) for one in rivals)[1] for mode in MODES}
    samples = {
        mode: ratios(ours.queries_per_s[mode][1:], contenders[best[mode]].queries_per_s[mode][1:]) for mode in MODES
    }
    medians = {mode: statistics.median(seen) for mode, seen in samples.items()}
    worse = min(medians, key=medians.__getitem__)
    record_claim(
        claim_id,
        samples[worse],
        value=medians[worse] if ours.row["recall"] >= RECALL else 0.0,
        bar=bar if details["codes"] >= CONTEST_CODES else None,
        better="higher",
        unit=f"ratio of queries/s at recall@{K} ≥ {RECALL}, {worse.replace('_', ' ')}, {details['codes']:,} codes",
        details={"against": best, "ratios": medians, **details},
    )
    return True


def show(contenders: dict[str, Contender], codes: int) -> None:
    table = Table(title=f"side by side, {codes:,} codes; queries/s at recall@{K} ≥ {RECALL} where it says so")
    for column in ("", *COLUMNS):
        table.add_column(column.replace("_", " "))
    for name, one in contenders.items():
        table.add_row(name, *(str(one.row.get(column, "–")) for column in COLUMNS))
    Console(width=240).print(table)


if __name__ == "__main__":
    sys.exit(main())
