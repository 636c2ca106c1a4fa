"""`python -m bench list`, `counts`, `doctor`: what there is to run, what it costs, what this machine can run."""

from __future__ import annotations

from typing import Annotated, Any

import pandas as pd
import typer
from _pytest.mark.expression import Expression
from rich.console import Console
from rich.table import Table

from bench.core import device

DEVICE = device.choose()

from bench.core.case import Case, plain
from bench.core.doctor import Finding, examine
from bench.core.registry import availability, operators
from reports.read import counts as ledger
from reports.read.record import NotOurs
from reports.show.counts_terminal import show_cases, show_resources
from reports.show.terminal import console

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False)
MARKS = {"ok": "[green]ok[/]", "missing": "[yellow]missing[/]", "problem": "[red]problem[/]"}


@app.command("list")
def list_operators(
    pattern: Annotated[str, typer.Argument(help="Only operators whose name contains this.")] = "",
    cases: Annotated[bool, typer.Option("--cases", help="Show every case of the sweep as well.")] = False,
    profile: Annotated[str, typer.Option(help="The part of the sweep to count: smoke, quick or full.")] = "full",
) -> None:
    """Show operators, cases and providers, and which of these can run here (each is tried on a small input).

    Examples: `python -m bench list`, `python -m bench list attention --cases --profile quick`.
    """
    if profile not in ("smoke", "quick", "full"):
        raise typer.BadParameter(f"expected smoke, quick or full, got {profile}", param_hint="--profile")
    console = Console()
    found = [operator for operator in operators() if pattern in operator.name()]
    if not found:
        names = ", ".join(operator.name() for operator in operators())
        raise typer.BadParameter(f"expected part of one of {names}, got {pattern}", param_hint="PATTERN")
    for operator in found:
        sweep = operator.sweep_cases(profile)
        summary = (operator.__doc__ or "").strip().splitlines()[0]
        modes = ", ".join(operator.modes())
        console.print(
            f"\n[bold]{operator.name()}[/]  {len(sweep)} cases ({profile}), "
            f"{len(operator.check_cases())} checks, {modes}"
        )
        console.print(f"  {summary}", highlight=False)
        for axis, values in axes_of(sweep).items():
            console.print(f"  [dim]{axis}[/]  {', '.join(values)}", highlight=False)
        table = Table("provider", "role", "here", "reason", "mend with", box=None, pad_edge=True)
        for row in availability(operator, DEVICE):
            table.add_row(
                row.provider, row.role, "[green]yes[/]" if row.available else "[yellow]no[/]", row.reason, row.remedy
            )
        console.print(table)
        if cases:
            for case in sweep:
                console.print(f"    {case.id}", highlight=False)


def axes_of(cases: list[Case]) -> dict[str, list[str]]:
    """The values of every axis that some case has, in order."""
    found: dict[str, dict[str, None]] = {}
    for case in cases:
        for axis, value in case.axes.items():
            found.setdefault(axis, {})[str(plain(value))] = None
    return {axis: list(values) for axis, values in found.items()}


@app.command()
def doctor(
    noise: Annotated[
        bool, typer.Option(help="Measure how small a difference can be seen here: identical work, raced for 10 s.")
    ] = True,
) -> None:
    """Say what this machine can do, what is missing, and what mends it. Exits with 1 if something is broken."""
    table = Table("", "what", "found", "mend with", box=None)
    findings: list[Finding] = examine(noise)
    for finding in findings:
        table.add_row(MARKS[finding.state], finding.what, finding.found, finding.remedy)
    Console().print(table)
    if any(finding.state == "problem" for finding in findings):
        raise typer.Exit(1)


@app.command()
def counts(
    expression: Annotated[str, typer.Option("-k", help="As pytest's: over operators, modes, cases, kernels.")] = "",
    gpu: Annotated[str, typer.Option(help="GPUs of the hardware table, with commas between them.")] = "h100,h200",
    resources: Annotated[bool, typer.Option("--resources", help="What compiled kernels take, not bounds.")] = False,
    target: Annotated[str, typer.Option(help="Targets to show resources of.")] = "sm_80,sm_90,sm_100,gfx942",
    everything: Annotated[
        bool, typer.Option("--all", help="Also cases that are not counted (floors only); every configuration.")
    ] = False,
) -> None:
    """Show what the ledger of counts says: bounds on the time of each case on each GPU, or compiled resources.

    Examples: `python -m bench counts -k "rms_norm and fwd" --gpu h200,a100-80,mi300x`, `python -m bench counts
    --resources --target sm_90 --all -k "attention and _key_kernel"`.
    """
    try:
        found = ledger.load()
    except (NotOurs, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise typer.BadParameter(
            f"{ledger.LEDGER}: {reason}; `pytest bench -m count --accept-counts` makes it"
        ) from error
    if resources:
        names = _known("--target", target, found.resources.target.unique())
        rows = found.resources[found.resources.target.isin(names)]
        rows = _matching(rows if everything else rows[rows.default], expression, ["kernel", "configuration", "target"])
        show_resources(rows, console())
        return
    names = _known("--gpu", gpu, found.gpus)
    rows = _matching(found.cases if everything else found.cases[found.cases.provider.notna()], expression, ["case"])
    show_cases(found, rows, names, console())


def _known(option: str, text: str, known: Any) -> list[str]:
    """The names in a list with commas, every one of them known."""
    names = [name.strip().lower() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in known:
            raise typer.BadParameter(f"expected some of {', '.join(sorted(known))}, got {name}", param_hint=option)
    return names


def _matching(rows: pd.DataFrame, expression: str, columns: list[str]) -> pd.DataFrame:
    """The rows that a `-k` expression selects by their operator, mode and further columns."""
    if not expression.strip():
        return rows
    try:
        compiled = Expression.compile(expression)
    except SyntaxError as error:
        raise typer.BadParameter(
            f"expected an expression as pytest's, got {expression}: {error}", param_hint="-k"
        ) from error
    words = rows[["operator", "mode", *columns]].astype(str).agg(" ".join, axis=1).str.lower()

    def selected(text: str) -> bool:
        def matches(name: str, /, **_: str | int | bool | None) -> bool:
            return name.lower() in text

        return compiled.evaluate(matches)

    kept = rows[words.map(selected)]
    if kept.empty:
        raise typer.BadParameter(f"expected to match something, got {expression}", param_hint="-k")
    return kept


if __name__ == "__main__":
    app()
