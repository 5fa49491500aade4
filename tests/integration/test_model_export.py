"""From a network to an artifact and back: the same bits, from our training, from timm and from a foreign .pt2."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from embedder.model.artifact import PROGRAM, WEIGHTS, load_artifact
from embedder.model.distributed import Processes
from embedder.model.evaluate import encoder_of
from embedder.model.export_run import export_run
from embedder.model.import_model import import_backbone, import_program
from embedder.model.runs import make_trainer
from embedder.model.verify import verify_artifact
from embedder.torch_encoder import TorchEncoder
from pinstream.cli.model import app
from pinstream.errors import CorruptStateError, FatalError
from tests.integration.training_data import tiny_config, write_shapes

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished training run of 6 steps."""
    folder = tmp_path_factory.mktemp("run")
    data = write_shapes(folder / "images")
    trainer = make_trainer(tiny_config(data, folder / "cache", steps=6), Processes(), CPU)
    trainer.run(folder, validate=None, report=lambda entry: None)
    return folder


@pytest.fixture(scope="module")
def exported(run: Path) -> Path:
    export_run(run, run / "artifact")
    return run / "artifact"


def test_the_artifact_gives_the_trained_networks_codes(run: Path, exported: Path) -> None:
    data = run / "images"
    trainer = make_trainer(tiny_config(data, run / "cache", steps=6), Processes(), CPU)
    trainer.resume(run / "checkpoint.pt")
    artifact = load_artifact(exported)
    images = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), np.uint8)
    codes = TorchEncoder(artifact, device="cpu", max_batch_size=20).encode(images)
    expected = encoder_of(trainer.network).encode(images)
    assert np.bitwise_count(codes ^ expected).sum() <= 0.001 * codes.size * 8
    assert artifact.manifest.training["config"]["seed"] == 3


def test_exporting_again_gives_the_same_fingerprint(run: Path, exported: Path, tmp_path: Path) -> None:
    again = export_run(run, tmp_path / "again")
    assert again.fingerprint == load_artifact(exported).fingerprint
    assert again.program == load_artifact(exported).program
    with pytest.raises(FatalError, match="not empty"):
        export_run(run, tmp_path / "again")


def test_verify_finds_no_bit_that_differs_here(exported: Path) -> None:
    result = verify_artifact(exported, device="cpu", precision="fp32")
    assert result.differing == 0
    assert result.holds
    assert "0 of" in result.sentence()


def test_the_program_is_an_ordinary_pt2(exported: Path) -> None:
    program = torch.export.load(exported / PROGRAM)
    assert set(program.state_dict) == set(load_artifact(exported).tensors)
    module = program.module()
    module.load_state_dict({name: torch.from_numpy(x.copy()) for name, x in load_artifact(exported).tensors.items()})
    assert module(torch.zeros(3, 3, 32, 32)).shape == (3, 256)


@pytest.mark.parametrize("backbone", ["timm:test_vit", "timm:test_efficientnet", "torchvision:shufflenet_v2_x0_5"])
def test_import_of_a_librarys_model(tmp_path: Path, backbone: str) -> None:
    artifact = import_backbone(backbone, tmp_path / "model", input_size=64, bits=256, pretrained=False)
    assert artifact.manifest.preprocessing.resize == "shorter_side"
    assert verify_artifact(tmp_path / "model", device="cpu", precision="fp32").differing == 0


def test_import_of_a_foreign_program(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 256, 3, 2), nn.BatchNorm2d(256), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    batch = torch.export.Dim("batch", min=1, max=1024)
    program = torch.export.export(network, (torch.rand(2, 3, 64, 64),), dynamic_shapes=({0: batch},))
    torch.export.save(program, tmp_path / "Foreign Model.pt2")
    artifact = import_program(tmp_path / "Foreign Model.pt2", tmp_path / "model", input_size=64)
    assert artifact.manifest.name == "foreign-model"
    assert artifact.bits == 256
    images = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), np.uint8)
    mean, std = (np.array(x, np.float32) for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.inference_mode():
        x_BHWC = torch.from_numpy((images / np.float32(255) - mean) / std)
        expected = network(x_BHWC.permute(0, 3, 1, 2).float()).numpy()
    found = TorchEncoder(artifact, device="cpu", max_batch_size=8).embed(images)
    assert np.allclose(found, expected, atol=1e-4)
    (tmp_path / "text.pt2").write_text("not a program")
    with pytest.raises(CorruptStateError, match="not an archive"):
        import_program(tmp_path / "text.pt2", tmp_path / "other", input_size=64)


def test_the_commands(exported: Path, tmp_path: Path) -> None:
    runner = CliRunner()
    listed = runner.invoke(app, ["list", str(exported.parent), "--json"])
    names = [json.loads(line)["name"] for line in listed.stdout.splitlines()]
    assert names[-1] == "tiny"
    verified = runner.invoke(app, ["verify", str(exported), "--device", "cpu"])
    assert verified.exit_code == 0
    raw = bytearray((exported / WEIGHTS).read_bytes())
    raw[-1] ^= 1
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in exported.iterdir():
        (broken / file.name).write_bytes(bytes(raw) if file.name == WEIGHTS else file.read_bytes())
    refused = runner.invoke(app, ["verify", str(broken)])
    assert isinstance(refused.exception, CorruptStateError)
    assert WEIGHTS in str(refused.exception)
    images, out, cache = exported.parent / "images", tmp_path / "out", tmp_path / "cache"
    options = ["--data", str(images), "--output", str(out), "--cache", str(cache), "--device", "cpu"]
    evaluated = runner.invoke(app, ["evaluate", str(exported), "--reader", "imagefolder", *options])
    assert evaluated.exit_code == 0, evaluated.output
    page = (tmp_path / "out" / "evaluation.html").read_text()
    assert "data:image/png;base64," in page
    assert "http" not in page
    found = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert 0 <= found["applications"]["imagefolder"]["binary"]["P@1"] <= 1
