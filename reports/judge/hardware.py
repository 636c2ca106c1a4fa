"""Devices side by side: what their roofs predict, what was observed, and what is left to explain."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from reports.judge.between import over
from reports.judge.crossover import CROSSOVERS, crossovers
from reports.judge.portability import PORTABILITY, portability
from reports.judge.sides import Side, object_of, sides, usable, why_none
from reports.judge.standing import first_line
from reports.read.summary import FRONTIERS as FOUND
from reports.read.summary import History

__all__ = ["CAVEAT", "CROSSOVERS", "FRONTIERS", "REFUSED", "ROWS", "Comparison", "compare_devices"]

# One row per row that both devices have, for every device but the base. ratio: the time on the base over that on the
# device, so above 1 the device is faster, with the ends of its 95 % interval; predicted: that ratio by the roofs that
# both devices measured; by: which roof binds on the base and on the device; residual: ratio over predicted.
ROWS = (
    "base", "device", "row", "operator", "mode", "case", "series", "seq_len", "provider", "role", "base_s", "device_s",
    "ratio", "ratio_low", "ratio_high", "predicted", "by", "residual", "base_joules_per_call", "device_joules_per_call",
    "base_joules_per_token", "device_joules_per_token", "base_of_roof", "device_of_roof", "base_mhz", "device_mhz",
)  # fmt: skip
# The longest sequence that a provider has memory for, on each device, by the newest run that looked for it.
FRONTIERS = ("device", *(name for name in FOUND if name != "run"))
# What cannot be compared, and why. Where `row` is empty the reason is one of the devices as a whole; what begins with
# CAVEAT was compared all the same, and has to be known.
REFUSED = ("base", "device", "row", "operator", "mode", "case", "provider", "reason")


CAVEAT = "compared all the same: "
# A call in a graph is launched by the device itself: what a launch takes of the host is no bound for it.
GRAPH = "graph"
# The clocks that decide on a GPU and on a CPU: of what a call takes, behind a flushed cache.
CLOCKS = {"device", "host"}


@dataclass(frozen=True)
class Comparison:
    """devices: their names, the base first, and only those that have a run that counts; else see the names above.

    roofs: `name` and `unit` of each, and a column per device; portability: as `reports.judge.portability` has it.
    """

    devices: list[str]
    rows: pd.DataFrame
    roofs: pd.DataFrame
    crossovers: pd.DataFrame
    frontiers: pd.DataFrame
    refused: pd.DataFrame
    portability: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(PORTABILITY)))


def compare_devices(history: History, devices: Sequence[str] | None = None) -> Comparison:
    """The devices side by side, the first of them as the base; all of the history if none are named.

    A device stands with the newest measurement of each row at one commit (see `reports.judge.sides`). What its roofs
    predict is the longest of bytes, operations and, outside of graphs, one launch. Raises `ValueError` for a device
    that the history lacks.
    """
    known = [
        str(device)
        for device in dict.fromkeys(history.runs.sort_values("started", kind="stable", na_position="first").device)
    ]
    wanted = list(dict.fromkeys(known if devices is None else devices))
    if strangers := [device for device in wanted if device not in known]:
        raise ValueError(f"devices: expected names among {', '.join(known) or 'none'}, got {', '.join(strangers)}")
    found = sides(history, wanted)
    roofs = _roofs(history, found)
    refused = [_refusal(device, "", why_none(history, device)) for device in wanted if device not in found]
    compared: list[pd.DataFrame] = []
    for device in list(found)[1:]:
        base, other = next(iter(found.values())), found[device]
        rows, reasons = _pair(base, other, roofs)
        compared.append(rows)
        refused += [*_caveats(base, other), *reasons]
    return Comparison(
        devices=list(found),
        rows=pd.concat(compared, ignore_index=True) if compared else pd.DataFrame(columns=list(ROWS)),
        roofs=roofs,
        crossovers=crossovers({device: side.rows for device, side in found.items()}),
        frontiers=_frontiers(history, wanted),
        refused=pd.DataFrame(refused, columns=list(REFUSED)),
        portability=portability(history, wanted),
    )


def _pair(base: Side, other: Side, roofs: pd.DataFrame) -> tuple[pd.DataFrame, list[dict[str, str]]]:
    """What both measured alike, as ROWS, and why the rest is not compared."""
    both = base.rows.merge(other.rows, on="row", how="outer", suffixes=("_base", "_device"))
    kinds = {str(side.runs.kind.iloc[-1]) for side in (base, other)}
    clocks = CLOCKS if len(kinds) > 1 else set()
    reasons = [_reason(row, base.device, other.device, clocks) for _, row in both.iterrows()]
    refused = [
        _refusal(base.device, other.device, why, row)
        for why, (_, row) in zip(reasons, both.iterrows(), strict=True)
        if why
    ]
    both = both[[not why for why in reasons]].reset_index(drop=True)
    one, two = (_of(both, suffix) for suffix in ("base", "device"))
    ratios = over(one, two)
    bounds = [_bound(each, roofs, side.device) for each, side in ((one, base), (two, other))]
    by = [
        a if a == b else f"{a or 'unknown'} / {b or 'unknown'}" for a, b in zip(bounds[0].by, bounds[1].by, strict=True)
    ]
    predicted = bounds[0].least_s / bounds[1].least_s
    same = {name: one[name] for name in ("operator", "mode", "case", "series", "seq_len", "provider", "role")}
    found = pd.DataFrame(same).assign(
        base=base.device, device=other.device, row=both.row, base_s=one.median_s, device_s=two.median_s,
        ratio=ratios.ratio, ratio_low=ratios.ratio_low, ratio_high=ratios.ratio_high,
        predicted=predicted, by=pd.Series(by, both.index, dtype="object"), residual=ratios.ratio / predicted,
    )  # fmt: skip
    for name, each, bound in (("base", one, bounds[0]), ("device", two, bounds[1])):
        found[f"{name}_joules_per_call"] = each.joules_per_call
        found[f"{name}_joules_per_token"] = each.energy_per_token_j
        found[f"{name}_of_roof"] = bound.least_s / each.median_s
        found[f"{name}_mhz"] = each.sm_clock_hz / 1e6
    return found[list(ROWS)], refused


def _of(both: pd.DataFrame, suffix: str) -> pd.DataFrame:
    """One side of a pair under its own names."""
    ending = f"_{suffix}"
    mine = both[[name for name in both if str(name).endswith(ending)]]
    return mine.rename(columns=lambda name: str(name).removesuffix(ending))


def _reason(row: pd.Series, base: str, device: str, clocks: set[str]) -> str:
    """Why a row of both sides is not compared; empty if it is. clocks: two that may stand for each other."""
    for suffix, name in (("base", base), ("device", device)):
        status = row[f"status_{suffix}"]
        if pd.isna(status):
            return f"{name} has no such row"
        if status != "measured":
            why = first_line(row[f"reason_{suffix}"])
            return f"{status} on {name}" + (f": {why}" if why else "")
    if row.timer_base != row.timer_device and {row.timer_base, row.timer_device} != clocks:
        return f"another clock: {row.timer_base} on {base}, {row.timer_device} on {device}"
    for what, name in (("traffic_bytes", "bytes"), ("flops", "operations")):
        one, two = row[f"{what}_base"], row[f"{what}_device"]
        if one != two and not (pd.isna(one) and pd.isna(two)):
            return f"another amount of work: the case has other {name} on {base} than on {device}"
    return ""


def _refusal(base: str, device: str, reason: str, row: pd.Series | None = None) -> dict[str, str]:
    found = dict.fromkeys(REFUSED, "") | {"base": base, "device": device, "reason": reason}
    if row is not None:
        side = "base" if pd.notna(row.status_base) else "device"
        found |= {name: str(row[f"{name}_{side}"]) for name in ("operator", "mode", "case", "provider")} | {
            "row": str(row.row)
        }
    return found


def _caveats(base: Side, other: Side) -> Iterator[dict[str, str]]:
    """What differs between the devices' newest runs that a reader has to know."""
    one, two = base.runs.iloc[-1], other.runs.iloc[-1]
    names = base.device, other.device
    if one.kind != two.kind:
        yield _refusal(*names, f"{CAVEAT}{one.kind} against {two.kind}, each by the clock of its kind")
    if one.commit != two.commit:
        yield _refusal(*names, f"{CAVEAT}commit {one.commit[:12]} against {two.commit[:12]}")
    for column in ("versions", "options"):
        mine, theirs = object_of(one[column]), object_of(two[column])
        for name in sorted({*mine, *theirs}):
            if mine.get(name) != theirs.get(name):
                yield _refusal(*names, f"{CAVEAT}{name} {mine.get(name, 'none')} against {theirs.get(name, 'none')}")


