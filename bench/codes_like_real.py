"""Codes made like real ones, for benchmarks: sign(W z) with z from overlapping clusters of heavy-tailed sizes.

A latent point z is topic + cluster + itself: 10,000 clusters lie around 50 topics, cluster sizes fall like 1 ÷ rank,
their spreads differ, and later latent dimensions carry less. W is a fixed random projection to `bits` dimensions. So
the nearest neighbours of a point come from its own cluster and from others, and from several lists of an inverted
file. Uniform codes would flatter an exact scan, well-separated clusters an inverted file. `python -m
bench.codes_like_real` prints the figures (`describe`). Seen for 1 M codes of 2048 bits, seed 2026, as quantiles (5, 25,
50, 75, 95 %) over queries:

    distance of neighbour 1          222  323  388  440  504
    distance of neighbour 100        261  386  464  502  576
    distance of neighbour 1000       309  441  514  556  621
    distance of a random pair        835  955 1017 1077 1162     (uniform codes: 987 1009 1024 1039 1061)
    share of the 100 nearest
      in the query's own cluster    0.00 0.32 0.93 1.00 1.00     (the largest cluster has 10 % of the codes)

Queries are drawn from the same distribution and are other points. Everything follows from the seed: chunks are made
whole, each from its own generator, so the first n codes are the same for every n. About 10 s a million on one core.

Shapes: N codes, Q queries, W = bits / 8 bytes of code, L latent dimensions, C clusters.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from typing import Any, Final

import faiss
import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]

CHUNK_ROWS: Final = 8192
TOPICS: Final = 50
STREAMS: Final = {"corpus": 1, "queries": 2, "updates": 3, "training": 4}
"""Independent draws from one distribution."""


class CodesLikeReal:
    """A distribution of codes. Immutable; any thread."""

    def __init__(self, bits: int = 2048, seed: int = 2026, latent: int = 96, clusters: int = 10_000) -> None:
        self.bits = bits
        self.code_bytes = bits // 8
        self._seed = seed
        rng = np.random.default_rng((seed, 0))
        self._projection_LB = rng.standard_normal((latent, bits), dtype=np.float32)
        self._scale_L = (np.arange(1, latent + 1) ** -0.25).astype(np.float32)
        topic_TL = rng.standard_normal((TOPICS, latent), dtype=np.float32)
        center_CL = 0.5 * rng.standard_normal((clusters, latent), dtype=np.float32)
        self._center_CL = topic_TL[rng.integers(0, TOPICS, clusters)] + center_CL
        self._spread_C = np.exp(rng.normal(-0.3, 0.25, clusters)).astype(np.float32)
        weight_C = 1 / np.arange(1, clusters + 1)
        self._until_C = np.cumsum(weight_C / weight_C.sum())

    def codes(self, count: int, stream: str = "corpus") -> Bytes:
        """The first `count` codes of a stream, uint8 [N, W]."""
        code_NW = np.empty((count, self.code_bytes), dtype=np.uint8)
        start = 0
        for chunk, _ in self.chunks(count, stream):
            code_NW[start : start + len(chunk)] = chunk
            start += len(chunk)
        return code_NW

    def chunks(self, count: int, stream: str = "corpus") -> Iterator[tuple[Bytes, npt.NDArray[np.intp]]]:
        """The same, at most CHUNK_ROWS at a time, with the cluster of each code."""
        for start in range(0, count, CHUNK_ROWS):
            rows = min(CHUNK_ROWS, count - start)
            code, cluster = self._chunk(start // CHUNK_ROWS, stream)
            yield code[:rows], cluster[:rows]

    def clusters(self, count: int, stream: str = "corpus") -> npt.NDArray[np.intp]:
        """The cluster of each of the first `count` codes: [N]."""
        rngs = (self._rng(chunk, stream) for chunk in range(-(-count // CHUNK_ROWS)))
        return np.concatenate([self._draw_clusters(rng) for rng in rngs])[:count]

    def _chunk(self, number: int, stream: str) -> tuple[Bytes, npt.NDArray[np.intp]]:
        rng = self._rng(number, stream)
        cluster = self._draw_clusters(rng)
        own_NL = rng.standard_normal((CHUNK_ROWS, len(self._scale_L)), dtype=np.float32)
        latent_NL = self._center_CL[cluster] + self._spread_C[cluster, np.newaxis] * own_NL
        bit_NB = (latent_NL * self._scale_L) @ self._projection_LB > 0
        return np.packbits(bit_NB, axis=1, bitorder="little"), cluster

    def _rng(self, chunk: int, stream: str) -> np.random.Generator:
        return np.random.default_rng((self._seed, STREAMS[stream], chunk))

    def _draw_clusters(self, rng: np.random.Generator) -> npt.NDArray[np.intp]:
        return np.minimum(np.searchsorted(self._until_C, rng.random(CHUNK_ROWS)), len(self._until_C) - 1)


def exact(code_QW: Bytes, code_NW: Bytes, k: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """The k nearest rows of each query by an exact scan: distances and rows, [Q, k]. ~12 ms a query and M codes."""
    distance_QK, row_QK = faiss.knn_hamming(code_QW, code_NW, k)
    return distance_QK, row_QK


def recall(found_distance_QK: npt.NDArray[Any], true_distance_QK: npt.NDArray[Any]) -> float:
    """Share of the true neighbours that were found. Rows at the last distance are interchangeable, so distances decide.

    A found row counts if it is no farther than the k-th true one; what is padded (a distance above all) does not.
    """
    near_QK = found_distance_QK <= true_distance_QK[:, -1:]
    return float(near_QK.mean())


def describe(world: CodesLikeReal, count: int, queries: int = 200) -> dict[str, Any]:
    """Figures that show what the codes are like: neither uniform (all neighbours at bits ÷ 2) nor well separated."""
    code_NW, code_QW = world.codes(count), world.codes(queries, "queries")
    ranks = [rank for rank in (1, 10, 100, 1000) if rank <= count]
    distance_QK, row_QK = exact(code_QW, code_NW, ranks[-1])
    cluster_N, cluster_Q = world.clusters(count), world.clusters(queries, "queries")
    same_QK = cluster_N[row_QK[:, :100]] == cluster_Q[:, np.newaxis]
    pair = np.bitwise_count(code_NW[: count // 2] ^ code_NW[-(count // 2) :]).sum(axis=1)
    sizes = np.sort(np.bincount(cluster_N))[::-1]
    return {
        "codes": count,
        "bits": world.bits,
        "distance_of_rank": {rank: _quantiles(distance_QK[:, rank - 1]) for rank in ranks},
        "distance_of_random_pair": _quantiles(pair),
        "share_of_100_nearest_in_own_cluster": _quantiles(same_QK.mean(axis=1)),
        "clusters": len(sizes),
        "largest_cluster_share": round(float(sizes[0] / count), 4),
        "codes_in_smaller_half_of_clusters": round(float(sizes[len(sizes) // 2 :].sum() / count), 4),
        "mean_of_bits": _quantiles(np.unpackbits(code_NW[:4096], axis=1).mean(axis=0)),
    }


def _quantiles(values: npt.NDArray[Any]) -> list[float]:
    """5 %, 25 %, 50 %, 75 %, 95 %."""
    return [round(float(q), 3) for q in np.quantile(values, (0.05, 0.25, 0.5, 0.75, 0.95))]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--codes", type=int, default=1_000_000)
    print(json.dumps(describe(CodesLikeReal(), parser.parse_args().codes), indent=1))
