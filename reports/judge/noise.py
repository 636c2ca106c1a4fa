"""How much a row differs from run to run although nothing has changed: the levels it is known at, and its noise there.

The spread inside a run says nothing of that (newton #2534: two speeds 13 % apart between runs, 0.2 % inside each), so
it comes from history. A row can have more than one level: some have two speeds, and 1 % of all runs are 10 to 30 % off
(warp #1142). Each level is known by the runs that were there, a lone outlier's by one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from reports.judge.centre import Floats
from reports.judge.posterior import Posterior, posterior

# Neighbours in the order of a row's times that lie this many standard deviations apart are at two levels.
APART = 4.0
# A time this many standard errors below a level is at that level still.
NEAR = 3.0
# The shortest half of a normal sample spans this many standard deviations, and tells its variance as well as the
# standard deviation of a third as many runs does (Rousseeuw & Leroy 1988, Statistica Neerlandica 42:103).
HALF = 1.07
HALF_FREEDOM = 0.35


@dataclass(frozen=True)
class Noise:
    """levels, sizes (..., levels, rows): log times, the fastest first, and how many runs were there; NaN, 0 for none.

    level (..., rows): the one with most runs, and of equals the slowest; runs: how many runs a row has; known:
    how far a run lies from its level.
    """

    levels: Floats
    sizes: Floats
    level: Floats
    runs: Floats
    known: Posterior

    def excess(self, logs: Floats, rare: Floats, base: Floats) -> tuple[Floats, Floats]:
        """How far log times (..., runs, rows) lie above the slowest level that they reach, and how many runs made that.

        A row that has been at 25.5 ms before and is there again has not slowed down. Levels faster than that of most
        runs do not count: a row between its speeds may have left the slower one. A slower one counts if more runs than
        `rare` (..., rows) were there, or if it is no slower than `base` (..., rows; NaN for none): what base took
        already is no slowdown since.
        """
        above, size = np.full(logs.shape, np.nan), np.ones(logs.shape)
        taken = base + NEAR * self.known.deviation
        for at in range(self.levels.shape[-2]):
            count = self.sizes[..., at, :]
            level = self.levels[..., at, :]
            counts = (count > rare) | (level <= taken) | (level == self.level)
            level = np.where(counts & (level >= self.level), level, np.nan)
            reach = level - NEAR * self.known.deviation * np.sqrt(1 + 1 / np.maximum(count, 1))
            reached = (logs >= reach[..., None, :]) | (np.isnan(above) & ~np.isnan(logs))
            reached &= ~np.isnan(level)[..., None, :]
            above = np.where(reached, logs - level[..., None, :], above)
            size = np.where(reached, count[..., None, :], size)
        return above, size


def noise(history: Floats) -> Noise:
    """The levels and the noise of rows whose history (..., runs, rows) is free of drift and of changes; NaN is no time.

    The levels are what single linkage leaves apart, by a first guess at the noise from the shortest half of the runs,
    which is that of one speed even where half of the runs have another.
    """
    ordered = np.sort(history, axis=-2)
    runs = np.sum(~np.isnan(ordered), axis=-2)
    guess = posterior(np.square(_shortest_half(ordered, runs) / HALF), np.where(runs > 3, HALF_FREEDOM * runs, 0.0))
    gaps = np.diff(ordered, axis=-2, prepend=ordered[..., :1, :])
    which = np.cumsum(gaps > APART * guess.deviation[..., None, :], axis=-2)
    levels, sizes = [], []
    squares, own = np.zeros(runs.shape), np.zeros(runs.shape)
    for at in range(int(which.max(initial=0)) + 1):
        there = (which == at) & ~np.isnan(ordered)
        size = np.sum(there, axis=-2)
        level = np.where(size > 0, np.sum(ordered, axis=-2, where=there) / np.maximum(size, 1), np.nan)
        squares += np.sum(np.square(ordered - level[..., None, :]), axis=-2, where=there)
        own += np.maximum(size - 1, 0)
        levels.append(level)
        sizes.append(size.astype(np.float64))
    known = posterior(squares / np.maximum(own, 1), own)
    stack, count = np.stack(levels, -2), np.stack(sizes, -2)
    last = count.shape[-2] - 1 - np.argmax(count[..., ::-1, :], axis=-2)
    level = np.take_along_axis(stack, last[..., None, :], -2)[..., 0, :]
    return Noise(stack, count, level, runs.astype(np.float64), known)


def _shortest_half(ordered: Floats, runs: Floats) -> Floats:
    """The span of the shortest half of every row's times (..., runs, rows), which stand in order."""
    most = ordered.shape[-2]
    width = (runs - 1) // 2
    shortest = np.full(runs.shape, np.inf)
    for first in range(most):
        last = np.minimum(first + width, most - 1)
        span = np.take_along_axis(ordered, last[..., None, :], -2)[..., 0, :] - ordered[..., first, :]
        shortest = np.where(first + width < runs, np.fmin(shortest, span), shortest)
    return np.where(np.isfinite(shortest), shortest, 0.0)
