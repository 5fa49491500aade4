"""Images in, packed codes out, on whatever device torch has.

An image's code does not depend on the batch that it comes in. Libraries choose other kernels, and so other roundings,
for odd batch sizes; so batches are padded. On a CPU the sizes are multiples of 8 (measured: every multiple of 4 gives
the same bits for our convolutions), checked on this machine at the start; where that fails, always 8. On CUDA one
fixed size.

Shapes: B images, S pixels, D = bits, W = bits / 8, K images a chunk.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Literal, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from embedder.binarize import pack_bits
from embedder.model.artifact import Artifact, Preprocessing
from embedder.model.program import load_program
from pinstream.codes import Fingerprint
from pinstream.errors import FatalError, RetryableError

CPU_STEP: Final = 8
CPU_CHUNK: Final = 32
"""Most images per pass on a CPU: larger ones fall out of its caches."""

Precision = Literal["fp32", "bf16"]


class TorchEncoder:
    """Runs a model's program. Blocking; one thread at a time."""

    bits: int
    input_size: int
    fingerprint: Fingerprint
    device: torch.device

    def __init__(
        self, artifact: Artifact, *, device: str = "auto", precision: Precision = "fp32", max_batch_size: int
    ) -> None:
        """Build the network and run it once.

        Args:
            device: `auto` (CUDA if there is one), `cpu`, `cuda`, `cuda:1`.
            max_batch_size: the largest B that `encode` takes; on CUDA also sets the memory held.

        Raises:
            FatalError: the device is unknown, absent or broken.
            CorruptStateError: the artifact's program can't be read.
            RetryableError: the device has no memory for a batch.
        """
        self._set_up(
            load_program(artifact.program, artifact.tensors),
            artifact.bits,
            artifact.manifest.preprocessing,
            artifact.fingerprint,
            device,
            precision,
            max_batch_size,
        )

    @classmethod
    def of_program(
        cls,
        network: nn.Module,
        *,
        bits: int,
        preprocessing: Preprocessing,
        fingerprint: Fingerprint,
        device: str,
        max_batch_size: int,
        precision: Precision = "fp32",
    ) -> Self:
        """For a network that is no artifact yet: export and evaluation during training."""
        encoder = cls.__new__(cls)
        encoder._set_up(network, bits, preprocessing, fingerprint, device, precision, max_batch_size)
        return encoder

    def _set_up(
        self,
        network: nn.Module,
        bits: int,
        preprocessing: Preprocessing,
        fingerprint: Fingerprint,
        device: str,
        precision: Precision,
        max_batch_size: int,
    ) -> None:
        self.bits = bits
        self.input_size = preprocessing.crop_size
        self.fingerprint = fingerprint
        self.device = choose_device(device)
        self._precision = precision
        self._max_batch_size = max_batch_size
        self._chunk = CPU_CHUNK if self.device.type == "cpu" else max(1, -(-max_batch_size // 2))
        """Most images per pass; on CUDA every pass has so many."""
        with _device_errors(self.device):
            self._network = network.eval().to(device=self.device).to(memory_format=torch.channels_last)
            scale_C = 1 / (255 * torch.tensor(preprocessing.std))
            self._scale_C = scale_C.to(self.device)
            self._shift_C = (torch.tensor(preprocessing.mean) / torch.tensor(preprocessing.std)).to(self.device)
            self._lanes = (
                [_CudaLane(self._chunk, self.input_size, bits, self.device) for _ in range(2)]
                if (self.device.type == "cuda")
                else []
            )
        if self.device.type == "cpu" and not self._same_in_every_size():
            self._chunk = CPU_STEP
        self.encode(np.zeros((1, self.input_size, self.input_size, 3), np.uint8))

    def encode(self, images_BHWC: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """uint8 [B, S, S, 3] RGB → codes uint8 [B, W].

        Raises:
            RetryableError: the device is out of memory; halve the batch and try again.
            FatalError: the device is broken.
            ValueError: wrong shape or dtype, or B > max_batch_size.
        """
        size = self.input_size
        if images_BHWC.dtype != np.uint8 or images_BHWC.shape[1:] != (size, size, 3):
            raise ValueError(
                f"images are {images_BHWC.dtype} {images_BHWC.shape}, expected uint8 [B, {size}, {size}, 3]"
            )
        count = len(images_BHWC)
        if count > self._max_batch_size:
            raise ValueError(f"batch has {count} images, expected at most {self._max_batch_size}")
        codes_BW = np.empty((count, self.bits // 8), np.uint8)
        with torch.inference_mode(), _device_errors(self.device):
            if self._lanes:
                self._encode_cuda(images_BHWC, codes_BW)
            else:
                self._encode_cpu(images_BHWC, codes_BW)
        return codes_BW

    def embed(self, images_BHWC: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """uint8 [B, S, S, 3] RGB → float32 [B, D], the embeddings before binarizing; for evaluation."""
        embedding_BD = np.empty((len(images_BHWC), self.bits), np.float32)
        with torch.inference_mode(), _device_errors(self.device):
            for start, count, padded_KHWC in self._padded(images_BHWC):
                embedded = self._embed(padded_KHWC.to(self.device))[:count]
                embedding_BD[start : start + count] = embedded.float().cpu().numpy()
        return embedding_BD

    def _encode_cpu(self, images_BHWC: npt.NDArray[np.uint8], codes_BW: npt.NDArray[np.uint8]) -> None:
        for start, count, padded_KHWC in self._padded(images_BHWC):
            codes_BW[start : start + count] = self._codes(padded_KHWC)[:count].numpy()

    def _padded(self, images_BHWC: npt.NDArray[np.uint8]) -> Iterator[tuple[int, int, Tensor]]:
        """Start and number of the images of each pass, and the pass's batch, filled up with black ones."""
        step = CPU_STEP if self.device.type == "cpu" else self._chunk
        for start in range(0, len(images_BHWC), self._chunk):
            chunk = images_BHWC[start : start + self._chunk]
            padded_KHWC = np.zeros((-(-len(chunk) // step) * step, *images_BHWC.shape[1:]), np.uint8)
            padded_KHWC[: len(chunk)] = chunk
            yield start, len(chunk), torch.from_numpy(padded_KHWC)

    def _encode_cuda(self, images_BHWC: npt.NDArray[np.uint8], codes_BW: npt.NDArray[np.uint8]) -> None:
        """Two chunks, each on a stream of its own: the copy of one overlaps the compute of the other."""
        starts = range(0, len(images_BHWC), self._chunk)
        for lane, start in zip(self._lanes, starts, strict=False):
            chunk = images_BHWC[start : start + self._chunk]
            lane.images_KHWC[: len(chunk)] = torch.from_numpy(chunk)
            with torch.cuda.stream(lane.stream):
                on_device = lane.images_KHWC.to(self.device, non_blocking=True)
                lane.codes_KW.copy_(self._codes(on_device), non_blocking=True)
        for lane, start in zip(self._lanes, starts, strict=False):
            lane.stream.synchronize()
            filled = codes_BW[start : start + self._chunk]
            filled[:] = lane.codes_KW[: len(filled)].numpy()

    def _codes(self, images_KHWC: Tensor) -> Tensor:
        return pack_bits(self._embed(images_KHWC))

    def _embed(self, images_KHWC: Tensor) -> Tensor:
        x_KHWC = images_KHWC.to(torch.float32) * self._scale_C - self._shift_C
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._precision == "bf16"):
            embedding_KD: Tensor = self._network(x_KHWC.permute(0, 3, 1, 2))
        return embedding_KD

    def _same_in_every_size(self) -> bool:
        """Whether a chunk's embeddings, to the last bit, are those of its eighths."""
        shape = (self._chunk, self.input_size, self.input_size, 3)
        images_KHWC = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            alone = torch.cat([self._embed(part) for part in torch.split(images_KHWC, CPU_STEP)])
            return all(
                torch.equal(self._embed(images_KHWC[:size]), alone[:size])
                for size in range(2 * CPU_STEP, self._chunk + 1, CPU_STEP)
            )


class _CudaLane:
    """A stream with pinned memory for one chunk in each direction."""

    def __init__(self, chunk: int, size: int, bits: int, device: torch.device) -> None:
        self.stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch leaves it so
        self.images_KHWC = torch.zeros((chunk, size, size, 3), dtype=torch.uint8, pin_memory=True)
        self.codes_KW = torch.empty((chunk, bits // 8), dtype=torch.uint8, pin_memory=True)


def choose_device(name: str) -> torch.device:
    """`auto`, `cpu`, `cuda` or `cuda:N` → a device that exists.

    Raises:
        FatalError: it doesn't.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise FatalError(f"device is {name!r}, expected auto, cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise FatalError(f"device is {name!r}, expected auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise FatalError(f"device is {name!r} and torch sees {torch.cuda.device_count()} CUDA devices: use cpu or auto")
    return device


@contextmanager
def _device_errors(device: torch.device) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise RetryableError(f"device {device} is out of memory: use smaller batches") from error
    except torch.AcceleratorError as error:
        raise FatalError(f"device {device} is broken: {error}; restart the worker") from error
