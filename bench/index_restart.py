"""`index.restart_s`: a fresh process, from the start of restoring a snapshot on local disk to its first answer.

The snapshot is of the state that streaming leaves. Restoring reads every file, checks its SHA-256 and makes the shard
of it and of the generation's quantizer; starting the interpreter, importing and loading the compiled scans come before,
and are in the details. The calibration comes with the snapshot, so the first answer is found by lists. Rounds alternate
between files that the system has in memory, as after a restart of the worker, and files that it must read from disk.

    python -m bench.index_restart
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.claims import record_claim
from bench.codes_like_real import CodesLikeReal
from bench.index_setup import RECALL, THREADS, K, StreamedShard, make_shard, options, our_search, quantizers
from index_sync.checkpoint import ShardIdentity
from index_sync.hamming_scan import load as load_scans
from index_sync.searcher import Searcher
from index_sync.store_snapshot import SnapshotStore
from pinstream.object_store import open_store

MODEL = "be" * 32
IDENTITY = ShardIdentity(topic=f"codes.v1.{MODEL[:12]}", partition=0, partitions=1, bits=2048, model=MODEL)


def main() -> None:
    given = options(__doc__, restore="")
    if given.restore:
        restore(Path(given.restore), given.codes, given.seed)
        return
    with tempfile.TemporaryDirectory(prefix="pinstream-bench-") as folder:
        files = open_store(Path(folder).as_uri(), {}, setting="index.snapshot_url")
        state = StreamedShard(CodesLikeReal(seed=given.seed), given.codes, store=files)
        store = SnapshotStore(files, IDENTITY)
        store.restore()
        started_s = time.monotonic()
        store.save(state.shard.capture().state(), time.time_ns() // 1_000_000)
        save_s = time.monotonic() - started_s
        described = state.describe()
        del state
        found: dict[str, list[dict[str, float]]] = {"in_memory": [], "from_disk": []}
        for _ in range(given.rounds):
            for name, seen in found.items():
                if name == "from_disk":
                    drop_from_memory(Path(folder))
                seen.append(restart(Path(folder), given.codes, given.seed))
                print(name, seen[-1], flush=True)
    record_claim(
        "index.restart_s",
        [one["restore_to_answer_s"] for one in found["in_memory"]],
        bar=2,
        better="lower",
        unit="s, from the start of restoring to the first answer",
        details={
            "from_disk_s": statistics.median(one["restore_to_answer_s"] for one in found["from_disk"]),
            "process_start_to_answer_s": statistics.median(one["process_s"] for one in found["in_memory"]),
            "save_s": round(save_s, 2),
            "rounds": found,
            "state": described,
        },
    )


def restart(folder: Path, codes: int, seed: int) -> dict[str, float]:
    """What a fresh process says of its restoring."""
    started_s = time.monotonic()
    command = [sys.executable, "-m", "bench.index_restart", "--restore", str(folder), "--codes", str(codes)]
    out = subprocess.run([*command, "--seed", str(seed)], capture_output=True, text=True, check=True).stdout
    said: dict[str, float] = json.loads(out)
    return {**said, "process_s": round(time.monotonic() - started_s, 3)}


def restore(folder: Path, codes: int, seed: int) -> None:
    """The fresh process: prints seconds until the shard was there, and until it had answered."""
    world = CodesLikeReal(seed=seed)
    code_QW = world.codes(1, "queries")
    load_scans()
    started_s = time.perf_counter()
    store = open_store(folder.as_uri(), {}, setting="index.snapshot_url")
    shard = make_shard(world, codes, SnapshotStore(store, IDENTITY).restore().state)
    if (quantizer := quantizers(store, world.bits).load()) is not None:
        shard.use_quantizer(quantizer)
    assert shard.view().stack is not None and shard.view().calibration is not None
    restored_s = time.perf_counter()
    searcher = Searcher(THREADS)
    found = our_search(searcher, shard.view(), RECALL)(code_QW)
    answered_s = time.perf_counter()
    assert shard.view().live_rows == codes and found.pin_id_QK.shape == (1, K)
    searcher.close()
    print(
        json.dumps(
            {
                "restore_s": round(restored_s - started_s, 4),
                "restore_to_answer_s": round(answered_s - started_s, 4),
            }
        )
    )


def drop_from_memory(folder: Path) -> None:
    """Have the system forget these files' pages: the next read is the disk's."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


if __name__ == "__main__":
    main()
