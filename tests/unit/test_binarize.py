"""Packed on the device as numpy packs them, in FAISS's bit order."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from embedder.binarize import pack_bits


@given(st.integers(0, 2**32 - 1), st.integers(0, 9), st.sampled_from([8, 64, 256]))
def test_equals_numpy(seed: int, rows: int, dims: int) -> None:
    x_BD = np.random.default_rng(seed).standard_normal((rows, dims)).astype(np.float32)
    x_BD[x_BD > 2] = 0
    expected = np.packbits(x_BD > 0, axis=1, bitorder="little")
    assert np.array_equal(pack_bits(torch.from_numpy(x_BD)).numpy(), expected)


def test_bit_order_and_edges() -> None:
    x_BD = torch.full((1, 16), -1.0)
    x_BD[0, 0], x_BD[0, 9] = 1.0, 1e-30
    x_BD[0, 1], x_BD[0, 2], x_BD[0, 3] = 0.0, -0.0, float("nan")
    assert pack_bits(x_BD).tolist() == [[1, 2]]


def test_a_half_byte_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 8"):
        pack_bits(torch.zeros(1, 12))
