"""The page of the data: every CSV file of the site, and what each of its columns and units means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from reports.site.book import Book
from reports.site.columns import meaning, unit
from reports.site.data import Data
from reports.site.page import fill


@dataclass(frozen=True)
class Column:
    """A column of a file: what it means, and its unit, empty where it has none."""

    name: str
    unit: str
    meaning: str


def data_page(book: Book, found: Sequence[Data]) -> str:
    """The page as text."""
    return fill(
        "data.html.j2",
        **book.frame("data.html", "Data"),
        tables=[(each, len(each.table), _columns(each)) for each in found],
    )


def _columns(data: Data) -> list[Column]:
    return [Column(name, unit(name), meaning(name)) for name in map(str, data.table.columns)]
