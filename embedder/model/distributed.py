"""Data parallelism under `torchrun`: which process this is, and what the processes tell each other."""

from __future__ import annotations

import gc
import os
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn


@dataclass(frozen=True, slots=True)
class Processes:
    rank: int = 0
    count: int = 1

    def mean(self, values: list[float]) -> list[float]:
        """Element by element over all processes. Blocks until every process calls it."""
        if self.count == 1:
            return values
        summed = torch.tensor(values, dtype=torch.float64)
        if dist.get_backend() == "nccl":
            summed = summed.cuda()
        dist.all_reduce(summed)
        return [float(value) / self.count for value in summed]


def join_processes(device: torch.device) -> Processes:
    """Join the group that `torchrun` describes in the environment; without one, this process is alone."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        return Processes()
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return Processes(dist.get_rank(), count)


def leave_processes(processes: Processes) -> None:
    """Leave the group together. Blocks until every process calls it; drop what uses the group before.

    A process that goes while another still talks to it, or a DistributedDataParallel that outlives the group, can end
    in an abort ("terminate called without an active exception", seen once with gloo).
    """
    if processes.count == 1:
        return
    gc.collect()
    dist.barrier()
    dist.destroy_process_group()


def average_gradients(heads: nn.Module, processes: Processes) -> None:
    """The proxies' gradients, as DistributedDataParallel does the network's. Blocks until every process calls it.

    Heads are not wrapped: of a sampled one only the sampled rows travel. They are the union over the processes, since
    each adds its own batch's classes to the sample.
    """
    for parameter in heads.parameters():
        if parameter.grad is None:
            continue
        gradient = parameter.grad.coalesce() if parameter.grad.is_sparse else parameter.grad
        dist.all_reduce(gradient)
        parameter.grad = gradient / processes.count
