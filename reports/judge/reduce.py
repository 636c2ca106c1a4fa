"""One results file to what a history keeps of it: what follows from its samples, without the samples."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from reports.judge.derive import derive
from reports.judge.roofs import median
from reports.read.cache import COLUMNS, Entry, Kept, Key
from reports.read.clocked import Telemetry, Tuned
from reports.read.load import Unreadable, read, table
from reports.read.record import NotOurs, shown
from reports.read.run import Run
from reports.read.summary import CATEGORIES, FRONTIERS, NUMBERS

# What a summary depends on: where one of these changes, summaries that were kept are outdated.
CODE = (
    "judge/derive.py", "judge/predict.py", "judge/reduce.py", "judge/roofs.py", "read/cache.py", "read/clocked.py",
    "read/counts.py", "read/decode.py", "read/journal.py", "read/load.py", "read/migrate.py", "read/record.py",
    "read/run.py", "read/summary.py", "units.py",
)  # fmt: skip


@cache
def version() -> str:
    """A digest of the code that makes summaries."""
    home = Path(__file__).resolve().parents[1]
    return hashlib.sha256(b"".join((home / name).read_bytes() for name in CODE)).hexdigest()


def reduce(path: Path, key: Key) -> Kept | str:
    """The summary of one file, or why there is none to be had of it here and now."""
    try:
        run, found, reasons = read(path)
    except Unreadable as reason:
        return str(reason)
    except NotOurs as reason:
        return Kept([Entry(key, 0, None, [], [], [str(reason)])], COLUMNS.empty_table())
    started = _utc(run.started)
    if started is None:
        reasons.append(f"started: expected a time with its zone, got {shown(run.started)}: it has no place in time")
    roofs = [
        {"name": roof.name, "unit": roof.unit, "value": median(roof), "reason": roof.reason}
        | {"low": min(roof.raw, default=math.nan), "high": max(roof.raw, default=math.nan)}
        for roof in run.roofs
    ]
    frontiers = [{name: getattr(each, name) for name in FRONTIERS if name != "run"} for each in run.frontiers]
    return Kept(
        [Entry(key, len(found), _facts(run, started), roofs, frontiers, reasons)], _rows(derive(table(found), [run]))
    )


def _facts(run: Run, started: str | None) -> dict[str, Any]:
    """What the table of runs says of a run, but for its number and path."""
    told = {name: getattr(run, name) for name in ("device", "kind", "commit", "dirty", "profile", "command")}
    objects = {name: getattr(run, name) for name in ("versions", "facts", "options", "conditions")}
    texts = {name: json.dumps(value, sort_keys=True) for name, value in objects.items()}
    return told | texts | {"started": started, "unfinished": run.unfinished}


def _utc(text: str) -> str | None:
    """A time as ISO 8601 has it, in UTC; None for what is none, or tells no zone."""
    try:
        found = datetime.fromisoformat(text)
        return found.astimezone(UTC).isoformat() if found.tzinfo else None
    except (ValueError, OverflowError):
        return None


def _rows(rows: pd.DataFrame) -> pa.Table:
    """Derived rows of one run as `reports.read.summary` has them, `file` being 0."""
    along = rows.axis == "seq_len"
    rows = rows.assign(
        row=_names(rows),
        series=rows.facet.where(along, rows.case),
        seq_len=rows.x.where(along),
        samples=[float(len(each)) for each in rows.samples_s],
        tuned=[" | ".join(sorted(map(_tuned, each))) for each in rows.tuned],
        marks=[",".join(dict.fromkeys(mark.kind for mark in each)) for each in rows.marks],
        modes=[float(len(each)) if each else math.nan for each in rows.modes],
        throttled=[_throttled(told, rounds) for told, rounds in zip(rows.telemetry, rows.rounds, strict=True)],
    )
    columns: list[Any] = [pa.array([0] * len(rows), pa.int32())]
    columns += [pa.array(rows[name].tolist(), pa.string()).dictionary_encode() for name in CATEGORIES]
    columns += [pa.array(rows[name].to_numpy("float64"), pa.float64(), from_pandas=True) for name in NUMBERS]
    return pa.Table.from_arrays(columns, schema=COLUMNS)


def _names(rows: pd.DataFrame) -> list[str]:
    """What identifies each row across runs: its id, and where several rows share that, what tells them apart."""
    often = Counter(rows.id)
    parts = zip(rows.id, rows.operator, rows["mode"], rows.case_id, rows.provider, strict=True)
    return [name if often[name] == 1 else f"{name} ({'/'.join(others)})" for name, *others in parts]


def _tuned(found: Tuned) -> str:
    """A configuration that a kernel ran in, and for which key; where it comes from does not change what it is."""
    config = ", ".join(f"{name}={value}" for name, value in found.config.items()) or "no configuration"
    return f"{found.kernel} {config}" + (f"; key {', '.join(found.key)}" if found.key else "")


def _throttled(told: Telemetry, rounds: float) -> float:
    """The share of the rounds in which the device held itself back; NaN where nobody looked."""
    if not told.monitor or "throttled" in told.unavailable or not rounds:
        return math.nan
    slowed, reached = 0.0, -1.0
    for span in sorted(told.throttled, key=lambda each: each.first_round):
        first, last = max(span.first_round, reached + 1), min(span.last_round, rounds - 1)
        if last >= first:
            slowed, reached = slowed + last - first + 1, last
    return slowed / rounds
