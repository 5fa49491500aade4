"""Peak memory of training on 100,000 classes × 2048 dimensions with proxy subsampling.

python -m bench.proxy_memory
"""

from __future__ import annotations

import resource
import time

import numpy as np
import torch

from bench.claims import record_claim
from embedder.model.proxies import make_head
from embedder.model.unified import create_unified

CLASSES, DIMS, SAMPLE, BATCH, STEPS = 100_000, 2048, 4096, 64, 10


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    network = create_unified("pinnet", bits=DIMS, input_size=96)
    head = make_head(CLASSES, DIMS, proxies_per_step=SAMPLE)
    optimizers = [torch.optim.AdamW(network.parameters(), lr=1e-3), torch.optim.SparseAdam(head.parameters(), lr=0.02)]
    rng = np.random.default_rng(0)
    losses, started_s = [], time.monotonic()
    for _ in range(STEPS):
        images = torch.from_numpy(rng.standard_normal((BATCH, 3, 96, 96), np.float32))
        loss = head(network(images), torch.from_numpy(rng.integers(0, CLASSES, BATCH)), rng)
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        losses.append(loss.item())
    peak_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    record_claim(
        "model.proxy_memory_gib",
        [peak_gib],
        bar=6.0,
        better="lower",
        unit="GiB, peak of the whole process",
        details={
            "classes": CLASSES,
            "dims": DIMS,
            "proxies_per_step": SAMPLE,
            "images_per_step": BATCH,
            "steps": STEPS,
            "s_per_step": (time.monotonic() - started_s) / STEPS,
            "first_and_last_loss": [losses[0], losses[-1]],
        },
    )


if __name__ == "__main__":
    main()
