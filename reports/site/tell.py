"""From what was read to what a site tells: all judgements that its pages show, made in one place."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from reports.judge.causes import explained
from reports.judge.changes import changes
from reports.judge.derive import derive
from reports.judge.gate import gate
from reports.judge.hardware import compare_devices
from reports.judge.quality import stored
from reports.read.committed import committed
from reports.read.counts import Counts
from reports.read.essays import essays
from reports.read.load import Results
from reports.read.summary import History
from reports.site.page import day
from reports.site.story import Quality, Story, Versus


def tell(results: Results, history: History, counts: Counts | None = None, root: Path = Path()) -> Story:
    """The story of a checkout at `root`.

    results: the newest run of every device, in full; history: all runs. Where `root` is no checkout there are no essays
    and no causes from counts.
    """
    found = changes(history)
    return Story(
        results=results,
        rows=derive(results.rows, results.runs),
        counts=counts,
        history=history,
        versus=list(_versus(history)),
        changes=explained(history, found, committed(root)) if found else [],
        comparison=compare_devices(history),
        quality=quality(),
        essays=essays(root),
    )


def _versus(history: History) -> Iterator[Versus]:
    """The newest run of every device against the one before it, judged by the gate."""
    for device, runs in history.runs.groupby("device", sort=False, observed=True):
        ordered = runs.sort_values(["started", "run"], kind="stable")
        if len(ordered) > 1:
            base, head = ordered.iloc[-2], ordered.iloc[-1]
            found = gate(history, [int(base.run)], [int(head.run)])
            words = [line for line in found.words if line != found.command]
            names = str(device), _named(base), _named(head)
            yield Versus(*names, found.verdicts, found.status, words, found.command)


def _named(run: pd.Series) -> str:
    return f"commit {str(run.commit)[:12]} of {day(run.started, time=True)}"


def quality() -> Quality | None:
    """What was measured of the gate last; None where nobody has."""
    try:
        found = stored()
        return Quality(pd.DataFrame(list(_rates(found))), str(found["command"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _rates(found: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for each in found["histories"]:
        rates = {"gates that fail although nothing changed": each["false_alarms"]}
        rates |= {
            f"slowdowns by {change['change']:.0%} that are found".replace("%", " %"): change["all"]
            for change in each["power"]
        }
        rates["improvements that fail"] = each["improvements_that_failed"]
        for what, rate in rates.items():
            yield {"history_runs": each["history_runs"], "what": what} | rate
