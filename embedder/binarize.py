"""Embeddings → packed codes, on the device that holds them: 32× fewer bytes come back.

Bit i is `x[i] > 0`, stored as bit i % 8 (from the least significant) of byte i // 8: FAISS's order.
Shapes: B rows, D dimensions, W = D / 8 bytes.
"""

from __future__ import annotations

import torch
from torch import Tensor


def pack_bits(x_BD: Tensor) -> Tensor:
    """float [B, D] → uint8 [B, W] on the same device. Zero, −0 and NaN give 0.

    The same as `numpy.packbits(x > 0, axis=1, bitorder="little")`.

    Raises:
        ValueError: D is not a multiple of 8.
    """
    dims = x_BD.shape[1]
    if dims % 8:
        raise ValueError(f"embedding has {dims} dimensions, expected a multiple of 8")
    bits_BW8 = (x_BD > 0).view(x_BD.shape[0], dims // 8, 8).to(torch.uint8)
    weights_8 = torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.uint8, device=x_BD.device)
    return (bits_BW8 * weights_8).sum(dim=2, dtype=torch.uint8)
