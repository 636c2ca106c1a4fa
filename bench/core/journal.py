"""The journal of a run: what is known so far, on disk at once, so that not even `kill -9` loses a finished row.

One JSON object a line. The first holds the facts of the run and the rows that it shall have; then come the rows of one
case after the other (the rows of a case are raced together, so they are finished together) and facts of the run that
came to be known on the way. A complete run is saved as JSON, and its journal removed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from bench.core.record import SCHEMA, Run

# What must be the same for two parts of one run to be one run. A time budget only says when to stop.
SAME = ("device", "versions", "commit", "profile", "options")
MAY_DIFFER = ("time_budget_s",)


class NotResumable(ValueError):  # noqa: N818 - it reads as the verdict
    """There is no run to continue, or none that may be continued here and now; says why."""


@dataclass
class Past:
    """What a journal holds. rows: records with their samples, as JSON; facts: those of the run."""

    path: Path
    run: Run
    planned: list[str]
    rows: list[dict[str, Any]] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    bytes_read: int = 0


class Journal:
    """Appends to a file. Nothing is written before there is something to say."""

    def __init__(self, path: Path, run: Run, planned: Iterable[str], past: Past | None = None) -> None:
        self.path = path
        self._begun = past is not None
        self._header = {"kind": "run", "schema": SCHEMA, **asdict(run), "planned": list(planned)}
        if past is not None:
            # What a torn last line left would spoil the first line that is added.
            with path.open("r+b") as file:
                file.truncate(past.bytes_read)

    def write(self, **entry: Any) -> None:
        """Add a line, on disk when this returns."""
        lines = [entry] if self._begun else [self._header, entry]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        text = "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines)
        with self.path.open("ab") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        if not self._begun:
            _sync_folder(self.path.parent)
            self._begun = True

    def remove(self) -> None:
        """What it holds has been saved elsewhere."""
        self.path.unlink(missing_ok=True)


def newest(folder: Path) -> Path:
    """The journal that was begun last in a folder (their names begin with their dates)."""
    found = sorted(folder.glob("*.jsonl"))
    if not found:
        raise NotResumable(f"--resume: expected the journal of a run that was cut short in {folder}, got none")
    return found[-1]


def read(path: Path) -> Past:
    """A journal, as far as it was written. A torn last line is not there. Raises `NotResumable`."""
    past: Past | None = None
    consumed = 0
    for line in path.read_bytes().splitlines(keepends=True):
        if not line.endswith(b"\n"):
            break
        try:
            entry = json.loads(line)
            if past is None:
                past = _begun(path, entry)
            elif entry["kind"] == "rows":
                past.rows += entry["rows"]
                past.facts.setdefault("races", []).extend(entry["races"])
            elif entry["kind"] == "facts":
                past.facts |= {name: value for name, value in entry.items() if name != "kind"}
        except (ValueError, KeyError, TypeError) as error:
            raise NotResumable(f"--resume: expected a journal of this suite, got {path}: {error!r}") from error
        consumed += len(line)
    if past is None:
        raise NotResumable(f"--resume: expected a journal of this suite, got {path}, which holds no whole line")
    past.bytes_read = consumed
    return past


def _begun(path: Path, entry: dict[str, Any]) -> Past:
    known = {name: entry[name] for name in Run.__dataclass_fields__}
    if entry["kind"] != "run" or entry["schema"] != SCHEMA:
        raise ValueError(f"its first line is none of a run of schema {SCHEMA}")
    return Past(path, Run(**known), list(entry["planned"]))


def resume(past: Past, run: Run, planned: Iterable[str]) -> Run:
    """The run that goes on: `run` as it is now, with the beginning of the past one. Raises `NotResumable`."""
    if run.dirty is not False or past.run.dirty is not False:
        raise NotResumable(
            "--resume: expected a tree without uncommitted changes then and now (nobody can tell what changed since), "
            f"got dirty {past.run.dirty} and {run.dirty}"
        )
    for name in SAME:
        then, now = (_comparable(getattr(each, name)) for each in (past.run, run))
        if then != now:
            raise NotResumable(f"--resume: expected the {name} of {past.path.name}, {_difference(then, now)}")
    if missing := sorted(set(past.planned) ^ set(planned)):
        raise NotResumable(
            f"--resume: expected the selection of {past.path.name}, got one that differs in {len(missing)} rows, such "
            f"as {missing[0]}"
        )
    return replace(run, started=past.run.started, command=past.run.command)


def _comparable(value: Any) -> Any:
    """As JSON has it, without what may differ."""
    if isinstance(value, dict):
        value = {name: each for name, each in value.items() if name not in MAY_DIFFER}
    return json.loads(json.dumps(value))


def _difference(then: Any, now: Any) -> str:
    """What was expected and what came, as short as can be."""
    if isinstance(then, dict) and isinstance(now, dict):
        for name in sorted({*then, *now}):
            if then.get(name) != now.get(name):
                return f"{name} {then.get(name)}, got {now.get(name)}"
    return f"{then}, got {now}"


def _sync_folder(folder: Path) -> None:
    """Have the folder's entry for a new file on disk too."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
