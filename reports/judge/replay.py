"""A gate on simulated histories: what it says after one run of head, and after it clocked the suspects again."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from reports.judge.centre import Flags, Floats
from reports.judge.machine import Machine, Replays, simulate
from reports.judge.stages import SETTLED, Kinds, stage, weigh

SPARE = 2


@dataclass(frozen=True)
class Outcome:
    """Of every replay: whether its gate failed, whether it asked for further runs, and of how many rows.

    found: whether the row that was slowed down alarmed; two_speeds: whether that row has two speeds.
    """

    failed: Flags
    confirm: Flags
    suspects: Floats
    found: Flags
    two_speeds: Flags


def replay(
    machine: Machine, draws: np.random.Generator, replays: int, history: int, rows: int, change: float
) -> Outcome:
    """Gates with so many runs of history, in each of which one of our rows takes `change` more time (0: none does).

    The first run of head clocks all rows. If any is suspect, the cases of the suspects are clocked until they are
    settled, with up to SPARE further runs in place of such as telemetry marks as throttled: those count for nothing but
    the suspicion.
    """
    head = SETTLED + SPARE
    known = simulate(machine, draws, replays, history + head, rows, head)
    each, slowed = np.arange(replays), draws.choice(np.flatnonzero(known.kernel[0]), replays)
    known.logs[each, history:, slowed] += np.log1p(change)
    suspect = _first(known, history)
    cases = np.zeros((replays, int(known.case[-1]) + 1), dtype=bool)
    np.logical_or.at(cases, (np.nonzero(suspect)[0], known.case[np.nonzero(suspect)[1]]), True)
    confirm: Flags = np.asarray(suspect.any(axis=-1))
    alarm = np.zeros_like(suspect)
    alarm[confirm] = _settled(known, history, cases[:, known.case], confirm)
    return Outcome(
        failed=np.asarray(alarm.any(axis=-1)),
        confirm=confirm,
        suspects=suspect.sum(axis=-1).astype(np.float64),
        found=alarm[each, slowed],
        two_speeds=known.two_speeds[each, slowed],
    )


def _first(known: Replays, history: int) -> Flags:
    """The suspects after the first run of head; where that run is marked, its times are all there is to go by."""
    logs, marked = known.logs[:, : history + 1].copy(), known.marked[:, : history + 1].copy()
    marked[:, history] = False
    logs[marked] = np.nan
    run, kinds = np.arange(history + 1), Kinds(~known.kernel, known.compute, known.kernel)
    return stage(weigh(logs, run < history, run == history - 1, kinds), known.kernel).suspect


def _settled(known: Replays, history: int, again: Flags, which: Flags) -> Flags:
    """The alarms once the rows of `again` have been clocked as often as settles them."""
    logs = np.where(known.marked, np.nan, known.logs)[which]
    run = np.arange(logs.shape[1])
    more = logs[:, history + 1 :]
    more[~np.broadcast_to(again[which][:, None, :], more.shape)] = np.nan
    head = logs[:, history:]
    head[np.cumsum(~np.isnan(head), axis=1) > SETTLED] = np.nan
    kernel = known.kernel[which]
    kinds = Kinds(~kernel, known.compute[which], kernel)
    return stage(weigh(logs, run < history, run == history - 1, kinds), kernel).alarm
