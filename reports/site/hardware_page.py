"""The page of devices side by side: their roofs, what these predict, what was observed, and what is left to explain."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from markupsafe import Markup

from reports.judge.hardware import Comparison
from reports.site.book import Book
from reports.site.page import fill

ROWS = 200  # of each table; the data hold all of them
MEDIANS = ("ratio", "predicted", "residual")


def hardware_page(book: Book, plots: Sequence[tuple[str, str, Markup]] = ()) -> str:
    """The page as text; plots: of each its title, what it shows in words, and the drawing."""
    comparison = book.story.comparison
    told = comparison is not None and len(comparison.devices) > 1
    return fill(
        "hardware.html.j2",
        **book.frame("hardware.html", "Devices"),
        comparison=comparison if told else None,
        plots=plots,
        **_tables(comparison if told else None),
    )


def _tables(comparison: Comparison | None) -> dict[str, object]:
    """What the page's tables hold, and how many rows each of them leaves out."""
    if comparison is None:
        return {}
    rows = comparison.rows
    # What the roofs explain least is what a reader came for.
    residual = rows.residual.astype("float64").where(rows.residual > 0)
    ordered = rows.assign(surprise=np.abs(np.log(residual))).sort_values("surprise", ascending=False, kind="stable")
    tables = {
        "rows": ordered,
        "crossovers": comparison.crossovers,
        "frontiers": comparison.frontiers,
        "refused": comparison.refused,
    }
    shown: dict[str, object] = {name: table.head(ROWS).to_dict("records") for name, table in tables.items()}
    more = {name: max(0, len(table) - ROWS) for name, table in tables.items()}
    return shown | {"summary": _summary(rows).to_dict("records"), "more": more}


def _summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Per device, operator and mode the medians over their rows, and how many rows these are."""
    grouped = rows.groupby(["device", "operator", "mode"], sort=False, observed=True)
    return grouped[list(MEDIANS)].median().assign(rows=grouped.size()).reset_index()
