"""Results files to one table of rows. What is not a results file of ours is named and left out; nothing is guessed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

SCHEMA = 1
RESULTS = Path("results")

# Of every record, in this order; a file that lacks one of them is not ours.
FIELDS = (
    "id", "operator", "mode", "case", "sizes", "provider", "role", "status", "reason", "remedy", "traffic_bytes",
    "flops", "timer", "proof", "memory", "setup_s", "stop", "device", "commit", "dirty", "command", "schema",
)  # fmt: skip

NUMBERS = ("traffic_bytes", "flops", "seq_len", "error", "budget", "peak_bytes", "output_bytes", "setup_s", "rounds")


class NotOurs(ValueError):  # noqa: N818 - it reads as the verdict
    """A file that cannot be read as results; says why."""


@dataclass(frozen=True)
class Run:
    """One results file: its path and the facts that all its rows share."""

    path: Path
    device: dict[str, Any]
    versions: dict[str, str]
    commit: str
    dirty: bool | None
    command: str
    profile: str
    started: str
    overhead: float | None


@dataclass
class Results:
    """Everything that was read: a table with one row per record, the runs, and what was left out and why.

    Columns of `rows`: the fields of a record, flattened; `samples_s` (seconds per call, all of them); units are in the
    names of columns (`_s` seconds, `_bytes` bytes); `seq_len` and `other` (the remaining axes as text) split the case.
    """

    rows: pd.DataFrame = field(default_factory=pd.DataFrame)
    runs: list[Run] = field(default_factory=list)
    left_out: list[tuple[Path, str]] = field(default_factory=list)


def newest(folder: Path = RESULTS) -> list[Path]:
    """The newest results file of every device (files are named by date)."""
    return [
        max(files, key=lambda file: file.name)
        for each in sorted(folder.glob("*/"))
        if (files := list(each.glob("*.json")))
    ]


def expand(sources: Sequence[Path]) -> list[Path]:
    """Files as they are, folders as the results files under them."""
    found = [[*sorted(source.rglob("*.json"))] if source.is_dir() else [source] for source in sources]
    return [file for files in found for file in files]


def load(files: Iterable[Path]) -> Results:
    """Read results files into one table. Where runs repeat a row, each of them has its own."""
    results = Results()
    rows: list[dict[str, Any]] = []
    for path in files:
        try:
            run, found = _read(path)
        except NotOurs as reason:
            results.left_out.append((path, str(reason)))
        else:
            results.runs.append(run)
            rows += found
    results.rows = pd.DataFrame(rows)
    for column in NUMBERS if rows else ():
        results.rows[column] = pd.to_numeric(results.rows[column])
    return results


def _read(path: Path) -> tuple[Run, list[dict[str, Any]]]:
    """One file. Raises `NotOurs` where anything is missing or of another kind than it should be."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise NotOurs(f"cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise NotOurs("is not JSON, or not all of it") from error
    try:
        facts, benchmarks = content["rooftile"], content["benchmarks"]
        if facts["schema"] != SCHEMA:
            raise NotOurs(f"has schema {facts['schema']}, expected {SCHEMA}")
        run = _run(path, facts)
        measured = [_row(each["extra_info"]["record"], each["stats"]["data"], run) for each in benchmarks]
        return run, measured + [_row(record, [], run) for record in facts["absent"]]
    except (KeyError, TypeError, AttributeError) as error:
        raise NotOurs(f"lacks what results have: {error!r}") from error


def _run(path: Path, facts: dict[str, Any]) -> Run:
    return Run(
        path=path,
        device=dict(facts["device"]),
        versions=dict(facts["versions"]),
        commit=str(facts["commit"]),
        dirty=facts["dirty"],
        command=str(facts["command"]),
        profile=str(facts["profile"]),
        started=str(facts["started"]),
        overhead=facts.get("overhead"),
    )


def _row(record: dict[str, Any], samples: list[float], run: Run) -> dict[str, Any]:
    """One record as a flat row. A record that claims to be measured and has no usable sample is a failed one."""
    row = {name: record[name] for name in FIELDS}
    if row["schema"] != SCHEMA:
        raise NotOurs(f"has a record of schema {row['schema']}, expected {SCHEMA}")
    proof, memory, stop = row.pop("proof") or {}, row.pop("memory") or {}, row.pop("stop") or {}
    samples = [float(sample) for sample in samples]
    if row["status"] == "measured" and not (samples and all(0 < sample < float("inf") for sample in samples)):
        row |= {
            "status": "failed",
            "reason": "claims to be measured, but its samples are missing or not positive times",
        }
        samples = []
    case = dict(row["case"])
    return row | {
        "run": str(run.path),
        "started": run.started,
        "samples_s": samples,
        "seq_len": case.get("seq_len"),
        "other": ", ".join(_axis(name, value) for name, value in case.items() if name != "seq_len"),
        "error": proof.get("error"),
        "budget": proof.get("budget"),
        "proven_rows": proof.get("rows", ""),
        "peak_bytes": memory.get("peak_bytes"),
        "output_bytes": memory.get("output_bytes"),
        "rounds": stop.get("rounds", 0),
        "stopped": stop.get("reason", ""),
    }


def _axis(name: str, value: Any) -> str:
    """One axis as a reader wants it: models and dtypes bare, flags as their name, numbers with their name."""
    if isinstance(value, bool):
        return name if value else f"not {name}"
    return str(value) if isinstance(value, str) else f"{name} {value}"
