"""`python -m reports`: the newest results as a table and as a site that needs no network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from reports.judge.derive import derive
from reports.read.counts import LEDGER
from reports.read.counts import load as load_counts
from reports.read.essays import essays
from reports.read.load import expand, load, newest
from reports.read.record import NotOurs
from reports.show.terminal import console, show
from reports.site.site import write
from reports.site.story import Story

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def report(
    sources: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Results files or journals, or folders of them. Without any: the newest of every device in results/."
        ),
    ] = None,
    output: Annotated[Path, typer.Option(help="The folder for the site; its index.html comes first.")] = Path("report"),
) -> None:
    """Show results as a table here and as a site of HTML pages that needs no network.

    Files that are not results, and rows that are broken, are named and left out. The exit status is 1 where nothing
    could be shown, else 0.

    \b
    Examples:
      python -m reports                                  the newest results of every device
      python -m reports results/amd-epyc                 all results of one device
      python -m reports a.json b.json --output ab        two runs on one site
    """  # noqa: D301 - \b keeps the lines of the examples apart
    for source in sources or []:
        if not source.exists():
            raise typer.BadParameter(f"expected a file or folder, got {source}, which does not exist")
    results = load([[file] for file in expand(sources)] if sources else newest())
    rows = derive(results.rows, results.runs)
    counts = None
    try:
        counts = load_counts() if LEDGER.exists() else None
    except (NotOurs, OSError) as error:
        results.left_out.append((str(LEDGER), str(error)))
    warnings = Console(stderr=True, highlight=False, soft_wrap=True)
    for path, reason in results.left_out:
        warnings.print(Text(f"left out: {path}: {reason}", "yellow"))
    if not results.runs:
        warnings.print(Text("No results to show. `pytest bench --benchmark-only` makes some."))
        raise typer.Exit(1)
    # The page comes before the table: whoever closes the pipe that the table goes to still has the page.
    try:
        page = write(Story(results, rows, counts, essays=essays(Path())), output)
    except OSError as error:
        raise typer.BadParameter(f"--output: expected a place to write to, got {output}: {error.strerror}") from error
    except ValueError as error:
        raise typer.BadParameter(f"--output: {error}") from error
    out = console()
    show(results, rows, out)
    out.print(Text(f"page: {page}"), soft_wrap=True)


if __name__ == "__main__":
    app()
