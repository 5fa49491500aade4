"""Rank indexed items for queries through FAISS: Hamming distance on codes, cosine on float embeddings.

Shapes: Q queries, N indexed items, K neighbours, D dimensions, W = D / 8 bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

import faiss
import numpy as np
import numpy.typing as npt

from embedder.model.domains import Application
from embedder.model.metrics import RECALL_AT, retrieval_metrics

Floats = npt.NDArray[np.float32]
Codes = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Embedded:
    embedding_ND: Floats
    code_NW: Codes


def rank_binary(query_QW: Codes, index_NW: Codes, count: int) -> npt.NDArray[np.int64]:
    """[Q, K] rows of the index by Hamming distance, exact, through `IndexBinaryFlat`."""
    index = faiss.IndexBinaryFlat(index_NW.shape[1] * 8)
    index.add(np.ascontiguousarray(index_NW))
    neighbours: npt.NDArray[np.int64] = index.search(np.ascontiguousarray(query_QW), min(count, len(index_NW)))[1]
    return neighbours


def rank_float(query_QD: Floats, index_ND: Floats, count: int) -> npt.NDArray[np.int64]:
    """[Q, K] rows of the index by cosine, exact, through `IndexFlatIP`."""
    index = faiss.IndexFlatIP(index_ND.shape[1])
    index.add(_unit(index_ND))
    neighbours: npt.NDArray[np.int64] = index.search(_unit(query_QD), min(count, len(index_ND)))[1]
    return neighbours


def measure(application: Application, queries: Embedded, index: Embedded) -> dict[str, dict[str, float]]:
    """{`float`: metrics, `binary`: metrics} of one application."""
    query_labels, index_labels = application.queries.labels, application.index.labels
    most_relevant = int(np.bincount(index_labels).max())
    count = max(*RECALL_AT, most_relevant) + application.same_items
    found = {}
    for kind, neighbours in (
        ("float", rank_float(queries.embedding_ND, index.embedding_ND, count)),
        ("binary", rank_binary(queries.code_NW, index.code_NW, count)),
    ):
        ranked = drop_self(neighbours) if application.same_items else neighbours
        found[kind] = retrieval_metrics(ranked, query_labels, index_labels, own_items=int(application.same_items))
    return found


def drop_self(neighbours_QK: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Row i without item i, one column shorter."""
    count = neighbours_QK.shape[1]
    other = neighbours_QK != np.arange(len(neighbours_QK))[:, None]
    other[other.all(axis=1), -1] = False
    others: npt.NDArray[np.int64] = neighbours_QK[other].reshape(-1, count - 1)
    return others


def _unit(x_ND: Floats) -> Floats:
    norms = np.linalg.norm(x_ND, axis=1, keepdims=True)
    unit: Floats = np.ascontiguousarray(x_ND / np.maximum(norms, 1e-12), np.float32)
    return unit
