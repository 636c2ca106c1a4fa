"""Counts on the terminal: bounds per case and GPU, and what compiled kernels take of each target."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from reports import units
from reports.judge.predict import counted, floor, multiples
from reports.read.counts import Counts

NOTE = "Bounds by data sheets and counts, not measurements. floor: by the least that must move and be computed."


COUNTS_WIDTH = 54  # of the multiples of the floor
BOUND_WIDTH = 35  # of what is shown for one GPU


def show_cases(counts: Counts, cases: pd.DataFrame, gpus: Sequence[str], to: Console) -> None:
    """A line per case: multiples of the floor, then the bounds on each GPU and the roof that binds.

    GPUs for which the terminal has no room beside the rest stand in tables of their own below.
    """
    names = [f"{case.operator} {case['mode']} {case.case}" for _, case in cases.iterrows()]
    room = to.width - max(map(len, names), default=0)
    beside = max(0, (room - COUNTS_WIDTH) // BOUND_WIDTH)
    below = max(1, room // BOUND_WIDTH)
    rest = gpus[beside:]
    _print_cases(counts, cases, names, gpus[:beside], to, counted_too=True)
    for start in range(0, len(rest), below):
        to.print()
        _print_cases(counts, cases, names, rest[start : start + below], to, counted_too=False)
    to.print(Text(NOTE, "dim"))
    to.print(
        Text("moved, operations: multiples of the floor; re-reads: what caches must serve, over what moved.", "dim")
    )


def _print_cases(
    counts: Counts, cases: pd.DataFrame, names: Sequence[str], gpus: Sequence[str], to: Console, *, counted_too: bool
) -> None:
    table = Table(box=None, pad_edge=False)
    table.add_column("case", overflow="fold")
    for head in ("bytes, floor", "moved", "re-reads", "operations", "launches") if counted_too else ():
        table.add_column(head, justify="right")
    for gpu in gpus:
        table.add_column(Text(f"{gpu}: floor"), justify="right")
        table.add_column("counted", justify="right")
        table.add_column("bound by")
    known = dict(multiples(cases).iterrows())
    for name, (index, case) in zip(names, cases.iterrows(), strict=True):
        row = known.get(index)
        cells = [name, *(_multiples(case, row) if counted_too else ())]
        for gpu in gpus:
            least = floor(case, counts.gpus[gpu])
            bound = least if row is None else counted(case, counts.gpus[gpu])
            cells += [units.seconds(least.seconds), "" if row is None else units.seconds(bound.seconds), bound.roof]
        table.add_row(*map(Text, cells))
    to.print(table)


def _multiples(case: pd.Series, row: pd.Series | None) -> list[str]:
    """What moved of the floor, and how; nothing of a case that was not counted."""
    least = units.size(case.floor_bytes)
    if row is None:
        return [least, *[units.NOTHING] * 4]
    return [least, units.ratio(row.traffic), units.ratio(row.rereads), units.ratio(row.work), f"{row.launches:.0f}"]


def show_resources(resources: pd.DataFrame, to: Console) -> None:
    """A line per kernel, configuration and target; spills stand out."""
    heads = ("kernel", "target", "registers", "spills", "shared", "occupancy", "tensor core", "access", "configuration")
    table = Table(*heads, box=None, pad_edge=False)
    for _, row in resources.sort_values(["operator", "mode", "kernel", "configuration", "target"]).iterrows():
        name = Text(f"{row.operator} {row['mode']} {row.kernel}")
        if isinstance(row.absent, str):
            reason = Text(f"absent: {row.absent}", "yellow")
            table.add_row(name, Text(row.target), *[""] * 4, reason, "", Text(row.configuration))
            continue
        spills = Text(f"{row.spills_bytes:.0f} B", "bold red" if row.spills_bytes else "")
        bits = units.NOTHING if pd.isna(row.widest_bits) else f"{row.widest_bits:.0f}, {row.narrowest_bits:.0f} bit"
        shared, share = units.size(row.shared_bytes), units.percent(row.occupancy)
        cells = [
            f"{row.registers:.0f}",
            spills,
            shared,
            share,
            row.tensor or units.NOTHING,
            bits,
            Text(row.configuration),
        ]
        table.add_row(name, Text(row.target), *cells)
    to.print(table)
