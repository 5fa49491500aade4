"""The benchmarks' codes follow from their seed, however many are asked for, and are what they claim to be."""

from __future__ import annotations

import numpy as np

from bench.codes_like_real import CHUNK_ROWS, CodesLikeReal, describe


def test_the_same_seed_gives_the_same_codes_and_another_one_others() -> None:
    world, again, other = CodesLikeReal(512, seed=7), CodesLikeReal(512, seed=7), CodesLikeReal(512, seed=8)
    many = world.codes(CHUNK_ROWS + 10)
    assert np.array_equal(many, again.codes(CHUNK_ROWS + 10))
    assert np.array_equal(many[:100], again.codes(100))
    assert not np.array_equal(many[:100], other.codes(100))
    for stream in ("queries", "updates", "training"):
        assert not (again.codes(100, stream)[:, np.newaxis] == many[:100]).all(axis=2).any()


def test_neighbours_are_nearer_than_chance_and_come_from_several_clusters() -> None:
    found = describe(CodesLikeReal(2048, seed=7), 20_000, queries=50)
    nearest, random_pair = found["distance_of_rank"][10][2], found["distance_of_random_pair"][2]
    assert nearest < 0.6 * random_pair
    low, _, middle, _, high = found["share_of_100_nearest_in_own_cluster"]
    assert low < 0.2 and middle < 0.9 and high > 0.5
    assert found["largest_cluster_share"] > 0.05
