"""What a training run is: one TOML file, all of it, so that the run can be repeated."""

from __future__ import annotations

import tomllib
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from embedder.model.world_pictures import WorldPart
from pinstream.errors import FatalError


class Reader(StrEnum):
    """How a task's images are laid out on disk; `world` renders them."""

    WORLD = "world"
    IMAGE_FOLDER = "imagefolder"
    SOP = "sop"
    IN_SHOP = "inshop"
    CUB_200 = "cub200"
    CARS_196 = "cars196"
    WEBDATASET = "webdataset"


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TaskConfig(_Section):
    """One data set with a head of its own."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,40}$")
    reader: Reader
    sources: tuple[Literal["camera", "pin", "product", "scene"], ...] = ()
    """Of the world: which pictures this task sees."""
    path: Path | None = None
    """Of every other reader: the folder, or the shards as `name-{000..099}.tar`."""
    classes: int | None = Field(default=None, ge=2)
    """Of webdataset: how many, since a stream can't be counted."""

    @model_validator(mode="after")
    def _complete(self) -> TaskConfig:
        if self.reader is Reader.WORLD and not self.sources:
            raise ValueError(f"task {self.name!r} reads the world and names no sources")
        if self.reader is not Reader.WORLD and self.path is None:
            raise ValueError(f"task {self.name!r} reads {self.reader.value} and has no path")
        if self.reader is Reader.WEBDATASET and self.classes is None:
            raise ValueError(f"task {self.name!r} reads webdataset and says not how many classes there are")
        return self


class TrainConfig(_Section):
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")
    """Of the artifact."""
    backbone: str = "pinnet"
    """`pinnet`, `timm:NAME` or `torchvision:NAME`."""
    pretrained: bool = False
    bits: int = 2048
    input_size: int = Field(default=96, ge=32, le=1024)
    early_input_size: int | None = Field(default=None, ge=32, le=1024)
    """Train at this smaller size first: most is learnt there, at a fraction of the cost. For convolutions only."""
    early_share: float = Field(default=0.7, gt=0, lt=1)
    """Share of the steps at `early_input_size`."""
    picture_size: int = Field(default=160, ge=32, le=2048)
    """Side at which pictures are kept in the cache; boxes are cut from there."""
    cache: Path = Path(".pinstream/pictures")
    seed: int = Field(default=0, ge=0, lt=2**31)
    steps: int = Field(ge=1)
    images_per_task: int = Field(default=32, ge=2)
    """Per step, over all processes: every batch holds as many images of each task."""
    per_class: int = Field(default=4, ge=1)
    learning_rate: float = Field(default=2e-3, gt=0)
    proxy_learning_rate: float = Field(default=2e-2, gt=0)
    weight_decay: float = Field(default=1e-4, ge=0)
    warmup_steps: int = Field(default=100, ge=0)
    temperature: float = Field(default=0.05, gt=0)
    proxies_per_step: int | None = Field(default=None, ge=2)
    """Classes that a step compares with; None: all. Set it when classes × bits × 16 bytes is more than you have."""
    flip: bool = True
    """Mirror half of the images."""
    whitening_batches: int = Field(default=0, ge=0)
    """At every evaluation and at the end the last layer is whitened within classes, by so many batches. 0: it isn't;
    a network with as many features as bits has no such layer."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    checkpoint_every: int = Field(default=500, ge=1)
    evaluate_every: int = Field(default=500, ge=1)
    patience: int | None = Field(default=None, ge=1)
    """Stop after so many evaluations in a row without a better one. None: never."""
    tasks: tuple[TaskConfig, ...] = Field(min_length=1)
    world: tuple[WorldPart, ...] = ()
    """Products that the world tasks train on."""
    held_out: tuple[WorldPart, ...] = ()
    """Products of the world that steer early stop; never trained on."""


def input_size_at(config: TrainConfig, step: int) -> int:
    """Side of the training images in this step."""
    early = config.early_input_size is not None and step < config.early_share * config.steps
    return config.early_input_size if early and config.early_input_size is not None else config.input_size


def load_train_config(path: Path, **overrides: Any) -> TrainConfig:
    """Read a configuration.

    Raises:
        FatalError: no such file, not TOML, or a setting is unknown, missing or out of range.
    """
    try:
        fields = tomllib.loads(path.read_text(encoding="utf-8"))
        return TrainConfig.model_validate({**fields, **overrides})
    except OSError as error:
        raise FatalError(f"training configuration {str(path)!r} can't be read: {error.strerror}") from error
    except tomllib.TOMLDecodeError as error:
        raise FatalError(f"training configuration {str(path)!r} is not TOML: {error}") from error
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(map(str, fault['loc'])) or 'file'}: {fault['msg']} (got {str(fault['input'])[:60]!r})"
            for fault in error.errors()[:5]
        )
        raise FatalError(f"training configuration {str(path)!r} is wrong: {faults}") from error
