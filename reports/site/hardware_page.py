"""The page of devices side by side: their roofs, what these predict, what was observed, and what is left to explain."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from markupsafe import Markup

from reports import units
from reports.judge.hardware import Comparison
from reports.site.book import Book
from reports.site.columns import as_text
from reports.site.page import fill
from reports.site.plots_compare import ratios, roofs_bars

ROWS = 200  # of each table; the data hold all of them
NAMED = 6  # operators that a description of a plot tells
MEDIANS = ("ratio", "predicted", "residual")
FRONTIER = ("device", "operator", "mode", "case", "provider", "largest", "fails_at", "stopped", "cap_bytes", "reason")
PORTABILITY = (
    "device", "config_from", "operator", "mode", "case", "provider", "cost", "cost_low", "cost_high", "tuned_s",
    "foreign_s", "tuned", "foreign",
)  # fmt: skip


@dataclass(frozen=True)
class Plot:
    """A drawing, and what it shows in words for readers who do not see it."""

    title: str
    alt: str
    svg: Markup


@dataclass(frozen=True)
class Listing:
    """A table that is shown column by column. heads: name and whether it holds numbers; lines: values and texts."""

    anchor: str
    title: str
    data: str
    heads: list[tuple[str, bool]]
    lines: list[list[tuple[object, str]]]
    more: int


def hardware_page(book: Book) -> str:
    """The page as text."""
    comparison = book.story.comparison
    if comparison is None or len(comparison.devices) < 2:
        return fill("hardware.html.j2", **book.frame("hardware.html", "Devices"), comparison=None)
    crossings = comparison.crossovers[comparison.crossovers.seq_len.notna()]
    tables = {"rows": _surprising(comparison.rows), "crossovers": crossings, "refused": comparison.refused}
    return fill(
        "hardware.html.j2",
        **book.frame("hardware.html", "Devices"),
        comparison=comparison,
        plots=_plots(comparison),
        **{name: table.head(ROWS).to_dict("records") for name, table in tables.items()},
        more={name: max(0, len(table) - ROWS) for name, table in tables.items()},
        apart=len(comparison.crossovers) - len(crossings),
        summary=_summary(comparison.rows).to_dict("records"),
        listings=list(_listings(comparison)),
    )


def _plots(comparison: Comparison) -> list[Plot]:
    base, others = comparison.devices[0], ", ".join(comparison.devices[1:])
    told = "; ".join(
        f"{row.device}, {row.operator} {row['mode']}: {units.ratio(row.ratio)}, predicted {units.ratio(row.predicted)}"
        for _, row in _summary(comparison.rows).head(NAMED).iterrows()
    )
    measured = ", ".join(str(name) for name in comparison.roofs.name)
    return [
        Plot(
            "Observed against predicted: on the dashed line the roofs explain all of it",
            f"Ratios of {others} over {base}, observed against predicted by the roofs. Medians: {told or 'none'}.",
            Markup(ratios(comparison, "ratios")),
        ),
        Plot(
            f"What each device measured of itself, over {base}",
            f"Bars of {measured or 'no roofs'} for {base}, {others}; the table of roofs has their figures.",
            Markup(roofs_bars(comparison, "roofs-bars")),
        ),
    ]


def _surprising(rows: pd.DataFrame) -> pd.DataFrame:
    """What the roofs explain least first, for that is what a reader came for."""
    residual = rows.residual.astype("float64").where(rows.residual > 0)
    return rows.assign(surprise=np.abs(np.log(residual))).sort_values("surprise", ascending=False, kind="stable")


def _listings(comparison: Comparison) -> Iterator[Listing]:
    frontiers, costs = _only(comparison.frontiers, FRONTIER), _only(comparison.portability, PORTABILITY)
    told = (
        ("roofs", "What each device measured of itself", "device-roofs", comparison.roofs),
        ("frontier", "Out-of-memory frontier", "device-frontiers", frontiers),
        ("portability", "What another device's configurations cost", "portability", costs),
    )
    for anchor, title, data, table in told:
        if len(table):
            heads = [(str(name), pd.api.types.is_numeric_dtype(table[name])) for name in table.columns]
            yield Listing(anchor, title, data, heads, _lines(table), max(0, len(table) - ROWS))


def _only(table: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    return table[[name for name in columns if name in table]]


def _lines(table: pd.DataFrame) -> list[list[tuple[object, str]]]:
    """Of every cell its value and its text, in the unit that its row names, or the name of its column."""
    shown = table.head(ROWS)
    units = [str(unit) for unit in shown.unit] if "unit" in shown else [""] * len(shown)
    columns = [[(value, str(name)) for value in shown[name].tolist()] for name in shown.columns]
    return [
        [(value, as_text(name, value, unit)) for value, name in line]
        for unit, line in zip(units, zip(*columns, strict=True), strict=True)
    ]


def _summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Per device, operator and mode the medians over their rows, and how many rows these are."""
    grouped = rows.groupby(["device", "operator", "mode"], sort=False, observed=True)
    return grouped[list(MEDIANS)].median().assign(rows=grouped.size()).reset_index()
