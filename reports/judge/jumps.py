"""How far rows jump from run to run when nothing moves, and how likely a jump of some size is then."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

Floats = NDArray[np.float64]
# Of the differences from run to run the largest tenth may be steps and outliers, and at least two: so many come of one
# outlier.
APART, LEAST_APART = 0.1, 2
# A jump of so many times the noise is far; a tenth of the runs, those with most of them, tell nothing of noise.
FAR = 4.0
BUSY = 0.1
# The tail of the jumps: their largest fiftieth, if it is so many.
TAIL = 0.02
LEAST_BEYOND = 20


@dataclass(frozen=True)
class Noise:
    """What rows do from run to run when nothing moves: jumps of all rows, sorted, in units of each row's noise.

    inflation: by how much runs that resemble their neighbours widen the variance of a mean, (1 + r) / (1 - r) with the
    autocorrelation r from one run to the next; tail: how the largest of the jumps thin out (see `_tail`).
    """

    jumps: Floats
    inflation: float
    tail: tuple[float, float, float] | None

    @classmethod
    def of(cls, jumps: Floats, places: NDArray[np.intp], inflation: float) -> Noise:
        """From the jumps of all rows and, of each, the run in which it ends; both (jumps,).

        Without the tenth of the runs in which most rows jumped far: there many may have moved at once.
        """
        far = np.bincount(places, weights=jumps > FAR)
        busy = np.argsort(far, kind="stable")[len(far) - math.ceil(len(far) * BUSY) :]
        kept = np.sort(jumps[~np.isin(places, busy)])
        return cls(kept, inflation, _tail(kept))

    def beyond(self, size: Floats, own: Floats) -> Floats:
        """The chance that a run lies this far beyond a level: by all rows, or by the row itself, whichever is larger.

        A difference of two runs is at least as wide as that of a run and a level. It has two directions, hence the
        half; a row of two speeds is given both. own: jumps of the row, sorted.
        """
        pooled = (1 + len(self.jumps) - np.searchsorted(self.jumps, size)) / (1 + len(self.jumps))
        if self.tail:
            start, shape, scale = self.tail
            thinned = TAIL * stats.genpareto.sf(size - start, shape, scale=scale)
            pooled = np.where(size > start, thinned, pooled)
        alone = 1 - np.searchsorted(own, size) / max(1, len(own))
        return np.maximum(pooled / 2, alone if len(own) else 0.0)


def _tail(jumps: Floats) -> tuple[float, float, float] | None:
    """Where the tail of sorted jumps begins, and the shape and scale of a generalised Pareto distribution behind it.

    So a jump that is larger than all that were seen has a chance too (Siffer et al., KDD 2017). Tails thinner than an
    exponential are taken for one. None where there are too few jumps for a fit, or they have no tail.
    """
    start = float(np.quantile(jumps, 1 - TAIL)) if len(jumps) else 0.0
    beyond = jumps[jumps > start] - start
    if len(beyond) < LEAST_BEYOND:
        return None
    shape, _, scale = stats.genpareto.fit(beyond, floc=0)
    return (start, float(shape), float(scale)) if shape > 0 else (start, 0.0, float(beyond.mean()))


def noise_of(values: Floats, apart: int = 1) -> float:
    """The standard deviation from run to run, (runs,) without gaps; steps and single outliers hardly raise it.

    From differences of neighbours, or of runs so far apart, the largest tenth left out (von Neumann, Annals of
    Mathematical Statistics 1941). Zero of so few runs that nothing would be left.
    """
    if len(values) - apart <= LEAST_APART:
        return 0.0
    jumps = np.sort(np.abs(values[apart:] - values[:-apart]))
    kept = jumps[: len(jumps) - max(LEAST_APART, math.ceil(APART * len(jumps)))]
    # The deviation of Gaussian noise within the share of it that lies, on average, below the first of those left out.
    share = (len(kept) + 1) / (len(jumps) + 1)
    end = float(special.ndtri((1 + share) / 2))
    within = 1 - 2 * end * math.exp(-(end**2) / 2) / math.sqrt(2 * math.pi) / share
    return math.sqrt(float(np.mean(kept**2)) / 2 / within)
