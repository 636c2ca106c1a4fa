"""What a site tells: results in full, and what was judged of them and of their history."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd

from reports.judge.changes import Change
from reports.judge.hardware import Comparison
from reports.judge.verdict import COLUMNS
from reports.read.counts import Counts
from reports.read.essays import Essay
from reports.read.load import Results
from reports.read.summary import History


@dataclass(frozen=True)
class Versus:
    """The newest run of a device against the one before it: both in words, and a verdict per row (COLUMNS).

    status: what the gate says, `pass`, `fail` or `confirm`; words: why, what matters first; command: what to run before
    it is asked again, empty if nothing.
    """

    device: str
    base: str
    head: str
    verdicts: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(COLUMNS)))
    status: str = ""
    words: Sequence[str] = ()
    command: str = ""


@dataclass(frozen=True)
class Quality:
    """How good the gate is, as measured by replaying histories of which the truth is known.

    table: `what` was counted, by `history_runs`: its `rate` with the ends `low` and `high` of its 95 % interval, in how
    many `replays`; command: what measures it again.
    """

    table: pd.DataFrame
    command: str


@dataclass(frozen=True)
class Story:
    """The inputs of a site.

    results: the newest run of every device, in full; rows: its table, derived; history: all runs as light tables; the
    rest: what was judged, empty or None where nothing was.
    """

    results: Results
    rows: pd.DataFrame
    counts: Counts | None = None
    history: History | None = None
    versus: Sequence[Versus] = ()
    changes: Sequence[Change] = ()
    comparison: Comparison | None = None
    quality: Quality | None = None
    essays: Mapping[str, Essay] = field(default_factory=dict)
