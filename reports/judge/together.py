"""What all rows of a device do together from run to run: a cooler room, another clock, another driver."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from reports.judge.jumps import Floats, noise_of

# A role has a say in a run by so many rows of it.
LEAST_ROWS = 5
SWEEPS = 3
# Roles agree if their medians lie within so many standard errors, or within such a share of the least of them.
ERRORS, ALIKE = 4.0, 0.2


def together(values: Floats, roles: Sequence[str]) -> tuple[Floats, float]:
    """What is common to all rows in each run, (runs,), and its noise from run to run; zeros where nothing is known.

    values: (runs, rows), logarithms of times, NaN where a run lacks a row; roles: (rows,). Levels and what is common
    are found in turn by medians (median polish: Tukey, Exploratory Data Analysis, 1977), so a few rows that move do not
    count. Where the medians of the roles agree, their middle is common; where they do not, only what all of them share
    in direction, and no more than the least: what a commit does to all of our kernels, or a new torch to all
    references, is not the device's. References and peers vouch for it; a run without enough of either is held to stand
    where the one before it stood.
    """
    common = np.zeros(len(values))
    if not values.size:
        return common, 0.0
    kinds = np.array(roles)
    named = [str(role) for role in dict.fromkeys(roles)]
    medians = np.full((len(values), len(named)), np.nan)
    for _ in range(SWEEPS):
        rest = values - middle(values - common[:, None], axis=0)
        medians = np.column_stack([middle(rest[:, kinds == role], axis=1, least=LEAST_ROWS) for role in named])
        fewest = np.min([np.sum(np.isfinite(rest[:, kinds == role]), axis=1) for role in named], axis=0)
        spread = float(stats.median_abs_deviation(rest - common[:, None], axis=None, scale="normal", nan_policy="omit"))
        error = spread * np.sqrt(np.pi / 2 / np.maximum(LEAST_ROWS, fewest))
        common = _agreed(medians, error, [role != "kernel" for role in named])
    scattered = [noise_of(each[np.isfinite(each)]) for each in medians.T]
    return common, max(scattered) if common.any() else 0.0


def middle(values: Floats, axis: int = 0, least: int = 1) -> Floats:
    """The median without NaN along an axis; NaN where fewer than `least` values are known."""
    enough = np.sum(np.isfinite(values), axis=axis) >= least
    found = np.full(enough.shape, np.nan)
    known = values[:, enough] if axis == 0 else values[enough]
    if enough.any():
        found[enough] = np.nanmedian(known, axis=axis)
    return found


def _agreed(medians: Floats, error: Floats, vouches: Sequence[bool]) -> Floats:
    """What the roles agree on in each run: (runs, roles) and the standard error of their medians (runs,) to (runs,).

    The least of them alone, which is what they share for certain, would be too near to zero wherever they agree but for
    noise, and by as much in every row.
    """
    known: NDArray[np.bool_] = np.isfinite(medians)
    smallest = np.min(np.where(known, np.abs(medians), np.inf), axis=1, initial=np.inf)
    up, down = np.all(~known | (medians > 0), axis=1), np.all(~known | (medians < 0), axis=1)
    found = np.where(up, smallest, np.where(down, -smallest, 0.0))
    most, least = (np.where(known, medians, end) for end in (-np.inf, np.inf))
    apart = np.max(most, axis=1, initial=-np.inf) - np.min(least, axis=1, initial=np.inf)
    alike = apart <= np.maximum(ERRORS * error, ALIKE * np.where(np.isfinite(smallest), smallest, 0.0))
    found = np.where(alike & known.any(axis=1), middle(medians, axis=1), found)
    found[~known[:, np.array(vouches, dtype=bool)].any(axis=1)] = np.nan
    return np.asarray(pd.Series(found).ffill().bfill().fillna(0.0), dtype=np.float64)
