"""Retrieval metrics from ranked neighbours. Pure.

Shapes: Q queries, K neighbours (best first), N indexed items.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

RECALL_AT = (1, 10, 100)


def retrieval_metrics(
    neighbours_QK: npt.NDArray[np.int64],
    query_labels_Q: npt.NDArray[np.int64],
    index_labels_N: npt.NDArray[np.int64],
    *,
    own_items: int = 0,
) -> dict[str, float]:
    """P@1, P@10, recall@1/10/100 and mAP@R, averaged over the queries that have a relevant item.

    P@k: share of relevant items among the first k. Recall@k: share of queries with a relevant item among the first k
    (as in the metric-learning papers). mAP@R: arXiv 2003.08505, R = relevant items of the query; K must be ≥ R.

    Args:
        own_items: 1 if each query is itself one of the indexed items (and not among its neighbours).

    Raises:
        ValueError: no query has a relevant item.
    """
    relevant_Q = np.bincount(index_labels_N, minlength=int(query_labels_Q.max()) + 1)[query_labels_Q] - own_items
    answerable = relevant_Q > 0
    if not answerable.any():
        raise ValueError("no query has a relevant item in the index, expected labels in common")
    hits_QK = index_labels_N[neighbours_QK[answerable]] == query_labels_Q[answerable, None]
    relevant_Q = relevant_Q[answerable]
    found = {f"P@{k}": float(hits_QK[:, :k].sum(axis=1).mean() / k) for k in (1, 10)}
    found |= {f"R@{k}": float(hits_QK[:, :k].any(axis=1).mean()) for k in RECALL_AT}
    ranks_K = np.arange(1, hits_QK.shape[1] + 1)
    precision_QK = hits_QK.cumsum(axis=1) / ranks_K
    within_r_QK = hits_QK & (ranks_K <= relevant_Q[:, None])
    found["mAP@R"] = float(((precision_QK * within_r_QK).sum(axis=1) / relevant_Q).mean())
    return found
