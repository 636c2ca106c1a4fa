"""results/counts.json: what everything costs, as accepted; how it is read, compared with and rewritten.

    versions   of torch and triton, with which it was made
    gpus       the hardware table, for whoever reads this file alone
    floors     operator > case > the fewest bytes and operations, by the operator's own `traffic` and `flops`
    cases      operator > case > provider > launch > what it moved and computed (bench/core/count.py)
    resources  operator > mode > provider > target > kernel > what it takes (bench/core/resources.py), or why not
    seals      for each path of the two above: a digest of what stands there and of the sources that it was counted from

Nothing in it depends on the machine it was made on.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

FILE = Path(__file__).resolve().parents[2] / "results" / "counts.json"
SECTIONS = ("versions", "gpus", "floors", "cases", "resources", "seals")
SCHEMA = 1
WIDTH = 160  # of a line that holds a whole object
SHOWN = 40  # differences that are told one by one

Path_ = tuple[str, ...]
Tree = dict[str, Any]


class Baseline:
    """The ledger of counts, in memory. Raises ValueError where the file is not one."""

    def __init__(self, file: Path = FILE) -> None:
        self.file = file
        self.content: Tree = {"schema": SCHEMA} | {name: {} for name in SECTIONS}
        if file.exists():
            try:
                found = json.loads(file.read_text(encoding="utf-8"))
            except json.JSONDecodeError as error:
                raise ValueError(f"{file.name}: expected JSON, got {error}") from None
            if not isinstance(found, dict) or found.get("schema") != SCHEMA:
                raise ValueError(f"{file.name}: expected schema {SCHEMA}, got {_schema(found)}")
            self.content |= found

    def foreign(self, versions: dict[str, str]) -> str:
        """Why counts made with these versions cannot be compared with it; empty if they can."""
        accepted = self.content["versions"]
        differing = [
            f"{name} {accepted[name]}, here {here}"
            for name, here in versions.items()
            if name in accepted and accepted[name] != here
        ]
        return f"not comparable: the ledger was made with {' and '.join(differing)}" if differing else ""

    def get(self, path: Path_) -> Any:
        """What was accepted under a path; None if nothing was."""
        branch: Any = self.content
        for part in path:
            if part not in branch:
                return None
            branch = branch[part]
        return branch

    def put(self, path: Path_, value: Tree | str) -> None:
        """Accept a value under a path."""
        branch = self.content
        for part in path[:-1]:
            branch = branch.setdefault(part, {})
        branch[path[-1]] = value

    def paths(self) -> Iterator[Path_]:
        """Where units keep what they found."""
        for section, depth in (("floors", 1), ("cases", 3), ("resources", 4)):
            yield from _paths((section,), self.content[section], depth)

    def prune(self, known: Sequence[Path_]) -> None:
        """Drop what is nobody's any more."""
        before, self.content = self.content, dict(self.content) | {name: {} for name in SECTIONS[2:]}
        kept = Baseline.__new__(Baseline)
        kept.content = before
        for path in [*known, *(("seals", *path) for path in known)]:
            value = kept.get(path)
            if value is not None:
                self.put(path, value)

    def write(self) -> None:
        """Write the file: sorted, a line per launch and per compiled kernel."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_text("\n".join(_lines(self.content)) + "\n", encoding="utf-8")


def differences(accepted: Tree | None, found: Tree) -> list[str]:
    """What changed, a line each: where, what, from and to. Empty if nothing did."""
    if accepted is None:
        return ["not in the ledger yet"]
    before, now = dict(_leaves((), accepted)), dict(_leaves((), found))
    changes = []
    for path in sorted(before.keys() | now.keys()):
        old, new = before.get(path), now.get(path)
        if old != new:
            where = " > ".join(path[:-1])
            changes.append(f"{where + ': ' if where else ''}{path[-1]} {_change(old, new)}")
    return changes


def told(path: Path_, changes: list[str]) -> str:
    """Differences as a message, the first of them one by one."""
    head = f"{' '.join(path[1:])}: {len(changes)} difference{'s' if len(changes) != 1 else ''} from results/counts.json"
    rest = [f"  ... and {len(changes) - SHOWN} more"] if len(changes) > SHOWN else []
    how = "If they are meant: pytest bench -m count --accept-counts"
    return "\n".join([head, *(f"  {change}" for change in changes[:SHOWN]), *rest, how])


def _change(old: Any, new: Any) -> str:
    if old is None:
        return f"is new: {new}"
    if new is None:
        return f"is gone, was {old}"
    numbers = isinstance(old, int | float) and isinstance(new, int | float)
    share = f" ({(new - old) / old:+.1%})" if numbers and old else ""
    return f"{old} -> {new}{share}"


def _leaves(path: Path_, value: Any) -> Iterator[tuple[Path_, Any]]:
    if isinstance(value, dict):
        for name, part in value.items():
            yield from _leaves((*path, name), part)
    else:
        yield path, value


def _paths(path: Path_, value: Tree, depth: int) -> Iterator[Path_]:
    if depth == 0:
        yield path
        return
    for name, part in value.items():
        yield from _paths((*path, name), part, depth - 1)


def _lines(value: Any, indent: str = "", name: str = "", comma: str = "") -> Iterator[str]:
    """JSON with sorted keys, an object on a line of its own where it fits."""
    head = f"{indent}{json.dumps(name)}: " if name else indent
    whole = json.dumps(value, sort_keys=True)
    if not isinstance(value, dict) or _is_record(value) or len(head + whole) <= WIDTH:
        yield head + whole + comma
        return
    yield head + "{"
    parts = sorted(value.items())
    for index, (key, part) in enumerate(parts):
        yield from _lines(part, indent + " ", key, "," if index < len(parts) - 1 else "")
    yield indent + "}" + comma


def _is_record(value: Tree) -> bool:
    """Whether an object holds values, and objects of values at most: it stays on one line, however long."""
    deep = [part for part in value.values() if isinstance(part, dict)]
    shallow = all(not isinstance(leaf, dict) for part in deep for leaf in part.values())
    return shallow and len(deep) < max(1, len(value))


def _schema(found: Any) -> Any:
    return found.get("schema") if isinstance(found, dict) else type(found).__name__
