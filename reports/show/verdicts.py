"""Verdicts, and what the gate says, as text."""

from __future__ import annotations

import pandas as pd

from reports import units
from reports.judge.gate import Gate
from reports.judge.verdict import SAME, VERDICTS
from reports.show.listing import Listing

COLUMNS = ("verdict", "row", "base", "head", "head / base", "noise", "resolvable", "why")


def tally(verdicts: pd.DataFrame) -> str:
    """How many rows have which verdict, e.g. `2 slower, 1 ambiguous, 40 same`."""
    counts = verdicts.verdict.value_counts()
    found = [f"{counts[word]} {word}" for word in VERDICTS if word in counts]
    return ", ".join(found) or "no rows"


def verdict_listing(title: str, verdicts: pd.DataFrame, *, everything: bool = False) -> Listing:
    """The verdicts, what matters first; rows that are the same are counted only, unless everything is asked for."""
    order = {word: place for place, word in enumerate(VERDICTS)}
    shown = verdicts if everything else verdicts[verdicts.verdict != SAME]
    ordered = shown.assign(place=shown.verdict.map(order)).sort_values(["place", "row"], kind="stable")
    return Listing(title, COLUMNS, [_cells(row) for _, row in ordered.iterrows()], note=tally(verdicts))


def _cells(row: pd.Series) -> list[str]:
    ratio = units.ratio(row.ratio)
    if row.ratio_low == row.ratio_low and row.ratio_high == row.ratio_high:
        ratio += f" ({units.ratio(row.ratio_low)} to {units.ratio(row.ratio_high)})"
    base, head = (f"{units.seconds(row[f'{side}_s'])} in {row[f'{side}_runs']:.0f}" for side in ("base", "head"))
    noise, resolvable = units.percent(row.noise), units.percent(row.resolvable)
    return [str(row.verdict), str(row.row), base, head, ratio, noise, resolvable, str(row.reason)]


def gate_listings(device: str, gate: Gate) -> list[Listing]:
    """What the gate says of a device: its words, then the verdicts behind them."""
    said = Listing(f"{device}: {gate.status}", ("the gate says",), [[line] for line in gate.words or ["nothing"]])
    return [said, verdict_listing(f"{device}: verdicts", gate.verdicts)]
