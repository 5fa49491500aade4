"""Train a unified embedding: one network, one head of proxies per task, one loop.

Everything random in a step follows from (seed, step), so a run that is killed and resumed takes the same path as one
that is not. Under `torchrun` every process takes its share of each task's images of the same global batch.

Shapes: T tasks, b images of a task on this process, S pixels, D bits.
"""

from __future__ import annotations

import copy
import json
import logging
import math
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from embedder.model.augment import training_image
from embedder.model.distributed import Processes, average_gradients
from embedder.model.export import IMAGENET_MEAN, IMAGENET_STD
from embedder.model.localizer import box_loss
from embedder.model.proxies import SampledHead, make_head
from embedder.model.task_source import TaskSource
from embedder.model.train_config import TrainConfig, input_size_at
from embedder.model.unified import UnifiedEmbedding, create_unified
from embedder.model.whitening import whitened_projection
from pinstream.errors import CorruptStateError, FatalError

log = logging.getLogger(__name__)

CHECKPOINT: Final = "checkpoint.pt"
BEST: Final = "best.pt"
CURVES: Final = "curves.jsonl"
_AUTOCAST: Final = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_MAX_GRADIENT_NORM: Final = 5.0
_MAX_CLASSES: Final = 2**40
"""Of a task: its labels, from here on, are the next task's."""

Validate = Callable[[UnifiedEmbedding], dict[str, float]]
"""The network → metrics; `score` decides about early stop."""
Report = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, slots=True)
class Batch:
    """A process's share of a step, task after task; N = T × b."""

    images_NSS3: npt.NDArray[np.uint8]
    labels_Tb: npt.NDArray[np.int64]
    boxes_N4: npt.NDArray[np.float32]
    """Where the item is in its image; NaN where nobody knows."""


class _Located(nn.Module):
    """What data parallelism wraps: the network with its boxes."""

    def __init__(self, network: UnifiedEmbedding) -> None:
        super().__init__()
        self.network = network

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.network.embed_and_locate(x_BCHW)


@dataclass(slots=True)
class Progress:
    """Where a run stands; with the weights it is all that a checkpoint holds."""

    step: int = 0
    """Steps done."""
    best_score: float = -1.0
    best_step: int = 0
    evaluations_since_best: int = 0
    stopped: bool = False
    curves: list[dict[str, Any]] = field(default_factory=list)


