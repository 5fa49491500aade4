"""Golden queries: images with the Pins that are right for them, if anybody knows. Reads files; see docs/formats.md.

    golden/queries.jsonl    {"image": "0001.jpg", "application": "lens", "box": {…}, "expected": [12, 99]}
                            {"image": "0002.jpg", "application": "lens", "label": "mug-7"}
    golden/pins.jsonl       {"pin_id": 12, "label": "mug-7"}
    golden/0001.jpg …

A folder without `queries.jsonl` is a set of images, each asked in every application, with nothing expected.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pinstream.errors import FatalError
from pinstream.events import MAX_PIN_ID, Box, Domain
from producers.generated_pins import generated_pin
from producers.pin_source import IMAGE_SUFFIXES
from producers.world import World
from rollout.generation import Application

QUERIES: Final = "queries.jsonl"
PINS: Final = "pins.jsonl"
MAX_QUERIES: Final = 5_000
MAX_LINE_CHARS: Final = 1_000_000
_UNSEEN_VIEWS: Final = 6_000_000
"""Views from here on are nobody's Pin, and nobody's query in the demo."""

_PinId = Annotated[int, Field(ge=1, le=MAX_PIN_ID)]


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _QueryLine(_Line):
    image: Annotated[str, Field(min_length=1, max_length=1000)]
    """Path of the image, below the folder of the file."""
    application: Application | None = None
    """None: asked in all of them."""
    box: Box | None = None
    expected: Annotated[tuple[_PinId, ...], Field(max_length=100_000)] = ()
    label: Annotated[str, Field(max_length=500)] | None = None
    """All Pins with this label in `pins.jsonl` are expected."""


class _PinLine(_Line):
    pin_id: _PinId
    label: Annotated[str, Field(max_length=500)]


@dataclass(frozen=True, slots=True)
class GoldenQuery:
    image: Path
    application: Application
    box: Box | None
    expected: frozenset[int]
    """Empty: not known."""

    @property
    def name(self) -> str:
        return self.image.name


def read_golden(path: Path, applications: frozenset[Application]) -> list[GoldenQuery]:
    """The golden queries of these applications. Blocks; the images are not read yet.

    Raises:
        FatalError: nothing is there, a line is wrong, or an image is missing. It is named.
    """
    file = path / QUERIES if path.is_dir() else path
    if path.is_dir() and not file.exists():
        lines = [_QueryLine(image=one.name) for one in sorted(path.iterdir()) if one.suffix.lower() in IMAGE_SUFFIXES]
    else:
        lines = list(_read(file, _QueryLine))
    if not lines:
        raise FatalError(f"{path} has no golden query: expected a folder with images or {QUERIES}, or such a file")
    labelled: dict[str, set[int]] = defaultdict(set)
    if (file.parent / PINS).exists():
        for pin in _read(file.parent / PINS, _PinLine):
            labelled[pin.label].add(pin.pin_id)
    found = []
    for line in lines:
        expected = frozenset(line.expected) | (labelled.get(line.label, set()) if line.label else set())
        image = _inside(file.parent, line.image)
        found += [
            GoldenQuery(image, application, line.box, expected)
            for application in Application
            if application in applications and line.application in (None, application)
        ]
    return found[:MAX_QUERIES]


def write_world_golden(folder: Path, world: World, pins: int, queries: int) -> int:
    """Golden queries of a generated world of `pins` Pins, as `pinstream produce world` makes them; how many. Blocks.

    Raises:
        FatalError: the folder has some already.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / QUERIES).exists():
        raise FatalError(f"{folder / QUERIES} exists: remove it or choose another folder")
    lines = []
    for number in range(queries):
        product = number * world.products // queries
        for application, domain in (
            (Application.LENS, Domain.CAMERA),
            (Application.FLASHLIGHT, Domain.PIN),
            (Application.SHOP_THE_LOOK, Domain.PIN),
        ):
            view = _UNSEEN_VIEWS + 2 * number + (application is Application.SHOP_THE_LOOK)
            picture = world.render(product, domain, view)
            name = f"{application}-{number:04d}.jpg"
            (folder / name).write_bytes(picture.jpeg)
            box = None if application is Application.LENS else picture.products[0].box.model_dump()
            lines.append({"image": name, "application": application, "box": box, "label": f"product-{product}"})
    known = (generated_pin(pin_id, world.products) for pin_id in range(1, pins + 1))
    labels = [{"pin_id": pin.pin_id, "label": f"product-{pin.product}"} for pin in known]
    for file, content in ((QUERIES, lines), (PINS, labels)):
        (folder / file).write_text("".join(json.dumps(line) + "\n" for line in content), encoding="utf-8")
    return len(lines)


def _read(file: Path, kind: type[Any]) -> Iterator[Any]:
    try:
        with file.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if len(line) > MAX_LINE_CHARS:
                    raise FatalError(f"{file} line {number} has {len(line)} characters, expected {MAX_LINE_CHARS}")
                if line.strip():
                    yield _parse(kind, line, f"{file} line {number}")
    except (OSError, UnicodeDecodeError) as error:
        raise FatalError(f"golden queries can't be read from {file}: {error}") from error


def _parse(kind: type[Any], line: str, where: str) -> Any:
    try:
        return kind.model_validate_json(line)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        name = ".".join(map(str, fault["loc"])) or "the line"
        raise FatalError(f"{where}: {name}: {fault['msg']}") from error


def _inside(folder: Path, name: str) -> Path:
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()) or not path.is_file():
        raise FatalError(f"golden image {name!r} is no file below {folder}")
    return path
