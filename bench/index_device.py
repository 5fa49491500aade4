"""Exact scans on a CUDA device, side by side: ours (a product of ±1), bits counted in int32, and faiss's GPU index.

One sealed segment of living codes, without its tombstones, whose scan on the CPU is measured beside; one query at a
time, 16 and 256 at once, from codes on the host to neighbours on the host. All must find the same distances. No claim
has a bar for it. On a machine without a CUDA device it says so and measures nothing, unless `--device cpu` is given,
which shows that all of it runs and records nothing.

    python -m bench.index_device
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import faiss as typed_faiss
import numpy as np
import torch

from bench.claims import record_claim
from bench.codes_like_real import Bytes, CodesLikeReal
from bench.index_setup import THREADS, K, StreamedShard, live_codes, options
from bench.index_timing import faiss_threads, interleaved, median_of, queries_per_s, ratios
from index_sync.faiss_segment import SealedSegment
from index_sync.segment import CodeRows, Tombstones
from index_sync.segment_view import SegmentView
from index_sync.torch_scan import WORKSPACE_BYTES, TorchScan

faiss: Any = typed_faiss
"""FAISS's stubs lack its GPU part."""
AT_ONCE = (1, 16, 256)


def main() -> int:
    given = options(__doc__, device="cuda", memory_gib=64)
    if given.device != "cpu" and not torch.cuda.is_available():
        print("there is no CUDA device here: the device's scans are not measured", file=sys.stderr)
        return 0
    world = CodesLikeReal(seed=given.seed)
    pin_id, code_NW = live_codes(StreamedShard(world, given.codes).shard.view())
    view = one_segment(pin_id, code_NW)
    code_QW = world.codes(given.queries, "queries")
    ours = TorchScan(given.device, given.memory_gib * 2**30)
    sides: dict[str, Callable[[Bytes], Any]] = {
        "matmul": lambda code: ours.search(view, code, K, None).distance_QK,
        "popcount": PopcountScan(code_NW, given.device).search,
        "cpu": partial(cpu_scan, code_NW),
    }
    if given.device != "cpu":
        index = gpu_index(code_NW)
        sides["GpuIndexBinaryFlat"] = lambda code: index.search(code, K)[0]
    expected = sides["cpu"](code_QW)
    for name, search in sides.items():
        assert np.array_equal(np.sort(search(code_QW), axis=1), np.sort(expected, axis=1)), f"{name} finds others"
    details: dict[str, Any] = {"codes": len(code_NW), "device": device_name(given.device)}
    samples: dict[int, list[float]] = {}
    for at_once in AT_ONCE:
        queries = np.tile(code_QW, (-(-4 * at_once // len(code_QW)), 1))[: max(4 * at_once, 32)]
        found = interleaved(
            given.rounds, {name: partial(queries_per_s, search, queries, at_once) for name, search in sides.items()}
        )
        details[f"{at_once}_at_once"] = {"queries_per_s": median_of(found)}
        others = [found[name] for name in sides if name not in ("matmul", "cpu")]
        samples[at_once] = ratios(found["matmul"], [max(seen) for seen in zip(*others, strict=True)])
        print(f"{at_once} at once: {median_of(found)} queries/s", flush=True)
    if given.device == "cpu":
        return 0
    record_claim(
        "index.device_scan",
        samples[16],
        bar=None,
        better="higher",
        unit="ratio of queries/s of our device scan to the best other one, 16 at once",
        details=details,
    )
    return 0


def one_segment(pin_id: Any, code_NW: Bytes) -> SegmentView:
    """The codes as one sealed segment in which all rows live."""
    rows = CodeRows.empty(len(pin_id), code_NW.shape[1])
    rows.pin_id[:], rows.code_NW[:] = pin_id, code_NW
    return SegmentView(SealedSegment("bench", rows), Tombstones(len(rows)).died_at, len(rows), 0, 1)


class PopcountScan:
    """Counts differing bits by shifts and masks of int32; compiled into one kernel where there is a device."""

    def __init__(self, code_NW: Bytes, device: str) -> None:
        self._device = device
        self._word_NV = torch.tensor(code_NW.view(np.int32), device=device)
        self._distances = torch.compile(bits_differ) if device != "cpu" else bits_differ

    def search(self, code_QW: Bytes) -> Any:
        """int32 [Q, K]: distances."""
        word_QV = torch.tensor(code_QW.view(np.int32), device=self._device)
        step = max(1, WORKSPACE_BYTES // (4 * word_QV.numel()))
        blocks = [self._word_NV[at : at + step] for at in range(0, len(self._word_NV), step)]
        parts = [self._distances(word_QV, one).topk(min(K, len(one)), largest=False).values for one in blocks]
        return torch.cat(parts, dim=1).topk(K, largest=False, sorted=True).values.cpu().numpy()


def bits_differ(word_QV: torch.Tensor, word_RV: torch.Tensor) -> torch.Tensor:
    """int32 [Q, R]: how many bits of V words differ."""
    x = word_QV[:, None] ^ word_RV[None]
    x = x - ((x >> 1) & 0x55555555)
    x = (x & 0x33333333) + ((x >> 2) & 0x33333333)
    x = (x + (x >> 4)) & 0x0F0F0F0F
    x = x + (x >> 8)
    return ((x + (x >> 16)) & 0x3F).sum(dim=2, dtype=torch.int32)


def gpu_index(code_NW: Bytes) -> Any:
    """faiss's own exact index on the device."""
    index = faiss.GpuIndexBinaryFlat(faiss.StandardGpuResources(), 8 * code_NW.shape[1])
    index.add(code_NW)
    return index


def cpu_scan(code_NW: Bytes, code_QW: Bytes) -> Any:
    """int32 [Q, K]: distances, on all cores."""
    with faiss_threads(THREADS):
        return faiss.knn_hamming(code_QW, code_NW, K)[0]


def device_name(device: str) -> str:
    return device if device == "cpu" else torch.cuda.get_device_name(device)


if __name__ == "__main__":
    sys.exit(main())
