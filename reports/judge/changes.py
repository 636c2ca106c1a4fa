"""Changes over months: where the level of a row moved, by how much, and what else changed there."""

from __future__ import annotations

from dataclasses import dataclass, field

import pandas as pd


@dataclass(frozen=True)
class Change:
    """A row's level before and after one run of its device.

    run, before: the numbers of the first run behind the change and of the last one ahead of it; ratio: the time behind
    over the time ahead, so above 1 is slower, with the ends of its 95 % interval; runs: how many runs stand behind it;
    confirmed: at least two of them, one after the other; causes: what else changed there, the likeliest first.
    """

    device: str
    row: str
    operator: str
    mode: str
    case: str
    provider: str
    role: str
    run: int
    before: int
    started: pd.Timestamp
    commit: str
    commit_before: str
    ratio: float
    ratio_low: float
    ratio_high: float
    runs: int
    confirmed: bool
    causes: list[str] = field(default_factory=list)
