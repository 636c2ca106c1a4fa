"""Every number of the site as CSV: which tables there are, and how they are written."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from reports.judge.changes import Change
from reports.judge.gaps import gaps
from reports.judge.roofs import median
from reports.judge.standing import standings
from reports.judge.verdict import COLUMNS
from reports.read.record import clean
from reports.read.run import Run
from reports.read.summary import History
from reports.site.book import Book
from reports.site.counts_page import bounded
from reports.site.timelines import Timeline

ROWS = (
    "device", "started", "commit", "operator", "mode", "case", "provider", "role", "status", "reason", "remedy",
    "timer", "rounds", "stopped", "median_s", "low_s", "high_s", "q1_s", "q3_s", "bootstrap_low_s",
    "bootstrap_high_s", "half_width", "warm_s", "cold_over_warm", "other_medians", "heaps", "bytes_per_s",
    "flop_per_s", "unit", "roof", "least_s", "of_roof", "rival", "over_rival", "over_rival_low", "over_rival_high",
    "over_naive", "error", "budget", "proven", "traffic_bytes", "flops", "peak_bytes", "output_bytes",
    "workspace_bytes", "saved_bytes", "least_bytes", "peak_over_least", "joules_per_call", "resolution_j", "calls",
    "energy_s", "counter", "energy_per_token_j", "sm_clock_hz", "memory_clock_hz", "temperature_c", "power_w", "load",
    "foreign_processes", "foreign_bytes", "cycles", "setup_s", "compile_s", "tune_s", "compiled", "cache_hits",
    "tuned", "opinion_s", "marks", "command", "file",
)  # fmt: skip
COUNTED = (
    "gpu", "operator", "mode", "case", "provider", "floor_bytes", "floor_flops", "footprint_bytes", "requested_bytes",
    "vector_flops", "special", "launches", "dots", "traffic", "rereads", "work", "intensity", "floor_s", "bound_s",
    "roof", "uncached_s",
)  # fmt: skip
OF_RUNS = (
    "device", "kind", "started", "commit", "dirty", "profile", "command", "unfinished", "overhead", "flush_share",
    "versions", "facts", "options", "conditions", "path",
)  # fmt: skip
# What a program for spreadsheets takes for the beginning of a formula.
FORMULA = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True)
class Data:
    """A table under the name of its file, and in a sentence what a row of it is."""

    name: str
    what: str
    table: pd.DataFrame


def tables(book: Book, timelines: Sequence[Timeline] = ()) -> list[Data]:
    """All tables that hold anything; `timelines`: those that the site shows."""
    points = pd.concat([each.points for each in timelines]) if timelines else pd.DataFrame()
    found = [
        Data("rows", "a provider on a case of the newest run of a device, with or without a time", _rows(book)),
        Data("standings", "an operator in one mode, ours beside its strongest peer", _standings(book)),
        Data("absent", "a provider that has no time, for one reason", _gaps(book)),
        *_of_runs(book.story.results.runs),
        *_judged(book),
        *_counted(book),
        Data("timelines", "a point of a timeline", points),
        Data("left-out", "a file, or a part of one, that could not be read", _left_out(book)),
    ]
    return [each for each in found if len(each.table)]


def as_csv(table: pd.DataFrame) -> str:
    """The table as CSV: numbers with all digits they have, texts such that no spreadsheet takes them for formulas."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([_cell(str(column)) for column in table.columns])
    columns = [[_cell(value) for value in table[name].tolist()] for name in table.columns]
    writer.writerows(zip(*columns, strict=True))
    return out.getvalue()


def _cell(value: Any) -> str:
    if value is None or value is pd.NaT or (isinstance(value, float) and np.isnan(value)) or value is pd.NA:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    text = clean(value.isoformat() if isinstance(value, pd.Timestamp) else str(value))
    return f"'{text}" if text.lstrip(" ").startswith(FORMULA) else text


def _rows(book: Book) -> pd.DataFrame:
    """The rows of the newest runs, with objects as text."""
    rows, runs = book.story.rows, {run.path: run for run in book.story.results.runs}
    of = [runs.get(str(path)) for path in rows.run]
    return rows.assign(
        device=["" if run is None else run.device for run in of],
        started=["" if run is None else run.started for run in of],
        commit=["" if run is None else run.commit for run in of],
        file=rows.run,
        marks=[", ".join(mark.kind for mark in each) for each in rows.marks],
        tuned=["; ".join(f"{t.kernel}: {_pairs(t.config)}" for t in each) for each in rows.tuned],
        heaps=["; ".join(f"{m.median_s} ({m.share})" for m in each) if len(each) > 1 else "" for each in rows.modes],
        other_medians=[_pairs({name: np.median(s).item() for name, s in each.items() if s}) for each in rows.others_s],
        opinion_s=[np.nan if each is None else each.seconds for each in rows.opinion],
    ).reindex(columns=list(ROWS))  # fmt: skip


