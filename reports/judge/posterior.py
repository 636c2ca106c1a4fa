"""What is known of every row's noise: a distribution of its standard deviation, from its own runs and all other rows.

Ten runs tell a standard deviation with an error of a quarter. A row that takes its own for the truth raises false
alarms wherever chance made it small, so every row is drawn towards the others as far as its own runs leave it open.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import digamma, ndtr, polygamma

from reports.judge.centre import Flags, Floats, medians

# A clock tells times to about 1 in 10,000; a history that is constant to the digit is not one without noise.
LEAST = 1e-4
# Fewer rows do not tell how noise is distributed. There it is taken to differ as widely as between any two machines:
# around 1 %, with a factor of three up and down for two rows in three.
FEWEST = 10
USUAL = 0.01
WIDEST = np.log(3.0)
NARROWEST = 0.1
# Deciles of a normal distribution lie this many standard deviations apart.
DECILES = 2.5631
# Points of the standard normal on which the posterior is held.
GRID = np.linspace(-4.0, 4.0, 25)


@dataclass(frozen=True)
class Posterior:
    """sigma (..., points): standard deviations between runs; weight (..., rows, points): how likely each is of a row.

    deviation (..., rows): their geometric mean.
    """

    sigma: Floats
    weight: Floats
    deviation: Floats

    def beyond(self, excess: Floats, share: Floats, further: Floats) -> Floats:
        """The chance (..., rows) that a difference exceeds `excess` though nothing has changed.

        share: its variance over that of one run, further: variance that it has besides. What remains unknown of the
        standard deviation is averaged over, as Student's t does for a row that stands alone.
        """
        chance = np.zeros(np.broadcast_shapes(excess.shape, self.deviation.shape))
        for point in range(len(GRID)):
            error = np.sqrt(np.square(self.sigma[..., None, point]) * share + further)
            chance += self.weight[..., point] * ndtr(-excess / error)
        return chance

    def quantile(self, chance: Floats, share: Floats, further: Floats) -> Floats:
        """The excess (..., rows) that is exceeded by chance this often; `chance` below one half. By bisection."""
        widest = np.sqrt(np.square(self.sigma[..., None, -1]) * share + further)
        low, high = np.zeros_like(widest), 40.0 * widest
        for _ in range(60):
            middle = (low + high) / 2
            over = self.beyond(middle, share, further) > chance
            low, high = np.where(over, middle, low), np.where(over, high, middle)
        return (low + high) / 2


def posterior(variance: Floats, freedom: Floats) -> Posterior:
    """What is known of the noise of every row (..., rows) from its variance and the degrees of freedom of that.

    Standard deviations are taken for log-normal over the rows. Where they lie and how far apart follows from the
    moments of the logarithms of the variances, less what sampling adds, as in Smyth (2004), Statistical Applications in
    Genetics and Molecular Biology 3(1):3; the logarithms are shrunk as in Cui et al. (2005), Biostatistics 6:59. The
    inverse chi-square of the former has a heavier tail than log-normal noise, and where noise is log-normal it costs
    two of a hundred slowdowns at the same rate of false alarms. Median and deciles stand for the moments, since rows of
    two speeds are outliers among the variances (Phipson et al. 2016, Annals of Applied Statistics 10:946).
    """
    has = freedom > 0
    variance = np.where(has, np.maximum(variance, LEAST**2), 1.0)
    half = np.where(has, freedom, 1.0) / 2
    middle, width = _prior(np.where(has, np.log(variance) - digamma(half) + np.log(half), np.nan), half, has)
    log_sigma = middle[..., None] + width[..., None] * GRID
    # The likelihood of a variance with so many degrees of freedom, relative to its most likely sigma.
    ratio = np.log(variance)[..., None] - 2 * log_sigma[..., None, :]
    weight = np.where(has, freedom, 0.0)[..., None] / 2 * (ratio - np.exp(ratio) + 1) - np.square(GRID) / 2
    weight = np.exp(weight - weight.max(axis=-1, keepdims=True))
    weight /= weight.sum(axis=-1, keepdims=True)
    deviation = np.exp(np.sum(weight * log_sigma[..., None, :], axis=-1))
    return Posterior(np.exp(log_sigma), weight, deviation)


def _prior(moved: Floats, half: Floats, has: Flags) -> tuple[Floats, Floats]:
    """The middle and the width of the log standard deviations of the rows (...)."""
    spread = np.square((_decile(moved, 0.9) - _decile(moved, 0.1)) / DECILES)
    sampling = medians(np.where(has, polygamma(1, half), np.nan), -1)
    width = np.sqrt(np.maximum(spread - sampling, NARROWEST**2)) / 2
    few = np.sum(has, axis=-1) < FEWEST
    return np.where(few, np.log(USUAL), medians(moved, -1) / 2), np.where(few, WIDEST, width)


def _decile(values: Floats, share: float) -> Floats:
    """A quantile along the rows, without what is missing: the nearest one in order."""
    if not values.shape[-1]:
        return np.full(values.shape[:-1], np.nan)
    ordered = np.sort(values, axis=-1)
    count = np.sum(~np.isnan(values), axis=-1, keepdims=True)
    at = np.rint(share * np.maximum(count - 1, 0)).astype(np.int64)
    return np.asarray(np.take_along_axis(ordered, at, -1)[..., 0])
