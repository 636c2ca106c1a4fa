"""The table on the terminal: one line per measured row, then what is invalid, failed or absent, and why."""

from __future__ import annotations

import os
from textwrap import fill

import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from reports import units
from reports.judge.derive import Throughput, throughput
from reports.judge.gaps import gaps
from reports.judge.standing import first_line, standings
from reports.read.load import Results
from reports.read.run import Run
from reports.show.header import moment, run_names

COLUMNS = {"provider": "  {:<16}", "median": "{:>9}", "+-": "{:>8}", "throughput": "{:>15}", "memory": "{:>11}"} | {
    "vs rival": "{:>10}", "budget": "{:>8}", "of roof": "{:>9}", "cold/warm": "{:>11}",
}  # fmt: skip
OPTIONAL = {"of roof": "of_roof", "cold/warm": "cold_over_warm"}  # shown where there are any, and room for them
PLAIN_WIDTH = 160  # of text that goes to a file or a pipe, where nothing says how wide it may be


def console() -> Console:
    """The terminal, or a wide page where there is none."""
    found = Console(highlight=False)
    return found if found.is_terminal or "COLUMNS" in os.environ else Console(width=PLAIN_WIDTH, highlight=False)


def show(results: Results, rows: pd.DataFrame, to: Console) -> None:
    """Print the runs, the measured rows of each, where operators stand, what is invalid, failed or absent."""
    names = run_names(results.runs)
    for run in results.runs:
        line = Text(f"{run.device}, commit {run.commit[:12]}, {moment(run.started)}, profile {run.profile}", "bold")
        if run.dirty is not False:
            words = "UNCOMMITTED CHANGES" if run.dirty else "UNKNOWN STATE OF THE TREE"
            line.append(f"\n{words}: these figures belong to no commit", "bold red")
        if run.unfinished is not None:
            count = f"{run.unfinished} {'row' if run.unfinished == 1 else 'rows'}"
            line.append(f"\nunfinished: {count}; continue it with `pytest bench --benchmark-only --resume`", "bold red")
        to.print(line)
        of_run = rows[(rows.run == run.path) & (rows.status == "measured")]
        if len(of_run):
            _measured(of_run, to)
        _frontiers(run, to)
        if run.dropped:
            cases = f"{len(run.dropped)} {'case' if len(run.dropped) == 1 else 'cases'}"
            to.print(Text(f"\ndropped by the time budget: {cases}, which the page names", "yellow"))
    if len(rows):
        to.print(_standings(rows, names))
        _print_gaps(rows, to)


def _measured(rows: pd.DataFrame, to: Console) -> None:
    """A line per case, and under it one per provider, the fastest first; `+-` is half the median's 95 % interval."""
    columns = _columns(rows, to.width)
    to.print(Text("".join(COLUMNS[name].format(name) for name in columns), "dim"))
    for _, of_operator in rows.groupby(["operator", "mode"], sort=False):
        told = throughput(of_operator)
        ordered = of_operator.sort_values("median_s", kind="stable").sort_values(["facet", "x"], kind="stable")
        for _, case in ordered.groupby("case_id", sort=False):
            to.print(Text(f"{case.operator.iloc[0]} {case['mode'].iloc[0]}: {case.case.iloc[0]}", "bold"))
            for _, row in case.iterrows():
                cells = _cells(row, told)
                line = "".join(COLUMNS[name].format(cells[name]) for name in columns)
                doubts = ", ".join(dict.fromkeys(mark.kind for mark in row.marks))
                shown = Text(line, "bold" if row.role == "kernel" else "")
                to.print(shown.append(f"  {doubts}", "yellow") if doubts else shown)


def _columns(rows: pd.DataFrame, width: int) -> list[str]:
    """The columns that rows have figures for and a terminal has room for."""
    found: list[str] = []
    for name in COLUMNS:
        used = len("".join(COLUMNS[each].format("") for each in [*found, name]))
        if name not in OPTIONAL or (used <= width and rows[OPTIONAL[name]].notna().any()):
            found.append(name)
    return found


def _cells(row: pd.Series, told: Throughput) -> dict[str, str]:
    return {
        "provider": str(row.provider),
        "median": units.seconds(row.median_s),
        "+-": units.percent((row.high_s - row.low_s) / 2 / row.median_s),
        "throughput": f"{units.rate(row[told.column], told.scale)} {told.unit}",
        "memory": units.size(row.peak_bytes),
        "vs rival": units.ratio(row.over_rival),
        "budget": units.percent(row.error / row.budget if row.budget else row.error),
        "of roof": units.percent(row.of_roof),
        "cold/warm": units.ratio(row.cold_over_warm),
    }


def _frontiers(run: Run, to: Console) -> None:
    """A line per case: how long it may be for each provider before memory runs out."""
    if run.frontiers:
        to.print(Text("\nlargest length that memory allows", "bold"))
    for place in dict.fromkeys((each.operator, each.mode, each.case) for each in run.frontiers):
        operator, mode, case = place
        reached = ", ".join(
            f"{each.provider} {'none' if each.largest != each.largest else units.plain(each.largest)} ({each.stopped})"
            for each in run.frontiers
            if (each.operator, each.mode, each.case) == place
        )
        line = f"  {operator} {mode}: {case or 'the only case'}: {reached}"
        to.print(Text(fill(line, to.width, subsequent_indent=" " * 4, break_on_hyphens=False)), soft_wrap=True)


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
    """What is invalid or failed loudly, then absences, once per provider and reason."""
    found = gaps(rows)
    for gap in (each for each in found if each.status != "absent"):
        count = f"{len(gap.cases)} {'row' if len(gap.cases) == 1 else 'rows'}"
        words = f"{gap.status.upper()} {gap.provider} on {', '.join(gap.where)}, {count}: {first_line(gap.reason)}"
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
