"""What a whole run shares: how fast the device was that day, by rows whose code did not change.

Machines drift by a percent from one night to the next, and slow down by ten while they are too hot (vllm-xpu-kernels
#568, tritonbench #143, tensara #226). All rows move with it, so a row is judged by what is left once the common part is
taken out. The common part is the median over the control rows, so that neither a few changed peers nor a few outliers
can move it. It is taken for rows bound by memory and by arithmetic apart, since a lower clock of the SMs slows only the
latter.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

# A median of fewer rows is too coarse to stand for its kind of rows.
HANDFUL = 5
ROUNDS = 3
NORMAL_MAD = 1.4826
# The variance of a median over that of a mean, for normal values.
MEDIAN_VARIANCE = np.pi / 2
# How far a device goes from one run to the next at least: the 1 % that machines drift, however quiet this one was.
WANDER = 0.01


@dataclass(frozen=True)
class Centre:
    """shift: of the log times (..., runs, rows), what each shares with its run; variance: of the error of that."""

    shift: Floats
    variance: Floats


def medians(values: Floats, axis: int) -> Floats:
    """The median along an axis without what is missing (NaN), which is missing where nothing is left.

    As np.nanmedian, which for arrays of this shape takes twenty times as long and warns where nothing is left.
    """
    if not values.shape[axis]:
        return np.full(np.delete(values.shape, axis), np.nan)
    ordered = np.sort(values, axis=axis)
    count = np.sum(~np.isnan(ordered), axis=axis, keepdims=True)
    low, high = np.maximum((count - 1) // 2, 0), np.minimum(count // 2, values.shape[axis] - 1)
    middle = np.take_along_axis(ordered, low, axis) + np.take_along_axis(ordered, high, axis)
    return np.asarray(np.squeeze(middle / 2, axis))


def centre(logs: Floats, reference: Flags, control: Flags, group: Flags) -> Centre:
    """Take the level of every row out, then the median of the controls of every run, in turns (Tukey's median polish).

    logs (..., runs, rows): log times, NaN where there is none; reference (runs,): the runs that rows have their levels
    from; control, group (..., rows): which rows are controls, and which of the two kinds each row is of. Where a run
    has fewer than HANDFUL controls of one kind, all its controls count; where it has fewer than HANDFUL at all (a run
    of suspects only), the reading is weighed against the run before it, by how far runs go from one to the next. Where
    no row is a control, nothing is taken out: drift is then part of the noise of every row.
    Tukey, Exploratory Data Analysis (1977), chapter 11.
    """
    logs = np.asarray(logs, dtype=np.float64)
    if not control.any():
        return Centre(np.zeros_like(logs), np.zeros_like(logs))
    shift, spread = np.zeros_like(logs), np.zeros_like(logs)
    level = medians(logs[..., reference, :], -2)
    for _ in range(ROUNDS):
        shift, spread = _shifts(logs - level[..., None, :], reference, control, group)
        level = medians((logs - shift)[..., reference, :], -2)
    return Centre(shift, spread)


def _shifts(moved: Floats, reference: Flags, control: Flags, group: Flags) -> tuple[Floats, Floats]:
    """Of every run and row: the median of the controls of its kind, and its variance."""
    seen = [np.where((control & wanted)[..., None, :], moved, np.nan) for wanted in (~group, group, group | ~group)]
    counts = [np.sum(~np.isnan(each), axis=-1) for each in seen]
    values = [medians(each, -1) for each in seen]
    typical = [_typical(each - value[..., None]) for each, value in zip(seen, values, strict=True)]
    told = []
    for kind in (0, 1):
        few = counts[kind] < HANDFUL
        value, count = np.where(few, values[2], values[kind]), np.where(few, counts[2], counts[kind])
        spread = np.where(few, typical[2][..., None], typical[kind][..., None])
        told.append(_weighed(value, MEDIAN_VARIANCE * spread / np.maximum(count, 1), count < HANDFUL, reference))
    is_second = group[..., None, :]
    shift = np.where(is_second, told[1][0][..., None], told[0][0][..., None])
    return shift, np.where(is_second, told[1][1][..., None], told[0][1][..., None])


def _typical(left: Floats) -> Floats:
    """How far controls lie from the median of their run, squared, in the usual run; zero where nothing tells."""
    of_runs = np.square(NORMAL_MAD * medians(np.abs(left), -1))
    count = np.sum(~np.isnan(left), axis=-1)
    return np.nan_to_num(medians(np.where(count < HANDFUL, np.nan, of_runs), -1))


def _weighed(value: Floats, variance: Floats, few: Flags, reference: Flags) -> tuple[Floats, Floats]:
    """Where there are few controls: weighed by variance against the run before, as a Kalman filter does."""
    if not few.any():
        return value, variance
    steps = np.abs(np.diff(np.where(few, np.nan, value)[..., reference], axis=-1))
    wander = np.square(NORMAL_MAD * medians(steps, -1)) if steps.shape[-1] else np.full(value.shape[:-1], np.nan)
    wander = np.fmax(wander, WANDER**2)
    value, variance = value.copy(), variance.copy()
    before, doubt = np.zeros(value.shape[:-1]), np.zeros(value.shape[:-1])
    for run in range(value.shape[-1]):
        here, blind = value[..., run], np.isnan(value[..., run])
        doubt = doubt + wander
        trust = np.where(blind, 0.0, doubt / np.maximum(doubt + variance[..., run], np.finfo(float).tiny))
        value[..., run] = np.where(few[..., run], before + trust * np.where(blind, 0.0, here - before), here)
        variance[..., run] = np.where(few[..., run], (1 - trust) * doubt, variance[..., run])
        before, doubt = value[..., run], variance[..., run]
    return value, variance
