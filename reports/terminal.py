"""The table on the terminal: one line per measured row, then what failed and what is absent, and why."""

from __future__ import annotations

import os
from textwrap import fill

import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from reports import units
from reports.derive import Throughput, throughput
from reports.gaps import gaps
from reports.load import Results
from reports.page import moment, run_names
from reports.standing import first_line, standings

COLUMNS = "  {:<16}{:>9}{:>8}{:>15}{:>11}{:>10}{:>8}"
PLAIN_WIDTH = 160  # of text that goes to a file or a pipe, where nothing says how wide it may be


def console() -> Console:
    """The terminal, or a wide page where there is none."""
    found = Console(highlight=False)
    return found if found.is_terminal or "COLUMNS" in os.environ else Console(width=PLAIN_WIDTH, highlight=False)


def show(results: Results, rows: pd.DataFrame, to: Console) -> None:
    """Print the runs, the measured rows of each, where operators stand, failures and absences."""
    names = run_names(results.runs)
    for run in results.runs:
        line = Text(f"{run.device}, commit {run.commit[:12]}, {moment(run.started)}, profile {run.profile}", "bold")
        if run.dirty is not False:
            words = "UNCOMMITTED CHANGES" if run.dirty else "UNKNOWN STATE OF THE TREE"
            line.append(f"\n{words}: these figures belong to no commit", "bold red")
        to.print(line)
        of_run = rows[(rows.run == run.path) & (rows.status == "measured")]
        if len(of_run):
            _measured(of_run, to)
    if len(rows):
        to.print(_standings(rows, names))
        _print_gaps(rows, to)


def _measured(rows: pd.DataFrame, to: Console) -> None:
    """A line per case, and under it one per provider, the fastest first; `+-` is half the median's 95 % interval."""
    to.print(Text(COLUMNS.format("provider", "median", "+-", "throughput", "memory", "vs rival", "budget"), "dim"))
    for _, of_operator in rows.groupby(["operator", "mode"], sort=False):
        told = throughput(of_operator)
        ordered = of_operator.sort_values("median_s", kind="stable").sort_values(["facet", "x"], kind="stable")
        for _, case in ordered.groupby("case_id", sort=False):
            to.print(Text(f"{case.operator.iloc[0]} {case['mode'].iloc[0]}: {case.case.iloc[0]}", "bold"))
            for _, row in case.iterrows():
                to.print(Text(_line(row, told), "bold" if row.role == "kernel" else ""))


def _line(row: pd.Series, told: Throughput) -> str:
    return COLUMNS.format(
        str(row.provider),
        units.seconds(row.median_s),
        units.percent((row.high_s - row.low_s) / 2 / row.median_s),
        f"{units.rate(row[told.column], told.scale)} {told.unit}",
        units.size(row.peak_bytes),
        units.ratio(row.over_rival),
        units.percent(row.error / row.budget if row.budget else row.error),
    )


def _standings(rows: pd.DataFrame, names: dict[str, str]) -> Table:
    title = Text("\nour kernels against their strongest rivals, on the largest case", "bold")
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column in ("operator", "fastest", "ours"):
        table.add_column(column, overflow="fold")
    for each in standings(rows):
        ratio = f"{units.ratio(each.ratio)} the speed of {each.rival}" if each.ratio == each.ratio else each.reason
        device = f" on {names[each.run]}" if len(names) > 1 else ""
        spread = units.percent((each.fastest_high_s - each.fastest_low_s) / 2 / each.fastest_s)
        fastest = f"{each.fastest} {units.seconds(each.fastest_s)} +- {spread}" if each.fastest else units.NOTHING
        parts = f"{each.operator} {each.mode}{device}", fastest
        table.add_row(*(Text(part) for part in parts), Text(ratio, "red" if each.failed else ""))
    return table


def _print_gaps(rows: pd.DataFrame, to: Console) -> None:
    """Failures loudly, then absences, once per provider and reason."""
    found = gaps(rows)
    for gap in (each for each in found if each.status == "failed"):
        count = f"{len(gap.cases)} {'row' if len(gap.cases) == 1 else 'rows'}"
        words = f"FAILED {gap.provider} on {', '.join(gap.where)}, {count}: {first_line(gap.reason)}"
        to.print(Text(f"\n{words}", "bold red"))
        to.print(Text(f"  {gap.commands[0]}"), soft_wrap=True)
    absent = [each for each in found if each.status == "absent"]
    if absent:
        to.print(Text("\nabsent, and why", "bold"))
    for gap in absent:
        operators = ", ".join(dict.fromkeys(where.split()[0] for where in gap.where))
        line = f"  {gap.provider:<16}{len(gap.cases):>3} of {operators}: {first_line(gap.reason)}"
        indent = " " * 19
        to.print(Text(fill(line, to.width, subsequent_indent=indent, break_on_hyphens=False)), soft_wrap=True)
        if gap.remedy:
            to.print(Text(f"{indent}mend with {gap.remedy}", "dim"), soft_wrap=True)
