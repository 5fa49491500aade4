"""Each public layout is read as it is published, and the first missing thing is named."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from embedder.model.domains import folder_application
from embedder.model.pictures import Source
from embedder.model.readers import load_pictures, read_files
from embedder.model.train_config import Reader
from pinstream.errors import FatalError


def picture(path: Path, shade: int = 0, mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (40, 30), shade if mode == "L" else (shade, 99, 99)).save(path)
    return path


def image_folder(root: Path) -> None:
    for name in ("a", "b", "c", "d", "e", "f", "g", "h"):
        picture(root / name / "1.jpg")
        picture(root / name / "deeper" / "2.png")
    (root / "a" / "notes.txt").write_text("not an image")


def divided_folder(root: Path) -> None:
    for split in ("train", "test"):
        for name in ("a", "b"):
            picture(root / split / f"{split}-{name}" / "1.jpg")


def sop(root: Path) -> None:
    for split, first in (("train", 1), ("test", 11)):
        lines = ["image_id class_id super_class_id path"]
        for number in range(first, first + 4):
            picture(root / "bicycle_final" / f"{number}.JPG")
            lines.append(f"{number} {first + number // 2} 1 bicycle_final/{number}.JPG")
        (root / f"Ebay_{split}.txt").write_text("\n".join(lines) + "\n")


def in_shop(root: Path) -> None:
    lines = ["6", "image_name item_id evaluation_status"]
    for number, status in enumerate(("train", "train", "query", "gallery", "query", "gallery")):
        picture(root / "img" / "WOMEN" / f"{number}.jpg")
        lines.append(f"img/WOMEN/{number}.jpg   id_{number // 2:08d}   {status}")
    (root / "Eval").mkdir()
    (root / "Eval" / "list_eval_partition.txt").write_text("\n".join(lines))


def cub_200(root: Path) -> None:
    rows = [(1, "001.Albatross/x.jpg", 1), (2, "100.Pelican/y.jpg", 100), (3, "101.Other/z.jpg", 101)]
    for _, path, _ in rows:
        picture(root / "images" / path)
    (root / "images.txt").write_text("".join(f"{number} {path}\n" for number, path, _ in rows))
    (root / "image_class_labels.txt").write_text("".join(f"{number} {label}\n" for number, _, label in rows))
    (root / "bounding_boxes.txt").write_text("".join(f"{number} 10.0 15.0 20.0 15.0\n" for number, _, _ in rows))


def cars_196(root: Path) -> None:
    fields = ("relative_im_path", "bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "test")
    rows = []
    for number, label in enumerate((1, 98, 99)):
        path = f"car_ims/{number:06d}.jpg"
        picture(root / path)
        rows.append((path, 4, 3, 36, 27, label, 0))
    annotations = np.array(rows, dtype=[(field, object) for field in fields])
    savemat(root / "cars_annos.mat", {"annotations": annotations})


LAYOUTS: list[tuple[Reader, Callable[[Path], None], int, int]] = [
    (Reader.IMAGE_FOLDER, image_folder, 12, 4),
    (Reader.IMAGE_FOLDER, divided_folder, 2, 2),
    (Reader.SOP, sop, 4, 4),
    (Reader.IN_SHOP, in_shop, 2, 4),
    (Reader.CUB_200, cub_200, 2, 1),
    (Reader.CARS_196, cars_196, 2, 1),
]


@pytest.mark.parametrize(("reader", "make", "train", "test"), LAYOUTS)
def test_layout(tmp_path: Path, reader: Reader, make: Callable[[Path], None], train: int, test: int) -> None:
    make(tmp_path)
    training, held_out = read_files(reader, tmp_path, "train"), read_files(reader, tmp_path, "test")
    assert (len(training), len(held_out)) == (train, test)
    assert not {file.name for file in training} & {file.name for file in held_out}


@pytest.mark.parametrize(
    ("reader", "make", "missing"),
    [
        (Reader.SOP, sop, "Ebay_train.txt"),
        (Reader.SOP, sop, "bicycle_final/2.JPG"),
        (Reader.IN_SHOP, in_shop, "img/WOMEN/1.jpg"),
        (Reader.CUB_200, cub_200, "bounding_boxes.txt"),
        (Reader.CARS_196, cars_196, "cars_annos.mat"),
        (Reader.CARS_196, cars_196, "car_ims/000000.jpg"),
    ],
)
def test_the_first_missing_thing_is_named(
    tmp_path: Path, reader: Reader, make: Callable[[Path], None], missing: str
) -> None:
    make(tmp_path)
    (tmp_path / missing).unlink()
    with pytest.raises(FatalError, match=rf"{re.escape(missing)}.*missing"):
        read_files(reader, tmp_path, "train")


def test_no_folder_and_no_images(tmp_path: Path) -> None:
    with pytest.raises(FatalError, match=r"nowhere.*missing"):
        read_files(Reader.SOP, tmp_path / "nowhere", "train")
    with pytest.raises(FatalError, match="no train images"):
        read_files(Reader.IMAGE_FOLDER, tmp_path, "train")


def test_a_malformed_list_names_its_line(tmp_path: Path) -> None:
    sop(tmp_path)
    (tmp_path / "Ebay_train.txt").write_text("header\n1 2 3 a.jpg\n1 2\n")
    with pytest.raises(FatalError, match="line 3 has 2 columns, expected 4"):
        read_files(Reader.SOP, tmp_path, "train")


def test_queries_of_in_shop_ask_its_gallery_and_of_a_folder_each_other(tmp_path: Path) -> None:
    in_shop(tmp_path / "shop")
    pictures = load_pictures(read_files(Reader.IN_SHOP, tmp_path / "shop", "test"), 16, tmp_path / "cache")
    asked = folder_application("inshop", pictures)
    assert not asked.same_items
    assert asked.queries.items["picture"].tolist() == [0, 2]
    assert asked.index.items["picture"].tolist() == [1, 3]
    assert asked.queries.labels.tolist() == asked.index.labels.tolist() == [0, 1]
    image_folder(tmp_path / "folder")
    pictures = load_pictures(read_files(Reader.IMAGE_FOLDER, tmp_path / "folder", "test"), 16, tmp_path / "cache")
    assert folder_application("folder", pictures).same_items


def test_pictures_are_decoded_once_with_their_boxes(tmp_path: Path) -> None:
    cub_200(tmp_path / "cub")
    picture(tmp_path / "cub" / "images" / "001.Albatross" / "x.jpg", 200, "L")
    files = read_files(Reader.CUB_200, tmp_path / "cub", "train")
    pictures = load_pictures(files, 32, tmp_path / "cache")
    assert pictures.pixels_PRR3.shape == (2, 32, 32, 3)
    assert abs(int(pictures.pixels_PRR3[0].mean()) - 200) <= 2
    assert pictures.items["box"][0].tolist() == [0.25, 0.5, 0.5, 0.5]
    assert pictures.classes == 2
    assert len(pictures.only(Source.CAMERA).items) == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.npy")}
    load_pictures(files, 32, tmp_path / "cache")
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.npy")}


def test_a_file_that_is_no_image_is_named(tmp_path: Path) -> None:
    divided_folder(tmp_path)
    (tmp_path / "train" / "train-a" / "1.jpg").write_text("<html>")
    with pytest.raises(FatalError, match=r"train-a/1.jpg.*not an image"):
        load_pictures(read_files(Reader.IMAGE_FOLDER, tmp_path, "train"), 32, tmp_path / "cache")
