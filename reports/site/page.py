"""The page: one self-contained HTML file, readable offline, in light and dark, on a phone and on paper."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from reports import units
from reports.judge.derive import Throughput, throughput
from reports.judge.gaps import gaps
from reports.judge.roofs import roof_lines
from reports.judge.standing import first_line, standings
from reports.read.counts import Counts
from reports.read.load import Results
from reports.read.record import STATUSES
from reports.read.run import Run
from reports.show.details import details
from reports.show.header import costs, options, told
from reports.site.counts_page import counts_section
from reports.site.looks import DARK, LIGHT, Look, looks
from reports.site.plots import Quantity, axis_title, panel, quantities, swatch

MODES = {"fwd": "forward", "bwd": "backward"}
NAMED = 4  # of so many providers a figure's description gives the values: of all of them, the table does


@dataclass(frozen=True)
class Panel:
    """One plot, with what it shows in words for readers who do not see it."""

    title: str
    svg: Markup
    alt: str


@dataclass(frozen=True)
class Facet:
    """The panels of one combination of the axes that they do not run along."""

    title: str
    providers: list[str]
    panels: list[Panel]


@dataclass(frozen=True)
class Case:
    """The measured rows of one case, the fastest first."""

    title: str
    rows: list[pd.Series]


@dataclass(frozen=True)
class Section:
    """One operator in one mode. warm, roof: whether any of its rows has such a figure."""

    anchor: str
    operator: str
    mode: str
    told: Throughput
    facets: list[Facet]
    cases: list[Case]
    gaps: int
    warm: bool
    roof: bool


def write(results: Results, rows: pd.DataFrame, target: Path, counts: Counts | None = None) -> Path:
    """Write the page to `target` (an .html file, or a folder for its index.html); gives the file."""
    file = target if target.suffix.lower() in (".html", ".htm") else target / "index.html"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(render(results, rows, counts), encoding="utf-8")
    return file


def render(results: Results, rows: pd.DataFrame, counts: Counts | None = None) -> str:
    """The page as text, with a section on counts where there are any."""
    found, names = looks(rows), run_names(results.runs)
    shown = sections(rows, found, names)
    return _template().render(
        runs=results.runs,
        names=names,
        roofs={run.path: roof_lines(run, counts) for run in results.runs},
        frontiers=[frontier for run in results.runs for frontier in run.frontiers],
        dropped=[dropped for run in results.runs for dropped in run.dropped],
        left_out=results.left_out,
        standings=standings(rows),
        sections=shown,
        order={(section.operator, section.mode): section.anchor for section in shown},
        gaps=gaps(rows),
        counts={status: int((rows.status == status).sum()) for status in STATUSES},
        swatches={name: Markup(swatch(look, f"swatch-{i}")) for i, (name, look) in enumerate(found.items())},
        marks={name: f"look-{i}" for i, name in enumerate(found)},
        counted=None if counts is None else counts_section(counts, [run.device for run in results.runs]),
        modes=MODES,
        light=LIGHT,
        dark=DARK,
    )


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("reports.site"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        each.__name__: each
        for each in (
            units.seconds,
            units.percent,
            units.size,
            units.ratio,
            units.rate,
            units.plain,
            first_line,
            moment,
            told,
            place,
            details,
            options,
            costs,
        )
    }
    return environment.get_template("page.html.j2")


def sections(rows: pd.DataFrame, look: dict[str, Look], names: dict[str, str]) -> list[Section]:
    """The sections of the page, in the order in which operators were run."""
    numbers = itertools.count(1)
    return [
        Section(
            anchor=f"section-{number}",
            operator=str(rows_of.operator.iloc[0]),
            mode=str(rows_of["mode"].iloc[0]),
            told=throughput(rows_of),
            facets=list(_facets(rows_of, look, names, numbers)),
            cases=list(_cases(rows_of, names)),
            gaps=int((rows_of.status != "measured").sum()),
            warm=bool(rows_of.cold_over_warm.notna().any()),
            roof=bool(rows_of.of_roof.notna().any()),
        )
        for number, (_, rows_of) in enumerate(rows.groupby(["operator", "mode"], sort=False), start=1)
    ]


def run_names(runs: list[Run]) -> dict[str, str]:
    """A name for each run by its path: its device, and where devices repeat, its start and commit too."""
    devices = [run.device for run in runs]
    return {
        run.path: run.device if devices.count(run.device) == 1 else f"{run.device}, {run.started}, {run.commit[:12]}"
        for run in runs
    }


def moment(started: str) -> str:
    """When a run started, for readers; as it stands if it is no ISO time."""
    try:
        return datetime.fromisoformat(started).strftime("%Y-%m-%d %H:%M %Z").strip()
    except ValueError:
        return started


def place(ratio: float) -> float:
    """Where a ratio stands on a gauge of 100 that is logarithmic, has 1x in its middle and ends at 1/4x and 4x."""
    return min(98.0, max(2.0, 50 + 24 * math.log2(ratio))) if ratio > 0 else 50.0


def _facets(
    rows: pd.DataFrame, look: dict[str, Look], names: dict[str, str], numbers: Iterator[int]
) -> Iterator[Facet]:
    """One facet per run and per combination of the axes that panels do not run along."""
    measured = rows[rows.median_s.notna()]
    for (run, facet, _), each in measured.groupby([measured.run, measured.facet, measured.x.isna()], sort=False):
        title = _title(str(facet), str(run), names)
        yield Facet(
            title=title,
            providers=list(dict.fromkeys(each.provider)),
            panels=[
                Panel(
                    title=quantity.title,
                    svg=Markup(panel(each, quantity, look, f"plot-{next(numbers)}")),
                    alt=_alt(each, quantity, title),
                )
                for quantity in quantities(throughput(rows), energy=bool(measured.joules_per_call.notna().any()))
            ],
        )


def _alt(rows: pd.DataFrame, quantity: Quantity, title: str) -> str:
    """What a panel shows, in words: what against what, and the values at the end."""
    lengths = sorted(set(rows.x.dropna()))
    mode = str(rows["mode"].iloc[0])
    what = f"{quantity.title}: {rows.operator.iloc[0]} {MODES.get(mode, mode)}, {title}"
    last = rows[rows.x == lengths[-1]] if lengths else rows
    axis = axis_title(str(rows.axis.iloc[0]))
    where = f", against {axis} from {units.plain(lengths[0])} to {units.plain(lengths[-1])}" if len(lengths) > 1 else ""
    values = [
        f"{row.provider} {quantity.text(row[quantity.column] * quantity.scale)}"
        for _, row in last.sort_values("median_s").head(NAMED).iterrows()
        if pd.notna(row[quantity.column])
    ]
    at = f"at {units.plain(lengths[-1])}" if lengths else "here"
    return f"{what}{where}. {at.capitalize()}: {', '.join(values) or 'not measured'}."


def _cases(rows: pd.DataFrame, names: dict[str, str]) -> Iterator[Case]:
    measured = rows[rows.median_s.notna()].sort_values("median_s", kind="stable")
    ordered = measured.sort_values(["run", "facet", "x"], kind="stable", na_position="first")
    for (run, _, case), each in ordered.groupby(["run", "case_id", "case"], sort=False):
        yield Case(_title(str(case), str(run), names), [row for _, row in each.iterrows()])


def _title(case: str, run: str, names: dict[str, str]) -> str:
    """The name of a case, with that of its run where there are several."""
    return " on ".join(part for part in (case or "the only case", names[run] if len(names) > 1 else "") if part)