def _pairs(found: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in found.items())


def _standings(book: Book) -> pd.DataFrame:
    devices = {run.path: run.device for run in book.story.results.runs}
    found = [asdict(each) for each in standings(book.story.rows)]
    return pd.DataFrame([{"device": devices.get(each.pop("run"), "")} | each for each in found]).drop(
        columns=["fastest_low_s", "fastest_high_s"], errors="ignore"
    )


def _gaps(book: Book) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"status": each.status, "provider": each.provider, "reason": each.reason, "remedy": each.remedy}
            | {"where": ", ".join(each.where), "rows": len(each.cases)}
            for each in gaps(book.story.rows)
        ]
    )


def _of_runs(runs: Sequence[Run]) -> Iterator[Data]:
    """The newest run of every device, its roofs and frontiers, and what its time budget left out."""
    newest = [
        {name: getattr(run, name) for name in OF_RUNS}
        | {name: _pairs(getattr(run, name)) for name in ("versions", "facts", "options", "conditions")}
        for run in runs
    ]
    yield Data("newest-runs", "the newest run of a device", pd.DataFrame(newest))
    roofs = [
        {"device": run.device, "name": roof.name, "unit": roof.unit, "value": median(roof)}
        | {"low": min(roof.raw, default=None), "high": max(roof.raw, default=None), "reason": roof.reason}
        for run in runs
        for roof in run.roofs
    ]
    yield Data("roofs", "what a device itself could do in its newest run", pd.DataFrame(roofs))
    frontiers = [{"device": run.device} | asdict(each) for run in runs for each in run.frontiers]
    yield Data("frontiers", "the longest sequence that a provider has memory for", _without_run(frontiers))
    dropped = [{"device": run.device} | asdict(each) for run in runs for each in run.dropped]
    yield Data("dropped", "a case that the time budget left out", _without_run(dropped))


def _without_run(found: list[dict[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame(found).drop(columns="run", errors="ignore")


def _judged(book: Book) -> Iterator[Data]:
    """Verdicts, changes, devices side by side, all runs, the gate."""
    story = book.story
    verdicts = [each.verdicts.assign(base=each.base, head=each.head) for each in story.versus]
    columns = ["base", "head", *(name for name in COLUMNS if name != "case_id")]
    together = pd.concat(verdicts)[columns] if verdicts else pd.DataFrame()
    yield Data("verdicts", "a row of the newest run of a device, or of the one before, and the verdict", together)
    yield Data("changes", "a row whose level moved, and where", _changes(story.changes))
    if story.history is not None:
        yield Data("runs", "a run", _all_runs(story.history))
    if (comparison := story.comparison) is not None:
        yield Data("devices", "a row that two devices have", comparison.rows)
        yield Data("device-roofs", "a roof, with a column per device", comparison.roofs)
        yield Data("crossovers", "a length at which one provider overtakes another", comparison.crossovers)
        yield Data("device-frontiers", "the longest sequence that fits, device by device", comparison.frontiers)
        yield Data("portability", "a row run with another device's configurations", comparison.portability)
        yield Data("not-comparable", "a row that cannot be compared, and why", comparison.refused)
    if story.quality is not None:
        yield Data("gate", "what was measured of the gate", story.quality.table)


def _changes(changes: Sequence[Change]) -> pd.DataFrame:
    found = [asdict(each) | {"causes": "; ".join(each.causes)} for each in changes]
    return pd.DataFrame(found).drop(columns=["run", "before"], errors="ignore")


def _all_runs(history: History) -> pd.DataFrame:
    return history.runs[[name for name in OF_RUNS if name in history.runs]]


def _counted(book: Book) -> Iterator[Data]:
    counts = book.story.counts
    if counts is None:
        return
    cases = bounded(counts, [run.device for run in book.story.results.runs])
    if len(cases):
        cases = cases.assign(dots=[_pairs(each) for each in cases["dots"]])[list(COUNTED)]
    yield Data("counts", "a counted case of one of our kernels", cases)
    yield Data("kernels", "a compiled kernel in one configuration on one target", counts.resources)


def _left_out(book: Book) -> pd.DataFrame:
    return pd.DataFrame(book.story.results.left_out, columns=["path", "reason"])
