"""Counts on the terminal: bounds per case and GPU, and what compiled kernels take of each target."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from reports import units
from reports.counts import Counts
from reports.predict import counted, floor, multiples

NOTE = "Bounds by data sheets and counts, not measurements. floor: by the least that must move and be computed."


def show_cases(counts: Counts, cases: pd.DataFrame, gpus: Sequence[str], to: Console) -> None:
    """A line per case: multiples of the floor, then the bounds on each GPU and the roof that binds."""
    table = Table(box=None, pad_edge=False)
    table.add_column("case", overflow="fold")
    for head in ("bytes, floor", "moved", "re-reads", "operations", "launches"):
        table.add_column(head, justify="right")
    for gpu in gpus:
        table.add_column(Text(f"{gpu}: floor"), justify="right")
        table.add_column("counted", justify="right")
        table.add_column("bound by")
    known = multiples(cases)
    counted_rows = dict(known.iterrows())
    for index, case in cases.iterrows():
        row = counted_rows.get(index)
        cells = [f"{case.operator} {case['mode']} {case.case}", units.size(case.floor_bytes)]
        if row is None:
            cells += [units.NOTHING] * 4
        else:
            cells += [units.ratio(row.traffic), units.ratio(row.rereads), units.ratio(row.work), f"{row.launches:.0f}"]
        for gpu in gpus:
            least = floor(case, counts.gpus[gpu])
            bound = least if row is None else counted(case, counts.gpus[gpu])
            cells += [units.seconds(least.seconds), "" if row is None else units.seconds(bound.seconds), bound.roof]
        table.add_row(*map(Text, cells))
    to.print(table)
    to.print(Text(NOTE, "dim"))
    to.print(
        Text("moved, operations: multiples of the floor; re-reads: what caches must serve, over what moved.", "dim")
    )


def show_resources(resources: pd.DataFrame, to: Console) -> None:
    """A line per kernel, configuration and target; spills stand out."""
    heads = ("kernel", "target", "registers", "spills", "shared", "occupancy", "tensor core", "widest", "configuration")
    table = Table(*heads, box=None, pad_edge=False)
    for _, row in resources.sort_values(["operator", "mode", "kernel", "configuration", "target"]).iterrows():
        name = Text(f"{row.operator} {row['mode']} {row.kernel}")
        if isinstance(row.absent, str):
            reason = Text(f"absent: {row.absent}", "yellow")
            table.add_row(name, row.target, *[""] * 4, reason, "", Text(row.configuration))
            continue
        spills = Text(f"{row.spills_bytes:.0f} B", "bold red" if row.spills_bytes else "")
        bits = units.NOTHING if pd.isna(row.widest_bits) else f"{row.widest_bits:.0f} bit"
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
        table.add_row(name, row.target, *cells)
    to.print(table)
