"""The generated world: the same everywhere, honest about what it shows, and hard in the way that the problem is."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import simplejpeg

from pinstream.events import Box, Domain
from producers.world import LINE_SIZE, Category, RenderedFrame, World
from producers.world.canvas import Canvas
from producers.world.photo import KEEP_VISIBLE
from producers.world.sprite import Pose, paint

ROOT = Path(__file__).parents[2]
SEED = 7
VIEWS = [(index, domain, view) for index in (0, 5, 42) for domain in Domain for view in (0, 3)]


def digests(views: list[tuple[int, Domain, int]], products: int = 60) -> dict[str, str]:
    world = World(SEED, products, image_size=128)
    return {f"{i} {d} {v}": hashlib.sha256(world.render(i, d, v).jpeg).hexdigest() for i, d, v in views}


def box_mask(box: Box, size: int) -> npt.NDArray[np.bool_]:
    mask = np.zeros((size, size), np.bool_)
    top, left = round(box.y * size), round(box.x * size)
    mask[top : top + round(box.height * size), left : left + round(box.width * size)] = True
    return mask


class TestTheSameEverywhere:
    def test_in_any_order_and_in_a_larger_world(self) -> None:
        assert digests(VIEWS) == digests(VIEWS[::-1], products=500)

    def test_in_another_process_with_another_number_of_threads(self) -> None:
        result = subprocess.run(
            [sys.executable, "-m", "tests.unit.test_world"], cwd=ROOT, capture_output=True, check=True
        )
        assert json.loads(result.stdout) == digests(VIEWS)

    def test_every_seed_product_domain_and_view_has_an_image_of_its_own(self) -> None:
        images = [World(seed, 60, 64).render(i, d, v).jpeg for seed in (1, 2) for i, d, v in VIEWS]
        assert len(set(images)) == len(images)


class TestAnswers:
    @pytest.mark.parametrize("domain", Domain)
    def test_the_box_fits_the_product_tightly(self, domain: Domain) -> None:
        world = World(SEED, 400, image_size=96)
        for index in range(0, 400, 8):
            frame = world.render_rgb(index, domain, view=1)
            (placed,), (mask,) = frame.products, frame.masks
            assert placed.product == index
            box = box_mask(placed.box, 96)
            assert not (mask & ~box).any()
            rows, columns = np.ix_(box.any(axis=1), box.any(axis=0))
            inside = mask[rows, columns]
            assert all(edge.any() for edge in (inside[0], inside[-1], inside[:, 0], inside[:, -1]))
            assert KEEP_VISIBLE <= placed.visible <= 1
            assert mask.mean() > 0.01

    def test_the_mask_is_where_the_product_is(self) -> None:
        """On white the answer can be read off the pixels: what is coloured is the product, what is not is not."""
        world = World(SEED, 400, image_size=128)
        for index in range(0, 400, 10):
            frame = world.render_rgb(index, Domain.PRODUCT, view=0)
            coloured = np.ptp(frame.rgb.astype(int), axis=2) > 12
            if world.product(index).category is Category.POT:
                assert (coloured & frame.masks[0]).sum() > 200, "leaves are green"
            assert (coloured & ~cv2.dilate(frame.masks[0].astype(np.uint8), np.ones((5, 5))).astype(bool)).sum() == 0
            assert (frame.rgb[~box_mask(frame.products[0].box, 128)].min(axis=-1) > 140).mean() > 0.97

    def test_a_scene_shows_two_to_four_of_the_products_asked_for(self) -> None:
        world = World(SEED, 400, image_size=96)
        held_out = world.split()[1]
        counts = set()
        for view in range(40):
            frame = world.scene_rgb(view, among=held_out)
            shown = [placed.product for placed in frame.products]
            assert len(set(shown)) == len(shown)
            assert set(shown) <= set(held_out)
            assert all(placed.visible > 0.5 for placed in frame.products)
            assert all(
                not (mask & ~box_mask(p.box, 96)).any() for p, mask in zip(frame.products, frame.masks, strict=True)
            )
            counts.add(len(shown))
        assert counts == {2, 3, 4}
        assert world.scene(3).jpeg == world.scene(3).jpeg != world.scene(4).jpeg

    @pytest.mark.parametrize("domain", Domain)
    def test_the_jpeg_is_the_frame(self, domain: Domain) -> None:
        world = World(SEED, 60, image_size=200)
        frame, image = world.render_rgb(11, domain, 0), world.render(11, domain, 0)
        decoded = simplejpeg.decode_jpeg(image.jpeg)
        assert decoded.shape == frame.rgb.shape == (200, 200, 3)
        assert np.abs(decoded.astype(int) - frame.rgb).mean() < 12
        assert (image.domain, image.products) == (domain, frame.products)


class TestProducts:
    def test_look_alikes_share_category_and_colours_but_not_looks(self) -> None:
        world = World(SEED, 200)
        for line in range(0, 200, LINE_SIZE):
            siblings = [world.product(index) for index in range(line, line + LINE_SIZE)]
            assert len({product.category for product in siblings}) == 1
            assert len({frozenset(product.palette) for product in siblings}) == 1
            looks = [cv2.resize(paint(product, 96, Pose()), (96, 96)).astype(int) for product in siblings]
            for one in range(LINE_SIZE):
                for other in range(one):
                    assert (np.abs(looks[one] - looks[other]).sum(axis=2) > 60).mean() > 0.04, (line, one, other)

    def test_all_categories_occur(self) -> None:
        world = World(SEED, 400)
        assert {world.product(index).category for index in range(400)} == set(Category)

    def test_a_split_keeps_look_alikes_together(self) -> None:
        world = World(SEED, 203)
        training, held_out = world.split(0.25)
        assert [*training, *held_out] == list(range(203))
        assert {i // LINE_SIZE for i in training}.isdisjoint(i // LINE_SIZE for i in held_out)

    def test_what_does_not_exist_is_refused_by_name(self) -> None:
        world = World(SEED, 10, image_size=64)
        with pytest.raises(IndexError, match="product 10 is not in a world of 10"):
            world.render(10, Domain.PIN, 0)
        with pytest.raises(ValueError, match="held_out is 1"):
            world.split(1)
        with pytest.raises(ValueError, match="among 1 products"):
            world.scene(0, among=range(1))
        with pytest.raises(ValueError, match="key -1"):
            World(-1, 10)
        with pytest.raises(ValueError, match="image_size is 63"):
            World(1, 10, image_size=63)


class TestDifficulty:
    """A Lens query is a photo; the answer is the same product in the catalogue, among 200."""

    @pytest.fixture(scope="class")
    @classmethod
    def frames(cls) -> dict[Domain, list[RenderedFrame]]:
        world = World(SEED, 200, image_size=96)
        return {domain: [world.render_rgb(index, domain, 0) for index in range(200)] for domain in Domain}

    @staticmethod
    def crop(frame: RenderedFrame) -> npt.NDArray[np.uint8]:
        rows, columns = np.nonzero(box_mask(frame.products[0].box, frame.rgb.shape[0]))
        return frame.rgb[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]

    def histogram(self, frame: RenderedFrame) -> npt.NDArray[np.float64]:
        hsv = cv2.cvtColor(self.crop(frame), cv2.COLOR_RGB2HSV)
        counts = cv2.calcHist([hsv], [0, 1, 2], None, [8, 8, 8], [0, 180, 0, 256, 0, 256]).ravel().astype(float)
        shares: npt.NDArray[np.float64] = np.sqrt(counts / counts.sum())
        return shares

    def thumbnail(self, frame: RenderedFrame) -> npt.NDArray[np.float64]:
        small = cv2.resize(self.crop(frame), (16, 16), interpolation=cv2.INTER_AREA).astype(float)
        small -= small.mean(axis=(0, 1))
        direction: npt.NDArray[np.float64] = (small / np.linalg.norm(small)).ravel()
        return direction

    @pytest.mark.parametrize("describe", ["histogram", "thumbnail"])
    def test_photos_are_hard_but_not_hopeless(self, frames: dict[Domain, list[RenderedFrame]], describe: str) -> None:
        product, pin, camera = (
            np.stack([getattr(self, describe)(frame) for frame in frames[domain]])
            for domain in (Domain.PRODUCT, Domain.PIN, Domain.CAMERA)
        )
        from_camera, from_pin = camera @ product.T, pin @ product.T
        same = np.diag(from_camera)
        assert (same[:, None] > from_camera).mean() > 0.75, "the same product should look more alike than another"
        p_at_1 = (from_camera.argmax(axis=1) == np.arange(200)).mean()
        assert p_at_1 < 0.35, "too easy: no embedding is needed"
        assert p_at_1 < (from_pin.argmax(axis=1) == np.arange(200)).mean(), "a photo should be harder than a Pin"


class TestCanvas:
    @staticmethod
    def square(left: float, top: float, side: float) -> npt.NDArray[np.float32]:
        corners = [[left, top], [left + side, top], [left + side, top + side], [left, top + side]]
        return np.array(corners, np.float32)

    def test_what_would_hide_too_much_is_not_pasted(self) -> None:
        canvas = Canvas(np.ones((64, 64, 3), np.float32))
        red = np.full((20, 20, 4), (255, 0, 0, 255), np.uint8)
        assert canvas.paste(red, self.square(10, 10, 20), product=3)
        before = canvas.rgb.copy()
        assert not canvas.paste(red, self.square(10, 16, 20), keep_visible=0.5)
        assert np.array_equal(canvas.rgb, before)
        assert canvas.paste(red, self.square(10, 20, 20), keep_visible=0.49)
        (placed,), (mask,) = canvas.placed()
        assert placed.visible == pytest.approx(0.5, abs=0.05)
        assert mask[10:20, 10:30].all()
        assert mask.sum() == 200

    def test_what_leaves_the_image_counts_as_hidden(self) -> None:
        canvas = Canvas(np.ones((64, 64, 3), np.float32))
        canvas.paste(np.full((20, 20, 4), 255, np.uint8), self.square(-5, 54, 20), product=0)
        (placed,), _ = canvas.placed()
        assert placed.visible == pytest.approx(0.75 * 0.5, abs=0.03)
        assert placed.box == Box(x=0, y=54 / 64, width=15 / 64, height=10 / 64)


if __name__ == "__main__":
    cv2.setNumThreads(1)
    print(json.dumps(digests(VIEWS[::-1])))
