"""What follows from the samples: medians with their intervals, rates, and where a provider stands beside the others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import quantile_test

CONFIDENCE = 0.95
CASE = ["run", "operator", "mode", "other", "seq_len"]
# Above this many operations per byte that must move, throughput is told in FLOP/s, below it in bytes per second: the
# ridge of GPUs from A100 to H200 lies between 150 and 300, that of CPUs near 10.
INTENSE = 50.0


def derive(rows: pd.DataFrame) -> pd.DataFrame:
    """The table with what follows from its samples.

    median_s, low_s, high_s (95 % interval of the median), q1_s, q3_s, bytes_per_s, flop_per_s, over_naive, over_rival
    (how many times faster than the naive reference and than the strongest rival). The strongest rival of a provider is
    the fastest one on the same case, by median, that is neither naive nor one of our kernels nor the provider itself.
    """
    measured = rows[rows.status == "measured"] if len(rows) else rows
    spread = pd.DataFrame([_spread(samples) for samples in measured.get("samples_s", [])], index=measured.index)
    columns = ["median_s", "low_s", "high_s", "q1_s", "q3_s"]
    rows = rows.join(spread.reindex(columns=columns).astype(float))
    if not len(rows):
        return rows
    rows["bytes_per_s"] = rows.traffic_bytes / rows.median_s
    rows["flop_per_s"] = rows.flops / rows.median_s
    rows["over_naive"] = _times_faster(rows, rows.provider == "naive")
    rows["over_rival"] = _times_faster(rows, (rows.role != "kernel") & (rows.provider != "naive"))
    return rows


def _spread(samples: list[float]) -> dict[str, float]:
    """Median, quartiles, and the median's distribution-free interval from order statistics (NaN below 6 samples)."""
    q1, median, q3 = np.quantile(samples, [0.25, 0.5, 0.75])
    interval = quantile_test(samples, q=median, p=0.5).confidence_interval(CONFIDENCE)
    return {"median_s": median, "low_s": interval.low, "high_s": interval.high, "q1_s": q1, "q3_s": q3}


def _times_faster(rows: pd.DataFrame, among: pd.Series[bool]) -> pd.Series[float]:
    """How many times faster each row is than the fastest of `among` on its case, itself left out."""
    best = pd.Series(np.nan, index=rows.index)
    for _, case in rows.groupby(CASE, dropna=False, sort=False):
        others = case.median_s[among[case.index]].dropna()
        for index in case.index:
            rivals = others.drop(index, errors="ignore")
            if len(rivals):
                best[index] = rivals.min()
    return best / rows.median_s


@dataclass(frozen=True)
class Throughput:
    """How the throughput of an operator is told: the column of its rate and the unit of a plot."""

    column: str
    unit: str
    scale: float


def throughput(rows: pd.DataFrame) -> Throughput:
    """GB/s for operators that move much and compute little, TFLOP/s for the others, by the floors of their cases."""
    intensity = float((rows.flops / rows.traffic_bytes.clip(lower=1)).median())
    return (
        Throughput("flop_per_s", "TFLOP/s", 1e-12) if intensity > INTENSE else Throughput("bytes_per_s", "GB/s", 1e-9)
    )


@dataclass(frozen=True)
class Standing:
    """Where an operator stands in one mode, on its longest case: the fastest provider, and ours beside its rival."""

    operator: str
    mode: str
    case: str
    fastest: str
    median_s: float
    rival: str
    ours: str


def standings(rows: pd.DataFrame) -> list[Standing]:
    """One line per operator and mode, on the case with the longest sequence of which anything was measured."""
    return [
        _standing(str(operator), str(mode), each)
        for (operator, mode), each in rows.groupby(["operator", "mode"], sort=False)
    ]


def _standing(operator: str, mode: str, rows: pd.DataFrame) -> Standing:
    measured = rows[rows.median_s.notna()]
    kernels = rows[rows.role == "kernel"]
    absent = next(iter(kernels.reason), "") or "no kernel declared"
    if not len(measured):
        return Standing(operator, mode, "", "", float("nan"), "", absent)
    longest = measured.sort_values(["seq_len", "started"], na_position="first").iloc[-1]
    same = measured[
        (measured.other == longest.other) & (measured.seq_len.eq(longest.seq_len) | measured.seq_len.isna())
    ]
    same = same[same.run == longest.run].sort_values("median_s")
    fastest, ours = same.iloc[0], same[same.role == "kernel"]
    rivals = same[(same.role != "kernel") & (same.provider != "naive")]
    return Standing(
        operator=operator,
        mode=mode,
        case=label(longest),
        fastest=str(fastest.provider),
        median_s=float(fastest.median_s),
        rival=str(rivals.iloc[0].provider) if len(rivals) else "",
        ours=f"{ours.iloc[0].over_rival:.2f}x" if len(ours) else absent,
    )


def label(row: pd.Series) -> str:
    """A case as text, e.g. `llama3-8b, bf16, 2048`."""
    length = "" if pd.isna(row.seq_len) else str(int(row.seq_len))
    return ", ".join(part for part in (str(row.other), length) if part)
