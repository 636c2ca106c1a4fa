"""How good the gate is, as text."""

from __future__ import annotations

from typing import Any

from reports.show.listing import Listing


def quality_listing(found: dict[str, Any]) -> Listing:
    """The measured quality of the gate (see `reports.judge.quality`), a line per length of history."""
    changes = [each["change"] for each in found["histories"][0]["power"]]
    columns = ["runs of history", "gates that fail though nothing changed"]
    columns += [f"{_percent(change)} slowdowns found" for change in changes]
    rows = [
        [str(each["history_runs"]), _told(each["false_alarms"]), *(_told(power["all"]) for power in each["power"])]
        for each in found["histories"]
    ]
    return Listing("The quality of the gate", columns, rows)


def _told(rate: dict[str, Any]) -> str:
    """A rate with its interval, e.g. `0.53 % (0.31 to 0.86 %)`."""
    return f"{_percent(rate['rate'])} ({_percent(rate['low']).removesuffix(' %')} to {_percent(rate['high'])})"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
