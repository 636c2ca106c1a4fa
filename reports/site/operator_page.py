"""The page of an operator: what it is, how it runs in each mode, what it costs, and what has no time."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
from markupsafe import Markup

from reports.judge.derive import Throughput, throughput
from reports.judge.gaps import gaps
from reports.read.record import STATUSES
from reports.show.details import Details, details
from reports.site.book import Book
from reports.site.counts_page import CountsSection, counts_section
from reports.site.drawing import Job
from reports.site.looks import Look
from reports.site.page import fill, slugs
from reports.site.panels import Facet, facets, job

HEAVY = ["samples_s", "others_s", "telemetry"]
KEY = ["device", "operator", "mode", "case_id", "provider"]


@dataclass(frozen=True)
class Row:
    """A measured row and, where the run before has it too, the verdict on it; first: of its case."""

    row: dict[Any, Any]
    details: Details
    case: str
    verdict: pd.Series | None
    first: bool


@dataclass(frozen=True)
class Section:
    """One mode of an operator. warm, roof, judged: whether any of its rows has such a figure."""

    anchor: str
    mode: str
    told: Throughput
    facets: list[Facet]
    beyond: list[str]
    rows: list[Row]
    gaps: int
    warm: bool
    roof: bool
    judged: bool


@dataclass(frozen=True)
class Chapter:
    """All of an operator that is to be drawn and shown."""

    operator: str
    rows: pd.DataFrame
    sections: list[Section]
    counted: CountsSection | None

    def jobs(self, looks: Mapping[str, Look]) -> list[Job]:
        """All that has to be drawn for it."""
        facets = [facet for section in self.sections for facet in section.facets]
        found = [job(panel, looks) for facet in facets for panel in facet.panels]
        return found if self.counted is None else [*found, self.counted.roofline, self.counted.bars]


def chapters(book: Book) -> list[Chapter]:
    """A chapter for every operator, with panels that are yet to be drawn; their names are unique in the whole site."""
    numbers = itertools.count(1)
    verdicts = _verdicts(book)
    of = {str(name): each for name, each in book.story.rows.groupby("operator", sort=False)}
    none = book.story.rows.iloc[:0]
    counts, devices = book.story.counts, [run.device for run in book.story.results.runs]
    return [
        Chapter(
            operator=name,
            rows=of.get(name, none),
            sections=list(_sections(of.get(name, none), book, verdicts, numbers)),
            counted=None if counts is None else counts_section(counts, devices, name, str(number)),
        )
        for number, name in enumerate(book.files)
    ]


def anchors(rows: pd.DataFrame) -> dict[str, str]:
    """The anchor of every mode of an operator on its page."""
    return {mode: f"mode-{slug}" for mode, slug in slugs((str(mode) for mode in rows["mode"]), "unnamed").items()}


def _sections(
    rows: pd.DataFrame, book: Book, verdicts: Mapping[tuple[str, ...], pd.Series], numbers: Iterator[int]
) -> Iterator[Section]:
    places = anchors(rows)
    for mode, of_mode in rows.groupby("mode", sort=False):
        drawn, beyond = facets(of_mode, book.names, numbers)
        found = list(_rows(of_mode, book, verdicts))
        yield Section(
            anchor=places[str(mode)],
            mode=str(mode),
            told=throughput(of_mode),
            facets=drawn,
            beyond=beyond,
            rows=found,
            gaps=int((of_mode.status != "measured").sum()),
            warm=bool(of_mode.cold_over_warm.notna().any()),
            roof=bool(of_mode.of_roof.notna().any()),
            judged=any(each.verdict is not None for each in found),
        )


def _rows(rows: pd.DataFrame, book: Book, verdicts: Mapping[tuple[str, ...], pd.Series]) -> Iterator[Row]:
    """The measured rows case by case, the fastest first."""
    devices = {run.path: run.device for run in book.story.results.runs}
    measured = rows[rows.median_s.notna()].sort_values("median_s", kind="stable")
    ordered = measured.sort_values(["run", "facet", "x", "case_id"], kind="stable", na_position="first")
    before: tuple[object, ...] = ()
    plain = ordered.drop(columns=HEAVY).to_dict("records")
    for row, (_, full) in zip(plain, ordered.iterrows(), strict=True):
        case = (row["run"], row["case_id"])
        key = (devices.get(str(row["run"]), ""), *(str(row[name]) for name in KEY[1:]))
        yield Row(row, details(full), str(row["case"]) or "the only case", verdicts.get(key), case != before)
        before = case


def _verdicts(book: Book) -> dict[tuple[str, ...], pd.Series]:
    return {
        tuple(str(row[name]) for name in KEY): row
        for versus in book.story.versus
        for _, row in versus.verdicts.iterrows()
    }


def operator_page(book: Book, chapter: Chapter, drawn: Mapping[str, Markup]) -> str:
    """The page as text; `drawn` holds its panels by their names."""
    story, rows, runs = book.story, chapter.rows, book.story.results.runs
    return fill(
        "operator.html.j2",
        **book.frame(book.files[chapter.operator], chapter.operator),
        operator=chapter.operator,
        essay=story.essays.get(chapter.operator),
        sections=chapter.sections,
        drawn=drawn,
        gaps=gaps(rows),
        counts={status: int((rows.status == status).sum()) for status in STATUSES},
        frontiers=[each for run in runs for each in run.frontiers if each.operator == chapter.operator],
        dropped=[each for run in runs for each in run.dropped if each.operator == chapter.operator],
        counted=chapter.counted,
    )
