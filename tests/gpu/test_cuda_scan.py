"""Scans on a CUDA device against the CPU's; skipped where there is none."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from index_sync import torch_scan
from index_sync.segment import SearchFilter
from index_sync.torch_scan import TorchScan
from tests.scan_cases import FILTERS, ManyTies, best, on_cpu, same

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("bits", [256, 2048, 4096])
@pytest.mark.parametrize("where", FILTERS)
def test_it_finds_what_the_cpu_finds(bits: int, where: SearchFilter | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_scan, "WORKSPACE_BYTES", 2 * bits * 7000)  # several blocks
    world = ManyTies(bits)
    world.apply(world.pins(20_000, 200_000))
    world.seal()
    world.group(16)
    device = TorchScan("cuda", 2**30)
    for _ in range(3):
        view, code_QW = world.sealed, world.codes(17)
        for k in (1, 100, 3000):
            assert same(best(device.search(view, code_QW, k, where), k), on_cpu(view, code_QW, k, where))
        world.apply(world.pins(20_000, 200_000), is_delete=True)


@pytest.mark.parametrize("bits", [256, 2048, 4096])
def test_far_and_near_codes_have_their_exact_distances(bits: int) -> None:
    world = ManyTies(bits)
    world.apply(np.arange(1, 200, dtype=np.int64))
    world.seal()
    code_QW = np.concatenate([world.sealed.segment.rows.code_NW[:2], ~world.sealed.segment.rows.code_NW[:2]])
    found = best(TorchScan("cuda", 2**30).search(world.sealed, code_QW, 199, None), 199)
    assert (found.distance_QK.min(), found.distance_QK.max()) == (0, bits)
    assert same(found, on_cpu(world.sealed, code_QW, 199, None))


def test_a_device_that_is_too_small_leaves_the_scan_to_the_cpu() -> None:
    world = ManyTies(256)
    world.apply(world.pins(2000, 20_000))
    world.seal()
    device, code_QW = TorchScan("cuda", 2**50), world.codes(3)
    free, _ = torch.cuda.mem_get_info()
    taken = torch.empty(free - 2**20, dtype=torch.uint8, device="cuda")
    found = best(device.search(world.sealed, code_QW, 5, None), 5)
    del taken
    assert same(found, on_cpu(world.sealed, code_QW, 5, None))
