"""Whatever is asked of the generated world, it answers with an image and with boxes inside it."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pinstream.events import Domain
from producers.world import World
from producers.world.streams import MAX_KEY

keys = st.integers(0, MAX_KEY)


@settings(max_examples=60, deadline=None)
@given(seed=keys, index=st.integers(0, 10**6), domain=st.sampled_from(Domain), view=keys, size=st.integers(64, 200))
def test_any_view_of_any_product(seed: int, index: int, domain: Domain, view: int, size: int) -> None:
    frame = World(seed, 10**6 + 1, size).render_rgb(index, domain, view)
    assert frame.rgb.shape == (size, size, 3)
    assert frame.rgb.dtype == np.uint8
    assert [placed.product for placed in frame.products] == [index]
    assert frame.masks[0].any()


@settings(max_examples=30, deadline=None)
@given(seed=keys, view=keys, first=st.integers(0, 90), count=st.integers(2, 10))
def test_any_scene(seed: int, view: int, first: int, count: int) -> None:
    frame = World(seed, 100, 64).scene_rgb(view, range(first, first + count))
    assert 2 <= len(frame.products) <= min(4, count)
    assert all(first <= placed.product < first + count for placed in frame.products)
