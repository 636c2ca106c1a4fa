"""The page: one self-contained HTML file, readable offline, in light and dark, on a phone and on paper."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from reports import units
from reports.derive import label, standings, throughput
from reports.load import Results, Run
from reports.plots import figure, looks


@dataclass
class Plot:
    """A figure, what it shows in words (for readers who do not see it), and the case behind it."""

    svg: str
    alt: str
    title: str


@dataclass
class Line:
    """One row of a table, as text."""

    provider: str
    role: str
    case: str
    median: str
    interval: str
    rate: str
    over_naive: str
    over_rival: str
    memory: str
    used: str
    proven: str
    rounds: str
    clock: str
    command: str
    note: str


@dataclass
class Gap:
    """Rows of one provider that have no figure, for one reason."""

    provider: str
    reason: str
    remedy: str
    cases: list[str] = field(default_factory=list)


@dataclass
class Section:
    """One operator in one mode."""

    operator: str
    mode: str
    plots: list[Plot]
    lines: list[Line]
    absent: list[Gap]
    failed: list[Gap]


def write(results: Results, rows: pd.DataFrame, target: Path) -> Path:
    """Write the page to `target` (a file, or a folder for its index.html); gives the file."""
    file = target if target.suffix == ".html" else target / "index.html"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(render(results, rows), encoding="utf-8")
    return file


def render(results: Results, rows: pd.DataFrame) -> str:
    """The page as text."""
    environment = Environment(
        loader=PackageLoader("reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"seconds": units.seconds, "percent": units.percent}
    return environment.get_template("page.html.j2").render(
        runs=results.runs,
        left_out=results.left_out,
        standings=standings(rows) if len(rows) else [],
        sections=sections(rows, results.runs),
        counts=rows.status.value_counts().to_dict() if len(rows) else {},
    )


def sections(rows: pd.DataFrame, runs: list[Run]) -> list[Section]:
    """The sections of the page, in the order in which operators were run."""
    if not len(rows):
        return []
    providers = list(dict.fromkeys(rows[rows.status == "measured"].provider))
    look = looks(providers, set(rows[rows.role == "kernel"].provider))
    numbers = itertools.count(1)
    return [
        Section(
            operator=str(operator),
            mode=str(mode),
            plots=_plots(each, look, numbers, runs),
            lines=[_line(row) for _, row in _ordered(each[each.status == "measured"]).iterrows()],
            absent=_gaps(each[each.status == "absent"]),
            failed=_gaps(each[each.status == "failed"]),
        )
        for (operator, mode), each in rows.groupby(["operator", "mode"], sort=False)
    ]


def _ordered(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.sort_values(["run", "other", "seq_len", "median_s"], na_position="first")


def _plots(
    rows: pd.DataFrame, look: dict[str, tuple[str, str]], numbers: itertools.count[int], runs: list[Run]
) -> list[Plot]:
    """One figure per run and per combination of the axes other than length."""
    measured = rows[rows.median_s.notna() & rows.seq_len.notna()]
    devices = {str(run.path): str(run.device["name"]) for run in runs}
    plots = []
    for (run, other), case in measured.groupby(["run", "other"], sort=False):
        title = f"{other} on {devices[str(run)]}" if len(runs) > 1 else str(other)
        names = ", ".join(dict.fromkeys(case.provider))
        lengths = f"{int(case.seq_len.min())} to {int(case.seq_len.max())}"
        alt = (
            f"{case.operator.iloc[0]} {case['mode'].iloc[0]}, {title}: time per call, throughput and peak memory of "
            f"{names} at sequence lengths {lengths}; the figures are in the table below"
        )
        plots.append(Plot(figure(case, look, f"figure-{next(numbers)}"), alt, title))
    return plots


def _line(row: pd.Series) -> Line:
    told = throughput(row.to_frame().T)
    used = row.error / row.budget if row.budget else 0.0
    return Line(
        provider=str(row.provider),
        role=str(row.role),
        case=label(row),
        median=units.seconds(row.median_s),
        interval=f"{units.seconds(row.low_s)} to {units.seconds(row.high_s)}",
        rate=units.rate(row[told.column], told.scale, told.unit),
        over_naive=units.ratio(row.over_naive),
        over_rival=units.ratio(row.over_rival),
        memory=units.size(row.peak_bytes),
        used=units.percent(used),
        proven=str(row.proven_rows),
        rounds=f"{int(row.rounds)}, {row.stopped}",
        clock=str(row.timer),
        command=str(row.command),
        note=str(row.reason),
    )


def _gaps(rows: pd.DataFrame) -> list[Gap]:
    """Rows without a figure, one entry per provider, reason and remedy."""
    return [
        Gap(str(provider), str(reason), str(remedy), [label(row) for _, row in each.iterrows()])
        for (provider, reason, remedy), each in rows.groupby(["provider", "reason", "remedy"], sort=False)
    ]
