"""Why times cannot be compared: another clock, other options, other versions of a peer's libraries, a dirty tree."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd

from reports.read.record import clean, shown

# The options that change what a row measures.
OPTIONS = ("tune", "config_from")
# Every provider runs on torch; what `inductor` compiles, Triton compiles.
ALWAYS = ("torch",)
FURTHER = {"inductor": ("triton",)}


def runs_apart(one: pd.Series, other: pd.Series) -> str:
    """What two runs were told to do otherwise, or on how many threads; empty if nothing that a row measures."""
    options, facts = [_object(run.options) for run in (one, other)], [_object(run.facts) for run in (one, other)]
    pairs = [(name, *(each.get(name) for each in options)) for name in OPTIONS]
    pairs.append(("threads", *(each.get("threads") for each in facts)))
    return "; ".join(f"{name} {_told(a)} in base, {_told(b)} in head" for name, a, b in pairs if a != b)


def versions_apart(provider: str, one: pd.Series, other: pd.Series) -> str:
    """Which libraries of a provider differ between two runs, and how; empty if none does.

    A provider is named after its library (`liger`, `flash_attn`), so a library whose name begins alike is taken for
    its own.
    """
    versions = [_object(run.versions) for run in (one, other)]
    names = sorted({*versions[0], *versions[1]})
    theirs = [name for name in names if name in (*ALWAYS, *FURTHER.get(provider, ())) or _named_after(provider, name)]
    pairs = [(name, *(each.get(name, "none") for each in versions)) for name in theirs]
    return clean(", ".join(f"{name} {a} -> {b}" for name, a, b in pairs if a != b))


def apart(runs: pd.DataFrame, rows: pd.DataFrame, records: dict[str, pd.DataFrame]) -> dict[str, str]:
    """Why head and base of a row cannot be compared, for every row of which that is so.

    runs: of all sides, with their `side`; rows: by name; records: the newest of each side, by the same names.
    """
    base, head = (runs[runs.side == side].iloc[-1] for side in ("base", "head"))
    dirty = [side for side in ("base", "head") if _any_dirty(runs[runs.side == side])]
    if dirty:
        words = f"the tree of {' and '.join(dirty)} had changes that no commit has"
        return dict.fromkeys(rows.index, words)
    if other := runs_apart(base, head):
        return dict.fromkeys(rows.index, f"other options: {other}")
    found = {}
    others = {name: versions_apart(name, base, head) for name in rows.provider.astype(str).unique()}
    timers = [records[side].timer.astype(str) for side in ("base", "head")]
    timed = np.all([records[side].log_s.notna() for side in ("base", "head")], axis=0)
    for row, role, provider, one, two, both in zip(
        rows.index, rows.role.astype(str), rows.provider.astype(str), *timers, timed, strict=True
    ):
        if both and one != two:
            found[str(row)] = f"another clock: {one} in base, {two} in head"
        elif role != "kernel" and others[provider]:
            found[str(row)] = f"other versions: {others[provider]}"
    return found


def _any_dirty(runs: pd.DataFrame) -> bool:
    """Whether any run says that its tree was dirty; what git could not tell is not held against it."""
    return any(dirty is True or (isinstance(dirty, np.bool_) and bool(dirty)) for dirty in runs.dirty)


def _named_after(provider: str, library: str) -> bool:
    first = provider.partition("_")[0].lower()
    return len(first) > 2 and library.lower().replace("_", "-").split("-")[0] == first


def _told(value: Any) -> str:
    return "none" if value is None else clean(value) if isinstance(value, str) else shown(value)


def _object(text: object) -> dict[str, Any]:
    """A JSON object as the tables hold it; empty where there is none."""
    found = json.loads(text) if isinstance(text, str) and text else {}
    return found if isinstance(found, dict) else {}
