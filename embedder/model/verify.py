"""Re-run an artifact's golden inputs on this device and precision, and count the bits that differ."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from embedder.model.artifact import Artifact, load_artifact
from embedder.model.export import device_name
from embedder.torch_encoder import Precision, TorchEncoder

MAX_BF16_SHARE: Final = 0.005
"""Of all bits, in bf16."""
MAX_OTHER_DEVICE_SHARE: Final = 0.001
"""In fp32 on another device or torch than the export's: its kernels may round otherwise."""


@dataclass(frozen=True, slots=True)
class Verification:
    model: str
    device: str
    precision: Precision
    differing: int
    total: int
    bound: float
    """Largest allowed share of differing bits."""

    @property
    def share(self) -> float:
        return self.differing / self.total

    @property
    def holds(self) -> bool:
        return self.share <= self.bound

    def sentence(self) -> str:
        verdict = "holds" if self.holds else "DOES NOT HOLD"
        return (
            f"{self.model} on {self.device} in {self.precision}: {self.differing} of {self.total} golden bits differ "
            f"({100 * self.share:.3f} %, bound {100 * self.bound:g} %): {verdict}"
        )


def verify_artifact(path: Path, *, device: str, precision: Precision) -> Verification:
    """Check the artifact's bytes, then its codes. Blocking.

    Raises:
        CorruptStateError: a file differs; it is named.
        FatalError: no artifact at `path`, or no such device.
    """
    artifact = load_artifact(path)
    images = artifact.golden_images
    encoder = TorchEncoder(artifact, device=device, precision=precision, max_batch_size=len(images))
    differing = int(np.bitwise_count(encoder.encode(images) ^ artifact.golden_codes).sum())
    return Verification(
        model=f"{artifact.manifest.name} {artifact.fingerprint.short}",
        device=str(encoder.device),
        precision=precision,
        differing=differing,
        total=artifact.golden_codes.size * 8,
        bound=_bound(artifact, encoder, precision),
    )


def _bound(artifact: Artifact, encoder: TorchEncoder, precision: Precision) -> float:
    if precision == "bf16":
        return MAX_BF16_SHARE
    return 0.0 if _same_device(artifact, encoder) else MAX_OTHER_DEVICE_SHARE


def _same_device(artifact: Artifact, encoder: TorchEncoder) -> bool:
    return encoder.device.type == "cpu" and artifact.manifest.exported.device == device_name()
