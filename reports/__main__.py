"""`python -m reports`: the newest results as a table and as one self-contained page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from reports.derive import derive
from reports.load import expand, load, newest
from reports.page import write
from reports.terminal import show

app = typer.Typer(add_completion=False)


@app.command()
def report(
    sources: Annotated[
        list[Path] | None,
        typer.Argument(help="Results files or folders of them. Without any: the newest of every device in results/."),
    ] = None,
    output: Annotated[Path, typer.Option(help="The page's file (.html) or folder.")] = Path("report"),
) -> None:
    """Show results as a table here and as a page that needs no network.

    Examples: `python -m reports`, `python -m reports results/amd-epyc --output /tmp/epyc.html`.
    """
    for source in sources or []:
        if not source.exists():
            raise typer.BadParameter(f"expected a file or folder, got {source}, which does not exist")
    console = Console()
    files = expand(sources) if sources else newest()
    if not files:
        console.print("No results yet. `pytest bench --benchmark-only` makes some.")
        raise typer.Exit(1)
    results = load(files)
    rows = derive(results.rows)
    page = write(results, rows, output)  # before the table, which a reader may cut off with `| head`
    show(results, rows, console)
    console.print(f"page: {page}", soft_wrap=True, highlight=False)
    if not results.runs:
        raise typer.Exit(1)


if __name__ == "__main__":
    app()
