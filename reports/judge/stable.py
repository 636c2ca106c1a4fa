"""The newest stretch of a row's history over which it stayed at one level.

A change that was made months ago is no noise: left in, it would hide the next one. Two runs, one after the other, make
a new level; one run alone is an outlier until another stands by it.
"""

from __future__ import annotations

import numpy as np

from reports.judge.centre import NORMAL_MAD, Floats, medians
from reports.judge.posterior import LEAST

FEWEST = 2  # runs that make a level
# Of the step between two levels, over its standard error: what chance exceeds, over all splits of some twenty runs,
# in 1 of 1,000 rows (Bonferroni, normal).
STEP = 4.2
# Within so many standard deviations a run is at a level.
NEAR = 3.0
MOST_STEPS = 50
# A MAD knows the variance about as well as a standard deviation of half as many runs does.
MAD_FREEDOM = 0.5


def stable(history: Floats) -> Floats:
    """The history (..., runs, rows; oldest first) with what lies ahead of each row's newest level taken out (NaN).

    Binary segmentation (Vostrikova 1981, Soviet Mathematics Doklady 24:55), of which only the part behind the last step
    is of interest, with medians and absolute deviations in place of means and squares, so that an outlier is no step. A
    row that had been at its new level before has two speeds and has not changed: its history stays whole.
    """
    runs, rows = history.shape[-2:]
    flat = np.moveaxis(history, -2, -1).reshape(-1, runs).copy()
    # Rows of one device share how far their noise is known; a row is told apart by its own, drawn towards that.
    prior = np.broadcast_to(_spread(history)[..., None], (*history.shape[:-2], rows)).reshape(-1)
    left = np.flatnonzero(_restless(flat, prior))
    for _ in range(MOST_STEPS):
        if not len(left):
            break
        at = _step(flat[left], prior[left])
        left, at = left[at > 0], at[at > 0]
        flat[left] = np.where(np.arange(runs) < at[:, None], np.nan, flat[left])
    return np.moveaxis(flat.reshape(*history.shape[:-2], rows, runs), -1, -2)


def _spread(history: Floats) -> Floats:
    """The usual standard deviation between runs: the median over the rows."""
    off = np.abs(history - medians(history, -2)[..., None, :])
    return np.maximum(medians(NORMAL_MAD * medians(off, -2), -1), LEAST)


def _restless(flat: Floats, prior: Floats) -> Floats:
    """Rows (rows, runs) with two runs or more that lie where runs of a quiet row do not; only they can have stepped."""
    off = np.abs(flat - medians(flat, -1)[:, None])
    return np.asarray(np.sum(off > NEAR * prior[:, None], axis=-1) >= FEWEST)


def _step(flat: Floats, prior: Floats) -> Floats:
    """The first run of each row's new level, 0 where it took no step.

    Medians do not feel one run of the old level among those of the new one, so runs ahead of the first near it go too.
    """
    count, runs = flat.shape
    best, at = np.zeros(count), np.zeros(count, dtype=np.int64)
    level, reach = np.zeros(count), np.zeros(count)
    for split in range(FEWEST, runs - FEWEST + 1):
        size, here, near = _size(flat[:, :split], flat[:, split:], prior)
        larger = size > best
        best, at = np.where(larger, size, best), np.where(larger, split, at)
        level, reach = np.where(larger, here, level), np.where(larger, near, reach)
    there = (np.abs(flat - level[:, None]) < reach[:, None]) & (np.arange(runs) >= at[:, None])
    return np.where(best > STEP, np.argmax(there, axis=1), 0)


def _size(older: Floats, newer: Floats, prior: Floats) -> tuple[Floats, Floats, Floats]:
    """A step over its standard error; the new level, and how far from it a run is at it still.

    0 if a side has too few runs, or if the older one has been at the level of the newer one.
    """
    counts = [np.sum(~np.isnan(side), axis=-1) for side in (older, newer)]
    levels = [medians(side, -1) for side in (older, newer)]
    off = np.concatenate([np.abs(side - level[:, None]) for side, level in zip((older, newer), levels, strict=True)], 1)
    own = np.square(NORMAL_MAD * medians(off, -1))
    total = counts[0] + counts[1]
    # As much as ten runs tell of a row, the other rows tell.
    spread = np.sqrt((5 * prior**2 + MAD_FREEDOM * total * own) / (5 + MAD_FREEDOM * total))
    error = spread * np.sqrt(np.pi / 2 * (1 / np.maximum(counts[0], 1) + 1 / np.maximum(counts[1], 1)))
    there = (np.abs(older - levels[1][:, None]) < NEAR * spread[:, None]).any(axis=-1)
    # Two runs that differ from each other as much as from those before them make no level.
    agree = np.sum(np.abs(newer - levels[1][:, None]) < NEAR * spread[:, None], axis=-1)
    enough = (counts[0] >= FEWEST) & (agree >= np.maximum(FEWEST, counts[1] / 2)) & ~there
    size = np.where(enough, np.abs(levels[1] - levels[0]) / np.where(enough, error, 1.0), 0.0)
    return size, levels[1], NEAR * spread
