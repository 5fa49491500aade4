"""Public image sets as they lie on disk → lists of labelled files → pictures in the cache.

Each reader follows its set's published layout and its usual split for retrieval: the classes of `test` are in no
training batch. What is missing is named by the first file or folder that isn't there.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from PIL import Image, ImageOps
from scipy.io import loadmat

from embedder.model.pictures import ITEM_DTYPE, Pictures, PictureWriter, Pixels, Source, open_pictures
from embedder.model.train_config import Reader
from pinstream.errors import FatalError

Split = Literal["train", "test"]
Box = tuple[float, float, float, float]
WHOLE: Final[Box] = (0.0, 0.0, 1.0, 1.0)
IMAGE_SUFFIXES: Final = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})
HELD_OUT_SHARE: Final = 0.25
"""Of the classes of an ImageFolder without train/ and test/."""


@dataclass(frozen=True, slots=True)
class LabelledFile:
    path: Path
    name: str
    """Of the class."""
    pixels_box: Box | None = None
    """x, y, width, height in pixels of the file."""
    source: Source = Source.PRODUCT
    """CAMERA: a query of a set that has queries and a gallery."""


def read_files(reader: Reader, root: Path, split: Split) -> list[LabelledFile]:
    """The files of a split, in the order of the set's own lists.

    Raises:
        FatalError: something that the layout promises is missing or malformed; it is named.
    """
    _need(root, folder=True, what=f"the {reader.value} data set")
    files = {
        Reader.IMAGE_FOLDER: _image_folder,
        Reader.SOP: _sop,
        Reader.IN_SHOP: _in_shop,
        Reader.CUB_200: _cub_200,
        Reader.CARS_196: _cars_196,
    }[reader](root, split)
    if not files:
        raise FatalError(f"{reader.value} data set {str(root)!r} has no {split} images, expected some")
    for file in files:
        _need(file.path, folder=False, what=f"an image of the {reader.value} data set")
    return files


def load_pictures(files: list[LabelledFile], side: int, cache: Path) -> Pictures:
    """Decode every file once, stretched to [side, side, 3], or take them from the cache. Blocking; ~2 ms an image.

    Raises:
        FatalError: a file is not an image.
    """
    listed = "\n".join(
        f"{file.path} {file.name} {file.pixels_box} {file.source:d} {file.path.stat().st_mtime_ns}" for file in files
    )
    key = hashlib.sha256(f"{side}\n{listed}".encode()).hexdigest()[:16]
    folder = cache / f"files-{key}"
    if folder.exists():
        return open_pictures(folder)
    labels = {name: number for number, name in enumerate(dict.fromkeys(file.name for file in files))}
    writer = PictureWriter(folder, len(files), side)
    items = np.zeros(len(files), ITEM_DTYPE)
    for row, file in enumerate(files):
        writer.pixels_PRR3[row], box = _decode(file, side)
        items[row] = (row, labels[file.name], int(file.source), box)
    return writer.finish(items, {"classes": list(labels), "side": side})


def decode_picture(image: Image.Image, side: int) -> Pixels:
    """Any Pillow image → uint8 [side, side, 3], upright, RGB."""
    image.draft("RGB", (side * 2, side * 2))
    upright = ImageOps.exif_transpose(image).convert("RGB")
    return np.asarray(upright.resize((side, side), Image.Resampling.BILINEAR, reducing_gap=2.0))


def _decode(file: LabelledFile, side: int) -> tuple[Pixels, Box]:
    try:
        with Image.open(file.path) as image:
            width, height = image.size
            pixels = decode_picture(image, side)
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise FatalError(f"{str(file.path)!r} is not an image that can be read: {error}; remove it") from error
    if file.pixels_box is None:
        return pixels, WHOLE
    x, y, box_width, box_height = file.pixels_box
    return pixels, (x / width, y / height, min(1.0, box_width / width), min(1.0, box_height / height))


def _image_folder(root: Path, split: Split) -> list[LabelledFile]:
    """`root/train/CLASS/*` and `root/test/CLASS/*`, or `root/CLASS/*` with every fourth class held out."""
    divided = (root / "train").is_dir()
    if divided:
        _need(root / split, folder=True, what="the split of an imagefolder")
    base = root / split if divided else root
    classes = sorted(folder for folder in base.iterdir() if folder.is_dir())
    if not divided:
        every = round(1 / HELD_OUT_SHARE)
        classes = [
            folder for number, folder in enumerate(classes) if (number % every == every - 1) == (split == "test")
        ]
    return [
        LabelledFile(file, folder.name)
        for folder in classes
        for file in sorted(folder.rglob("*"))
        if file.suffix.lower() in IMAGE_SUFFIXES
    ]


def _sop(root: Path, split: Split) -> list[LabelledFile]:
    """Stanford Online Products: `Ebay_train.txt` and `Ebay_test.txt`: image_id class_id super_class_id path."""
    listing = root / f"Ebay_{split}.txt"
    rows = _rows(listing, columns=4, skip=1)
    return [LabelledFile(root / path, label) for _, label, _, path in rows]


def _in_shop(root: Path, split: Split) -> list[LabelledFile]:
    """DeepFashion In-Shop: `list_eval_partition.txt` (in `Eval/` too): image item status, after two header lines."""
    nested = root / "Eval" / "list_eval_partition.txt"
    rows = _rows(nested if nested.exists() else root / "list_eval_partition.txt", columns=3, skip=2)
    wanted = {"train"} if split == "train" else {"query", "gallery"}
    return [
        LabelledFile(root / path, item, source=Source.CAMERA if status == "query" else Source.PRODUCT)
        for path, item, status in rows
        if status in wanted
    ]


def _cub_200(root: Path, split: Split) -> list[LabelledFile]:
    """CUB-200-2011: `images.txt`, `image_class_labels.txt`, `bounding_boxes.txt`; classes 1 to 100 train."""
    paths = dict(_rows(root / "images.txt", columns=2))
    labels = dict(_rows(root / "image_class_labels.txt", columns=2))
    boxes = {number: box for number, *box in _rows(root / "bounding_boxes.txt", columns=5)}
    found = []
    for number, path in paths.items():
        if number not in labels or number not in boxes:
            raise FatalError(f"cub200 data set {str(root)!r} has no label or box for image {number} of images.txt")
        if (int(labels[number]) <= 100) == (split == "train"):
            x, y, width, height = (float(value) for value in boxes[number])
            found.append(LabelledFile(root / "images" / path, labels[number], (x, y, width, height)))
    return found


def _cars_196(root: Path, split: Split) -> list[LabelledFile]:
    """Cars196: `cars_annos.mat` and `car_ims/`; classes 1 to 98 train."""
    listing = root / "cars_annos.mat"
    _need(listing, folder=False, what="the labels of cars196")
    try:
        annotations: Any = loadmat(listing, squeeze_me=True)["annotations"]
        rows = [
            (str(row["relative_im_path"]), int(row["class"]), [int(row[key]) for key in _CAR_BOX])
            for row in np.atleast_1d(annotations)
        ]
    except (ValueError, KeyError, TypeError, NotImplementedError) as error:
        raise FatalError(f"{str(listing)!r} is not the label file of cars196: {error}") from error
    return [
        LabelledFile(root / path, str(label), (x1, y1, x2 - x1, y2 - y1))
        for path, label, (x1, y1, x2, y2) in rows
        if (label <= 98) == (split == "train")
    ]


_CAR_BOX: Final = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2")


def _rows(listing: Path, *, columns: int, skip: int = 0) -> list[list[str]]:
    """Blank-separated lines of a list file."""
    _need(listing, folder=False, what="a list of the data set")
    rows = [line.split() for line in listing.read_text(encoding="utf-8").splitlines()[skip:] if line.strip()]
    for number, row in enumerate(rows, skip + 1):
        if len(row) != columns:
            raise FatalError(f"{str(listing)!r} line {number} has {len(row)} columns, expected {columns}")
    return rows


def _need(path: Path, *, folder: bool, what: str) -> None:
    if not (path.is_dir() if folder else path.is_file()):
        kind = "folder" if folder else "file"
        raise FatalError(f"{str(path)!r} is missing, expected a {kind} ({what}): unpack the set there or correct path")
