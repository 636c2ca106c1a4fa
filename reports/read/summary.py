"""Many runs as light tables: what each row of each run came to, without its raw samples.

A million rows must fit in memory and load in seconds, so a summary holds what follows from a row's samples, not the
samples. Whoever needs these, and all else that a record tells, loads the file itself (`reports.read.load`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

# Columns of few values, kept as categories. `row` identifies a row across runs: operator/mode/case/provider. `series`
# is the case without its sequence length, `tuned` the configurations its kernels ran with, `marks` the kinds of its
# doubts, joined by commas; `unit` the dtype that its operations run in, `rival` the strongest peer on its case.
CATEGORIES = (
    "row", "operator", "mode", "case", "case_id", "series", "provider", "role", "status", "reason", "remedy", "timer",
    "stopped", "unit", "roof", "rival", "tuned", "marks", "command",
)  # fmt: skip
# Numbers, NaN where a row has none; the unit is in the name. Of ratios above 1 is faster (`over_`), of `of_roof` 1 is
# the roof itself. `throttled` is the share of the rounds in which the device held itself back, `modes` the number of
# heaps that the samples fall into.
NUMBERS = (
    "seq_len", "samples", "median_s", "low_s", "high_s", "q1_s", "q3_s", "warm_s", "modes", "least_s", "of_roof",
    "over_naive", "over_rival", "over_rival_low", "over_rival_high", "traffic_bytes", "flops", "peak_bytes",
    "workspace_bytes", "saved_bytes", "least_bytes", "compile_s", "tune_s", "sm_clock_hz", "memory_clock_hz",
    "temperature_c", "power_w", "load", "foreign_processes", "throttled", "joules_per_call", "energy_per_token_j",
    "error", "budget",
)  # fmt: skip

# Of a run: `run` is its number in these tables, the oldest 0; `started` a UTC time, missing where it cannot be read
# (such runs are numbered first); `dirty` true, false or missing (git could not tell); `unfinished` the number of rows
# of a run that was cut short, else missing; `versions`, `facts` (of the device), `options` and `conditions` are JSON
# objects as text.
RUNS = (
    "run", "path", "device", "kind", "started", "commit", "dirty", "profile", "command", "unfinished", "versions",
    "facts", "options", "conditions",
)  # fmt: skip
# What each run measured of its own device: `value` is the median, `low` the least and `high` the most, in `unit`
# (byte/s, op/s, s), of `name` (copy, triad, gemm_bf16, ..., special, launch).
ROOFS = ("run", "name", "unit", "value", "low", "high", "reason")
# The longest sequence that a provider has memory for, as `reports.read.run.Frontier` has it.
FRONTIERS = (
    "run", "operator", "mode", "case", "provider", "largest", "fails_at", "stopped", "cap_bytes", "reason", "command",
)  # fmt: skip

# Columns of these tables that are not text.
TYPES = {
    "run": "int64", "started": "datetime64[us, UTC]", "dirty": "boolean", "unfinished": "Int64", "value": "float64",
    "low": "float64", "high": "float64", "largest": "float64", "fails_at": "float64", "cap_bytes": "float64",
}  # fmt: skip


def table(columns: Sequence[str], entries: Sequence[dict[str, Any]] = ()) -> pd.DataFrame:
    """Runs, roofs or frontiers as a table whose types do not depend on what they hold, nor on there being any."""
    return pd.DataFrame(list(entries), columns=list(columns)).astype(
        {name: TYPES.get(name, "object") for name in columns}
    )


@dataclass
class History:
    """Runs, their rows and roofs and frontiers, what was left out and why, and what else to say of the reading.

    Each table has the columns named above, and `rows`, `roofs` and `frontiers` have `run`, which is that of `runs`. The
    rows of a run stand together, in the order in which its file has them.
    """

    runs: pd.DataFrame
    rows: pd.DataFrame
    roofs: pd.DataFrame
    frontiers: pd.DataFrame
    left_out: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def of(self, runs: pd.Series | list[int]) -> History:
        """The part of these runs; numbers of runs stay as they are."""
        wanted = list(runs)
        return History(
            self.runs[self.runs.run.isin(wanted)],
            self.rows[self.rows.run.isin(wanted)],
            self.roofs[self.roofs.run.isin(wanted)],
            self.frontiers[self.frontiers.run.isin(wanted)],
        )
