"""Results files to one typed table. What is not a results file of ours is named and left out, and so is a bad row."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from reports.read import clocked, journal, migrate, record
from reports.read.counts import LEDGER
from reports.read.decode import decode
from reports.read.record import NotOurs, clean, entry, flat, items, mapping
from reports.read.run import Run, run_of

RESULTS = Path("results")


def table(rows: Sequence[dict[str, Any]] = ()) -> pd.DataFrame:
    """Rows as a table whose columns and types do not depend on what they hold, nor on there being any."""
    objects = (*record.TEXTS, *clocked.TEXTS, *record.OBJECTS, *clocked.OBJECTS)
    types = dict.fromkeys(objects, "object") | dict.fromkeys((*record.NUMBERS, *clocked.NUMBERS), "float64")
    return pd.DataFrame(list(rows), columns=list(types)).astype(types)


@dataclass
class Results:
    """What was read: one row per record, the runs, and what was left out and why.

    Columns of `rows`: those of a record, flattened; `point` (the case as a dict), `case` (as text for readers),
    `case_id` (as a key), `samples_s` (all of them, seconds per call); what `clocked` tells. Units are in the names:
    `_s` seconds, `_bytes` bytes.
    """

    rows: pd.DataFrame = field(default_factory=table)
    runs: list[Run] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)


class Unreadable(NotOurs):
    """A file whose content is not to be had here and now."""


def expand(sources: Sequence[Path]) -> list[Path]:
    """Files as they are, folders as the results files and journals under them (counts are none); none of them twice.

    A journal beside the results of the same run is a leftover, and no file of its own.
    """
    found = [
        [path for path in sorted(source.rglob("*.json*")) if is_results(path)] if is_folder(source) else [source]
        for source in sources
    ]
    files = {whole(file): file for each in found for file in each}
    return [
        file
        for place, file in files.items()
        if place.suffix != journal.SUFFIX or place.with_suffix(".json") not in files
    ]


def whole(path: Path) -> Path:
    """Where a path leads, whatever links are on the way; as it is where it leads nowhere."""
    try:
        return Path(os.path.realpath(path))
    except (OSError, ValueError):
        return path


def is_folder(path: Path) -> bool:
    """Whether there is such a folder; what may not be looked at, and a name that none can have, is none."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def is_results(path: Path) -> bool:
    """Whether a file may hold results, by its name."""
    return path.suffix in (".json", journal.SUFFIX) and path.name != LEDGER.name


def newest(folder: Path = RESULTS) -> list[list[Path]]:
    """The results files and journals of every device, the newest first (their names begin with their date).

    Of a run that left both, the results come before the journal.
    """
    files = [
        sorted(filter(is_results, each.iterdir()), key=lambda path: (path.stem, path.suffix == ".json"), reverse=True)
        for each in sorted(folder.glob("*/"))
    ]
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
                run, found, reasons = read(path)
            except NotOurs as reason:
                results.left_out.append((name_of(path), str(reason)))
                continue
            results.runs.append(run)
            results.left_out += [(run.path, reason) for reason in reasons]
            rows += found
            break
    results.rows = table(rows)
    return results


def read(path: Path) -> tuple[Run, list[dict[str, Any]], list[str]]:
    """One file: its facts, its rows, and why facts and rows were left out. Raises `NotOurs` if it is none of ours."""
    content = _content(path)
    if path.suffix == journal.SUFFIX:
        found = journal.read(content)
        run = run_of(name_of(path), found.facts)
        rows, bad = _rows(found.rows, run.path, found.facts)
        run = replace(run, unfinished=len(rows), flaws=found.flaws + run.flaws)
        return run, rows, run.flaws + bad
    try:
        told = decode(content)
    except ValueError as error:
        raise NotOurs("is not JSON, or not all of it") from error
    facts = mapping(told, "rooftile")
    run = run_of(name_of(path), facts)
    absent = [{"record": each, "samples_s": None} for each in items(facts, "absent")]
    rows, bad = _rows([*items(told, "benchmarks"), *absent], run.path, facts)
    return run, rows, run.flaws + bad


def _content(path: Path) -> bytes:
    """What a file holds. Raises `Unreadable`; of a pipe or a device it would wait for an end that need not come."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise Unreadable("cannot be read: expected a file, got a folder, a pipe or a device")
        return path.read_bytes()
    except (OSError, ValueError) as error:
        if isinstance(error, Unreadable):
            raise
        raise Unreadable(f"cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _rows(claims: Sequence[Any], run: str, facts: dict[str, Any]) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows that claims hold, and why others hold none; `facts` of their run, as they were written."""
    rows: dict[tuple[str, ...], dict[str, Any]] = {}
    bad: Counter[str] = Counter()
    for claim in claims:
        try:
            row = _row(claim, run, facts)
        except NotOurs as reason:
            bad[str(reason)] += 1
            continue
        key = tuple(row[name] for name in ("operator", "mode", "case_id", "provider"))
        if rows.setdefault(key, row) is not row:
            bad[f"the same row as one before: {row['id']}"] += 1
    reasons = [f"{count} {'row' if count == 1 else 'rows'}: {why}" for why, count in bad.items()]
    return list(rows.values()), reasons


def _row(claim: Any, run: str, facts: dict[str, Any]) -> dict[str, Any]:
    """A row as pytest-benchmark wrote it, or as a journal does. Raises `NotOurs`."""
    if isinstance(claim, dict) and "record" in claim:
        told, samples = claim["record"], claim.get("samples_s")
    else:
        told, samples = entry(mapping(claim, "extra_info"), "record"), entry(mapping(claim, "stats"), "data")
    told = migrate.current(told, facts)
    return flat(told, samples, run) | clocked.clocked(told)


def name_of(path: Path) -> str:
    """A path as text that any terminal and any page can show."""
    return clean(str(path).encode(errors="surrogateescape").decode(errors="replace"))
