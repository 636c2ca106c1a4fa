"""Tables of runs made by hand: for tests of verdicts and of the gate."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from reports.read.summary import CATEGORIES, FRONTIERS, NUMBERS, ROOFS, RUNS, History

ROLES = {"naive": "reference", "inductor": "reference", "eager": "peer", "liger": "peer", "triton": "kernel"}
CASES = 12
VERSIONS = {"torch": "2.13.0", "triton": "3.7.1", "liger-kernel": "0.8.5"}
RUN: dict[str, Any] = {
    "device": "Simulated", "kind": "cuda", "commit": "0123456789abcdef", "dirty": False, "profile": "full",
    "command": "pytest bench --benchmark-only --profile full", "unfinished": np.nan, "versions": json.dumps(VERSIONS),
    "facts": "{}", "options": json.dumps({"tune": "full", "config_from": None}), "conditions": "{}",
}  # fmt: skip
Change = Callable[[dict[str, Any]], dict[str, Any] | None]


def name(case: int, provider: str) -> str:
    return f"rms_norm/fwd/case{case}/{provider}"


OURS = name(0, "triton")


def a_row(run: int, case: int, provider: str, median_s: float) -> dict[str, Any]:
    test = f"bench/bench_rms_norm.py::RmsNorm::test_speed[fwd-case{case}-{provider}]"
    return dict.fromkeys(CATEGORIES, "") | dict.fromkeys(NUMBERS, np.nan) | {
        "run": run, "row": name(case, provider), "operator": "rms_norm", "mode": "fwd", "case": f"case {case}",
        "case_id": f"case{case}", "series": "case", "seq_len": 512.0, "provider": provider, "role": ROLES[provider],
        "status": "measured", "timer": "device", "roof": "bandwidth", "traffic_bytes": 1e9, "flops": 1e9,
        "median_s": median_s, "command": f'pytest "{test}" --benchmark-only --profile full',
    }  # fmt: skip


def runs(
    count: int,
    *,
    first: int = 0,
    noise: float = 0.006,
    seed: int = 0,
    cases: int = CASES,
    roles: tuple[str, ...] = tuple(ROLES),
    change: Change = lambda row: row,
    **facts: Any,
) -> History:
    """So many runs of one device, numbered from `first`, of the same rows. change: what becomes of each row."""
    made = []
    for run in range(first, first + count):
        draws = np.random.default_rng([seed, run])
        for case in range(cases):
            for at, provider in enumerate(ROLES):
                median_s = 1e-3 * (case + 1) * (at + 1) * np.exp(noise * draws.standard_normal())
                if provider in roles and (row := change(a_row(run, case, provider, median_s))) is not None:
                    made.append(row)
    numbers = range(first, first + count)
    started = [pd.Timestamp("2026-01-01", tz="UTC") + pd.Timedelta(days=run) for run in numbers]
    table = pd.DataFrame({"run": numbers, "path": [f"{run}.json" for run in numbers], "started": started})
    rows = pd.DataFrame(made, columns=["run", *CATEGORIES, *NUMBERS]).astype(dict.fromkeys(CATEGORIES, "category"))
    roofs, frontiers = pd.DataFrame(columns=list(ROOFS)), pd.DataFrame(columns=list(FRONTIERS))
    for fact, value in (RUN | facts).items():
        table[fact] = value
    return History(table[list(RUNS)], rows, roofs, frontiers)


def together(*parts: History) -> History:
    """Several histories as one."""
    rows = pd.concat([part.rows.astype(dict.fromkeys(CATEGORIES, object)) for part in parts], ignore_index=True)
    return History(
        pd.concat([part.runs for part in parts], ignore_index=True),
        rows.astype(dict.fromkeys(CATEGORIES, "category")),
        parts[0].roofs,
        parts[0].frontiers,
    )


def slower(share: float, *rows: str, role: str = "") -> Change:
    """Rows by name, or all rows of a role, take this share more time."""
    return lambda row: (
        row | {"median_s": row["median_s"] * (1 + share)} if row["row"] in rows or row["role"] == role else row
    )


def without(*rows: str) -> Change:
    return lambda row: None if row["row"] in rows else row


def becomes(row_name: str, **values: Any) -> Change:
    return lambda row: row | values if row["row"] == row_name else row
