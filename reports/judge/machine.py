"""A simulated machine: the times of many rows over many runs, with everything that goes wrong on real ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from reports.judge.centre import Flags, Floats

# Rows of a case: the references, two peers, and one of ours.
CASE = 5


@dataclass(frozen=True)
class Machine:
    """What is known of real machines. Ranges are drawn from evenly, shares are of rows, runs, or rows in runs.

    noise: the median over rows of the standard deviation between runs; noise_width: of its logarithm over the rows, so
    that the noisiest of 300 rows on the noisiest machine has 3 % (tritonbench #143, whose goal is 2 % and who see 4 %).
    drift: of the whole device from one run to the next, of which `drift_kept` stays for the next; own_drift: by how
    much of it a row differs from others of its kind. two_speeds: rows, speed_gap apart, at any odds (newton #2534: 22.5
    and 25.5 ms). outliers: rows in runs, by outlier_size (warp #1142: 10 to 30 %). throttled: runs, throttle_size, on
    rows bound by arithmetic, by half as much again or half as little (tensara #226, nvbench #193); throttle_told: those
    that telemetry marks. changed: rows whose level moved inside history, by change_size up or down.
    """

    noise: tuple[float, float] = (0.005, 0.01)
    noise_width: float = 0.4
    drift: tuple[float, float] = (0.005, 0.01)
    drift_kept: float = 0.9
    own_drift: float = 0.1
    two_speeds: float = 0.05
    speed_gap: tuple[float, float] = (0.03, 0.13)
    outliers: float = 0.01
    outlier_size: tuple[float, float] = (0.10, 0.30)
    throttled: float = 0.02
    throttle_size: tuple[float, float] = (0.05, 0.20)
    throttle_told: float = 0.8
    throttle_own: tuple[float, float] = (0.5, 1.5)
    changed: float = 0.02
    change_size: tuple[float, float] = (0.03, 0.20)


@dataclass(frozen=True)
class Replays:
    """logs (replays, runs, rows): log times; marked: which of them telemetry says were throttled.

    kernel, compute, two_speeds (replays, rows): rows of ours, rows bound by arithmetic, rows with two speeds; case
    (rows,): which rows are raced together.
    """

    logs: Floats
    marked: Flags
    kernel: Flags
    compute: Flags
    two_speeds: Flags
    case: np.ndarray[tuple[int], np.dtype[np.int64]]


def simulate(machine: Machine, draws: np.random.Generator, replays: int, runs: int, rows: int, head: int) -> Replays:
    """So many histories of so many runs and rows; nothing of the code changed in or ahead of the last `head` runs."""
    shape, table = (replays, runs, rows), (replays, rows)
    case = np.arange(rows) // CASE
    compute = (draws.random((replays, int(case[-1]) + 1)) < 0.5)[:, case]
    usual = draws.uniform(*machine.noise, (replays, 1))
    deviation = usual * np.exp(machine.noise_width * draws.standard_normal(table))
    own = 1 + machine.own_drift * draws.standard_normal(table)
    logs = deviation[:, None, :] * draws.standard_normal(shape)
    logs += _drift(machine, draws, replays, runs)[..., None] * own[:, None, :]
    two = draws.random(table) < machine.two_speeds
    odds, gap = draws.random(table), np.log1p(draws.uniform(*machine.speed_gap, table))
    logs += np.where(two[:, None, :] & (draws.random(shape) < odds[:, None, :]), gap[:, None, :], 0.0)
    outlier = np.log1p(draws.uniform(*machine.outlier_size, shape))
    logs += np.where(draws.random(shape) < machine.outliers, outlier, 0.0)
    hot = draws.random((replays, runs)) < machine.throttled
    size = draws.uniform(*machine.throttle_size, (replays, runs))[..., None] * draws.uniform(
        *machine.throttle_own, shape
    )
    slowed = hot[..., None] & compute[:, None, :]
    logs += np.where(slowed, np.log1p(size), 0.0)
    told = draws.random((replays, runs)) < machine.throttle_told
    logs += _changes(machine, draws, replays, runs, rows, head)
    kernel = np.broadcast_to(np.arange(rows) % CASE == CASE - 1, table)
    return Replays(logs, slowed & told[..., None], kernel, compute, two, case)


def _drift(machine: Machine, draws: np.random.Generator, replays: int, runs: int) -> Floats:
    """Of the device (replays, runs): autoregressive, in its steady state from the start."""
    step = draws.uniform(*machine.drift, replays)
    moved = np.empty((replays, runs))
    moved[:, 0] = step / np.sqrt(1 - machine.drift_kept**2) * draws.standard_normal(replays)
    for run in range(1, runs):
        moved[:, run] = machine.drift_kept * moved[:, run - 1] + step * draws.standard_normal(replays)
    return moved


def _changes(machine: Machine, draws: np.random.Generator, replays: int, runs: int, rows: int, head: int) -> Floats:
    """Levels that moved inside history (replays, runs, rows), with two runs or more at the newest level."""
    table = (replays, rows)
    is_changed = draws.random(table) < machine.changed
    size = np.log1p(draws.uniform(*machine.change_size, table)) * draws.choice([-1.0, 1.0], table)
    at = draws.integers(0, max(runs - head - 1, 1), table)
    before = np.arange(runs)[None, :, None] < at[:, None, :]
    return np.where(is_changed[:, None, :] & before, size[:, None, :], 0.0)
