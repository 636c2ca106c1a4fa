"""The facts of a run that all its rows share, and what it found besides rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from reports.read import migrate
from reports.read.record import (
    NotOurs,
    axes,
    clean,
    entry,
    label,
    mapping,
    number,
    optional_items,
    optional_mapping,
    shown,
    text,
    times,
)

UNITS = ("byte/s", "op/s", "s")
Fact = str | float
Found = TypeVar("Found")


@dataclass(frozen=True)
class Roof:
    """What the device itself could do in this run: `raw` values in `unit`; where there are none, `reason` says why."""

    name: str
    unit: str
    raw: list[float]
    reason: str


@dataclass(frozen=True)
class Frontier:
    """The largest length of a case that a provider has memory for, and why the search ended; NaN where unknown."""

    run: str
    operator: str
    mode: str
    case: str
    provider: str
    largest: float
    fails_at: float
    stopped: str
    cap_bytes: float
    reason: str
    remedy: str
    command: str


@dataclass(frozen=True)
class Dropped:
    """A case that the time budget left out."""

    run: str
    operator: str
    case: str
    priority: float


@dataclass(frozen=True)
class Run:
    """One results file or journal: its path and the facts that all its rows share.

    dirty: None where git could not tell. overhead and flush_share: time of the harness and of cache flushes over the
    time of what was timed. unfinished: of a run that was cut short the number of its rows, else None. flaws: what of
    these facts could not be read.
    """

    path: str
    device: str
    kind: str
    facts: dict[str, Fact]
    versions: dict[str, str]
    commit: str
    dirty: bool | None
    command: str
    profile: str
    started: str
    overhead: float | None
    flush_share: float | None = None
    options: dict[str, Fact | None] = field(default_factory=dict)
    conditions: dict[str, Fact] = field(default_factory=dict)
    roofs: list[Roof] = field(default_factory=list)
    frontiers: list[Frontier] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)
    unfinished: int | None = None
    flaws: list[str] = field(default_factory=list)


def run_of(path: str, facts: dict[str, Any]) -> Run:
    """The run that a file tells of. Raises `NotOurs`."""
    migrate.schema_of(facts)
    device, versions, dirty = mapping(facts, "device"), mapping(facts, "versions"), entry(facts, "dirty")
    if not (dirty is None or isinstance(dirty, bool)):
        raise NotOurs(f"dirty: expected true, false or null, got {shown(dirty)}")
    flaws: list[str] = []
    options = _facts(facts, "options", flaws)
    return Run(
        path=path,
        device=text(device, "name"),
        kind=text(device, "kind"),
        facts={clean(name): _fact(device[name]) for name in device if name not in ("name", "kind")},
        versions={clean(name): text(versions, name) for name in versions},
        commit=text(facts, "commit"),
        dirty=dirty,
        command=text(facts, "command"),
        profile=text(facts, "profile"),
        started=text(facts, "started"),
        overhead=_share(facts.get("overhead")),
        flush_share=_share(facts.get("flush_share")),
        options={clean(name): None if value is None else _fact(value) for name, value in options.items()},
        conditions={clean(name): _fact(value) for name, value in _facts(facts, "conditions", flaws).items()},
        roofs=_each(facts, "roofs", _roof, flaws),
        frontiers=_each(facts, "frontiers", lambda found: _frontier(path, found), flaws),
        dropped=_each(facts, "dropped", lambda found: _dropped(path, found), flaws),
        flaws=flaws,
    )


def _fact(value: Any) -> Fact:
    """A further fact: a number stays one, so that its unit can be told; all else is text."""
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**63:
        return value
    return clean(value) if isinstance(value, str) else shown(value)


def _share(value: Any) -> float | None:
    return value if isinstance(value, float) and math.isfinite(value) else None


def _facts(facts: dict[str, Any], name: str, flaws: list[str]) -> dict[str, Any]:
    """An object of facts; empty, and a flaw, if it is none: no rows shall be lost for it."""
    try:
        return optional_mapping(facts, name)
    except NotOurs as reason:
        flaws.append(str(reason))
        return {}


def _each(facts: dict[str, Any], name: str, read: Callable[[Any], Found], flaws: list[str]) -> list[Found]:
    """What a list holds; an entry that cannot be read is a flaw, and the others stay."""
    found: list[Found] = []
    try:
        entries: Sequence[Any] = optional_items(facts, name)
    except NotOurs as reason:
        flaws.append(str(reason))
        return found
    for each in entries:
        try:
            found.append(read(each))
        except NotOurs as reason:
            flaws.append(f"an entry of {name}: {reason}")
    return found


def _roof(found: Any) -> Roof:
    unit, values = text(found, "unit"), entry(found, "values")
    if unit not in UNITS:
        raise NotOurs(f"unit: expected one of {', '.join(UNITS)}, got {shown(unit)}")
    if not (raw := times(values)) and values != []:
        raise NotOurs(f"values: expected positive numbers, got {shown(values)}")
    return Roof(text(found, "name"), unit, raw, text(found, "reason", default=""))


def _frontier(run: str, found: Any) -> Frontier:
    return Frontier(
        run=run,
        case=label(axes(found)),
        operator=text(found, "operator"),
        mode=text(found, "mode"),
        provider=text(found, "provider"),
        largest=number(found, "largest", default=math.nan),
        fails_at=number(found, "fails_at", default=math.nan),
        stopped=text(found, "stopped"),
        cap_bytes=number(found, "cap_bytes", default=math.nan),
        reason=text(found, "reason", default=""),
        remedy=text(found, "remedy", default=""),
        command=text(found, "command", default=""),
    )


def _dropped(run: str, found: Any) -> Dropped:
    return Dropped(run, text(found, "operator"), text(found, "case"), number(found, "priority", default=math.nan))
