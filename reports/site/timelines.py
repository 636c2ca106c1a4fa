"""Which rows are drawn over time: those that changed, then our kernels; and what each drawing shows in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pandas as pd

from reports import units
from reports.judge.changes import Change
from reports.read.summary import History
from reports.site.drawing import Job
from reports.site.plots_compare import timeline

TIMELINES = 24  # of all rows; each of the others has its figures in the results, and most of them only wander
FEWEST = 3  # runs; of fewer there is no line to speak of
POINTS = ("device", "started", "commit", "row", "median_s", "low_s", "high_s")


@dataclass(frozen=True)
class Timeline:
    """One row of one device over time: its points (POINTS), and what it shows in words."""

    job: Job
    device: str
    title: str
    alt: str
    points: pd.DataFrame


def timelines(history: History | None, changes: Sequence[Change]) -> tuple[list[Timeline], int]:
    """The timelines to draw, and how many rows have none."""
    if history is None:
        return [], 0
    rows = history.rows[history.rows.median_s.notna()]
    counts = rows.merge(history.runs[["run", "device"]], on="run").groupby(["device", "row"], observed=True).size()
    known = {(str(device), str(row)) for device, row in counts[counts >= FEWEST].index}
    wanted = [key for key in dict.fromkeys(_wanted(history, rows, changes)) if key in known][:TIMELINES]
    rows = rows[rows.row.isin([row for _, row in wanted])]
    found = [_timeline(history, rows, device, row, changes, f"timeline-{i}") for i, (device, row) in enumerate(wanted)]
    return found, len(known) - len(found)


def _wanted(history: History, rows: pd.DataFrame, changes: Sequence[Change]) -> Iterator[tuple[str, str]]:
    """Rows by device: those that changed, the newest first, then our kernels in the newest run of each device."""
    for change in sorted(changes, key=lambda change: change.started, reverse=True):
        if change.row:
            yield change.device, change.row
    for device, runs in history.runs.sort_values("started").groupby("device", observed=True):
        newest = rows[(rows.run == runs.run.iloc[-1]) & (rows.role == "kernel")]
        yield from ((str(device), str(row)) for row in newest.row)


def _timeline(
    history: History, rows: pd.DataFrame, device: str, row: str, changes: Sequence[Change], name: str
) -> Timeline:
    runs = history.runs[history.runs.device == device]
    # What is drawn elsewhere is sent there, and of a million rows a thousand are needed.
    own = rows[(rows.row == row) & rows.run.isin(runs.run)].copy()
    for column in own.select_dtypes("category"):
        own[column] = own[column].cat.remove_unused_categories()
    theirs = [each for each in changes if each.device == device and each.row in (row, "")]
    small = History(runs, own, history.roofs.iloc[:0], history.frontiers.iloc[:0])
    points = own.merge(runs[["run", "device", "started", "commit"]], on="run").sort_values("started")
    last = own.iloc[-1]
    title = f"{last.operator} {last['mode']}: {last.provider}, {last.case}"
    return Timeline(
        Job(name, timeline, (small, device, row, theirs, name)), device, title, _alt(title, points, theirs),
        points[list(POINTS)],
    )  # fmt: skip


def _alt(title: str, points: pd.DataFrame, changes: Sequence[Change]) -> str:
    first, last = points.iloc[0], points.iloc[-1]
    ends = f"from {units.seconds(first.median_s)} to {units.seconds(last.median_s)} over {len(points)} runs"
    own = [f"{units.change(each.ratio)} at commit {each.commit[:12]}" for each in changes if each.row]
    return f"Time of {title}, {ends}. Changes: {', '.join(own) or 'none'}."
