"""Run under torchrun by `test_training.py`: a few steps of data-parallel training, the losses as JSON lines."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from embedder.model.distributed import join_processes, leave_processes
from embedder.model.runs import make_trainer
from embedder.model.train_config import TrainConfig


def main() -> None:
    torch.set_num_threads(1)
    config = TrainConfig.model_validate_json(Path(sys.argv[1]).read_text(encoding="utf-8"))
    device = torch.device("cpu")
    processes = join_processes(device)
    trainer = make_trainer(config, processes, device)
    losses: list[dict[str, float]] = []
    folder = Path(sys.argv[2])
    folder.mkdir(exist_ok=True)
    trainer.run(folder, validate=None, report=lambda entry: losses.append(entry["loss"]))
    if processes.rank == 0:
        weights = {name: float(value.double().sum()) for name, value in trainer.network.state_dict().items()}
        (folder / "result.json").write_text(json.dumps({"losses": losses, "weights": weights}), encoding="utf-8")
    del trainer
    leave_processes(processes)


if __name__ == "__main__":
    main()
