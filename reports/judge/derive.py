"""What follows from the samples: medians with their intervals, rates, and where a provider stands beside the others."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.stats import quantile_test

from reports.judge.roofs import INTEGERS, against_roofs
from reports.read.clocked import READINGS
from reports.read.record import label
from reports.read.run import Run

CONFIDENCE = 0.95
CASE = ["run", "operator", "mode", "case_id"]
# Above this many operations per byte that must move, throughput is told in FLOP/s, below it in bytes per second: the
# ridge of GPUs from A100 to H200 lies between 150 and 300, that of CPUs near 10.
INTENSE = 50.0

SPREAD = ("median_s", "low_s", "high_s", "q1_s", "q3_s")
RIVALRY = ("over_naive", "over_rival", "over_rival_low", "over_rival_high")


def derive(rows: pd.DataFrame, runs: Sequence[Run] = ()) -> pd.DataFrame:
    """The table with what follows from its samples.

    median_s, low_s, high_s (95 % interval of the median), q1_s, q3_s; bytes_per_s, flop_per_s; over_naive and
    over_rival (how many times faster than the naive reference and than the strongest rival), over_rival_low and _high
    (from the ends of both intervals, so wider than 95 %), rival (its name); axis and x (what a plot runs along), facet
    (the rest of the case, as text); what `_with_clock` and, given the runs, `against_roofs` say. The strongest rival of
    a provider is the fastest one, by median, on the same case of the same run that is neither naive nor one of our
    kernels nor the provider itself.
    """
    spread = _spread(rows.samples_s.tolist())
    rows = rows.assign(**{name: spread[:, i] for i, name in enumerate(SPREAD)})
    rows["bytes_per_s"] = rows.traffic_bytes / rows.median_s
    rows["flop_per_s"] = rows.flops / rows.median_s
    return against_roofs(_with_clock(_with_axes(_with_rivals(rows))), runs)


def _with_clock(rows: pd.DataFrame) -> pd.DataFrame:
    """What follows from other clocks, telemetry and memory; NaN where something for it is missing.

    warm_s: median where caches were left warm, by the clock of the row's samples; cold_over_warm; of each of READINGS
    the median over the rounds; cycles: of the SMs, at their median clock; energy_per_token_j: over the sequence length;
    peak_over_least: the peak of memory over the least that the results need.
    """
    warm = [others.get(f"{timer}_warm") for others, timer in zip(rows.others_s, rows.timer, strict=True)]
    measured = rows.median_s.notna()
    rows = rows.assign(warm_s=pd.Series([_median(samples) for samples in warm], rows.index, "float64").where(measured))
    for name in READINGS:
        read = [_median(telemetry.readings.get(name)) for telemetry in rows.telemetry]
        rows[name] = pd.Series(read, rows.index, dtype="float64")
    lengths = pd.Series([_number(point.get("seq_len")) for point in rows.point], rows.index, dtype="float64")
    return rows.assign(
        cold_over_warm=rows.median_s / rows.warm_s,
        cycles=rows.median_s * rows.sm_clock_hz,
        energy_per_token_j=rows.joules_per_call / lengths,
        peak_over_least=rows.peak_bytes / rows.least_bytes.where(rows.least_bytes > 0),
    )


def _median(values: Sequence[float] | None) -> float:
    return float(np.median(values)) if values else np.nan


def _spread(samples: Sequence[list[float]]) -> npt.NDArray[np.float64]:
    """Of each row median, its distribution-free interval from order statistics (NaN below 6 samples), and quartiles."""
    found = np.full((len(samples), len(SPREAD)), np.nan)
    places: defaultdict[int, list[int]] = defaultdict(list)
    for place, each in enumerate(samples):
        places[len(each)].append(place)
    for count, alike in places.items():
        if not count:
            continue
        ordered = np.sort([samples[place] for place in alike], axis=1)
        low, high = (_at(ordered, rank) for rank in _ranks(count))
        q1, median, q3 = np.quantile(ordered, [0.25, 0.5, 0.75], axis=1)
        found[alike] = np.stack([median, low, high, q1, q3], axis=1)
    return found


@cache
def _ranks(count: int) -> tuple[float, float]:
    """Which of so many ordered samples are the ends of the median's interval, from 0; NaN where none is.

    They follow from the number of samples alone, and a test of ranks costs as much as one of samples.
    """
    interval = quantile_test(range(count), q=0, p=0.5).confidence_interval(CONFIDENCE)
    return float(interval.low), float(interval.high)


def _at(ordered: npt.NDArray[np.float64], rank: float) -> npt.NDArray[np.float64]:
    return np.full(len(ordered), np.nan) if np.isnan(rank) else ordered[:, int(rank)]


def _with_rivals(rows: pd.DataFrame) -> pd.DataFrame:
    """Each row beside naive and beside the fastest other rival on its case."""
    measured = rows[rows.median_s.notna()].sort_values("median_s", kind="stable")
    cases: defaultdict[tuple[Any, ...], list[Any]] = defaultdict(list)
    for row in measured[[*CASE, "provider", "role", "median_s", "low_s", "high_s"]].itertuples():
        cases[row.run, row.operator, row.mode, row.case_id].append(row)
    found = {row.Index: _rivalry(row, raced) for raced in cases.values() for row in raced}
    values = [found.get(index, ("", (np.nan,) * len(RIVALRY))) for index in rows.index]
    rows = rows.assign(rival=pd.Series([name for name, _ in values], rows.index, dtype="object"))
    for i, name in enumerate(RIVALRY):
        rows[name] = pd.Series([ratios[i] for _, ratios in values], rows.index, dtype="float64")
    return rows


def _rivalry(row: Any, raced: Sequence[Any]) -> tuple[str, tuple[float, ...]]:
    """The name of a row's strongest rival and the ratios of RIVALRY; `raced` is its case, the fastest first."""
    naive = next((each.median_s for each in raced if each.provider == "naive" != row.provider), np.nan)
    rivals = (each for each in raced if each.role != "kernel" and each.provider not in ("naive", row.provider))
    if (best := next(rivals, None)) is None:
        return "", (naive / row.median_s, np.nan, np.nan, np.nan)
    ratios = best.median_s / row.median_s, best.low_s / row.high_s, best.high_s / row.low_s
    return best.provider, (naive / row.median_s, *ratios)


