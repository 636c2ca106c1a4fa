"""Devices side by side as text."""

from __future__ import annotations

import pandas as pd

from reports import units
from reports.judge.hardware import Comparison
from reports.show.listing import Listing


def device_listings(found: Comparison) -> list[Listing]:
    """Rows, roofs, crossings, frontiers and what cannot be compared, each where there is any."""
    whole = f"{', '.join(found.devices[1:])} against {found.devices[0]}" if len(found.devices) > 1 else "devices"
    listings = [_rows(whole, found.rows), _roofs(found), _crossings(found.crossovers)]
    listings += [_frontiers(found.frontiers), _portability(found.portability), _refused(found.refused)]
    return listings[:1] + [each for each in listings[1:] if each.rows]


def _rows(title: str, rows: pd.DataFrame) -> Listing:
    columns = ("row", "base", "device", "faster", "roofs predict", "left to explain", "bound by", "J a call")
    cells = [
        [
            f"{row.row} on {row.device}",
            units.seconds(row.base_s),
            units.seconds(row.device_s),
            f"{units.ratio(row.ratio)} ({units.ratio(row.ratio_low)} to {units.ratio(row.ratio_high)})",
            units.ratio(row.predicted),
            units.ratio(row.residual),
            str(row.by),
            f"{units.joules(row.base_joules_per_call)}, {units.joules(row.device_joules_per_call)}",
        ]
        for _, row in rows.iterrows()
    ]
    return Listing(title, columns, cells, note="faster: time on the base over time on the device")


def _roofs(found: Comparison) -> Listing:
    unit = {"byte/s": "B/s", "op/s": "OP/s"}

    def told(value: float, of: str) -> str:
        return units.per_second(value, unit[of]) if of in unit else units.seconds(value)

    cells = [
        [str(row["name"]), *(told(row[device], str(row.unit)) for device in found.devices)]
        for _, row in found.roofs.iterrows()
    ]
    return Listing("roofs that the runs measured", ("roof", *found.devices), cells)


def _crossings(crossovers: pd.DataFrame) -> Listing:
    columns = ("where", "overtakes", "at length", "between")
    cells = [
        [
            f"{row.device}: {row.operator} {row['mode']}, {row.series}",
            f"{row.faster_above} overtakes {row.faster_below}",
            units.whole(row.seq_len),
            f"{units.whole(row.low)} and {units.whole(row.high)}",
        ]
        for _, row in crossovers[crossovers.seq_len.notna()].iterrows()
    ]
    return Listing("who overtakes whom, along the sequence length", columns, cells)


def _frontiers(frontiers: pd.DataFrame) -> Listing:
    columns = ("device", "where", "provider", "longest", "why it ends")
    cells = [
        [
            str(row.device), f"{row.operator} {row['mode']}: {row.case}", str(row.provider), units.plain(row.largest),
            str(row.stopped or row.reason),
        ]
        for _, row in frontiers.iterrows()
    ]  # fmt: skip
    return Listing("the longest sequence that memory allows", columns, cells)


def _portability(portability: pd.DataFrame) -> Listing:
    if not len(portability):
        return Listing("what configurations of other devices cost", ())
    columns = tuple(str(name) for name in portability.columns)
    cells = [[str(value) for value in row] for row in portability.itertuples(index=False)]
    return Listing("what configurations of other devices cost", columns, cells)


def _refused(refused: pd.DataFrame) -> Listing:
    grouped = refused.groupby(["base", "device", "reason"], sort=False, dropna=False)
    cells = [
        [f"{device} against {base}", f"{len(rows)} {'row' if len(rows) == 1 else 'rows'}", str(reason)]
        for (base, device, reason), rows in grouped
    ]
    return Listing("what is not comparable, and why", ("devices", "rows", "reason"), cells)
