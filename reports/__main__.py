"""`python -m reports`: what results say, as tables, verdicts, a gate with an exit status, and a site."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from reports.gather import gather
from reports.judge.causes import explained
from reports.judge.changes import changes
from reports.judge.derive import derive
from reports.judge.gate import CONFIRM, EXITS, FAIL, PASS, Gate, gate
from reports.judge.hardware import compare_devices
from reports.judge.summarise import Progress as Told
from reports.judge.summarise import summarise
from reports.judge.verdict import verdicts
from reports.read.committed import committed
from reports.read.load import RESULTS, expand, load, newest
from reports.read.select import NotSelected, Selection, select
from reports.read.select import sources as sources_of
from reports.read.summary import History
from reports.show.devices import device_listings
from reports.show.history import change_listing
from reports.show.listing import Listing, as_markdown, print_listing
from reports.show.terminal import console, show
from reports.show.verdicts import gate_listings, verdict_listing
from reports.site.site import write

app = typer.Typer(add_completion=False, rich_markup_mode=None, no_args_is_help=True, help=__doc__)

# What a whole history may be given by.
WHOLE = ("device", "path")

Sources = Annotated[
    list[Path] | None,
    typer.Argument(help="Results files, journals or folders of them. Without any: what lies in results/."),
]
Side = Annotated[
    str,
    typer.Argument(help="A file, folder, glob, commit, revision, run (<device>/<date>) or device.", show_default=False),
]
Device = Annotated[str, typer.Option(help="Only this device, e.g. nvidia-h200.")]
Markdown = Annotated[Path | None, typer.Option(help="Write it to this file too, as Markdown; - for here instead.")]
Margin = Annotated[float, typer.Option(min=0.001, max=0.5, help="Within how much, as a share, two times are the same.")]


@app.command("show")
def show_command(sources: Sources = None) -> None:
    """Print results as a table: every measured row, and why others have no time.

    Files that are not results, and rows that are broken, are named and left out. The exit status is 1 where nothing
    could be shown, else 0.

    \b
    Examples:
      python -m reports show                             the newest results of every device
      python -m reports show results/amd-epyc            all results of one device
    """  # noqa: D301 - \b keeps the lines of the examples apart
    results = load([[file] for file in expand(_existing(sources))] if sources else newest())
    _name_left_out(results.left_out)
    if not results.runs:
        _nothing()
    show(results, derive(results.rows, results.runs), console())


@app.command()
def build(
    sources: Sources = None,
    output: Annotated[Path, typer.Option(help="The folder for the site; its index.html comes first.")] = Path("report"),
) -> None:
    """Build a site of HTML pages that needs no network: where all stands, each operator, devices, history, CSV files.

    Files that are not results, and rows that are broken, are named and left out. The exit status is 1 where nothing
    could be shown, else 0.

    \b
    Examples:
      python -m reports build                            all that lies in results/, into report/
      python -m reports build results/nvidia-h200 --output h200
    """  # noqa: D301 - as above
    with _progress("reading") as told:
        story = gather(_existing(sources) or None, told)
    _name_left_out(story.results.left_out)
    if not story.results.runs:
        _nothing()
    try:
        with _progress("drawing") as told:
            page = write(story, output, told)
    except OSError as error:
        raise typer.BadParameter(f"--output: expected a place to write to, got {output}: {error.strerror}") from error
    except ValueError as error:
        raise typer.BadParameter(f"--output: {error}") from error
    console().print(Text(f"page: {page}"), soft_wrap=True)


@app.command()
def compare(
    base: Side,
    head: Side,
    device: Device = "",
    margin: Margin = 0.03,
    everything: Annotated[bool, typer.Option("--all", help="List rows that are the same as well.")] = False,
    markdown: Markdown = None,
) -> None:
    """Say of every row whether HEAD is faster, slower or the same as BASE, or why that cannot be said.

    How much a row must differ follows from how much its runs differ from each other: the more runs of the device there
    are in results/, the smaller the differences that can be told.

    \b
    Examples:
      python -m reports compare HEAD~1 HEAD              two commits, on every device that has both
      python -m reports compare before.json after.json --all
      python -m reports compare 1a2b3c4 5d6e7f8 --device nvidia-h200 --markdown comment.md
    """  # noqa: D301 - as above
    history, sides = _select([base, head], device)
    listings = []
    for name, (before, after) in _on_each_device(sides).items():
        past = history.of(history.runs.run[_earlier(history, name, [*before, *after], after)])
        found = verdicts(history.of(before), history.of(after), past, margin=margin)
        listings.append(verdict_listing(f"{name}: {head} against {base}", found, everything=everything))
    _tell(listings, markdown)


@app.command("gate")
def gate_command(
    base: Side,
    head: Side,
    device: Device = "",
    margin: Margin = 0.03,
    markdown: Markdown = None,
    again: Annotated[
        Path | None, typer.Option(help="Where the gate asks for further runs: write the command to this file.")
    ] = None,
) -> None:
    """Let HEAD pass unless rows of our kernels have become slower than in BASE, have failed or are gone.

    Exit status: 0 pass; 1 fail; 3 some rows look slower, and further runs of HEAD must settle it (the command is
    printed); 2 wrong arguments. BASE may be the whole history (a folder or a device): its newest commit is then
    judged against. docs/compare.md says how the gate decides, and how often it is wrong.

    \b
    Examples:
      python -m reports gate results HEAD                on every device that has runs of HEAD
      python -m reports gate main HEAD --device nvidia-h200 --markdown summary.md
    """  # noqa: D301 - as above
    history, sides = _select([base, head], device)
    gates: dict[str, Gate] = {}
    if sides[0].how in WHOLE and set(sides[0].numbers) <= set(sides[1].numbers):
        _tell(
            [Listing(f"{head}: confirm", ("the gate says",), [["there is no earlier run to judge against"]])], markdown
        )
        raise typer.Exit(EXITS[CONFIRM])
    for name, (before, after) in _on_each_device(sides).items():
        gates[name] = gate(history, _base(history, sides[0], before, after), after, margin=margin)
    _tell([listing for name, each in gates.items() for listing in gate_listings(name, each)], markdown)
    commands = [each.command for each in gates.values() if each.suspects]
    if again is not None and commands:
        again.write_text("\n".join(commands) + "\n", encoding="utf-8")
    found = {each.status for each in gates.values()}
    raise typer.Exit(EXITS[FAIL] if FAIL in found else max((EXITS[status] for status in found), default=EXITS[PASS]))


@app.command()
def hardware(
    devices: Annotated[list[str] | None, typer.Argument(help="Devices, the base first. Without any: all.")] = None,
    sources: Annotated[list[Path] | None, typer.Option("--from", help="Files or folders instead of results/.")] = None,
    markdown: Markdown = None,
) -> None:
    """Compare devices: each row's ratio, what the measured roofs predict, and what is left to explain.

    \b
    Examples:
      python -m reports hardware nvidia-h200 nvidia-b200
      python -m reports hardware                         all devices, the first that was ever clocked as the base
    """  # noqa: D301 - as above
    history = _history(_existing(sources) or None)
    names = [next(iter(_selected(text, history).runs)) for text in devices or []]
    _tell(device_listings(compare_devices(history, names or None)), markdown)


@app.command("history")
def history_command(
    device: Annotated[str, typer.Argument(help="A device; without one: all.")] = "",
    sources: Annotated[list[Path] | None, typer.Option("--from", help="Files or folders instead of results/.")] = None,
    markdown: Markdown = None,
) -> None:
    """List where rows became slower or faster over time, and what else changed there.

    \b
    Examples:
      python -m reports history nvidia-h200
    """  # noqa: D301 - as above
    history = _history(_existing(sources) or None)
    if device:
        chosen = _selected(device, history)
        history = history.of(history.runs.run[history.runs.device.isin(list(chosen.runs))])
    found = explained(history, changes(history), committed(Path()))
    _tell([change_listing(str(name), found) for name in dict.fromkeys(history.runs.device)], markdown)


def _existing(sources: Sequence[Path] | None) -> list[Path]:
    for source in sources or []:
        if not source.exists():
            raise typer.BadParameter(f"expected a file or folder, got {source}, which does not exist")
    return list(sources or [])


def _history(sources: Sequence[Path] | None) -> History:
    with _progress("reading") as told:
        history = summarise(sources, progress=told)
    _name_left_out(history.left_out)
    if not len(history.runs):
        _nothing()
    return history


def _select(texts: Sequence[str], device: str) -> tuple[History, list[Selection]]:
    history = _history(sources_of(texts, RESULTS))
    return history, [_selected(text, history, device) for text in texts]


def _selected(text: str, history: History, device: str = "") -> Selection:
    try:
        return select(text, history, device=device)
    except NotSelected as error:
        raise typer.BadParameter(str(error)) from None


def _on_each_device(sides: Sequence[Selection]) -> dict[str, tuple[list[int], list[int]]]:
    """The runs of both sides by device, where both have some; what is head is not base too."""
    base, head = (side.runs for side in sides)
    found = {
        device: (before, runs)
        for device, runs in head.items()
        if (before := [run for run in base.get(device, []) if run not in runs])
    }
    if not found:
        there = " and ".join(f"{side.text} on {', '.join(side.runs)}" for side in sides)
        raise typer.BadParameter(f"expected both sides on one device, and not the same runs, got {there}")
    return found


def _earlier(history: History, device: str, but: Sequence[int], head: Sequence[int]) -> list[bool]:
    """Which runs of a device are none of these and started before head."""
    runs = history.runs
    began = runs.started[runs.run.isin(list(head))].min()
    return list((runs.device == device) & ~runs.run.isin(list(but)) & (runs.started < began))


def _base(history: History, side: Selection, before: list[int], head: list[int]) -> list[int]:
    """The runs that are judged against: where a whole history is given, those of its newest commit before head."""
    if side.how not in WHOLE:
        return before
    runs = history.runs[history.runs.run.isin(before)].sort_values("run")
    earlier = runs[runs.started <= history.runs.started[history.runs.run.isin(head)].min()]
    runs = earlier if len(earlier) else runs
    return [int(run) for run in runs.run[runs.commit == runs.commit.iloc[-1]]]


def _tell(listings: Sequence[Listing], markdown: Path | None) -> None:
    """Print listings, and write them as Markdown where that is asked for."""
    text = "\n".join(as_markdown(listing) for listing in listings)
    if markdown == Path("-"):
        typer.echo(text)
        return
    for listing in listings:
        print_listing(listing, console())
    if markdown is not None:
        try:
            markdown.write_text(text, encoding="utf-8")
        except OSError as error:
            raise typer.BadParameter(
                f"--markdown: expected a file to write to, got {markdown}: {error.strerror}"
            ) from None


def _name_left_out(left_out: Sequence[tuple[str, str]]) -> None:
    warnings = Console(stderr=True, highlight=False, soft_wrap=True)
    for path, reason in left_out:
        warnings.print(Text(f"left out: {path}: {reason}", "yellow"))


def _nothing() -> None:
    Console(stderr=True, highlight=False, soft_wrap=True).print(
        Text("No results to show. `pytest bench --benchmark-only` makes some.")
    )
    raise typer.Exit(1)


@contextmanager
def _progress(what: str) -> Iterator[Told]:
    """A bar on the terminal for what takes long; nothing where there is no terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(
        *columns, console=Console(stderr=True), transient=True, disable=not Console(stderr=True).is_terminal
    ) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


if __name__ == "__main__":
    app()