def _with_axes(rows: pd.DataFrame) -> pd.DataFrame:
    """What the plots of each operator run along, and what is left of its cases as text."""
    points: list[dict[str, Any]] = rows.point.tolist()
    operators = rows.operator.tolist()
    axes = {
        each: _axis([point for point, name in zip(points, operators, strict=True) if name == each])
        for each in {*operators}
    }
    axis = [axes[each] for each in operators]
    x = [_number(point.get(name)) for point, name in zip(points, axis, strict=True)]
    facets = [
        label({key: value for key, value in point.items() if key != name or np.isnan(at)})
        for point, name, at in zip(points, axis, x, strict=True)
    ]
    return rows.assign(
        axis=pd.Series(axis, rows.index, dtype="object"),
        facet=pd.Series(facets, rows.index, dtype="object"),
        x=pd.Series(x, rows.index, dtype="float64"),
    )


def _axis(points: list[dict[str, Any]]) -> str:
    """Sequence length where an operator has it, else the number that takes most values; empty if nothing varies."""
    values: dict[str, set[float]] = {}
    for point in points:
        for name, value in point.items():
            if not np.isnan(number := _number(value)):
                values.setdefault(name, set()).add(number)
    if "seq_len" in values:
        return "seq_len"
    most = max(values, key=lambda name: len(values[name]), default="")
    return most if most and len(values[most]) > 1 else ""


def _number(value: object) -> float:
    """A number that a logarithmic axis can hold, else NaN."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and value > 0 else np.nan


@dataclass(frozen=True)
class Throughput:
    """How the throughput of an operator is told: the column of its rate, the unit, and what one of it is."""

    column: str
    unit: str
    scale: float
    intensity: float


def throughput(rows: pd.DataFrame) -> Throughput:
    """GB/s for operators that move much and compute little, for others TFLOP/s, or TOP/s where they dot integers.

    By the floors of their cases.
    """
    intensity = float((rows.flops / rows.traffic_bytes.clip(lower=1)).median())
    if intensity > INTENSE:
        integers = bool(rows.unit.isin(INTEGERS).any())
        return Throughput("flop_per_s", "TOP/s" if integers else "TFLOP/s", 1e-12, intensity)
    return Throughput("bytes_per_s", "GB/s", 1e-9, intensity)
