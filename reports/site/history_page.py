"""The page of history: what changed when and why, the timelines behind it, and the runs they are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
from markupsafe import Markup

from reports.read.summary import History
from reports.site.book import Book
from reports.site.page import fill
from reports.site.timelines import Timeline

CHANGES = 200
RUNS = 50  # of each device, the newest


@dataclass(frozen=True)
class DeviceRuns:
    """The newest runs of a device, with how many rows of each have a time, and how many older runs there are."""

    device: str
    runs: list[pd.Series]
    more: int


def history_page(book: Book, timelines: Sequence[Timeline], untold: int, drawn: Mapping[str, Markup]) -> str:
    """The page as text; `untold`: how many rows have no timeline here; `drawn` holds the others by their names."""
    changes = sorted(book.story.changes, key=lambda change: change.started, reverse=True)
    history = book.story.history
    return fill(
        "history.html.j2",
        **book.frame("history.html", "History"),
        changes=changes[:CHANGES],
        changes_more=max(0, len(changes) - CHANGES),
        timelines=timelines,
        untold=untold,
        drawn=drawn,
        devices=[] if history is None else device_runs(history),
    )


def device_runs(history: History) -> list[DeviceRuns]:
    """The runs of every device, the newest first."""
    measured = history.rows.run[history.rows.median_s.notna()].value_counts()
    found = []
    for device, runs in history.runs.groupby("device", sort=True, observed=True):
        ordered = runs.sort_values("started", ascending=False, kind="stable")
        shown = ordered.head(RUNS).assign(measured=ordered.run.map(measured).fillna(0).astype(int))
        # Missing is none of true and false in a template, where None is.
        shown = shown.astype(object).where(shown.notna(), None)
        found.append(DeviceRuns(str(device), [run for _, run in shown.iterrows()], len(ordered) - len(shown)))
    return found
