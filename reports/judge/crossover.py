"""At which length one provider overtakes another: where their times are equal along the sequence length."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from reports.judge.between import over

# Where one provider overtakes another along the sequence length: `seq_len` at which their times are equal, with the
# ends of its interval; all NaN where none is shown within the measured lengths. `faster_below` and `faster_above` name
# who leads where: one name in both says that it leads at every length at which a lead is shown, none that none is.
CROSSOVERS = (
    "device", "operator", "mode", "series", "provider", "rival", "seq_len", "low", "high", "faster_below",
    "faster_above",
)  # fmt: skip
# What a curve belongs to, what its points share if they raced each other, and what a ratio takes.
PLACE, RACE, TIMES = ("operator", "mode", "series"), ("seq_len", "run", "timer"), ("median_s", "low_s", "high_s")
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Crossing:
    """Where two curves cross, with the ends of its interval; first_leads: whether the first leads below."""

    at: float
    low: float
    high: float
    first_leads: bool


def crossovers(devices: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """All pairs of providers on every series of every device; a line per crossing, or one that says there is none.

    devices: by name the rows of each, as a `History` has them, one per row. Only lengths count that both have times
    for, by one clock in one run: providers of a case race together.
    """
    lines = [line for device, rows in devices.items() for line in _of_device(device, rows)]
    return pd.DataFrame(lines, columns=list(CROSSOVERS))


def _of_device(device: str, rows: pd.DataFrame) -> Iterator[dict[str, Any]]:
    timed = rows[(rows.status == "measured") & (rows.seq_len > 0)][[*PLACE, *RACE, "provider", *TIMES]]
    timed = timed.astype(dict.fromkeys((*PLACE, "timer", "provider"), str)).assign(turn=range(len(timed)))
    turns = timed.groupby([*PLACE, "provider"], sort=False).turn.transform("min")
    pairs = timed.assign(turn=turns).merge(timed.assign(turn=turns), on=[*PLACE, *RACE], suffixes=("", "_rival"))
    pairs = pairs[pairs.turn < pairs.turn_rival].sort_values(["turn", "turn_rival", "seq_len"]).reset_index(drop=True)
    rival = pairs[[f"{name}_rival" for name in TIMES]].rename(columns=lambda name: name.removesuffix("_rival"))
    pairs = pairs.join(over(pairs, rival))
    for key, both in pairs.groupby([*PLACE, "provider", "provider_rival"], sort=False):
        if len(both) > 1:
            first, second = str(key[3]), str(key[4])
            place = {"device": device} | dict(zip(PLACE, key[:3], strict=True)) | {"provider": first, "rival": second}
            yield from (place | line for line in _of_pair(first, second, both))


def _of_pair(first: str, second: str, both: pd.DataFrame) -> Iterator[dict[str, Any]]:
    lengths, *curves = (
        both[name].to_numpy(dtype=np.float64) for name in ("seq_len", "ratio", "ratio_low", "ratio_high")
    )
    found = crossings(lengths, *curves)
    for each in found:
        leaders = (first, second) if each.first_leads else (second, first)
        yield {
            "seq_len": each.at, "low": each.low, "high": each.high, "faster_below": leaders[0],
            "faster_above": leaders[1],
        }  # fmt: skip
    if not found:
        leads = [second if low > 1 else first for low, high in zip(*curves[1:], strict=True) if low > 1 or high < 1]
        leader = leads[0] if leads else ""
        yield dict.fromkeys(("seq_len", "low", "high"), np.nan) | {"faster_below": leader, "faster_above": leader}


def crossings(lengths: Floats, ratio: Floats, low: Floats, high: Floats) -> list[Crossing]:
    """Where a ratio of times crosses 1, the shortest length first.

    lengths: (n,), increasing; ratio with its 95 % interval: (n,) each. Between neighbours the ratio is a straight line
    in logarithms of both. A crossing is shown between two lengths at which the interval leaves 1 out on opposite sides;
    lengths between them at which it does not decide nothing. Its own interval reaches from where the one end of the
    ratio's interval meets 1 to where the other does. Without an interval of the ratio nothing is shown.
    """
    x, middle, below, above = (np.log(each) for each in (lengths, ratio, low, high))
    shown = np.flatnonzero((below > 0) | (above < 0))
    found = []
    for start, end in pairwise(shown):
        rises = bool(above[start] < 0 < below[end])
        if not rises and not (below[start] > 0 > above[end]):
            continue
        # The curve that reaches zero first, and the one that does so last: for a falling ratio they change places.
        first, last = (above, below) if rises else (below, above)
        part = slice(start, end + 1)
        roots = _roots(x[part], middle[part])
        ends = _roots(x[part], first[part])[0], _roots(x[part], last[part])[-1]
        at = roots[len(roots) // 2]
        found.append(Crossing(float(np.exp(at)), float(np.exp(ends[0])), float(np.exp(ends[1])), first_leads=rises))
    return found


def _roots(x: Floats, y: Floats) -> list[float]:
    """Where the line through the points meets zero; it begins and ends on opposite sides of it."""
    roots = []
    for a, b in pairwise(range(len(x))):
        if y[a] == 0 or (y[a] < 0) != (y[b] < 0):
            roots.append(float(x[a] if y[a] == y[b] else x[a] - y[a] * (x[b] - x[a]) / (y[b] - y[a])))
    return roots
