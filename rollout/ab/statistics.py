"""Lift with intervals that hold at every look, and the sample-ratio check. Pure; all broadcasts over leading axes.

What is compared is a ratio of sums over requesters: engaged ÷ requesters (by users), engagements ÷ impressions (by
volume). Requesters are independent, impressions of one requester are not; so the variance is that of a ratio of means
over requesters, by the delta method (Deng, Knoblich, Lu: Applying the Delta Method in Metric Analytics, KDD 2018).

A lift is treatment ÷ control - 1. Its logarithm is estimated with variance V, and is tested by the mixture sequential
probability ratio test with the mixture N(0, τ²) (Robbins 1970; Johari, Koomen, Pekelis, Walsh: Always Valid Inference,
Operations Research 2022; asymptotically, with V estimated: Waudby-Smith, Arbour, Sinha, Kennedy, Ramdas: Time-uniform
central limit theory, Annals of Statistics 2024). Inverted, it is an interval that covers the truth at all looks
together with probability 1 - α:

    log lift ± sqrt( V (V + τ²) / τ² · (2 log(1 / α) + log((V + τ²) / V)) )
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import special

Floats: TypeAlias = npt.NDArray[np.float64]

MIXTURE_LIFT: Final = 0.05
"""τ: the size of lift that is found soonest; ten times smaller or larger ones only somewhat later. A constant and not
an option, since the guarantee holds only for a value that was chosen before anybody looked."""
MIN_ENGAGED: Final = 100
"""Requesters who engaged, in each arm, before anything is called: the intervals rest on the central limit theorem."""
SAMPLE_RATIO_ALPHA: Final = 0.01
_RATIO_WEIGHT: Final = 1000.0
"""Of the sample ratio's prior, in requesters: at a share of one half, 1.6 points too many or few are found soonest."""


@dataclass(frozen=True, slots=True)
class Sums:
    """Sums over the requesters of one arm, float64 of one shape: [] for a report, [runs, looks] in a trial."""

    users: Floats
    top: Floats
    bottom: Floats
    top_top: Floats
    top_bottom: Floats
    bottom_bottom: Floats

    @staticmethod
    def of(top_U: npt.ArrayLike, bottom_U: npt.ArrayLike) -> Sums:
        """From one number each for every requester, over the last axis."""
        top, bottom = np.asarray(top_U, np.float64), np.asarray(bottom_U, np.float64)
        users = np.full(top.shape[:-1], float(top.shape[-1]))
        return Sums(
            users,
            top.sum(-1),
            bottom.sum(-1),
            (top * top).sum(-1),
            (top * bottom).sum(-1),
            (bottom * bottom).sum(-1),
        )

    @property
    def ratio(self) -> Floats:
        """top ÷ bottom; nan where there is no bottom."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(self.bottom > 0, self.top / self.bottom, np.nan)

    @property
    def log_variance(self) -> Floats:
        """Variance of the estimated log ratio, by the delta method; nan where it can't be told."""
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = self.ratio
            squares = self.top_top - 2 * ratio * self.top_bottom + ratio**2 * self.bottom_bottom
            variance = squares * self.users / (self.users - 1) / self.top**2
            return np.where((self.users > 1) & (self.top > 0), np.maximum(variance, 0.0), np.nan)


@dataclass(frozen=True, slots=True)
class Lift:
    """Treatment ÷ control - 1, with bounds; nan where nothing can be told yet."""

    value: Floats
    low: Floats
    high: Floats
    """Bounds that hold at all looks together."""
    low_once: Floats
    high_once: Floats
    """The usual, tighter bounds, which hold for one look planned beforehand."""

    def called(self, engaged_control: npt.ArrayLike, engaged_treatment: npt.ArrayLike) -> npt.NDArray[np.int8]:
        """1 and -1: a lift and a loss that chance does not explain, whenever one looks; 0: neither, or too early.

        Args:
            engaged_control, engaged_treatment: requesters of each arm who engaged.
        """
        enough = np.minimum(engaged_control, engaged_treatment) >= MIN_ENGAGED
        return enough * ((self.low > 0).astype(np.int8) - (self.high < 0).astype(np.int8))


def lift(control: Sums, treatment: Sums, *, alpha: float, mixture: float = MIXTURE_LIFT) -> Lift:
    """The lift of the treatment, with intervals of confidence 1 - `alpha`. `mixture` is τ.

    Raises:
        ValueError: `alpha` is not between 0 and 1, or `mixture` not above 0.
    """
    if not 0 < alpha < 1 or mixture <= 0:
        raise ValueError(f"alpha is {alpha} and mixture {mixture}, expected 0 < alpha < 1 and mixture > 0")
    with np.errstate(divide="ignore", invalid="ignore"):
        log_lift = np.log(treatment.ratio) - np.log(control.ratio)
        variance = control.log_variance + treatment.log_variance
        always, once = always_valid_margin(variance, alpha, mixture), special.ndtri(1 - alpha / 2) * np.sqrt(variance)
        bounds = [np.expm1(log_lift + margin) for margin in (-always, always, -once, once)]
    return Lift(np.expm1(np.where(np.isfinite(variance), log_lift, np.nan)), *bounds)


def always_valid_margin(variance: Floats, alpha: float, mixture: float) -> Floats:
    """Half the width of the interval on the logarithmic scale: where the mixture's likelihood ratio is 1 ÷ alpha."""
    widened = variance + mixture**2
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = 2 * np.log(1 / alpha) + np.log(widened / variance)
        margin: Floats = np.where(variance > 0, np.sqrt(variance * widened / mixture**2 * logs), np.inf)
    return margin


@dataclass(frozen=True, slots=True)
class SampleRatio:
    expected: float
    seen: float
    """Shares of requesters in the treatment; `seen` is nan without any."""
    chi_square_p: float
    """Of the chi-square test with one degree of freedom, as if this were the only look."""
    mismatch: bool
    """More than chance explains, at whichever look: then the arms are not alike, and no lift means anything."""


def sample_ratio(control: int, treatment: int, expected: float) -> SampleRatio:
    """Hold the requesters of both arms against the expected share of the treatment.

    The chi-square test is for one look. `mismatch` is decided by a test that holds at all looks together: the
    likelihood of a beta mixture around the expected share ÷ that of the share itself reaches 1 ÷ SAMPLE_RATIO_ALPHA
    (Lindon, Malek: Anytime-Valid Inference for Multinomial Count Data, NeurIPS 2022).
    """
    total = control + treatment
    if total == 0:
        return SampleRatio(expected, float("nan"), 1.0, mismatch=False)
    chi_square = (treatment - total * expected) ** 2 / (total * expected * (1 - expected))
    evidence = float(sample_ratio_evidence(np.array(control), np.array(treatment), expected))
    return SampleRatio(
        expected,
        treatment / total,
        float(special.chdtrc(1, chi_square)),
        mismatch=evidence >= math.log(1 / SAMPLE_RATIO_ALPHA),
    )


def sample_ratio_evidence(control: npt.NDArray[np.int_], treatment: npt.NDArray[np.int_], expected: float) -> Floats:
    """Logarithm of the mixture's likelihood ratio."""
    prior_treatment, prior_control = _RATIO_WEIGHT * expected, _RATIO_WEIGHT * (1 - expected)
    evidence: Floats = (
        special.betaln(prior_treatment + treatment, prior_control + control)
        - special.betaln(prior_treatment, prior_control)
        - treatment * np.log(expected)
        - control * np.log1p(-expected)
    )
    return evidence
