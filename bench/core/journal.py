"""The journal of a run: what is known so far, on disk at once, so that not even `kill -9` loses a finished row.

One JSON object a line. The first holds the facts of the run and the rows that it shall have; then come the rows of one
case after the other (the rows of a case are raced together, so they are finished together) and facts of the run that
came to be known on the way. A complete run is saved as JSON, and its journal removed.
"""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

from bench.core.record import SCHEMA, Run

# What must be the same for two parts of one run to be one run. What may differ only says when to stop.
SAME = ("device", "versions", "commit", "profile", "options")
MAY_DIFFER = ("time_budget_s", "row_timeout_s")


class NotResumable(ValueError):  # noqa: N818 - it reads as the verdict
    """There is no run to continue, or none that may be continued here and now; says why."""


class Unwritable(OSError):  # noqa: N818 - as above
    """Rows would be lost; says where, and why."""


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
    """Appends to a file that it has to itself. Nothing is written before there is something to say."""

    def __init__(self, path: Path, run: Run, planned: Iterable[str], past: Past | None = None) -> None:
        self.path = path
        self._begun = past is not None
        self._header = {"kind": "run", "schema": SCHEMA, **asdict(run), "planned": list(planned)}
        self._file: BinaryIO | None = None
        if past is None:
            _try_to_write(path.parent)
        else:
            self._file = path.open("r+b", buffering=0)
            _claim(self._file, path)
            # What a torn last line left would spoil the first line that is added.
            self._file.truncate(past.bytes_read)

    def write(self, **entry: Any) -> None:
        """Add a line, on disk when this returns. Raises `Unwritable`, with the lines before it whole."""
        lines = [entry] if self._begun else [self._header, entry]
        text = "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines).encode()
        try:
            if self._file is None:
                self._file = self.path.open("xb", buffering=0)  # never another run's, begun in the same second
                _claim(self._file, self.path)
            _append(self._file, text)
            if not self._begun:
                _sync(self.path.parent)
        except OSError as error:
            raise Unwritable(f"{self.path}: expected to write what was clocked, got {error.strerror}") from error
        self._begun = True

    def remove(self, saved: Path) -> None:
        """What it holds has been saved elsewhere: first that is on disk, then this is gone."""
        _sync(saved)
        self.path.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Let others go on with it."""
        if self._file is not None:
            self._file.close()


def newest(folder: Path, commit: str) -> Path:
    """The journal that was begun last in a folder (their names begin with their dates), if possible at that commit."""
    found = sorted(folder.glob("*.jsonl"))
    if not found:
        raise NotResumable(f"--resume: expected the journal of a run that was cut short in {folder}, got none")
    return ([path for path in found if path.stem.endswith(commit[:12])] or found)[-1]


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


def _try_to_write(folder: Path) -> None:
    """Raises `Unwritable` where nothing can be written: better now than after the first case."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise Unwritable(f"{folder}: expected a folder for results that can be written, got {error.strerror}") from None


def _claim(file: BinaryIO, path: Path) -> None:
    """Have a journal for this process alone, as long as it lives. Some network file systems know no locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise NotResumable(f"--resume: expected a run that was cut short, got {path}, which is still running") from None
    except OSError:
        pass


def _append(file: BinaryIO, text: bytes) -> None:
    """All of it, on disk, or nothing: half a line would spoil the next."""
    length = file.seek(0, os.SEEK_END)
    try:
        written = 0
        while written < len(text):
            written += file.write(text[written:])
        os.fsync(file.fileno())
    except OSError:
        with suppress(OSError):
            file.truncate(length)
        raise


def _sync(path: Path) -> None:
    """Have a file on disk, or a folder's entries."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
