"""What a site is told from, read: all runs as light tables, and the newest run of every device in full."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from reports.judge.summarise import Progress, summarise
from reports.read.counts import LEDGER, Counts
from reports.read.counts import load as load_counts
from reports.read.load import Results, load
from reports.read.record import NotOurs
from reports.read.summary import History
from reports.site.story import Story
from reports.site.tell import tell


def gather(sources: Sequence[Path] | None = None, progress: Progress | None = None) -> Story:
    """The story of files, journals and folders; without any of all of results/."""
    history = summarise(sources, progress=progress)
    results = _newest(history)
    return tell(results, history, _counts(results))


def _newest(history: History) -> Results:
    """The newest run of every device, in full, with all that the history left out."""
    last = history.runs.sort_values("run").groupby("device", sort=False, observed=True).tail(1)
    results = load([[Path(path)] for path in last.path])
    results.left_out += [each for each in history.left_out if each not in results.left_out]
    return results


def _counts(results: Results) -> Counts | None:
    """The ledger of counts; one that cannot be read is left out by name."""
    try:
        return load_counts() if LEDGER.exists() else None
    except (NotOurs, OSError) as error:
        results.left_out.append((str(LEDGER), str(error)))
        return None
