"""What two ledgers of counts say differently of one row: what its kernels take of the device, move and compute."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pandas as pd

from reports import units
from reports.read.counts import Counts

# Columns of `Counts.resources`, how they are called, and how their values are told: what hurts most comes first.
RESOURCES: dict[str, tuple[str, Callable[[float], str]]] = {
    "spills_bytes": ("spills", units.size),
    "registers": ("registers", units.plain),
    "shared_bytes": ("shared memory", units.size),
    "occupancy": ("occupancy", units.percent),
}
# Columns of `Counts.cases`, likewise.
WORK: dict[str, tuple[str, Callable[[float], str]]] = {
    "footprint_bytes": ("bytes moved", units.size),
    "requested_bytes": ("bytes asked for", units.size),
    "operations": ("operations", units.whole),
    "special": ("special functions", units.whole),
    "launches": ("launches", units.plain),
}
PLACE = ["operator", "mode", "provider"]


def counted(before: Counts, behind: Counts, row: pd.Series, target: str) -> Iterator[str]:
    """What differs, in words with figures, for the kernels of a row (its operator, mode, provider and name).

    target: such as sm_90; where the ledgers do not know it, all that they know are looked at. Of several cases or
    configurations that differ, the one that differs most is told.
    """
    yield from _resources(before, behind, row, target)
    yield from _work(before, behind, row)


def _of(table: pd.DataFrame, row: pd.Series) -> pd.DataFrame:
    return table[(table[PLACE] == [str(row[name]) for name in PLACE]).all(axis=1)]


def _resources(before: Counts, behind: Counts, row: pd.Series, target: str) -> Iterator[str]:
    keys = ["target", "kernel", "configuration"]
    pair = _of(before.resources, row).merge(_of(behind.resources, row), on=keys, suffixes=("", "_behind"))
    if (pair.target == target).any():
        pair = pair[pair.target == target]
    for column, (name, told) in RESOURCES.items():
        moved = _most(pair, column)
        if moved is not None:
            yield f"{name} {_arrow(moved, column, told)} on {moved.target} ({moved.kernel})"
    gone = pair[pair.absent.isna() & pair.absent_behind.notna()]
    if len(gone):
        yield f"{gone.kernel.iloc[0]} no longer fits {gone.target.iloc[0]}: {gone.absent_behind.iloc[0]}"


def _work(before: Counts, behind: Counts, row: pd.Series) -> Iterator[str]:
    """By the row's own case if it is counted on both sides, else by all cases of its kernels that are."""
    sides = [_with_operations(_of(each.cases, row)) for each in (before, behind)]
    pair = sides[0].merge(sides[1], on="case", suffixes=("", "_behind"))
    own = pair[[f"/{case}/" in str(row.row) for case in pair.case]]
    for column, (name, told) in WORK.items():
        moved = _most(own if len(own) else pair, column)
        if moved is not None:
            where = "" if len(own) else f" on {moved.case}"
            yield f"{name} {_arrow(moved, column, told)}{where}"


def _with_operations(cases: pd.DataFrame) -> pd.DataFrame:
    dots = [sum(each.values()) for each in cases["dots"]]
    return cases.assign(operations=pd.Series(dots, cases.index, dtype="float64") + cases.vector_flops)


def _most(pair: pd.DataFrame, column: str) -> pd.Series | None:
    """The line of which a column differs most, by its share of the larger side; None if none does."""
    one, two = pair[column].astype("float64"), pair[f"{column}_behind"].astype("float64")
    share = ((two - one).abs() / pd.concat([one, two], axis=1).max(axis=1)).where(one != two).dropna()
    return pair[pair.index == share.idxmax()].iloc[0] if len(share) else None


def _arrow(moved: pd.Series, column: str, told: Callable[[float], str]) -> str:
    one, two = float(moved[column]), float(moved[f"{column}_behind"])
    texts = told(one), told(two)
    # Counts are exact: what is one byte more is told to the byte.
    if texts[0] == texts[1]:
        texts = units.whole(one), units.whole(two)
    return f"{texts[0]} -> {texts[1]}" + (f" ({units.change(two / one)})" if one else "")
