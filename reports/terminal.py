"""The table on the terminal: one line per measured row, then what is absent and why."""

from __future__ import annotations

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from reports import units
from reports.derive import label, throughput
from reports.load import Results

COLUMNS = "  {:<18}{:>10}{:>10}{:>15}{:>12}{:>9}"


def show(results: Results, rows: pd.DataFrame, console: Console) -> None:
    """Print runs, measured rows, failures and absences."""
    for run in results.runs:
        dirty = " with uncommitted changes" if run.dirty else ""
        console.print(
            Text(f"{run.device['name']}, commit {run.commit[:12]}{dirty}, {run.started}, profile {run.profile}")
        )
    if len(rows):
        _print_measured(rows, console)
        _print_gaps(rows, console)
    for path, reason in results.left_out:
        console.print(Text(f"left out: {path} {reason}", style="red"))


def _print_measured(rows: pd.DataFrame, console: Console) -> None:
    """A line per case, and under it one per provider. `+-` is half the 95 % interval of the median."""
    header = COLUMNS.format("provider", "median", "+-", "throughput", "memory", "budget")
    console.print(Text(header, style="dim"))
    before = ""
    for _, row in rows[rows.status == "measured"].sort_values(["run"], kind="stable").iterrows():
        case = f"{row.operator} {row['mode']}: {label(row)}"
        if case != before:
            console.print(Text(case, style="bold"))
            before = case
        told = throughput(row.to_frame().T)
        line = COLUMNS.format(
            str(row.provider),
            units.seconds(row.median_s),
            units.percent((row.high_s - row.low_s) / 2 / row.median_s),
            units.rate(row[told.column], told.scale, told.unit),
            units.size(row.peak_bytes),
            units.percent(row.error / row.budget if row.budget else 0.0),
        )
        console.print(Text(line))


def _print_gaps(rows: pd.DataFrame, console: Console) -> None:
    """Failures and absences, once per provider and reason."""
    failed = rows[rows.status == "failed"]
    for (operator, mode, provider, reason), each in failed.groupby(["operator", "mode", "provider", "reason"]):
        cases = "; ".join(label(row) for _, row in each.iterrows())
        console.print(Text(f"FAILED {operator} {mode} {provider} on {cases}: {reason}", style="red"))
    absent = rows[rows.status == "absent"]
    if not len(absent):
        return
    table = Table("absent", "of", "why", "mend with", box=box.SIMPLE)
    for (provider, reason, remedy), each in absent.groupby(["provider", "reason", "remedy"], sort=False):
        operators = ", ".join(dict.fromkeys(each.operator))
        table.add_row(*(Text(str(part)) for part in (provider, operators, reason, remedy)))
    console.print(table)
