"""Fingerprints: what the counts of a unit depend on, as a digest. Where it is the same, so are they.

They depend on the sources, on the sizes of the cases that are counted, and on the versions of what counts. References
and what is imported for the type checker alone decide nothing and are left out.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.core.counts import Unit

ROOT = Path(__file__).resolve().parents[2]
COUNTING = "bench.core.counts"
# The bank of shapes counts by the sizes that a case takes from it; a reference is never launched.
WITHOUT_SAY = ("bench.models", "reference")


def fingerprint(unit: Unit) -> str:
    """A digest of a unit, of the sizes that it is counted at, and of the code behind its operator and the counting."""
    digest = hashlib.sha256(f"{unit} {list(_sizes(unit))}".encode())
    for path in sorted({*_sources(unit.module), *_sources(COUNTING)}):
        digest.update(_content(path))
    return digest.hexdigest()


def seal(unit: Unit, found: dict[str, Any]) -> str:
    """A digest of what a unit found and of its fingerprint, short enough for a ledger to hold hundreds."""
    return hashlib.sha256(f"{fingerprint(unit)} {json.dumps(found, sort_keys=True)}".encode()).hexdigest()[:16]


def _sizes(unit: Unit) -> Iterator[str]:
    """The sizes of the cases that a unit looks at, of all models for a target."""
    operator = unit.operator
    for case in operator.counted_cases(every=bool(unit.target)):
        if case.mode == unit.mode and unit.case in ("", case.id):
            yield f"{case.id} {case.sizes}"


@cache
def _sources(module: str) -> tuple[Path, ...]:
    """The file of a module and those of all modules of this repository that it imports when it runs."""
    found: set[Path] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        spec = importlib.util.find_spec(name)
        path = Path(spec.origin) if spec and spec.origin else ROOT.parent
        if path in found or ROOT not in path.parents or "site-packages" in path.parts:
            continue
        found.add(path)
        waiting += [each for each in _imported(path) if not each.startswith(WITHOUT_SAY)]
    return tuple(sorted(found))


def _imported(path: Path) -> Iterator[str]:
    """The modules of this repository that a file imports, anywhere in it."""
    for node in _runs(path):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if _is_here(alias.name))
        elif isinstance(node, ast.ImportFrom) and node.module and _is_here(node.module):
            yield node.module
            yield from (name for alias in node.names if _is_module(name := f"{node.module}.{alias.name}"))


def _runs(path: Path) -> Iterator[ast.AST]:
    """The nodes of a source but for those that only a type checker sees."""
    waiting: list[ast.AST] = [ast.parse(_content(path))]
    while waiting:
        node = waiting.pop()
        if not (isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"):
            yield node
            waiting += ast.iter_child_nodes(node)


@cache
def _content(path: Path) -> bytes:
    """A source as it was when it was first asked for, whatever is made of the file meanwhile."""
    return path.read_bytes()


def _is_here(module: str) -> bool:
    return (ROOT / module.partition(".")[0]).is_dir()


def _is_module(name: str) -> bool:
    return (ROOT / Path(*name.split("."))).with_suffix(".py").exists()
