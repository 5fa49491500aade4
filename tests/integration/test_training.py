"""A run that is cut short and resumed, or spread over processes, takes the same path as one that isn't."""

from __future__ import annotations

import itertools
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import webdataset

from embedder.model.distributed import Processes
from embedder.model.runs import make_trainer, make_validation, train
from embedder.model.task_source import ShardSource
from embedder.model.train import CHECKPOINT, CURVES, Trainer
from embedder.model.train_config import TrainConfig
from pinstream.errors import CorruptStateError, FatalError
from tests.integration.training_data import tiny_config, write_shapes

CPU = torch.device("cpu")
ALONE = Processes()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("shapes") / "images")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def quiet(entry: dict[str, Any]) -> None:
    del entry


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {**trainer.network.state_dict(), **trainer.heads.state_dict()}


@pytest.mark.parametrize("proxies_per_step", [None, 5])
def test_killed_at_a_random_step_and_resumed_is_bitwise_the_same(
    data: Path, cache: Path, tmp_path: Path, proxies_per_step: int | None
) -> None:
    config = tiny_config(data, cache, proxies_per_step=proxies_per_step, early_input_size=32, input_size=40)
    whole = make_trainer(config, ALONE, CPU)
    (tmp_path / "whole").mkdir()
    whole.run(tmp_path / "whole", validate=None, report=quiet)

    folder = tmp_path / "cut"
    folder.mkdir()
    killed_after = random.randint(2, config.steps - 1)
    make_trainer(config, ALONE, CPU).run(folder, validate=None, report=quiet, until=killed_after)
    resumed = make_trainer(config, ALONE, CPU)
    resumed.resume(folder / CHECKPOINT)
    assert resumed.progress.step == killed_after // 2 * 2
    resumed.run(folder, validate=None, report=quiet)
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(resumed)[name]), f"{name} after a kill at step {killed_after}"


def test_a_head_gets_no_gradient_from_another_tasks_images(data: Path, cache: Path) -> None:
    trainer = make_trainer(tiny_config(data, cache), ALONE, CPU)
    batch = trainer._batch(0)
    images, labels = batch.images_NSS3, batch.labels_Tb
    half = len(images) // 2
    other_images = images.copy()
    other_images[half:] = 255 - other_images[half:]

    def proxies_after_a_step(batch: np.ndarray[Any, np.dtype[np.uint8]], tasks_labels: Any) -> torch.Tensor:
        fresh = make_trainer(tiny_config(data, cache), ALONE, CPU)
        x_BCHW = torch.from_numpy(batch).permute(0, 3, 1, 2).float()
        fresh.network.eval()  # batch norm would let the images of a batch see each other
        losses = fresh._losses(0, fresh.network(x_BCHW / 255), torch.from_numpy(tasks_labels))
        torch.stack(losses).sum().backward()
        gradient = next(fresh.heads[0].parameters()).grad
        assert gradient is not None
        return gradient

    assert torch.equal(proxies_after_a_step(images, labels), proxies_after_a_step(other_images, labels))
    assert not torch.equal(proxies_after_a_step(images, labels), proxies_after_a_step(255 - images, labels))


def test_training_learns_writes_curves_and_stops_early(data: Path, cache: Path, tmp_path: Path) -> None:
    config = tiny_config(data, cache, steps=60, evaluate_every=10, patience=1, proxy_learning_rate=0.05)
    losses: list[float] = []

    def listen(entry: dict[str, Any]) -> None:
        losses.extend([sum(entry["loss"].values())] if "loss" in entry else [])

    trainer = train(config, tmp_path / "run", processes=ALONE, device=CPU, report=listen)
    curves = [json.loads(line) for line in (tmp_path / "run" / CURVES).read_text().splitlines()]
    assert any("metrics" in entry for entry in curves)
    assert losses[-1] < losses[0]
    assert trainer.progress.stopped or trainer.progress.step == config.steps


def test_whitening_at_the_end_is_the_same_after_a_resume_and_keeps_one_linear_layer(
    data: Path, cache: Path, tmp_path: Path
) -> None:
    config = tiny_config(data, cache, bits=512, whitening_batches=3, evaluate_every=4)
    plain = make_trainer(tiny_config(data, cache, bits=512, evaluate_every=4), ALONE, CPU)
    unbroken, broken = make_trainer(config, ALONE, CPU), make_trainer(config, ALONE, CPU)
    for trainer, name in ((plain, "plain"), (unbroken, "unbroken"), (broken, "broken")):
        (tmp_path / name).mkdir()
        until = 5 if trainer is broken else None
        trainer.run(tmp_path / name, validate=make_validation(config, "cpu"), report=quiet, until=until)
    again = make_trainer(config, ALONE, CPU)
    again.resume(tmp_path / "broken" / CHECKPOINT)
    again.run(tmp_path / "broken", validate=make_validation(config, "cpu"), report=quiet)
    for name, value in weights(unbroken).items():
        assert torch.equal(value, weights(again)[name]), name
    differing = {name for name, value in weights(plain).items() if not torch.equal(value, weights(unbroken)[name])}
    assert differing == {"project.weight"}


