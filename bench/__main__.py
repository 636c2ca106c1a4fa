"""`python -m bench list` and `python -m bench doctor`: what there is to run, and what this machine can run of it."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from bench.core import device

DEVICE = device.choose()

from bench.core.case import Case, plain
from bench.core.doctor import Finding, examine
from bench.core.registry import availability, operators

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
def doctor() -> None:
    """Say what this machine can do, what is missing, and what mends it. Exits with 1 if something is broken."""
    table = Table("", "what", "found", "mend with", box=None)
    findings: list[Finding] = examine()
    for finding in findings:
        table.add_row(MARKS[finding.state], finding.what, finding.found, finding.remedy)
    Console().print(table)
    if any(finding.state == "problem" for finding in findings):
        raise typer.Exit(1)


if __name__ == "__main__":
    app()