class Trainer:
    """Owns the network, its heads and their optimizers. Not thread-safe.

    Raises:
        FatalError: an impossible configuration, or a device that isn't there.
    """

    def __init__(
        self, config: TrainConfig, tasks: Sequence[TaskSource], processes: Processes, device: torch.device
    ) -> None:
        if config.images_per_task % processes.count:
            raise FatalError(
                f"images_per_task is {config.images_per_task}, expected a multiple of the {processes.count} processes"
            )
        self.config = config
        self.tasks = tasks
        self.progress = Progress()
        self._processes = processes
        self._device = device
        torch.manual_seed(config.seed)
        self.network = (
            create_unified(
                config.backbone, bits=config.bits, input_size=config.input_size, pretrained=config.pretrained
            )
            .to(device)
            .to(memory_format=torch.channels_last)
        )
        self.heads = nn.ModuleList(
            make_head(
                task.classes,
                config.bits,
                temperature=config.temperature,
                proxies_per_step=config.proxies_per_step,
            )
            for task in tasks
        ).to(device)
        if processes.count > 1 and device.type == "cuda":
            self.network = nn.SyncBatchNorm.convert_sync_batchnorm(self.network)  # type: ignore[no-untyped-call]  # torch leaves it so
        self._parallel: nn.Module = _Located(self.network)
        if processes.count > 1:
            self._parallel = DistributedDataParallel(self._parallel)
        self._optimizers = _optimizers(config, self.network, self.heads)
        self._scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "fp16")
        self._mean_C11 = torch.tensor(IMAGENET_MEAN, device=device).view(3, 1, 1) * 255
        self._std_C11 = torch.tensor(IMAGENET_STD, device=device).view(3, 1, 1) * 255

    def run(self, folder: Path, *, validate: Validate | None, report: Report, until: int | None = None) -> Progress:
        """Train to the end, writing checkpoints and curves to `folder`. Blocking.

        Args:
            until: stop after this step, as a kill would; None: go on to the end.
        """
        config, progress = self.config, self.progress
        last = min(config.steps, until or config.steps)
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches") as ahead:
            batch = ahead.submit(self._batch, progress.step)
            while progress.step < last and not progress.stopped:
                started_s = time.monotonic()
                batch = self._step(batch, ahead, report, started_s)
                done = progress.step == config.steps
                evaluates = validate is not None and (progress.step % config.evaluate_every == 0 or done)
                if done or evaluates:
                    wait([batch])  # it reads images, and whitening does too
                if done and config.whitening_batches:
                    self._whiten(self.network)
                if validate is not None and evaluates:
                    self._evaluate(folder, validate, report)
                if progress.step % config.checkpoint_every == 0 or done or progress.stopped:
                    self.save(folder)
        return progress

    def _step(
        self,
        batch: Future[Batch],
        ahead: ThreadPoolExecutor,
        report: Report,
        started_s: float,
    ) -> Future[Batch]:
        """One step on a prepared batch; returns the next one under preparation."""
        step = self.progress.step
        prepared = batch.result()
        following = ahead.submit(self._batch, step + 1)
        losses = self.train_step(step, prepared)
        self.progress.step = step + 1
        shown = {task.name: round(loss, 5) for task, loss in zip(self.tasks, losses, strict=True)}
        count = self._processes.count * len(prepared.images_NSS3)
        entry = {"step": step + 1, "loss": shown, "images_per_s": round(count / (time.monotonic() - started_s), 1)}
        if (step + 1) % 20 == 0:
            self.progress.curves.append(entry)
        report(entry)
        return following

    def train_step(self, step: int, batch: Batch) -> list[float]:
        """Forward, backward and update; the loss of each task, averaged over all processes."""
        self._set_rates(step)
        torch.manual_seed(np.random.SeedSequence((self.config.seed, step)).generate_state(1)[0])
        self._parallel.train()
        x_BCHW = self._normalized(batch.images_NSS3)
        with torch.autocast(
            self._device.type, _AUTOCAST[self.config.precision], enabled=self.config.precision != "fp32"
        ):
            embedding_BD, box_BL4 = self._parallel(x_BCHW)
        losses = self._losses(step, embedding_BD, torch.from_numpy(batch.labels_Tb).to(self._device))
        total = torch.stack(losses).sum()
        if box_BL4 is not None:
            total = total + box_loss(box_BL4, torch.from_numpy(batch.boxes_N4).to(self._device))
        for optimizer in self._optimizers:
            optimizer.zero_grad(set_to_none=True)
        self._scaler.scale(total).backward()  # type: ignore[no-untyped-call]  # torch leaves it so
        if self._processes.count > 1:
            average_gradients(self.heads, self._processes)
        self._scaler.unscale_(self._optimizers[0])
        nn.utils.clip_grad_norm_(self.network.parameters(), _MAX_GRADIENT_NORM)
        for optimizer in self._optimizers:
            self._scaler.step(optimizer)
        self._scaler.update()
        return self._processes.mean([float(loss.detach()) for loss in losses])

    def _normalized(self, images_NSS3: npt.NDArray[np.uint8]) -> Tensor:
        """On the device, as the network takes them: [N, 3, S, S]."""
        x_BCHW = torch.from_numpy(images_NSS3).to(self._device).permute(0, 3, 1, 2).float()
        return (x_BCHW - self._mean_C11) / self._std_C11

    def _losses(self, step: int, embedding_BD: Tensor, labels_Tb: Tensor) -> list[Tensor]:
        """One loss per task, from its own images only: no head sees another task's."""
        parts = embedding_BD.chunk(len(self.tasks))
        return [
            head(part_bD, labels_b, np.random.default_rng((self.config.seed, step, number, 2)))
            for number, (head, part_bD, labels_b) in enumerate(zip(self.heads, parts, labels_Tb, strict=True))
        ]

    def _batch(self, step: int) -> Batch:
        """This process's share of the step's batch."""
        rows = range(self._processes.rank, self.config.images_per_task, self._processes.count)
        return self._prepare(step, rows, input_size_at(self.config, step))

    def _prepare(self, step: int, rows: range, size: int) -> Batch:
        """These rows of each task's part of the step's batch, as images of this size."""
        images: list[npt.NDArray[np.uint8]] = []
        boxes: list[npt.NDArray[np.float32]] = []
        labels = []
        for number, task in enumerate(self.tasks):
            samples = task.batch(step, rows)
            labels.append(np.array([sample.item["label"] for sample in samples], np.int64))
            for row, sample in zip(rows, samples, strict=True):
                rng = np.random.default_rng((self.config.seed, step, number, 1, row))
                image, box = training_image(sample.picture, sample.item, size, rng, flip=self.config.flip)
                images.append(image)
                boxes.append(box)
        return Batch(np.stack(images), np.stack(labels), np.stack(boxes))

    def _set_rates(self, step: int) -> None:
        """Linear warm-up, then a cosine to zero."""
        config = self.config
        warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
        rate = warm * 0.5 * (1 + math.cos(math.pi * step / config.steps))
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * rate

    def _whiten(self, network: UnifiedEmbedding) -> None:
        """Whiten the last layer of a network within classes, by the first steps' images. No other thread reads any."""
        if not isinstance(network.project, nn.Linear):
            return
        features, labels = [], []
        training = network.training
        network.eval()
        with torch.inference_mode():
            for step in range(self.config.whitening_batches):
                batch = self._prepare(step, range(self.config.images_per_task), self.config.input_size)
                features.append(network.features(self._normalized(batch.images_NSS3)).cpu())
                labels.append(batch.labels_Tb + np.arange(len(self.tasks))[:, np.newaxis] * _MAX_CLASSES)
        network.train(training)
        labels_N = torch.from_numpy(np.concatenate([each.ravel() for each in labels]))
        weight_DF = whitened_projection(network.project.weight.detach().cpu(), torch.cat(features), labels_N)
        network.project.weight.data.copy_(weight_DF)

    def _evaluate(self, folder: Path, validate: Validate, report: Report) -> None:
        progress = self.progress
        network = self.network
        if self.config.whitening_batches and progress.step < self.config.steps:
            network = copy.deepcopy(network)
            self._whiten(network)
        found = validate(network)
        if found["score"] > progress.best_score:
            progress.best_score, progress.best_step, progress.evaluations_since_best = found["score"], progress.step, 0
            if self._processes.rank == 0:
                _write(folder / BEST, {"network": network.state_dict(), "step": progress.step})
        else:
            progress.evaluations_since_best += 1
        patience = self.config.patience
        progress.stopped = patience is not None and progress.evaluations_since_best >= patience
        entry = {"step": progress.step, "metrics": found}
        progress.curves.append(entry)
        report(entry)

    def save(self, folder: Path) -> None:
        """Write the checkpoint, atomically, and the curves beside it. Only process 0 writes."""
        if self._processes.rank != 0:
            return
        progress = self.progress
        state = {
            "config": _identity(self.config),
            "network": self.network.state_dict(),
            "heads": self.heads.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers],
            "scaler": self._scaler.state_dict(),
            "progress": json.dumps(asdict(progress)),
        }
        _write(folder / CHECKPOINT, state)
        lines = "".join(json.dumps(entry) + "\n" for entry in progress.curves)
        (folder / CURVES).write_text(lines, encoding="utf-8")

    def resume(self, file: Path) -> None:
        """Continue from a checkpoint of the same configuration. Reads tensors and plain types only.

        Raises:
            CorruptStateError: the file can't be read.
            FatalError: it is of another configuration.
        """
        try:
            state = torch.load(file, map_location=self._device, weights_only=True)
        except Exception as error:
            raise CorruptStateError(f"checkpoint {str(file)!r} can't be read: {error}") from error
        if state["config"] != _identity(self.config):
            raise FatalError(f"checkpoint {str(file)!r} is of another configuration: train into another folder")
        self.network.load_state_dict(state["network"])
        self.heads.load_state_dict(state["heads"])
        for optimizer, saved in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self._scaler.load_state_dict(state["scaler"])
        self.progress = Progress(**json.loads(state["progress"]))


def _identity(config: TrainConfig) -> str:
    """What a checkpoint must agree with: everything but where pictures are kept."""
    return config.model_dump_json(exclude={"cache"})


def _optimizers(config: TrainConfig, network: nn.Module, heads: nn.ModuleList) -> list[torch.optim.Optimizer]:
    """AdamW for the network (no decay on vectors), Adam for the proxies, a sparse one where only samples move."""
    matrices = [parameter for parameter in network.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in network.parameters() if parameter.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, lr=config.learning_rate)]
    dense = [p for head in heads if not isinstance(head, SampledHead) for p in head.parameters()]
    sparse = [p for head in heads if isinstance(head, SampledHead) for p in head.parameters()]
    if dense:
        optimizers.append(torch.optim.Adam(dense, lr=config.proxy_learning_rate))
    if sparse:
        optimizers.append(torch.optim.SparseAdam(sparse, lr=config.proxy_learning_rate))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
    return optimizers


def _write(file: Path, state: dict[str, Any]) -> None:
    draft = file.with_suffix(".draft")
    torch.save(state, draft)
    with draft.open("rb") as stream:
        os.fsync(stream.fileno())
    draft.replace(file)
