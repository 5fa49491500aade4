"""Arms are uniform, sticky and unrelated between tests; names on the topic say nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from rollout.ab.assignment import Arm, assign, position, pseudonym
from rollout.generation import Application, Split

MODEL = "ab" * 32
REQUESTERS = [f"user-{number}" for number in range(20_000)]


def split(share: float, salt: str = "spring") -> Split:
    return Split(application=Application.LENS, model=MODEL, share=share, salt=salt, started_ms=0)


@pytest.mark.parametrize("salt", ["spring", "a", "2026-11-21.lens"])
def test_positions_are_uniform(salt: str) -> None:
    assert stats.kstest([position(salt, requester) for requester in REQUESTERS], "uniform").pvalue > 1e-4


@pytest.mark.parametrize("other", ["sprinh", "spring2", "autumn"])
def test_another_salt_deals_anew(other: str) -> None:
    one, two = (np.array([position(salt, requester) for requester in REQUESTERS]) for salt in ("spring", other))
    counts, _, _ = np.histogram2d(one, two, bins=10, range=[[0, 1], [0, 1]])
    assert stats.chi2_contingency(counts).pvalue > 1e-4


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5])
def test_as_many_are_treated_as_was_asked(share: float) -> None:
    treated = sum(assign(split(share), requester) is Arm.TREATMENT for requester in REQUESTERS)
    assert stats.binomtest(treated, len(REQUESTERS), share).pvalue > 1e-4


def test_a_larger_share_takes_nobody_back() -> None:
    for requester in REQUESTERS[:1000]:
        arms = [assign(split(share), requester) for share in (0.05, 0.1, 0.5, 0.9)]
        assert arms == sorted(arms), "control first, then treatment"


def test_the_arm_is_the_same_on_every_machine() -> None:
    """These may never change: requesters of running tests would change arms."""
    assert position("spring", "user-7") == pytest.approx(0.5564208556333814, abs=1e-9)
    assert pseudonym("spring", "user-7", "secret") == "2a4d8985c49085b2d25f23de9f5de479"


@given(st.text(max_size=300), st.text(alphabet="abc.-_9", min_size=1, max_size=64))
def test_any_requester_has_a_position_and_a_name(requester: str, salt: str) -> None:
    assert 0 <= position(salt, requester) < 1
    name = pseudonym(salt, requester, "secret")
    assert len(name) == 32 and int(name, 16) >= 0


def test_names_depend_on_requester_test_and_secret() -> None:
    names = {pseudonym(salt, who, key) for salt in "ab" for who in ("x", "y", "\ud800") for key in ("", "k", "k" * 999)}
    assert len(names) == 18