def _bound(rows: pd.DataFrame, roofs: pd.DataFrame, device: str) -> pd.DataFrame:
    """least_s: by bytes and operations, or one launch if that takes longer; by: which of them."""
    found = roofs[roofs.name == "launch"]
    launch = float(found[device].iloc[0]) if len(found) else math.nan
    longer = rows.least_s.notna() & (rows.timer.astype(str) != GRAPH) & (launch > rows.least_s)
    by = rows.roof.astype("object").where(~longer, "launch")
    return pd.DataFrame({"least_s": rows.least_s.where(~longer, launch), "by": by})


def _roofs(history: History, found: dict[str, Side]) -> pd.DataFrame:
    """What each device measured of itself in the newest of its runs, NaN where it did not."""
    columns = {}
    for device, side in found.items():
        order = {run: place for place, run in enumerate(side.runs.run)}
        mine = history.roofs[history.roofs.run.isin(side.runs.run) & history.roofs.value.notna()]
        newest = mine.assign(order=mine.run.map(order)).sort_values("order", kind="stable")
        columns[device] = newest.drop_duplicates("name", keep="last").set_index("name").value
    units = history.roofs.drop_duplicates("name").set_index("name").unit
    names = [name for name in units.index if any(name in column.index for column in columns.values())]
    table = pd.DataFrame({"name": names, "unit": [units[name] for name in names]})
    return table.assign(**{device: column.reindex(names).to_numpy(np.float64) for device, column in columns.items()})


def _frontiers(history: History, devices: Sequence[str]) -> pd.DataFrame:
    runs = usable(history)
    device = pd.Series(runs.device.astype(str).to_numpy(), index=runs.run.to_numpy())
    order = pd.Series(range(len(runs)), index=runs.run.to_numpy())
    mine = history.frontiers[history.frontiers.run.isin(runs.run[runs.device.isin(list(devices))])]
    told = mine.assign(device=mine.run.map(device), order=mine.run.map(order)).sort_values("order", kind="stable")
    newest = told.drop_duplicates(["device", "operator", "mode", "case", "provider"], keep="last")
    return newest.sort_index()[list(FRONTIERS)].reset_index(drop=True)