def test_a_checkpoint_of_another_configuration_or_a_broken_one_is_refused(
    data: Path, cache: Path, tmp_path: Path
) -> None:
    make_trainer(tiny_config(data, cache), ALONE, CPU).save(tmp_path)
    with pytest.raises(FatalError, match="another configuration"):
        make_trainer(tiny_config(data, cache, seed=4), ALONE, CPU).resume(tmp_path / CHECKPOINT)
    (tmp_path / CHECKPOINT).write_bytes(b"not a checkpoint")
    with pytest.raises(CorruptStateError, match="can't be read"):
        make_trainer(tiny_config(data, cache), ALONE, CPU).resume(tmp_path / CHECKPOINT)


def test_bf16_and_fp16_train(data: Path, cache: Path, tmp_path: Path) -> None:
    for precision in ("bf16", "fp16"):
        losses: list[float] = []
        trainer = make_trainer(tiny_config(data, cache, steps=3, precision=precision), ALONE, CPU)
        trainer.run(tmp_path, validate=None, report=lambda entry, to=losses: to.append(sum(entry["loss"].values())))
        assert np.isfinite(losses).all()


def test_two_processes_compute_what_one_does(data: Path, cache: Path, tmp_path: Path) -> None:
    """Same losses over several steps as one process with the same global batch; a network without batch norm, whose
    statistics would be per process on a CPU."""
    config = tiny_config(data, cache, backbone="timm:test_convnext", steps=4, proxies_per_step=5, input_size=64)
    alone = make_trainer(config, ALONE, CPU)
    losses: list[dict[str, float]] = []
    (tmp_path / "alone").mkdir()
    alone.run(tmp_path / "alone", validate=None, report=lambda entry: losses.append(entry["loss"]))
    (tmp_path / "config.json").write_text(config.model_dump_json())
    script = Path(__file__).with_name("train_in_processes.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    subprocess.run(
        [*command, str(tmp_path / "config.json"), str(tmp_path / "two")],
        check=True,
        timeout=200,
        cwd=script.parents[2],
        env={
            "PYTHONPATH": str(script.parents[2]),
            "OMP_NUM_THREADS": "1",
            "PATH": "/usr/bin:/bin",
            "HOME": str(tmp_path),
        },
    )
    found = json.loads((tmp_path / "two" / "result.json").read_text())
    for ours, theirs in zip(losses, found["losses"], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)
    expected = {name: float(value.double().sum()) for name, value in alone.network.state_dict().items()}
    assert found["weights"] == pytest.approx(expected, rel=1e-3, abs=1e-2)


def test_shards_give_the_same_batches_after_a_resume(data: Path, tmp_path: Path) -> None:
    shards = str(tmp_path / "shard-%03d.tar")
    with webdataset.ShardWriter(shards, maxcount=15, verbose=0) as writer:
        for number, file in enumerate(sorted(data.rglob("*.png"))):
            label = int(file.parent.name.removeprefix("class-"))
            writer.write({"__key__": f"{number:04d}", "png": file.read_bytes(), "cls": label})
    urls = str(tmp_path / "shard-{000..002}.tar")

    def source(classes: int = 8) -> ShardSource:
        return ShardSource("shards", urls, classes, batch_size=8, side=40, seed=1)

    first = source()
    seen = [[int(sample.item["label"]) for sample in first.batch(step, range(8))] for step in range(12)]
    assert [int(sample.item["label"]) for sample in source().batch(9, range(8))] == seen[9]
    assert [int(sample.item["label"]) for sample in source().batch(9, [1, 3])] == [seen[9][1], seen[9][3]]
    assert sorted(itertools.chain.from_iterable(seen[:5])) == sorted([label for label in range(8) for _ in range(5)])
    with pytest.raises(FatalError, match="class below 2"):
        source(2).batch(0, range(8))
    with pytest.raises(FatalError, match="can't be read"):
        ShardSource("x", str(tmp_path / "none.tar"), 8, batch_size=8, side=40, seed=1).batch(0, [0])


def test_held_out_products_may_not_be_trained_on(data: Path, cache: Path) -> None:
    part = {"seed": 5, "first": 0, "last": 40}
    overlapping = TrainConfig.model_validate(
        {**tiny_config(data, cache).model_dump(), "world": [part], "held_out": [{**part, "first": 36}]}
    )
    with pytest.raises(FatalError, match="held out and also trained on"):
        make_trainer(overlapping, ALONE, CPU)


def test_a_world_of_three_tasks_is_rendered_trained_and_validated(cache: Path, tmp_path: Path) -> None:
    part = {"seed": 5, "camera_views": 1, "pin_views": 2, "product_views": 1, "scenes": 4}
    config = TrainConfig.model_validate(
        {
            **tiny_config(cache, cache, steps=2, picture_size=64).model_dump(exclude={"tasks"}),
            "tasks": [
                {"name": "flashlight", "reader": "world", "sources": ["pin"]},
                {"name": "lens", "reader": "world", "sources": ["camera", "pin", "product"]},
                {"name": "shop_the_look", "reader": "world", "sources": ["scene", "product"]},
            ],
            "world": [{**part, "first": 0, "last": 12}],
            "held_out": [{**part, "first": 12, "last": 24}],
        }
    )
    trainer = train(config, tmp_path, processes=ALONE, device=CPU, report=quiet)
    validate = make_validation(config, "cpu")
    assert validate is not None
    found = validate(trainer.network)
    assert {"score", "flashlight.float.P@1", "lens.binary.P@1", "shop_the_look.binary.P@1"} <= set(found)
