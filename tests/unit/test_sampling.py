"""Batches are balanced, mixed and a pure function of (seed, step); heads keep to their own task."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pytorch_metric_learning.losses import NormalizedSoftmaxLoss

from embedder.model.augment import random_window
from embedder.model.pictures import ITEM_DTYPE
from embedder.model.proxies import FullHead, SampledHead, make_head, sample_classes
from embedder.model.sampling import BalancedSampler
from pinstream.errors import FatalError

LABELS = np.repeat(np.arange(20), [3, 30] * 10)


def test_every_drawn_class_has_as_many_images() -> None:
    sampler = BalancedSampler(LABELS, 16, 4, seed=1, task=0)
    for step in (0, 1, 63, 64, 500):
        _, counts = np.unique(LABELS[sampler.batch(step)], return_counts=True)
        assert counts.tolist() == [4, 4, 4, 4]


def test_a_batch_follows_from_seed_task_and_step_alone() -> None:
    forwards = BalancedSampler(LABELS, 16, 4, seed=1, task=0)
    seen = [forwards.batch(step).tolist() for step in range(130)]
    np.random.seed(99)  # the library draws from this one unless told otherwise
    again = BalancedSampler(LABELS, 16, 4, seed=1, task=0)
    assert [again.batch(step).tolist() for step in (129, 3, 64)] == [seen[129], seen[3], seen[64]]
    assert BalancedSampler(LABELS, 16, 4, seed=2, task=0).batch(0).tolist() != seen[0]
    assert BalancedSampler(LABELS, 16, 4, seed=1, task=1).batch(0).tolist() != seen[0]


def test_fewer_classes_than_a_batch_has_room_for() -> None:
    sampler = BalancedSampler(np.array([0, 0, 1, 1, 1]), 32, 4, seed=0, task=0)
    for step in range(70):
        counts = np.bincount(np.array([0, 0, 1, 1, 1])[sampler.batch(step)])
        assert counts.sum() == 32
        assert abs(counts[0] - counts[1]) <= 2
    with pytest.raises(FatalError, match="at least 2"):
        BalancedSampler(np.zeros(5, np.int64), 4, 2, seed=0, task=0)


@given(st.integers(0, 1000), st.integers(1, 60), st.integers(1, 99))
def test_a_sample_of_classes_has_the_batch_in_it(seed: int, batch: int, sample: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 100, batch)
    chosen = sample_classes(labels, 100, sample, rng)
    assert set(labels) <= set(chosen.tolist())
    assert len(chosen) == max(sample, len(set(labels.tolist())))
    assert np.array_equal(chosen, np.unique(chosen))


def test_sampled_loss_over_nearly_all_classes_is_the_librarys() -> None:
    torch.manual_seed(0)
    embedding, labels = torch.randn(8, 64), torch.arange(8)
    sampled = SampledHead(9, 64, 0.05, sample=8)  # the batch's 8 classes and no other
    theirs = NormalizedSoftmaxLoss(8, 64, 0.05)
    with torch.no_grad():
        theirs.W.copy_(sampled.proxies.weight[:8].T)
    ours = sampled(embedding, labels, np.random.default_rng(0))
    assert ours.item() == pytest.approx(theirs(embedding, labels).item(), rel=1e-5)


def test_only_sampled_rows_get_a_gradient() -> None:
    head = SampledHead(1000, 64, 0.05, sample=50)
    head(torch.randn(4, 64), torch.tensor([1, 2, 3, 999]), np.random.default_rng(0)).backward()
    gradient = head.proxies.weight.grad
    assert gradient is not None
    assert gradient.is_sparse
    rows = gradient.coalesce().indices()[0].tolist()
    assert len(rows) == 50
    assert {1, 2, 3, 999} <= set(rows)


def test_few_classes_need_no_sample() -> None:
    assert isinstance(make_head(10, 64, proxies_per_step=10), FullHead)
    assert isinstance(make_head(11, 64, proxies_per_step=10), SampledHead)


@given(st.integers(0, 10_000), st.sampled_from([0, 1, 2, 3]), st.booleans())
def test_windows_stay_inside_and_keep_most_of_the_box(seed: int, source: int, whole: bool) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(0, 0.5, 2)
    box = (0.0, 0.0, 1.0, 1.0) if whole else (x, y, rng.uniform(0.1, 0.5), rng.uniform(0.1, 0.5))
    item = np.array([(0, 0, source, box)], ITEM_DTYPE)[0]
    x0, y0, x1, y1 = random_window(item, rng)
    assert 0 <= x0 < x1 <= 1.2
    assert 0 <= y0 < y1 <= 1.2
    if not whole:
        overlap = (min(x1, box[0] + box[2]) - max(x0, box[0])) * (min(y1, box[1] + box[3]) - max(y0, box[1]))
        assert overlap >= 0.7 * box[2] * box[3]
