"""Devices side by side: what their roofs predict, what was observed, and what is left to explain."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

# One row per row that both devices have, for every device but the base. ratio: the time on the base over that on the
# device, so above 1 the device is faster, with the ends of its 95 % interval; predicted: that ratio by the roofs that
# both devices measured; by: which roof binds on the base and on the device; residual: ratio over predicted.
ROWS = (
    "base", "device", "row", "operator", "mode", "case", "series", "seq_len", "provider", "role", "base_s", "device_s",
    "ratio", "ratio_low", "ratio_high", "predicted", "by", "residual", "base_joules_per_call", "device_joules_per_call",
    "base_joules_per_token", "device_joules_per_token", "base_of_roof", "device_of_roof", "base_mhz", "device_mhz",
)  # fmt: skip
# Where one provider overtakes another along the sequence length: `seq_len` at which their times are equal, with the
# ends of its interval, NaN beyond the measured lengths; `faster_below` and `faster_above` name who leads where.
CROSSOVERS = (
    "device", "operator", "mode", "series", "provider", "rival", "seq_len", "low", "high", "faster_below",
    "faster_above",
)  # fmt: skip
# What cannot be compared, and why.
REFUSED = ("base", "device", "row", "operator", "mode", "case", "provider", "reason")


@dataclass(frozen=True)
class Comparison:
    """devices: their names, the base first; roofs: one row per roof, a column per device; else see the names above."""

    devices: list[str]
    rows: pd.DataFrame
    roofs: pd.DataFrame
    crossovers: pd.DataFrame
    frontiers: pd.DataFrame
    refused: pd.DataFrame
