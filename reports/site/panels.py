"""Which panels an operator has, in which order, and what each of them shows in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pandas as pd

from reports import units
from reports.judge.derive import throughput
from reports.site.drawing import Job
from reports.site.looks import Look
from reports.site.page import MODES
from reports.site.plots import Quantity, axis_title, panel, quantities

NAMED = 4  # of so many providers a figure's description gives the values: of all of them, the table does
FACETS = 12  # so many figures an operator has in one mode; what they leave out stands in its table


@dataclass(frozen=True)
class Panel:
    """One plot to be drawn under a name of its own, and what it shows in words for readers who do not see it."""

    name: str
    quantity: Quantity
    rows: pd.DataFrame
    alt: str


@dataclass(frozen=True)
class Facet:
    """The panels of one combination of the axes that they do not run along."""

    title: str
    providers: list[str]
    panels: list[Panel]


def facets(
    rows: pd.DataFrame, names: Mapping[str, str], numbers: Iterator[int], most: int = FACETS
) -> tuple[list[Facet], list[str]]:
    """A facet per run and per combination of axes, and the titles of those beyond `most`, which are not drawn."""
    measured = rows[rows.median_s.notna()]
    kinds = quantities(throughput(rows), energy=bool(measured.joules_per_call.notna().any()))
    found: list[Facet] = []
    beyond: list[str] = []
    for (run, facet, _), each in measured.groupby([measured.run, measured.facet, measured.x.isna()], sort=False):
        title = titled(str(facet), str(run), names)
        if len(found) == most:
            beyond.append(title)
            continue
        panels = [_panel(each, quantity, title, f"plot-{next(numbers)}") for quantity in kinds]
        found.append(Facet(title, list(dict.fromkeys(each.provider)), panels))
    return found, beyond


def titled(case: str, run: str, names: Mapping[str, str]) -> str:
    """The name of a case, with that of its run where there are several."""
    return " on ".join(part for part in (case or "the only case", names[run] if len(names) > 1 else "") if part)


def _panel(rows: pd.DataFrame, quantity: Quantity, title: str, name: str) -> Panel:
    # What is drawn elsewhere is sent there, and raw samples are heavy.
    needed = dict.fromkeys(("provider", "x", "axis", "median_s", "q1_s", "q3_s", quantity.column))
    return Panel(name, quantity, rows[list(needed)], _alt(rows, quantity, title))


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


def job(panel_: Panel, looks: Mapping[str, Look]) -> Job:
    """The panel as a piece of work for `reports.site.drawing`."""
    used = {name: looks[name] for name in dict.fromkeys(panel_.rows.provider)}
    return Job(panel_.name, panel, (panel_.rows, panel_.quantity, used, panel_.name))
