"""Which runs an argument means: a file, a folder, a glob, a run, a device, a commit or a revision of git."""

from __future__ import annotations

import difflib
import glob
import os
import re
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

import pandas as pd

from reports.read.load import RESULTS, is_folder, name_of, whole
from reports.read.record import clean
from reports.read.summary import History

COMMIT = re.compile(r"[0-9a-f]{7,40}", re.IGNORECASE)
MANY = 6
GIT_S = 30


class NotSelected(ValueError):  # noqa: N818 - it reads as the verdict
    """An argument means no runs, or may mean several things; says what there is."""


@dataclass(frozen=True)
class Selection:
    """The runs that an argument means.

    how: what it was read as: `path`, `run`, `device`, `commit` or `revision`; runs: their numbers, oldest first, by the
    name of their device.
    """

    text: str
    how: str
    runs: dict[str, list[int]]

    @property
    def numbers(self) -> list[int]:
        """The numbers of all runs, oldest first."""
        return sorted(number for each in self.runs.values() for number in each)


def sources(texts: Sequence[str], folder: Path = RESULTS) -> list[Path]:
    """What must be read before arguments can be told: the folder of results, and the paths among the arguments."""
    return [*([folder] if is_folder(folder) else []), *(path for text in texts for path in _paths(text))]


def slug(name: str) -> str:
    """The name of a device as its folder has it, e.g. `nvidia-h200`."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def select(text: str, history: History, *, device: str = "") -> Selection:
    """The runs that `text` means, of one device only if that is named, as `slug` has it or as the runs do.

    A path that exists; a glob of paths; `<device>/<date>`, the date as far as need be (`20261124`, `2026-11-24`); a
    device; a commit, by 7 of its letters or more; a revision that git knows in the folder where this runs. Of a commit
    the runs of its clean tree count, if there are any. What several readings give different runs for is refused, and so
    is what means runs of several commits where one is meant. Raises `NotSelected`.
    """
    runs = _of_device(history.runs, device)
    readings = {how: found for how, found in _readings(text, runs) if len(found)}
    if not readings and (commit := _revision(text)):
        found = _at(runs, commit)
        if not len(found):
            raise NotSelected(_nothing(text, runs, f"which is commit {commit[:12]}, of which there are no results"))
        readings = {"revision": found}
    if not readings:
        raise NotSelected(_nothing(text, runs, _left_out(text, history)))
    if len({tuple(found.run) for found in readings.values()}) > 1:
        told = ", ".join(f"the {how} ({_runs(len(found))})" for how, found in readings.items())
        raise NotSelected(
            f"{clean(text)}: may mean {told}: write ./{clean(text)} for the path, <device>/<date> for a run"
        )
    how, found = next(iter(readings.items()))
    if how in ("run", "commit") and len({*found.commit}) > 1:
        raise NotSelected(f"{clean(text)}: expected one commit, got {_some(_named(found))}")
    if how in ("commit", "revision") and len(tidy := found[found.dirty.eq(False).fillna(False)]):
        found = tidy
    groups = found.sort_values("run").groupby("device", sort=False).run
    return Selection(text, how, {str(name): [int(number) for number in numbers] for name, numbers in groups})


def _of_device(runs: pd.DataFrame, device: str) -> pd.DataFrame:
    if not device:
        return runs
    found = runs[_called(runs, device)]
    if not len(found):
        known = sorted({*runs.device.map(slug)})
        there = _some(known) or "none, for there are no results"
        raise NotSelected(f"device: expected one of {there}, got {clean(device)}{_nearest(slug(device), known)}")
    return found


def _readings(text: str, runs: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Everything that a text may mean without git, and the runs that it then means."""
    if places := _paths(text):
        yield "path", runs[_beneath(runs.path, places)]
    device, slash, date = text.rpartition("/")
    if slash and date:
        days = runs.started.dt.strftime("%Y-%m-%dT%H:%M:%S").fillna("")
        dated = [any(name.startswith(date) for name in each) for each in zip(runs.path.map(_stem), days, strict=True)]
        yield "run", runs[[mine and then for mine, then in zip(_called(runs, device), dated, strict=True)]]
    yield "device", runs[_called(runs, text)]
    if COMMIT.fullmatch(text):
        yield "commit", _at(runs, text)


