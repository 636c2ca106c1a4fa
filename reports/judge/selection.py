"""Which rows a run was to clock, and the command that clocks some of them again."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from reports.judge.stages import SETTLED
from reports.judge.table import Table
from reports.read.record import clean

# What narrows down which tests pytest runs.
NARROWS = ("-k", "-m", "--deselect", "--ignore", "--lf", "--last-failed")
USUAL = ["pytest", "bench", "--benchmark-only"]
OUT_OF_TIME = "left out: the time budget"


def is_part(command: str) -> bool:
    """Whether a command clocks a part of the rows only: by -k, by files or tests, not by a profile."""
    words = _words(command)
    named = any("::" in word or word.endswith(".py") for word in words)
    return named or any(word.partition("=")[0] in NARROWS or word.startswith("-k") for word in words)


def deselected(found: Table, row: str) -> bool:
    """Whether a row has no time in head since nobody asked for it: another profile, a part, or a spent time budget."""
    head = found.records["head"]
    if isinstance(head.status.get(row), str):
        return str(head.reason.get(row)).startswith(OUT_OF_TIME)
    of_base, of_head = (found.runs[found.runs.side == side] for side in ("base", "head"))
    profiles = set(of_base.profile)
    return all(run.profile not in profiles or is_part(str(run.command)) for run in of_head.itertuples())


def whole(found: Table) -> str:
    """What runs base again."""
    words = _words(str(found.runs[found.runs.side == "base"].command.iloc[-1]))
    return shlex.join(words or USUAL)


def command(found: Table, suspects: Sequence[str]) -> str:
    """What clocks the suspects as often as settles them, and beside them what else is raced on their cases.

    The latter are the controls of those runs: without them nothing tells a slow row from a slow device.
    """
    rows, head = found.rows, found.records["head"]
    of_case = ["operator", "mode", "case_id"]
    cases = rows.loc[list(suspects), of_case].astype(str).agg("/".join, axis=1).unique()
    raced = rows[of_case].astype(str).agg("/".join, axis=1).isin(cases) & (head.timed == True)  # noqa: E712 - or missing
    words = [_words(str(each)) for each in head[raced].command]
    tests = list(dict.fromkeys(word for each in words for word in each if "::" in word))
    options = next(([word for word in each[1:] if "::" not in word] for each in words if each), USUAL[1:])
    runs = found.counts("head")[rows.index.isin(list(suspects))]
    times = max(1, SETTLED - int(runs.min()))
    once = shlex.join([USUAL[0], *tests, *options])
    return once if times == 1 else f"for run in $(seq {times}); do {once}; done"


def _words(line: str) -> list[str]:
    """The words of a command that runs pytest; none of anything else, since a results file may say anything."""
    try:
        words = shlex.split(clean(line))
    except ValueError:
        return []
    return words if words[:1] == USUAL[:1] else []
