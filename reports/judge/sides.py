"""What stands for a device when it is compared: of one commit, the newest measurement of every row."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from reports.read.summary import History

# Of options: the file whose configurations a run was given instead of its own.
FOREIGN = "config_from"


@dataclass(frozen=True)
class Side:
    """A device: its runs that count, the oldest first, and of each row the newest line, a measured one if there is any.

    Runs count that are of the chosen commit, of a tree without changes, and not run with another GPU's configurations.
    """

    device: str
    runs: pd.DataFrame
    rows: pd.DataFrame


def clean_runs(history: History) -> pd.DataFrame:
    """The runs of trees without changes in the order of time, those without a time first.

    A tree with changes belongs to no commit; one of which git could not tell is taken for clean.
    """
    dirty = history.runs.dirty.astype("boolean").fillna(value=False).astype(bool)
    return history.runs[~dirty].sort_values(["started", "run"], kind="stable", na_position="first")


def usable(history: History) -> pd.DataFrame:
    """The runs of `clean_runs` with `foreign`: the file whose configurations they were given, or none."""
    runs = clean_runs(history)
    foreign = [object_of(text).get(FOREIGN) for text in runs.options]
    return runs.assign(foreign=pd.Series([each or "" for each in foreign], runs.index, dtype="object").astype(str))


def object_of(text: Any) -> dict[str, Any]:
    """The object that a column of runs holds as JSON; empty where it holds none."""
    try:
        found = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def sides(history: History, devices: Sequence[str]) -> dict[str, Side]:
    """The sides of the devices that have runs that count: of their newest common commit, else of the newest of each."""
    runs = usable(history)
    own = runs[(runs.foreign == "") & runs.device.isin(list(devices))]
    timed = own[own.run.isin(history.rows.run[history.rows.status == "measured"])]
    there = timed.groupby("commit", observed=True).device.nunique()
    shared = list(there.index[there == timed.device.nunique()])
    found = {}
    for device in devices:
        mine = timed[timed.device == device]
        if len(mine):
            commit = mine[mine.commit.isin(shared)].commit.iloc[-1] if shared else mine.commit.iloc[-1]
            found[device] = _side(device, mine[mine.commit == commit], history.rows)
    return found


def why_none(history: History, device: str) -> str:
    """Why a device has no run that counts."""
    runs = usable(history)
    mine = runs[runs.device == device]
    if not len(mine):
        return "all its runs are of trees with changes"
    if (mine.foreign != "").all():
        return "all its clean runs had the configurations of another run (--config-from)"
    return "none of its clean runs has a measured row"


def _side(device: str, runs: pd.DataFrame, rows: pd.DataFrame) -> Side:
    order = pd.Series(range(len(runs)), index=runs.run.to_numpy())
    mine = rows[rows.run.isin(runs.run)]
    ranked = mine.assign(row=mine.row.astype(str), timed=mine.status == "measured", order=mine.run.map(order))
    newest = ranked.sort_values(["timed", "order"], kind="stable").drop_duplicates("row", keep="last")
    return Side(device, runs, newest.drop(columns=["timed", "order"]).sort_index())