def _called(runs: pd.DataFrame, device: str) -> list[bool]:
    """Which runs are of the device that is called so, as torch or its folder says it."""
    wanted = device.lower()
    return [wanted in (name.lower(), slug(name)) for name in runs.device]


def _stem(path: str) -> str:
    return PurePath(path).stem


def _beneath(files: Iterable[str], places: Sequence[Path]) -> list[bool]:
    """Which files are at, or under, one of these places, whatever links lead there."""
    wholes = {PurePath(_whole(place)) for place in places}
    return [not wholes.isdisjoint([file, *file.parents]) for file in (PurePath(_whole(name)) for name in files)]


def _at(runs: pd.DataFrame, commit: str) -> pd.DataFrame:
    """The runs of the commits that begin so; a run may tell less of its commit than git does."""
    known = runs.commit.str.lower()
    return runs[[len(each) >= 7 and (each.startswith(commit.lower()) or commit.startswith(each)) for each in known]]


def _paths(text: str) -> list[Path]:
    """The paths that a text names."""
    try:
        if os.path.lexists(text):
            return [Path(text)]
        # Path.glob takes no absolute patterns.
        return [Path(path) for path in sorted(glob.glob(text, recursive=True))] if glob.has_magic(text) else []  # noqa: PTH207
    except (OSError, ValueError, re.error):
        return []


def _whole(path: str | Path) -> str:
    return name_of(whole(Path(path)))


def _revision(text: str) -> str:
    """The commit that git knows by this name; empty where there is none, or no git."""
    if text.startswith("-"):
        return ""
    command = ["git", "rev-parse", "--verify", "--quiet", "--end-of-options", f"{text}^{{commit}}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=GIT_S, check=True)
    except (OSError, ValueError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def _left_out(text: str, history: History) -> str:
    """Why the paths that a text names gave no runs; empty where it names none."""
    if not (places := _paths(text)):
        return ""
    lost = _beneath([path for path, _ in history.left_out], places)
    why = next((f": {reason}" for (_, reason), mine in zip(history.left_out, lost, strict=True) if mine), "")
    return f"which holds no results that could be read{why}"


def _nothing(text: str, runs: pd.DataFrame, why: str) -> str:
    """Why an argument means nothing, what there is, and what comes near it."""
    devices, names, commits = sorted({*runs.device.map(slug)}), _named(runs), [*dict.fromkeys(runs.commit.str[:12])]
    wanted = "a file, folder, glob, run (<device>/<date>), device, commit (7 letters or more) or revision with results"
    have = f"there are the devices {_some(devices)} and the runs {_some(names)}" if names else "there are no results"
    near = _nearest(text, [*devices, *names, *commits])
    return f"expected {wanted}, got {clean(text)}{', ' + why if why else ''}; {have}{near}"


def _named(runs: pd.DataFrame) -> list[str]:
    """Runs as they can be asked for, the newest first."""
    newest = runs.sort_values("run", ascending=False)
    return [f"{slug(device)}/{_stem(path)}" for device, path in zip(newest.device, newest.path, strict=True)]


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - MANY} more" if len(names) > MANY else ""
    return ", ".join(names[:MANY]) + more


def _nearest(text: str, names: Sequence[str]) -> str:
    """What holds the text, else what is like it."""
    near = [name for name in names if text and text.lower() in name][:3] or difflib.get_close_matches(text, names, n=3)
    return f"; nearest: {', '.join(near)}" if near else ""


def _runs(count: int) -> str:
    return f"{count} {'run' if count == 1 else 'runs'}"
