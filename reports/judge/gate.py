"""The gate: whether head may pass, judged against base and the history of its device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
from scipy.stats import quantile_test

from reports import units
from reports.judge.centre import HANDFUL
from reports.judge.selection import command, whole
from reports.judge.stages import LEAST_HISTORY, SETTLED, Stage, stage
from reports.judge.table import Table, table
from reports.judge.verdict import FASTER, INVALID, SLOWER, difference, judged, weighed
from reports.read.record import clean
from reports.read.summary import History

PASS, FAIL, CONFIRM = "pass", "fail", "confirm"
EXITS = {PASS: 0, FAIL: 1, CONFIRM: 3}
# A device that moved further than this as a whole is told of ahead of all else.
MOVED = 0.02
MOST_NAMES = 10


@dataclass(frozen=True)
class Shift:
    """How much more time the whole device took in head than in base, as a ratio with its 95 % interval.

    controls: of how many rows whose code did not change; the figures are NaN where those are too few.
    """

    ratio: float
    low: float
    high: float
    controls: int


@dataclass(frozen=True)
class Gate:
    """What the gate says.

    status: `pass`, `fail` or `confirm`; verdicts: see `reports.judge.verdict`; regressions: rows that have slowed down,
    suspects: rows that further runs must settle, vanished: rows that had a time in base and have none in head although
    they were to be clocked, wrong: rows of base that failed or are invalid in head; improvements: rows that have become
    faster, which never fail; command: what to run before the gate is asked again, empty if nothing; words: all that in
    lines of text, what matters first.
    """

    status: str
    shift: Shift
    verdicts: pd.DataFrame
    regressions: list[str]
    suspects: list[str]
    vanished: list[str]
    wrong: list[str]
    improvements: list[str]
    command: str = ""
    words: list[str] = field(default_factory=list)

    @property
    def code(self) -> int:
        """The exit code: 0 pass, 1 fail, 3 confirm."""
        return EXITS[self.status]


def gate(history: History, base: Sequence[int], head: Sequence[int], *, margin: float = 0.03) -> Gate:
    """Judge the runs `head` against the runs `base`, both by number; the rest of the history tells how runs differ.

    Of the rest only runs of the same device count that started before head. The first run of head clocks all rows, the
    others may clock the suspects only. Rows of ours are judged, or all where none of ours was clocked, as on a CPU;
    what became of the others is among the verdicts. Raises `ValueError` for runs that the history does not have, that
    are on both sides, or that are of several devices.
    """
    for name, runs in (("base", base), ("head", head)):
        if missing := sorted({*runs} - {*history.runs.run}):
            raise ValueError(f"{name}: expected numbers of runs of the history, got {missing}")
    if both := sorted({*base} & {*head}):
        raise ValueError(f"head: expected runs that are not base too, got {both}")
    sides = history.of(list(base)), history.of(list(head))
    found = table(*sides, _past(history, *sides))
    known = weighed(found)
    return _judge(found, stage(known, found.kinds.gating), judged(found, known, margin))


def _past(history: History, base: History, head: History) -> History:
    """The runs of the device of base that started before head."""
    runs = history.runs
    used = [*base.runs.run, *head.runs.run]
    is_past = ~runs.run.isin(used) & runs.device.isin(base.runs.device) & (runs.started < head.runs.started.min())
    return history.of(runs.run[is_past])


def _judge(found: Table, told: Stage, verdicts: pd.DataFrame) -> Gate:
    names, by_row = found.rows.index, verdicts.set_index("row")
    had = by_row[(by_row.base_runs > 0) & (by_row.head_runs == 0)]
    gate = Gate(
        status=PASS,
        shift=_shift(found),
        verdicts=verdicts,
        regressions=[str(row) for row in names[told.alarm & ~found.doubted]],
        suspects=[str(row) for row in names[told.suspect | (told.alarm & found.doubted)]],
        vanished=[str(row) for row in had.index[had.vanished & (had.verdict != INVALID)]],
        wrong=[str(row) for row in had.index[had.verdict == INVALID]],
        improvements=[str(row) for row in by_row.index[by_row.verdict == FASTER]],
    )
    again, obstacle = "", _obstacle(found)
    if gate.suspects:
        again = command(found, gate.suspects)
    elif obstacle and found.kinds.gating.any():
        again = whole(found)
    failed = gate.regressions or gate.vanished or gate.wrong
    status = FAIL if failed else CONFIRM if gate.suspects or obstacle else PASS
    return replace(gate, status=status, command=again, words=_words(replace(gate, command=again), by_row, found))


def _obstacle(found: Table) -> str:
    """Why no row can be judged; empty where one can. A gate that has judged nothing has let nothing pass."""
    gating = found.kinds.gating
    if not gating.any():
        reasons = pd.Series(found.apart).value_counts()
        why = reasons.index[0] if len(reasons) else "no row has a time on both sides"
        return f"cannot judge, since no row can be compared: {clean(why)}"
    runs = found.counts("past", "base")[gating].max()
    if runs >= LEAST_HISTORY:
        return ""
    return f"cannot judge: runs of history: {runs:.0f}, and it takes {LEAST_HISTORY} to know how much runs differ"


def _shift(found: Table) -> Shift:
    """The median over the controls of the newest runs of both sides, with the interval of its order statistics.

    Of head the run with most controls counts, since further runs may be of suspects only.
    """
    logs = found.logs[:, found.kinds.control]
    base, head = (logs[found.side(side)] for side in ("base", "head"))
    moved = head[np.argmax(np.sum(~np.isnan(head), axis=1))] - base[-1]
    moved = moved[~np.isnan(moved)]
    if len(moved) < HANDFUL:
        return Shift(np.nan, np.nan, np.nan, len(moved))
    middle = float(np.median(moved))
    ends = quantile_test(moved, q=middle, p=0.5).confidence_interval(0.95)
    return Shift(float(np.exp(middle)), float(np.exp(ends.low)), float(np.exp(ends.high)), len(moved))


def _words(gate: Gate, by_row: pd.DataFrame, found: Table) -> list[str]:
    """What the gate says, in lines."""
    moved = abs(gate.shift.ratio - 1) > MOVED
    lines = [_of_device(gate.shift)] if moved else []
    lines += _of_rows(gate, by_row, found)
    obstacle = _obstacle(found)
    if obstacle:
        lines.append(f"{obstacle}{'; on the commit of base:' if gate.command else ''}")
    elif gate.suspects:
        lines.append(f"a suspect is settled by {SETTLED} runs of head:")
    lines += [gate.command] if gate.command else []
    return lines if moved else [*lines, _of_device(gate.shift)]


def _of_rows(gate: Gate, by_row: pd.DataFrame, found: Table) -> Iterator[str]:
    """A line for each row that matters, and for each kind of others."""
    for row in gate.wrong:
        yield f"wrong: {clean(row)}: {clean(by_row.reason[row])}"
    for row in gate.vanished:
        yield f"vanished: {clean(row)}: {clean(by_row.reason[row]).removeprefix('vanished: ')}"
    for word, rows in (("slower", gate.regressions), ("suspect", gate.suspects)):
        for row in rows:
            told = by_row.loc[row]
            runs = f"in {told.head_runs} {'run' if told.head_runs == 1 else 'runs'} of head"
            yield f"{word}: {clean(row)}: {difference(told)}; {runs}"
    ours = {*gate.regressions, *gate.suspects}
    others = [str(row) for row in by_row.index[by_row.verdict == SLOWER] if row not in ours]
    if others:
        yield f"slower by their verdicts, which fail no gate: {_names(others)}"
    apart = pd.Series(found.apart, dtype=object)
    for reason, rows_apart in apart.groupby(apart, sort=False):
        yield f"not compared, {clean(str(reason))}: {_names([str(row) for row in rows_apart.index])}"
    if gate.improvements:
        yield f"faster: {_names(gate.improvements)}"


def _names(rows: Sequence[str]) -> str:
    """Names of rows, of many the first."""
    further = len(rows) - MOST_NAMES
    return clean(", ".join(rows[:MOST_NAMES])) + (f" and {further} more" if further > 0 else "")


def _of_device(shift: Shift) -> str:
    """What became of the device as a whole."""
    if np.isnan(shift.ratio):
        return f"whether the device itself changed is unknown: {shift.controls} rows could tell, it takes {HANDFUL}"
    sign = 1 if shift.ratio >= 1 else -1
    share = units.percent(sign * (shift.ratio - 1))
    ends = sorted(sign * (each - 1) for each in (shift.low, shift.high))
    low, high = (units.percent(end) for end in ends)
    word = "slower" if sign > 0 else "faster"
    told = f"the device itself is {share} {word}, {low.removesuffix(' %')} to {high}, by {shift.controls} rows"
    return f"{told} whose code did not change; the others are judged without that"
