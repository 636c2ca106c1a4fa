"""What every page of a site knows of the others: the files, the names of runs, the looks of providers, all drawings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from markupsafe import Markup

from reports.show.header import run_names
from reports.site.looks import Look, looks
from reports.site.page import slugs
from reports.site.plots import swatch
from reports.site.story import Story

FIXED = {"index.html": "Overview", "hardware.html": "Devices", "history.html": "History", "data.html": "Data"}


@dataclass(frozen=True)
class Book:
    """files: of the page of every operator, in the order in which they ran; swatches, marks: of every provider.

    data: the names of the tables that are there as CSV.
    """

    story: Story
    names: dict[str, str]
    looks: dict[str, Look]
    files: dict[str, str]
    swatches: dict[str, Markup]
    marks: dict[str, str]
    data: frozenset[str] = frozenset()

    def frame(self, file: str, title: str) -> dict[str, object]:
        """What the frame of a page needs: where it stands among the others, and what runs stand behind all."""
        runs = self.story.results.runs
        return {
            "here": file,
            "title": title,
            "links": FIXED.items(),
            "runs": runs,
            "names": self.names,
            "files": self.files,
            "swatches": self.swatches,
            "marks": self.marks,
            "data": self.data,
        }


def book(story: Story) -> Book:
    """The book of a story."""
    found = looks(story.rows)
    return Book(
        story=story,
        names=run_names(story.results.runs),
        looks=found,
        files={name: f"operator-{slug}.html" for name, slug in slugs(_operators(story), "unnamed").items()},
        swatches={name: Markup(swatch(look, f"swatch-{i}")) for i, (name, look) in enumerate(found.items())},
        marks={name: f"look-{i}" for i, name in enumerate(found)},
    )


def _operators(story: Story) -> Iterator[str]:
    """All operators that anything tells of; those with rows first, in the order in which they ran."""
    yield from (str(name) for name in story.rows.operator)
    for run in story.results.runs:
        yield from (frontier.operator for frontier in run.frontiers)
        yield from (dropped.operator for dropped in run.dropped)
    if story.counts is not None:
        yield from (str(name) for name in story.counts.cases.operator)
    for versus in story.versus:
        yield from (str(name) for name in versus.verdicts.operator)
