"""Results files to one typed table. What is not a results file of ours is named and left out, and so is a bad row."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from reports.counts import LEDGER
from reports.record import NUMBERS, OBJECTS, SCHEMA, TEXTS, NotOurs, clean, entry, flat, items, mapping
from reports.record import shown as as_json
from reports.record import text as text_of

RESULTS = Path("results")


@dataclass(frozen=True)
class Run:
    """One results file: its path and the facts that all its rows share. dirty: None where git could not tell."""

    path: str
    device: str
    kind: str
    facts: dict[str, Any]
    versions: dict[str, str]
    commit: str
    dirty: bool | None
    command: str
    profile: str
    started: str
    overhead: float | None


def table(rows: Sequence[dict[str, Any]] = ()) -> pd.DataFrame:
    """Rows as a table whose columns and types do not depend on what they hold, nor on there being any."""
    types = dict.fromkeys((*TEXTS, *OBJECTS), "object") | dict.fromkeys(NUMBERS, "float64")
    return pd.DataFrame(list(rows), columns=list(types)).astype(types)


@dataclass
class Results:
    """What was read: one row per record, the runs, and what was left out and why.

    Columns of `rows`: those of a record, flattened; `point` (the case as a dict), `case` (as text for readers),
    `case_id` (as a key), `samples_s` (all of them, seconds per call). Units are in the names: `_s` seconds, `_bytes`
    bytes.
    """

    rows: pd.DataFrame = field(default_factory=table)
    runs: list[Run] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)


def expand(sources: Sequence[Path]) -> list[Path]:
    """Files as they are, folders as the results files under them (counts are none); none of them twice."""
    found = [
        [path for path in sorted(source.rglob("*.json")) if path.name != LEDGER.name] if source.is_dir() else [source]
        for source in sources
    ]
    return list({file.resolve(): file for files in found for file in files}.values())


def newest(folder: Path = RESULTS) -> list[list[Path]]:
    """The results files of every device, the newest first (their names begin with their date)."""
    files = [sorted(each.glob("*.json"), reverse=True) for each in sorted(folder.glob("*/"))]
    return [each for each in files if each]


def load(choices: Iterable[Sequence[Path]]) -> Results:
    """Read results into one table: of each choice the first file that is ours.

    Where runs repeat a row, each of them has its own.
    """
    results = Results()
    rows: list[dict[str, Any]] = []
    for choice in choices:
        for path in choice:
            try:
                run, found, bad = _read(path)
            except NotOurs as reason:
                results.left_out.append((_name(path), str(reason)))
                continue
            results.runs.append(run)
            results.left_out += [
                (_name(path), f"{count} {'row' if count == 1 else 'rows'}: {why}") for why, count in bad.items()
            ]
            rows += found
            break
    results.rows = table(rows)
    return results


def _read(path: Path) -> tuple[Run, list[dict[str, Any]], Counter[str]]:
    """One file: its facts, its rows, and why rows were left out. Raises `NotOurs` if it is none of ours."""
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise NotOurs(f"cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise NotOurs("is not JSON, or not all of it") from error
    run = _run(path, content)
    claims = [(each, None) for each in items(content, "benchmarks")]
    gaps = [(None, each) for each in items(mapping(content, "rooftile"), "absent")]
    rows: dict[tuple[str, ...], dict[str, Any]] = {}
    bad: Counter[str] = Counter()
    for benchmark, absent in claims + gaps:
        try:
            row = flat(absent, [], run.path) if benchmark is None else _measured(benchmark, run.path)
            key = tuple(row[name] for name in ("operator", "mode", "case_id", "provider"))
        except NotOurs as reason:
            bad[str(reason)] += 1
            continue
        if rows.setdefault(key, row) is not row:
            bad[f"the same row as one before: {row['id']}"] += 1
    return run, list(rows.values()), bad


def _measured(benchmark: Any, run: str) -> dict[str, Any]:
    record = entry(mapping(benchmark, "extra_info"), "record")
    return flat(record, entry(mapping(benchmark, "stats"), "data"), run)


def _run(path: Path, content: Any) -> Run:
    """The facts of a file. Raises `NotOurs`."""
    facts = mapping(content, "rooftile")
    if (schema := entry(facts, "schema")) != SCHEMA:
        raise NotOurs(f"schema: expected {SCHEMA}, got {as_json(schema)}")
    device, versions, dirty = mapping(facts, "device"), mapping(facts, "versions"), entry(facts, "dirty")
    if not (dirty is None or isinstance(dirty, bool)):
        raise NotOurs(f"dirty: expected true, false or null, got {as_json(dirty)}")
    return Run(
        path=_name(path),
        device=text_of(device, "name"),
        kind=text_of(device, "kind"),
        facts={clean(name): _fact(device[name]) for name in device if name not in ("name", "kind")},
        versions={clean(name): text_of(versions, name) for name in versions},
        commit=text_of(facts, "commit"),
        dirty=dirty,
        command=text_of(facts, "command"),
        profile=text_of(facts, "profile"),
        started=text_of(facts, "started"),
        overhead=overhead if isinstance(overhead := facts.get("overhead"), float) else None,
    )


def _fact(value: Any) -> str | float:
    """A further fact of a device: a number stays one, so that its unit can be told; all else is text."""
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**63:
        return value
    return clean(value) if isinstance(value, str) else as_json(value)


def _name(path: Path) -> str:
    """A path as text that any terminal and any page can show."""
    return clean(str(path).encode(errors="surrogateescape").decode(errors="replace"))
