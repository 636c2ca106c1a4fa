"""The overview: is anything wrong, and where do we stand against the best peer? Below stands why to believe it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

import pandas as pd

from reports.judge.changes import DEVICE, Change
from reports.judge.gaps import gaps
from reports.judge.gate import CONFIRM, FAIL
from reports.judge.quality import COMMAND
from reports.judge.roofs import roof_lines
from reports.judge.standing import Standing, standings
from reports.judge.verdict import AMBIGUOUS, FASTER, SAME, SLOWER, VERDICTS
from reports.read.record import STATUSES
from reports.site.book import Book
from reports.site.operator_page import anchors
from reports.site.page import fill
from reports.site.story import Quality, Versus

RECENT = timedelta(days=30)  # so long a slowdown is news; after that it is how things are, and history tells it
SHOWN = 30  # of verdicts and changes; all of them stand in their tables of data


@dataclass(frozen=True)
class Wrong:
    """One thing that is wrong, and the place that tells more of it."""

    text: str
    link: str


@dataclass(frozen=True)
class Tally:
    """The verdicts on one device: how many of each word, and the rows that a reader has to see, the worst first."""

    versus: Versus
    counts: dict[str, int]
    rows: list[pd.Series]
    more: int


def overview(book: Book) -> str:
    """The page as text."""
    story = book.story
    rows, runs = story.rows, story.results.runs
    found = standings(rows)
    counts = {status: int((rows.status == status).sum()) for status in STATUSES}
    places = {
        (str(operator), mode): f"{book.files[str(operator)]}#{anchor}"
        for operator, each in rows.groupby("operator", sort=False)
        for mode, anchor in anchors(each).items()
    }
    newest = sorted(story.changes, key=lambda change: change.started, reverse=True)
    return fill(
        "overview.html.j2",
        **book.frame("index.html", "Overview"),
        counts=counts,
        wrong=list(wrongs(book, counts)),
        unsettled=[_on(book, each.device) for each in story.versus if each.status == CONFIRM],
        headline=headline(found),
        standings=found,
        order=places,
        tallies=[_tally(each) for each in story.versus],
        changes=newest[:SHOWN],
        changes_more=max(0, len(newest) - SHOWN),
        gaps=gaps(rows),
        roofs={run.path: roof_lines(run, story.counts) for run in runs},
        dropped=[dropped for run in runs for dropped in run.dropped],
        left_out=story.results.left_out,
        quality=story.quality,
        measure=COMMAND,
        **_quality(story.quality),
        has_counts=story.counts is not None,
    )


def _quality(quality: Quality | None) -> dict[str, object]:
    """The gate's quality line by line, with a column for every length of history."""
    if quality is None:
        return {}
    table = quality.table
    lines = [(str(what), of.to_dict("records")) for what, of in table.groupby("what", sort=False)]
    return {"quality_runs": [int(runs) for runs in table.history_runs.unique()], "quality_lines": lines}


def wrongs(book: Book, counts: dict[str, int]) -> Iterator[Wrong]:
    """All that a reader should know before any figure, the worst first."""
    story = book.story
    for status, words in (("invalid", "invalid"), ("failed", "failed")):
        if counts[status]:
            yield Wrong(f"{_rows(counts[status])} {words}", f"#{status}")
    for versus in story.versus:
        table = versus.verdicts
        if versus.status == FAIL:
            yield Wrong(f"the gate fails{_on(book, versus.device)}", "#verdicts")
        for count, words in (
            (int((table.verdict == SLOWER).sum()), "slower than in the run before"),
            (int(table.vanished.fillna(False).astype(bool).sum()), "without a time that the run before had"),
        ):
            if count:
                yield Wrong(f"{_rows(count)} {words}{_on(book, versus.device)}", "#verdicts")
    if recent := [change for change in story.changes if _alarms(change, _last(book))]:
        yield Wrong(f"{len(recent)} confirmed {_s(len(recent), 'slowdown')} in the last {RECENT.days} days", "#changes")
    for run in story.results.runs:
        if run.dirty is not False:
            what = "uncommitted changes" if run.dirty else "an unknown state of the tree"
            yield Wrong(f"{what}{_on(book, run.device)}", "#state")
        if run.unfinished is not None:
            yield Wrong(f"an unfinished run{_on(book, run.device)}", "#state")
    if story.results.left_out:
        count = len(story.results.left_out)
        yield Wrong(f"{count} {_s(count, 'thing')} left out, not readable", "#left-out")


def headline(found: list[Standing]) -> str:
    """In how many operators and modes ours is faster than its strongest peer, as far as intervals tell; in words."""
    judged = [each for each in found if not math.isnan(each.ratio)]
    if not judged:
        return "None of our kernels has a time beside a peer's here, so nothing can be said of where they stand."
    faster = sum(each.ratio_low > 1 for each in judged)
    slower = sum(each.ratio_high < 1 for each in judged)
    counts = {"faster in": faster, "slower in": slower, "too close to call in": len(judged) - faster - slower}
    parts = [f"{word} {count}" for word, count in counts.items() if count]
    without = len(found) - len(judged)
    rest = f" {without} more cannot be told: there, ours or every peer has no time." if without else ""
    told = f"{', '.join(parts)} of {len(judged)} operators and modes"
    return f"Against the strongest peer, on the largest cases, ours is {told}.{rest}"


def _last(book: Book) -> pd.Timestamp | None:
    """When the newest run of all started."""
    history = book.story.history
    return None if history is None or history.runs.empty else history.runs.started.max()


def _alarms(change: Change, last: pd.Timestamp | None) -> bool:
    slower = change.confirmed and change.ratio > 1 and change.role in ("kernel", DEVICE)
    return slower and (last is None or change.started >= last - RECENT)


def _tally(versus: Versus) -> Tally:
    table = versus.verdicts
    counts = {word: int((table.verdict == word).sum()) for word in VERDICTS}
    rank = {word: number for number, word in enumerate(VERDICTS)}
    loud = table[~table.verdict.isin((SAME, FASTER, AMBIGUOUS)) | table.vanished.fillna(False).astype(bool)]
    ranked = loud.assign(rank=loud.verdict.map(rank)).sort_values(["rank", "ratio"], ascending=[True, False])
    shown = [row for _, row in ranked.head(SHOWN).iterrows()]
    return Tally(versus, {word: count for word, count in counts.items() if count}, shown, len(ranked) - len(shown))


def _rows(count: int) -> str:
    return f"{count} {_s(count, 'row')}"


def _s(count: int, word: str) -> str:
    return word if count == 1 else f"{word}s"


def _on(book: Book, device: str) -> str:
    return f" on {device}" if len(book.names) > 1 else ""
