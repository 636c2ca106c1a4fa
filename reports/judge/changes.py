"""Changes over months: where the level of a row moved, by how much, and what else changed there."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from reports.judge.jumps import Floats
from reports.judge.sides import clean_runs
from reports.judge.steps import Step, steps
from reports.judge.together import middle, together
from reports.read.summary import History

# The role of a change that is the device's own.
DEVICE = "device"
SHARED = 2 / 3
NAMES = ("row", "operator", "mode", "case", "provider", "role")


@dataclass(frozen=True)
class Change:
    """A row's level before and after one run of its device.

    run, before: the numbers of the first run behind the change and of the last one ahead of it; ratio: the time behind
    over the time ahead, so above 1 is slower, with the ends of its 95 % interval; runs: how many runs stand behind it;
    confirmed: at least two of them, one after the other; causes: what else changed there, the likeliest first.

    Where most rows of a device move together, that is one change: its role is `device`, and row, operator, mode, case
    and provider are empty. The ratio of a row is what it has done beyond that.
    """

    device: str
    row: str
    operator: str
    mode: str
    case: str
    provider: str
    role: str
    run: int
    before: int
    started: pd.Timestamp
    commit: str
    commit_before: str
    ratio: float
    ratio_low: float
    ratio_high: float
    runs: int
    confirmed: bool
    causes: list[str] = field(default_factory=list)


def changes(history: History) -> list[Change]:
    """All changes of all devices, the newest first, in a run the device's own first, then the largest.

    Of all that is told, at most a share of 1 % is expected to be noise (see `reports.judge.steps`). In the first twenty
    runs it is more where rows have two speeds or heavy tails that they have yet to show: `tests.changes_quality` says
    how much. A row whose clock changed begins anew: two clocks count different things. Trees with changes belong to no
    commit and are left out.
    """
    runs = clean_runs(history)
    rows = history.rows[(history.rows.status == "measured") & (history.rows.median_s > 0)]
    found: list[Change] = []
    for device, those in runs.groupby("device", sort=False, observed=True):
        found += _changes_of(str(device), those, rows[rows.run.isin(those.run)])
    return sorted(found, key=lambda each: (-each.started.value, -each.run, bool(each.row), -abs(math.log(each.ratio))))


def _changes_of(device: str, runs: pd.DataFrame, rows: pd.DataFrame) -> Iterator[Change]:
    values, names = _matrix(runs, rows)
    if not len(names):
        return
    common, wide = together(values, list(names.role))
    table, least = np.column_stack([values - common[:, None], common]), np.zeros(len(names) + 1)
    least[-1] = wide
    if not common.any():
        table, least = table[:, :-1], least[:-1]
    for step in steps(table, least):
        if step.column < len(names):
            yield _change(device, runs, names.iloc[step.column], step)
        elif _is_shared(values, step):
            yield _change(device, runs, None, step)


def _is_shared(values: Floats, step: Step) -> bool:
    """Whether most rows moved the way that their device did: a few that move far drag a median along a little."""
    moved = middle(values[step.first : step.first + step.runs]) - middle(values[: step.first][-step.runs :])
    known = moved[np.isfinite(moved)]
    return len(known) > 0 and float(np.mean(known * step.shift > 0)) >= SHARED


def _matrix(runs: pd.DataFrame, rows: pd.DataFrame) -> tuple[Floats, pd.DataFrame]:
    """Logarithms of medians as (runs in the order of time, rows), and what these rows are: a row of a table for each.

    Where a run has a row twice, its last counts.
    """
    identity = rows[["row", "timer"]].astype(str)
    column = identity.groupby(["row", "timer"], sort=False).ngroup().to_numpy()
    place = pd.Series(range(len(runs)), index=runs.run.to_numpy()).reindex(rows.run).to_numpy()
    values = np.full((len(runs), int(column.max(initial=-1)) + 1), np.nan)
    values[place, column] = np.log(rows.median_s)
    first = ~pd.Series(column).duplicated().to_numpy()
    return values, rows.loc[first, list(NAMES)].astype(str)


def _change(device: str, runs: pd.DataFrame, row: pd.Series | None, step: Step) -> Change:
    run, before = runs.iloc[step.first], runs.iloc[step.last]
    what = dict.fromkeys(NAMES, "") | {"role": DEVICE} if row is None else {name: str(row[name]) for name in NAMES}
    return Change(
        device=device,
        row=what["row"],
        operator=what["operator"],
        mode=what["mode"],
        case=what["case"],
        provider=what["provider"],
        role=what["role"],
        run=int(run.run),
        before=int(before.run),
        started=pd.Timestamp(run.started),
        commit=str(run.commit),
        commit_before=str(before.commit),
        ratio=math.exp(step.shift),
        ratio_low=math.exp(step.low),
        ratio_high=math.exp(step.high),
        runs=step.runs,
        confirmed=step.confirmed,
    )
