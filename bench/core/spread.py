"""What raw samples say: the interval of their median, and whether they have one mode or two."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.stats import binom

CONFIDENCE = 0.95
RESAMPLES = 400
SHARE = 0.1  # of the samples that a mode must hold: fewer are outliers
APART = 0.02  # of the median that two modes must lie apart: twice what a race resolves
STEPS = 4  # of the clock's own resolution that they must lie apart: coarse clocks make combs, not modes
FEWEST = 20  # samples below which nothing is said
MANY = 60  # samples above which a valley is not empty by chance (1 of 200 such sets of one mode, at most)


@dataclass(frozen=True)
class Mode:
    """One mode of the samples: its median in seconds, and the share of the samples that it holds."""

    median_s: float
    share: float


def interval(samples: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of the median; infinitely wide below 6 samples.

    It holds two intervals. That of the order statistics is exact whatever the distribution, if samples are independent
    (the k-th smallest and largest of n enclose the median with probability 1 - 2 P(Binomial(n, 1/2) < k)). That of a
    bootstrap of circular blocks, each the root of n long (Politis and Romano 1992), is wider where neighbours are
    alike, as on a device that drifts. The bootstrap alone would hold the median of 6 samples in 87 of 100 cases only.
    """
    if not (k := rank(len(samples))):
        return -math.inf, math.inf
    ordered = sorted(samples)
    low, high = _bootstrapped(np.asarray(samples, dtype=np.float64))
    return min(low, ordered[k - 1]), max(high, ordered[-k])


def half_width(samples: Sequence[float]) -> float:
    """Half the width of the median's interval, relative to the median."""
    low, high = interval(samples)
    middle = float(np.median(samples))
    return (high - low) / 2 / middle if middle > 0 else math.inf


def surely_wider(samples: Sequence[float], precision: float) -> bool:
    """Whether the interval's relative half-width exceeds `precision` for certain: in a tenth of the time."""
    n = len(samples)
    if not (k := rank(n)):
        return True
    ordered = sorted(samples)
    middle = (ordered[(n - 1) // 2] + ordered[n // 2]) / 2
    return ordered[-k] - ordered[k - 1] > 2 * precision * middle


@lru_cache(maxsize=4096)
def rank(n: int) -> int:
    """The rank k of the order statistics that enclose the median with at least 95 % confidence; 0 if none do."""
    return int(binom.ppf((1 - CONFIDENCE) / 2, n, 0.5))


def modes(samples: Sequence[float]) -> list[Mode]:
    """Two modes, the faster first, if the samples fall into two groups with nothing between them; else one.

    The samples are cut where the groups' means differ most for their sizes (Otsu 1979). The cut parts two modes if each
    group holds a tenth, their medians lie 2 % apart, and the middle third of the way between these is all but empty. Of
    fewer than 60 samples more is asked: a gap between the groups that is wider than either.
    """
    ordered = np.sort(np.asarray(samples, dtype=np.float64))
    n = len(ordered)
    whole = [Mode(float(np.median(ordered)), 1.0)] if n else []
    least = max(3, math.ceil(SHARE * n))
    if n < FEWEST:
        return whole
    cuts = np.arange(least, n - least + 1)
    below = np.cumsum(ordered)[cuts - 1]
    between = cuts * (n - cuts) * (below / cuts - (ordered.sum() - below) / (n - cuts)) ** 2
    cut = int(cuts[between.argmax()])
    low, high = float(np.median(ordered[:cut])), float(np.median(ordered[cut:]))
    steps = np.diff(ordered)
    resolution = float(steps[steps > 0].min()) if high > low else 0.0
    if high - low < max(APART * whole[0].median_s, STEPS * resolution):
        return whole
    if n < MANY and ordered[cut] - ordered[cut - 1] <= max(ordered[cut - 1] - ordered[0], ordered[-1] - ordered[cut]):
        return whole
    third = (high - low) / 3
    valley = int(((ordered > low + third) & (ordered < high - third)).sum())
    if valley > SHARE * min(cut, n - cut):
        return whole
    return [Mode(low, cut / n), Mode(high, 1 - cut / n)]


def _bootstrapped(samples: np.ndarray) -> tuple[float, float]:
    """The percentile interval of the median under a bootstrap of circular blocks; the same for the same samples."""
    n = len(samples)
    length = round(math.sqrt(n))
    starts = np.random.default_rng(0).integers(0, n, (RESAMPLES, math.ceil(n / length), 1))
    drawn = ((starts + np.arange(length)) % n).reshape(RESAMPLES, -1)[:, :n]
    low, high = np.quantile(np.median(samples[drawn], axis=1), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)
