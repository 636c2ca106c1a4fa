"""Many runs as light tables: what each row of each run came to, without its raw samples.

A million rows must fit in memory and load in seconds, so a summary holds what follows from a row's samples, not the
samples. Whoever needs these, and all else that a record tells, loads the file itself (`reports.read.load`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pandas as pd

# Columns of few values, kept as categories. `row` identifies a row across runs: operator/mode/case/provider. `series`
# is the case without its sequence length, `tuned` the configurations its kernels ran with, `marks` the kinds of its
# doubts, joined by commas; `unit` the dtype that its operations run in, `rival` the strongest peer on its case.
CATEGORIES = (
    "row", "operator", "mode", "case", "case_id", "series", "provider", "role", "status", "reason", "remedy", "timer",
    "stopped", "unit", "roof", "rival", "tuned", "marks", "command",
)  # fmt: skip
# Numbers, NaN where a row has none; the unit is in the name. Of ratios above 1 is faster (`over_`), of `of_roof` 1 is
# the roof itself. `throttled` is the share of the rounds in which the device held itself back.
NUMBERS = (
    "seq_len", "samples", "median_s", "low_s", "high_s", "q1_s", "q3_s", "warm_s", "modes", "least_s", "of_roof",
    "over_naive", "over_rival", "over_rival_low", "over_rival_high", "traffic_bytes", "flops", "peak_bytes",
    "workspace_bytes", "saved_bytes", "least_bytes", "compile_s", "tune_s", "sm_clock_hz", "memory_clock_hz",
    "temperature_c", "power_w", "load", "foreign_processes", "throttled", "joules_per_call", "energy_per_token_j",
    "error", "budget",
)  # fmt: skip

# Of a run: `run` is its number in these tables, `started` a UTC time, `dirty` true, false or missing (git could not
# tell), `unfinished` the number of rows of a run that was cut short; `versions`, `facts` (of the device), `options` and
# `conditions` are JSON objects as text.
RUNS = (
    "run", "path", "device", "kind", "started", "commit", "dirty", "profile", "command", "unfinished", "versions",
    "facts", "options", "conditions",
)  # fmt: skip
# What each run measured of its own device: `value` is the median, in `unit` (byte/s, op/s, s), of `name` (copy, triad,
# gemm_bf16, ..., special, launch).
ROOFS = ("run", "name", "unit", "value", "low", "high", "reason")
# The longest sequence that a provider has memory for, as `reports.read.run.Frontier` has it.
FRONTIERS = (
    "run", "operator", "mode", "case", "provider", "largest", "fails_at", "stopped", "cap_bytes", "reason", "command",
)  # fmt: skip


@dataclass
class History:
    """Runs, their rows and roofs and frontiers, and what was left out and why.

    Each table has the columns named above, and `rows`, `roofs` and `frontiers` have `run`, which is that of `runs`.
    """

    runs: pd.DataFrame
    rows: pd.DataFrame
    roofs: pd.DataFrame
    frontiers: pd.DataFrame
    left_out: list[tuple[str, str]] = field(default_factory=list)

    def of(self, runs: pd.Series | list[int]) -> History:
        """The part of these runs; numbers of runs stay as they are."""
        wanted = list(runs)
        return History(
            self.runs[self.runs.run.isin(wanted)],
            self.rows[self.rows.run.isin(wanted)],
            self.roofs[self.roofs.run.isin(wanted)],
            self.frontiers[self.frontiers.run.isin(wanted)],
        )
