"""Changes over time as text."""

from __future__ import annotations

from collections.abc import Sequence

from reports import units
from reports.judge.changes import Change
from reports.show.listing import Listing

COLUMNS = ("when", "row", "behind / ahead", "sure", "commits", "what else changed there")


def change_listing(device: str, changes: Sequence[Change]) -> Listing:
    """The changes of a device, the newest first."""
    ordered = sorted((each for each in changes if each.device == device), key=lambda each: each.started, reverse=True)
    return Listing(f"{device}: changes", COLUMNS, [_cells(each) for each in ordered])


def _cells(change: Change) -> list[str]:
    low, high = units.ratio(change.ratio_low), units.ratio(change.ratio_high)
    return [
        f"{change.started:%Y-%m-%d}",
        change.row or "the device as a whole",
        f"{units.ratio(change.ratio)} ({low} to {high})",
        f"{change.runs} runs" if change.confirmed else "one run: wait for the next",
        f"{change.commit_before[:10]} to {change.commit[:10]}",
        "; ".join(change.causes),
    ]
