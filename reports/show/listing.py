"""A table as text: on a terminal, as Markdown for a pull request or a step summary, or as CSV."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from reports.read.record import clean

# What Markdown or HTML would read as more than text. A name from a results file must not become a link, a mention of
# somebody, an image or an element.
SPECIAL = re.compile(r"([\\`*_{}\[\]<>()#+!|~@&$])")


@dataclass(frozen=True)
class Listing:
    """A title, the columns, and rows of as many texts; note: what a reader must know of it."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]] = ()
    note: str = ""


def as_markdown(listing: Listing) -> str:
    """The table in GitHub's Markdown, names as plain text whatever they hold; a line in its place if it has no rows."""
    lines = [f"### {plain(listing.title)}", ""]
    if listing.note:
        lines += [plain(listing.note), ""]
    if not listing.rows:
        return "\n".join([*lines, "None.", ""])
    lines += [_line(listing.columns), _line(["---"] * len(listing.columns), escape=False)]
    return "\n".join([*lines, *(_line(row) for row in listing.rows), ""])


def plain(text: str) -> str:
    """Text that Markdown shows as it stands, on one line."""
    return SPECIAL.sub(r"\\\1", " ".join(clean(text).split()))


def print_listing(listing: Listing, to: Console) -> None:
    """The table on a terminal."""
    to.print(Text(f"\n{clean(listing.title)}", "bold"))
    if listing.note:
        to.print(Text(clean(listing.note), "dim"))
    if not listing.rows:
        to.print(Text("none", "dim"))
        return
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column in listing.columns:
        table.add_column(column, overflow="fold")
    for row in listing.rows:
        table.add_row(*(Text(clean(text)) for text in row))
    to.print(table)


def _line(cells: Sequence[str], *, escape: bool = True) -> str:
    return f"| {' | '.join(plain(cell) if escape else cell for cell in cells)} |"
