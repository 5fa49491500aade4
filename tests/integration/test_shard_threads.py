"""One thread applies, one merges, two search: no search sees a Pin twice, misses one, or mixes two applies."""

from __future__ import annotations

import threading
import time

import numpy as np

from index_sync.code_batch import CodeBatch
from index_sync.merge_policy import MergePolicy
from index_sync.shard import Shard

BITS, CODE_BYTES, PINS, DURATION_S = 256, 32, 500, 4.0


def version_batch(version: int, random: np.random.Generator) -> CodeBatch:
    """Every Pin's code of this version: its first `version % 200` bits. One more Pin comes and goes."""
    code_W = np.packbits(np.arange(BITS) < version % 200)
    guest = PINS + 1
    pin_id = np.append(random.permutation(PINS) + 1, guest)
    is_delete = np.zeros(len(pin_id), dtype=bool)
    is_delete[-1] = version % 2 == 1
    return CodeBatch(
        pin_id=pin_id.astype(np.int64),
        source_offset=np.full(len(pin_id), version),
        event_time_ms=np.zeros(len(pin_id), dtype=np.int64),
        domain=np.zeros(len(pin_id), dtype=np.uint8),
        flags=np.zeros(len(pin_id), dtype=np.uint32),
        is_delete=is_delete,
        code_NW=np.tile(code_W, (len(pin_id), 1)),
        next_offset=version + 1,
    )


def test_searches_see_whole_applies_while_they_go_on() -> None:
    shard = Shard(BITS, seal_rows=1300, policy=MergePolicy(fan_in=2, max_dead_share=0.3, tier_floor_rows=1300))
    random = np.random.default_rng(1)
    shard.apply(version_batch(0, random))
    applied = [0]
    stop = threading.Event()
    faults: list[str] = []
    counts = {"searches": 0, "merges": 0}

    def guarded(loop: object) -> threading.Thread:
        def run() -> None:
            try:
                while not stop.is_set():
                    loop()  # type: ignore[operator]
            except BaseException as error:
                faults.append(repr(error))
                stop.set()
                raise

        return threading.Thread(target=run)

    def apply() -> None:
        version = applied[0] + 1
        result = shard.apply(version_batch(version, random))
        applied[0] = version
        assert result.updated == PINS

    def merge() -> None:
        plan = shard.plan_merge()
        if plan is None:
            time.sleep(0.001)
            return
        shard.install(plan.run())
        counts["merges"] += 1

    zero_QW = np.zeros((1, CODE_BYTES), dtype=np.uint8)

    def search() -> None:
        at_least = applied[0]
        view = shard.view()
        version = view.checkpoint - 1
        assert version >= at_least, "a search started after an apply and does not see it"
        found = view.search(zero_QW, PINS + 10)
        pins = found.pin_id_QK[0][found.pin_id_QK[0] >= 0]
        present = PINS + (version % 2 == 0)
        assert pins.tolist() == list(range(1, present + 1)), f"version {version}: {len(pins)} Pins, want {present}"
        assert (found.distance_QK[0, :present] == version % 200).all(), f"version {version} mixed with another"
        row = view.get(PINS // 2)
        assert row is not None
        assert row.source_offset == version
        counts["searches"] += 1

    threads = [guarded(loop) for loop in (apply, merge, search, search)]
    for thread in threads:
        thread.start()
    stop.wait(DURATION_S)
    stop.set()
    for thread in threads:
        thread.join(60)
    assert not faults
    assert applied[0] > 100
    assert counts["searches"] > 100
    assert counts["merges"] > 10
