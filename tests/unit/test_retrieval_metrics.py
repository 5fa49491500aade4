"""The metrics agree with pytorch-metric-learning's, and with small cases done by hand."""

import numpy as np
import pytest
import torch
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator

from embedder.model.metrics import retrieval_metrics
from embedder.model.ranking import drop_self, rank_binary, rank_float


def test_by_hand() -> None:
    index_labels = np.array([0, 0, 1, 1, 2])
    neighbours = np.array([[0, 2, 1, 3, 4], [2, 0, 1, 4, 3]])
    found = retrieval_metrics(neighbours, np.array([0, 0]), index_labels)
    assert found["P@1"] == 0.5
    assert found["R@1"] == 0.5
    assert found["R@10"] == 1.0
    assert found["P@10"] == pytest.approx(0.2)
    assert found["mAP@R"] == pytest.approx((0.5 + 0.25) / 2)


def test_queries_without_an_answer_do_not_count() -> None:
    found = retrieval_metrics(np.array([[0], [0]]), np.array([0, 7]), np.array([0]))
    assert found["P@1"] == 1.0
    with pytest.raises(ValueError, match="no query"):
        retrieval_metrics(np.array([[0]]), np.array([3]), np.array([0]))


@pytest.mark.parametrize("same", [False, True])
def test_equal_to_pytorch_metric_learning(same: bool) -> None:
    rng = np.random.default_rng(5)
    labels = np.repeat(np.arange(8), 6)
    index = (rng.standard_normal((8, 16))[labels] + rng.standard_normal((48, 16))).astype(np.float32)
    query = index if same else (rng.standard_normal((48, 16)) + index).astype(np.float32)
    neighbours = rank_float(query, index, 48)
    ranked = drop_self(neighbours) if same else neighbours
    ours = retrieval_metrics(ranked, labels, labels, own_items=int(same))
    calculator = AccuracyCalculator(include=("precision_at_1", "mean_average_precision_at_r"), k="max_bin_count")
    unit = [torch.nn.functional.normalize(torch.from_numpy(x)) for x in (query, index)]
    their_labels = torch.from_numpy(labels)
    theirs = calculator.get_accuracy(unit[0], their_labels, unit[1], their_labels, ref_includes_query=same)
    assert ours["P@1"] == pytest.approx(theirs["precision_at_1"])
    assert ours["mAP@R"] == pytest.approx(theirs["mean_average_precision_at_r"])


def test_binary_ranking_is_by_hamming_distance() -> None:
    rng = np.random.default_rng(1)
    query, index = rng.integers(0, 256, (5, 32), np.uint8), rng.integers(0, 256, (200, 32), np.uint8)
    distances = np.bitwise_count(query[:, None] ^ index[None]).sum(axis=2)
    found = np.take_along_axis(distances, rank_binary(query, index, 10), axis=1)
    assert np.array_equal(found, np.sort(distances, axis=1)[:, :10])
