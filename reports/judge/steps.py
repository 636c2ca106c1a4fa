"""Steps in many noisy series: where a level moved and stayed, by how much, and how likely it is that nothing moved.

Candidates come from PELT (Killick, Fearnhead and Eckley, JASA 2012) in ruptures, on series from which a running
median of three has taken lone outliers (it keeps steps as they are). The penalty is in units of the row's own noise
from run to run. Each candidate is then tested on the series as they were measured, against the noise that the device
has shown: nothing is assumed to be Gaussian, for two speeds and outliers are what real machines have.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, stats

from reports.judge.jumps import Floats, Noise, noise_of

ALPHA = 0.01
# Fewer runs tell nothing of noise that could be believed.
LEAST_RUNS = 10
LEAST_BEFORE = 2
# A row's noise is not believed to be far below that of its device: so many runs of a typical row count as its own.
PRIOR_RUNS = 5
# Ranks are compared where both sides have so many runs; below that no p-value of theirs could be small enough.
RANKED = 8
HALF = 0.5
# Whether a step is abrupt is asked of so many runs on either side, or of more where noise is large.
NEAR = 5
# Gauss and Hermite's places and weights, for means over the error of a level.
PLACES, WEIGHTS = np.polynomial.hermite_e.hermegauss(31)


@dataclass(frozen=True)
class Step:
    """A move of one column. first, last: the rows of the table right behind and right ahead of it.

    shift: the level behind less the one ahead, with the ends of its 95 % interval; p: the chance of such a step
    anywhere in the column if there is none; runs: how many stand behind it, up to the next step; confirmed: two of
    them, one after the other, lie nearer to the new level than to the old one.
    """

    column: int
    first: int
    last: int
    shift: float
    low: float
    high: float
    p: float
    runs: int
    confirmed: bool


@dataclass
class _Series:
    """One column without its gaps. places: of its values in the table; bounds: 0, where segments begin, its length."""

    column: int
    places: NDArray[np.intp]
    values: Floats
    noise: float
    bounds: list[int]

    def jumps(self, bound: int) -> Floats:
        """The differences from run to run in units of noise, sorted, but for the one at a bound.

        Those at other bounds count: what jumps often has little to tell when it jumps once more.
        """
        return np.sort(np.delete(np.abs(np.diff(self.values)), bound - 1) / self.noise)


def steps(values: Floats, least_noise: Floats | None = None, alpha: float = ALPHA) -> list[Step]:
    """The steps of all columns, in their order.

    values: (runs, columns), logarithms of times in the order of time, NaN where a run lacks the row; least_noise:
    (columns,), below which the noise of a column cannot lie. Of all steps found, a share of at most alpha is expected
    to be none (Benjamini and Hochberg, JRSS B 1995), and where nothing moves anything is found in a share alpha of
    histories. Raises `ValueError` for a table of another shape.
    """
    if values.ndim != 2 or (least_noise is not None and least_noise.shape != values.shape[1:]):
        raise ValueError(f"values: expected (runs, columns) and noise (columns,), got {values.shape}, {least_noise}")
    from statsmodels.stats.multitest import multipletests

    found, inflation = _series(values, np.zeros(values.shape[1]) if least_noise is None else least_noise)
    if not found:
        return []
    for each in found:
        each.bounds = _candidates(each, inflation)
    noise = Noise.of(
        np.concatenate([np.abs(np.diff(each.values)) / each.noise for each in found]),
        np.concatenate([each.places[1:] for each in found]),
        inflation,
    )
    tested: list[tuple[_Series, int, float]] = []
    chances: list[float] = []
    for each in found:
        kept = _prune(each, noise, alpha)
        tested += [(each, at, p) for at, p in kept.items()]
        chances += list(kept.values()) or [1.0]
    if not tested:
        return []
    holds = multipletests(chances, alpha, method="fdr_bh")[0]
    believed = [step for step, held in zip(tested, holds[np.array(chances) < 1], strict=True) if held]
    return _told(believed, noise)


def _series(values: Floats, least_noise: Floats) -> tuple[list[_Series], float]:
    """The columns with enough runs, each with its noise, and the inflation of all (see `Noise`)."""
    found = []
    for column, measured in enumerate(values.T):
        places = np.flatnonzero(np.isfinite(measured))
        if len(places) >= LEAST_RUNS:
            taken = measured[places]
            found.append(_Series(column, places, taken, noise_of(taken), [0, len(taken)]))
    alike = _autocorrelation(found)
    typical = float(np.median([each.noise for each in found])) if found else 0.0
    for each in found:
        runs = len(each.values)
        raised = math.sqrt((runs * each.noise**2 + PRIOR_RUNS * typical**2) / (runs + PRIOR_RUNS))
        raised = max(each.noise, raised) / math.sqrt(1 - alike)
        each.noise = max(1e-9, raised, float(least_noise[each.column]))
    return found, (1 + alike) / (1 - alike)


def _autocorrelation(found: Sequence[_Series]) -> float:
    """How much a run resembles the one before it, by the median over rows; from 0 to 0.9.

    If each resembles the one before it by r, two runs apart differ in variance by 1 + r times as much as neighbours do.
    """
    told = [each for each in found if each.noise]
    ratios = [(noise_of(each.values, apart=2) / each.noise) ** 2 for each in told]
    return min(0.9, max(0.0, float(np.median(ratios)) - 1)) if ratios else 0.0


def _candidates(series: _Series, inflation: float) -> list[int]:
    """The bounds of the segments of a series by PELT, if a scan says that it is worth a closer look."""
    import ruptures

    scaled = ndimage.median_filter(series.values, 3, mode="nearest") / (series.noise * math.sqrt(inflation))
    penalty = 3 * math.log(len(scaled))
    if _scan(scaled) < penalty:
        return series.bounds
    found = ruptures.KernelCPD(kernel="linear", min_size=1).fit(scaled[:, None]).predict(pen=penalty)
    return [0, *(int(each) for each in found)]


def _scan(scaled: Floats) -> float:
    """The most that one step could take off the sum of squares: of all runs, and within windows of many lengths.

    What stays below the penalty here cannot pass the test later, which asks for more (MOSUM: Eichinger and Kirch,
    Bernoulli 2018).
    """
    runs = len(scaled)
    total = np.concatenate([[0.0], np.cumsum(scaled - scaled.mean())])
    at = np.arange(1, runs)
    most = float(np.max(total[1:-1] ** 2 * runs / (at * (runs - at))))
    wide = 1
    while wide <= runs // 2:
        inner = np.arange(wide, runs - wide + 1)
        behind, ahead = total[inner + wide] - total[inner], total[inner] - total[inner - wide]
        most = max(most, float(np.max((behind - ahead) ** 2)) / (2 * wide))
        wide *= 2
    return most


def _prune(series: _Series, noise: Noise, alpha: float) -> dict[int, float]:
    """The bounds of a series that pass on their own, with their p: the weakest goes first, and its sides are joined."""
    while len(series.bounds) > 2:
        found = {at: _chance(series, place, noise) for place, at in enumerate(series.bounds[1:-1], start=1)}
        weakest = max(found, key=lambda at: found[at])
        if found[weakest] <= alpha:
            return found
        series.bounds.remove(weakest)
    return {}


def _sides(series: _Series, place: int) -> tuple[Floats, Floats]:
    """The runs ahead of and behind a bound, up to its neighbours."""
    start, at, end = series.bounds[place - 1 : place + 2]
    return series.values[start:at], series.values[at:end]


def _chance(series: _Series, place: int, noise: Noise) -> float:
    """The chance that noise alone makes such a step at any place of the series; 1 for a ramp, or too little ahead.

    The newest run alone is but one place.
    """
    ahead, behind = _sides(series, place)
    if series.bounds[place] < LEAST_BEFORE or not _is_abrupt(ahead, behind, series.noise):
        return 1.0
    own = series.jumps(series.bounds[place])
    chances = [_by_few(ahead, behind, series.noise, own, noise)]
    if min(len(ahead), len(behind)) >= RANKED:
        p = float(stats.mannwhitneyu(ahead, behind, method="asymptotic").pvalue)
        chances.append(2 * float(stats.norm.sf(stats.norm.isf(p / 2) / math.sqrt(noise.inflation))))
    places = len(series.values) - 1 if len(behind) > 1 else 1
    return min(1.0, min(chances) * len(chances) * places)


def _by_few(ahead: Floats, behind: Floats, scale: float, own: Floats, noise: Noise) -> float:
    """The chance that so many runs of the shorter side lie as far from the level of the longer one as they do.

    Asked of just over half of them, of three quarters and of all; the least counts, times the number of questions.
    """
    few, level = (behind, ahead) if len(behind) <= len(ahead) else (ahead, behind)
    away = few - np.median(level)
    away = np.sort(away * np.sign(np.median(away)))[::-1] / scale
    runs, half = len(few), len(few) // 2 + 1
    error = math.sqrt(math.pi / 2 / len(level) * noise.inflation)
    asked = {half, (half + runs + 1) // 2, runs}
    chances = [_of_so_many(many, runs, float(away[many - 1]) + error * PLACES, own, noise) for many in asked]
    return min(1.0, min(chances) * len(asked))


def _of_so_many(many: int, runs: int, sizes: Floats, own: Floats, noise: Noise) -> float:
    """The chance that so many of the runs lie that far out, all on one side; as if fewer where runs are alike.

    sizes: how far, at PLACES of the error that they have in common: that of the level which they are held against.
    """
    least = max(1, round(many / noise.inflation))
    independent = max(least, round(runs / noise.inflation))
    chances = stats.binom.sf(least - 1, independent, noise.beyond(sizes, own))
    return 2 * float(np.sum(chances * WEIGHTS) / np.sum(WEIGHTS))


def _is_abrupt(ahead: Floats, behind: Floats, scale: float) -> bool:
    """Whether at least half of the move happens at the bound: what drifts has no run to answer for it.

    Asked of the nearest runs, of as many as it takes to see half of the move through the noise; and of the slope that
    both sides have in common, if they have one with 95 % confidence.
    """
    shift = float(np.median(behind) - np.median(ahead))
    if not shift:
        return False
    wide = max(NEAR, math.ceil(min(32 * (scale / shift) ** 2, len(ahead) + len(behind))))
    near = float(np.median(behind[:wide]) - np.median(ahead[-wide:]))
    sides = (ahead, behind)
    times = np.concatenate([np.arange(len(each)) - (len(each) - 1) / 2 for each in sides])
    rest = np.concatenate([np.clip(each - np.median(each), -3 * scale, 3 * scale) for each in sides])
    square = float(np.sum(times**2)) or 1.0
    slope = float(np.sum(times * rest)) / square
    if abs(slope) * math.sqrt(square) < float(stats.norm.ppf(0.975)) * scale:
        slope = 0.0
    return near / shift >= HALF and 1 - slope * len(rest) / 2 / shift >= HALF


def _told(believed: Sequence[tuple[_Series, int, float]], noise: Noise) -> list[Step]:
    """Steps from the bounds that are believed; those that are not no longer part their sides."""
    kept: dict[int, tuple[_Series, dict[int, float]]] = {}
    for series, at, p in believed:
        kept.setdefault(series.column, (series, {}))[1][at] = p
    found = []
    for series, chances in kept.values():
        series.bounds = [0, *sorted(chances), len(series.values)]
        found += [_step(series, place, chances[at], noise) for place, at in enumerate(series.bounds[1:-1], start=1)]
    return found


def _step(series: _Series, place: int, p: float, noise: Noise) -> Step:
    ahead, behind = _sides(series, place)
    shift = float(np.median(behind) - np.median(ahead))
    new = np.abs(behind - np.median(behind)) < np.abs(behind - np.median(ahead))
    # A median is that much wider than a mean where there are more than two values.
    variances = [(math.pi / 2 if len(each) > 2 else 1.0) / len(each) for each in (ahead, behind)]
    half = series.noise * math.sqrt(sum(variances) * noise.inflation)
    half *= float(stats.t.ppf(0.975, len(ahead) + len(behind) - 2))
    at = series.bounds[place]
    return Step(
        column=series.column,
        first=int(series.places[at]),
        last=int(series.places[at - 1]),
        shift=shift,
        low=shift - half,
        high=shift + half,
        p=p,
        runs=len(behind),
        confirmed=bool(np.any(new[1:] & new[:-1])),
    )
