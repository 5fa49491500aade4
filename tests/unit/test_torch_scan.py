"""The device's scan finds what the CPU's finds, bit for bit. Here the device is the CPU; tests/gpu has the other."""

from __future__ import annotations

import gc
import subprocess
import sys

import numpy as np
import pytest
import torch

from index_sync import torch_scan
from index_sync.calibration import Effort
from index_sync.searcher import Searcher
from index_sync.segment import SearchFilter
from index_sync.segment_view import SegmentView
from index_sync.torch_scan import TorchScan
from pinstream.codes import MAX_BITS
from pinstream.errors import FatalError
from tests.scan_cases import FILTERS, ManyTies, best, on_cpu, same

BITS, ROWS = 256, 3000


def scan(memory_bytes: int = 2**30) -> TorchScan:
    return TorchScan("cpu", memory_bytes)


@pytest.fixture(params=[False, True], ids=["by pin", "grouped"])
def world(request: pytest.FixtureRequest) -> ManyTies:
    made = ManyTies(BITS)
    made.apply(made.pins(ROWS, 10 * ROWS))
    made.seal()
    if request.param:
        made.group(8)
    return made


@pytest.mark.parametrize("k", [1, 100, ROWS + 5])
@pytest.mark.parametrize("where", FILTERS)
def test_it_finds_what_the_cpu_finds(
    world: ManyTies, k: int, where: SearchFilter | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_scan, "WORKSPACE_BYTES", 4 * BITS * 700)  # five blocks
    world.apply(world.pins(900, 10 * ROWS), is_delete=True)
    view, code_QW = world.sealed, world.codes(9)
    assert 0 < view.dead_rows < view.row_count
    assert same(best(scan().search(view, code_QW, k, where), k), on_cpu(view, code_QW, k, where))


def test_an_older_view_stays_what_it_was_while_rows_die(world: ManyTies) -> None:
    device, code_QW, views = scan(), world.codes(4), list[SegmentView]()
    for _ in range(5):
        views.append(world.sealed)
        assert same(best(device.search(views[-1], code_QW, 50, None), 50), on_cpu(views[-1], code_QW, 50, None))
        world.apply(world.pins(300, 10 * ROWS), is_delete=True)
    assert views[0].dead_rows < views[-1].dead_rows
    for view in (*views, *views[::-1]):
        assert same(best(device.search(view, code_QW, 50, None), 50), on_cpu(view, code_QW, 50, None))


@pytest.mark.parametrize("bits", [256, 2048, 4096])
def test_far_and_near_codes_have_their_exact_distances(bits: int) -> None:
    world = ManyTies(bits)
    world.apply(np.arange(1, 200, dtype=np.int64))
    world.seal()
    code_QW = np.concatenate([world.sealed.segment.rows.code_NW[:2], ~world.sealed.segment.rows.code_NW[:2]])
    found = best(scan().search(world.sealed, code_QW, 199, None), 199)
    assert (found.distance_QK.min(), found.distance_QK.max()) == (0, bits)
    assert same(found, on_cpu(world.sealed, code_QW, 199, None))


def test_fp16_holds_every_product_of_the_longest_codes() -> None:
    product = np.arange(-MAX_BITS, MAX_BITS + 1, 2)
    assert np.array_equal(product.astype(np.float16), product)


def test_what_does_not_fit_is_left_to_the_cpu_until_room_is_free() -> None:
    first, second, code_QW = ManyTies(BITS, 1), ManyTies(BITS, 2), ManyTies(BITS).codes(3)
    for world in (first, second):
        world.apply(np.arange(1, ROWS + 1, dtype=np.int64))
        world.seal()
    device = scan(memory_bytes=ROWS * (BITS // 8 + 16) + 100)
    assert device.takes(first.sealed)
    device.search(first.sealed, code_QW, 5, None)
    assert not device.takes(second.sealed)
    found = best(device.search(second.sealed, code_QW, 5, None), 5)
    assert same(found, on_cpu(second.sealed, code_QW, 5, None))
    del first, world
    gc.collect()
    assert device.takes(second.sealed)


def test_a_device_without_room_is_spared(world: ManyTies, monkeypatch: pytest.MonkeyPatch) -> None:
    device, code_QW = scan(), world.codes(3)

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(device, "_scan", full)
    found = best(device.search(world.sealed, code_QW, 5, None), 5)
    assert same(found, on_cpu(world.sealed, code_QW, 5, None))
    assert not device.takes(world.sealed)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_search_with_a_device_finds_the_same_over_all_segments(world: ManyTies, threads: int) -> None:
    world.apply(world.pins(ROWS, 10 * ROWS))
    view, code_QW = world.shard.view(), world.codes(9)
    plain, with_device = Searcher(threads), Searcher(threads, scan())
    try:
        for where in FILTERS:
            for effort in (None, Effort(1.0)):
                expected = plain.search([view], code_QW, 20, where, effort)
                assert same(with_device.search([view], code_QW, 20, where, effort), expected)
    finally:
        plain.close()
        with_device.close()


def test_a_device_that_is_not_there_is_fatal() -> None:
    with pytest.raises(FatalError, match=r"index\.device is 'nonsense', which torch can't use"):
        TorchScan("nonsense", 0)


def test_only_a_device_loads_torch() -> None:
    program = "import sys, index_sync.worker; from index_sync.device_scan import open_device; open_device('cpu', 1)"
    subprocess.run([sys.executable, "-c", f"{program}; sys.exit('torch' in sys.modules)"], check=True)
