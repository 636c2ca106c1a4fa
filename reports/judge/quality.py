"""How good the gate is: how often it fails although nothing changed, and how much of a slowdown it finds.

`python -m reports.judge.quality` replays thousands of simulated histories and writes `reports/judge/quality.json`,
which pages and README quote. What is simulated, and by whose account, says `reports.judge.machine`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binomtest

from reports.judge.centre import Flags
from reports.judge.machine import Machine
from reports.judge.replay import Outcome, replay
from reports.judge.stages import SETTLED

STORED = Path(__file__).with_name("quality.json")
COMMAND = "python -m reports.judge.quality"
CHANGES = (0.01, 0.02, 0.05, 0.10)
HISTORIES = (3, 5, 10, 20)
ROWS = (100, 200, 300)
CONFIDENCE = 0.95
# What is replayed at once stays small enough for the caches of a processor.
AT_ONCE = 100


def quality(
    *,
    replays: int = 1000,
    histories: Sequence[int] = HISTORIES,
    rows: Sequence[int] = ROWS,
    changes: Sequence[float] = CHANGES,
    machine: Machine | None = None,
    seed: int = 3,
    workers: int = 1,
) -> dict[str, Any]:
    """The rate of false alarms and the power of the gate by runs of history, as JSON holds them.

    replays: of each number of rows, once without a change and once for each change. Of each figure there is the rate,
    its Clopper-Pearson interval of 95 %, and of how many replays it is. The same seed gives the same figures, whatever
    the number of workers. Raises `ValueError` where replays are no multiple of what is replayed at once.
    """
    if replays < AT_ONCE or replays % AT_ONCE:
        raise ValueError(f"replays: expected a multiple of {AT_ONCE}, got {replays}")
    machine = machine or Machine()
    judge = partial(_of_history, machine, rows=rows, changes=changes, replays=replays, seed=seed)
    if workers == 1:
        found = [judge(history) for history in histories]
    else:
        # The longest first, so that none is left over for one worker at the end.
        with ProcessPoolExecutor(workers) as pool:
            longest_first = sorted(histories, reverse=True)
            by_history = dict(zip(longest_first, pool.map(judge, longest_first), strict=True))
        found = [by_history[history] for history in histories]
    known = {"command": COMMAND, "seed": seed, "rows": list(rows), "runs_of_head": SETTLED, "machine": asdict(machine)}
    return known | {"histories": found}


def _of_history(
    machine: Machine, history: int, rows: Sequence[int], changes: Sequence[float], replays: int, seed: int
) -> dict[str, Any]:
    unchanged = _replays(machine, history, rows, 0.0, replays, seed)
    found: dict[str, Any] = {
        "history_runs": history,
        "false_alarms": _rate(unchanged.failed),
        "confirm": _rate(unchanged.confirm),
        "suspects_per_gate": float(unchanged.suspects.mean()),
        "power": [],
    }
    for change in changes:
        outcome = _replays(machine, history, rows, change, replays, seed)
        found["power"].append(
            {
                "change": change,
                "all": _rate(outcome.found),
                "one_speed": _rate(outcome.found[~outcome.two_speeds]),
                "two_speeds": _rate(outcome.found[outcome.two_speeds]),
            }
        )
    faster = _replays(machine, history, rows, 1 / 1.05 - 1, replays, seed)
    found["failed_with_one_row_faster"] = _rate(faster.failed)
    found["improvements_that_failed"] = _rate(faster.found)
    return found


def _replays(machine: Machine, history: int, rows: Sequence[int], change: float, replays: int, seed: int) -> Outcome:
    """Replays of tables of all these sizes. Each has its own random numbers, whatever else is replayed."""
    parts = [
        replay(machine, np.random.default_rng([seed, history, size, round(1000 * abs(change)), part]), AT_ONCE, history,
               size, change)
        for size in rows
        for part in range(replays // AT_ONCE)
    ]  # fmt: skip
    return Outcome(*(np.concatenate([getattr(part, name) for part in parts]) for name in Outcome.__dataclass_fields__))


def _rate(hits: Flags) -> dict[str, Any]:
    """A share and its exact interval (Clopper & Pearson 1934, Biometrika 26:404)."""
    count, total = int(hits.sum()), len(hits)
    if not total:
        return {"rate": None, "low": None, "high": None, "replays": 0}
    ends = binomtest(count, total).proportion_ci(CONFIDENCE, method="exact")
    return {
        "rate": count / total,
        "low": round(float(ends.low), 5),
        "high": round(float(ends.high), 5),
        "replays": total,
    }


def stored() -> dict[str, Any]:
    """The figures that were measured last, as `quality` returns them. Raises OSError where there are none."""
    found: dict[str, Any] = json.loads(STORED.read_text(encoding="utf-8"))
    return found


if __name__ == "__main__":
    STORED.write_text(json.dumps(quality(workers=os.cpu_count() or 1), indent=1) + "\n", encoding="utf-8")
