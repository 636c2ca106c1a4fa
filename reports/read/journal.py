"""A journal: what a run writes row by row, and leaves behind if it is killed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from reports.read.decode import decode
from reports.read.record import NotOurs, entry, items, shown

SUFFIX = ".jsonl"
# What a run may find out about itself on its way; nothing else of what it began with changes.
FACTS = ("roofs", "conditions", "frontiers", "dropped", "overhead", "flush_share")
TORN = "its last line is torn: the row in flight is lost"


@dataclass(frozen=True)
class Journal:
    """facts: of the run, as a finished run's file holds them; rows: `record` and `samples_s`; flaws: bad lines."""

    facts: dict[str, Any]
    rows: list[Any]
    flaws: list[str]


def read(content: bytes) -> Journal:
    """The journal with this content. Raises `NotOurs` if it does not begin with the facts of a run."""
    flaws: list[str] = []
    lines = _lines(content, flaws)
    number, first = next(lines, (0, None))
    if number != 1 or not isinstance(first, dict) or first.get("kind") != "run":
        raise NotOurs(f"expected a journal whose first line is a run, got {shown(first)}")
    journal = Journal({name: first[name] for name in first if name != "kind"}, [], flaws)
    for number, line in lines:
        try:
            _enter(journal, line)
        except NotOurs as reason:
            flaws.append(f"line {number}: {reason}")
    return journal


def _lines(content: bytes, flaws: list[str]) -> Iterator[tuple[int, Any]]:
    """What the lines hold, from 1. Only the last, which lacks its end, can be torn by a kill: others are broken."""
    lines = content.split(b"\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            yield number, decode(line)
        except ValueError:
            flaws.append(TORN if number == len(lines) else f"line {number}: is not JSON")


def _enter(journal: Journal, line: Any) -> None:
    """Add what a line holds. Raises `NotOurs`, and then adds nothing."""
    kind = entry(line, "kind")
    if kind == "rows":
        journal.rows.extend(items(line, "rows"))
    elif kind == "facts":
        journal.facts.update({name: line[name] for name in FACTS if name in line})
    else:
        raise NotOurs(f"kind: expected rows or facts, got {shown(kind)}")
