"""Rows against the roofs that their own run measured, and these roofs beside the data sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from reports import units
from reports.judge.predict import Gpu, gpu_of
from reports.read.counts import Counts
from reports.read.run import Roof, Run

INTEGERS = ("int8",)
STREAMS = ("copy", "triad", "read")
NAMES = {"special": "special functions", "launch": "launch"}


def against_roofs(rows: pd.DataFrame, runs: Sequence[Run]) -> pd.DataFrame:
    """The table with `unit`, `least_s`, `roof` and `of_roof`.

    unit: the dtype that a row's operations run in, empty if unknown; least_s: the least time that the roofs of its run
    allow, the longer of its bytes at the fastest of copy, triad and read and its operations at the GEMM rate of its
    unit, by medians; NaN unless both are known; roof: which of them; of_roof: least_s over the median.
    """
    rates = {run.path: {roof.name: median(roof) for roof in run.roofs} for run in runs}
    found: list[tuple[str, str, float]] = []
    each: Any
    for each in rows[["run", "dtypes", "point", "traffic_bytes", "flops"]].itertuples():
        unit = _unit(each.dtypes, each.point)
        found.append((unit, *_least(each, unit, rates.get(each.run, {}))))
    rows = rows.assign(
        unit=pd.Series([unit for unit, _, _ in found], rows.index, dtype="object"),
        roof=pd.Series([roof for _, roof, _ in found], rows.index, dtype="object"),
        least_s=pd.Series([least for _, _, least in found], rows.index, dtype="float64"),
    )
    return rows.assign(of_roof=rows.least_s / rows.median_s)


def _unit(dtypes: Sequence[str], case: dict[str, Any]) -> str:
    """int8 or fp8 where an input is of it, for it came so that dots run in it; else what the case calls its dtype."""
    for dtype in dtypes:
        if dtype in INTEGERS or dtype.startswith(("fp8", "torch.float8")):
            return dtype if dtype in INTEGERS else "fp8"
    return str(case.get("dtype", ""))


def _least(row: Any, unit: str, rates: dict[str, float]) -> tuple[str, float]:
    bandwidth = max((rates[name] for name in STREAMS if not math.isnan(rates.get(name, math.nan))), default=math.nan)
    moving, computing = row.traffic_bytes / bandwidth, row.flops / rates.get(f"gemm_{unit}", math.nan)
    if math.isnan(moving) or math.isnan(computing):
        return "", math.nan
    return ("bandwidth", moving) if moving >= computing else (f"{unit} GEMM", computing)


def median(roof: Roof) -> float:
    """The median of what was measured, in the roof's unit; NaN where nothing was."""
    return float(np.median(roof.raw)) if roof.raw else math.nan


@dataclass(frozen=True)
class RoofLine:
    """A roof as text: what was measured, how far it spreads, the data sheet's figure and the share of it reached."""

    name: str
    measured: str
    spread: str
    sheet: str
    share: str
    reason: str


def roof_lines(run: Run, counts: Counts | None) -> list[RoofLine]:
    """The roofs of a run, beside the data sheet where the hardware table knows the device."""
    gpus = {} if counts is None else counts.gpus
    key = gpu_of(run.device, gpus)
    return [_line(roof, gpus[key] if key else None) for roof in run.roofs]


def _line(roof: Roof, gpu: Gpu | None) -> RoofLine:
    middle, sheet = median(roof), math.nan if gpu is None else _sheet(roof.name, gpu)
    spread = (max(roof.raw) - min(roof.raw)) / middle if len(roof.raw) > 1 else math.nan
    dtype = roof.name.removeprefix("gemm_")
    return RoofLine(
        name=f"{dtype} GEMM" if dtype != roof.name else NAMES.get(roof.name, roof.name),
        measured=_text(middle, roof),
        spread=units.percent(spread),
        sheet=_text(sheet, roof),
        share=units.percent(sheet / middle if roof.unit == "s" else middle / sheet),
        reason=roof.reason,
    )


def _sheet(name: str, gpu: Gpu) -> float:
    """What the data sheet says of a roof; NaN if nothing."""
    known: dict[str, float] = {"special": gpu["special"], "launch": gpu["launch_s"]}
    known |= {name: gpu["bandwidth"] for name in STREAMS}  # noqa: C420 - typed as Any, fromkeys makes it Any or None
    known |= {f"gemm_{dtype}": peak for dtype, peak in gpu["peaks"].items()}
    return known.get(name, math.nan)


def _text(value: float, roof: Roof) -> str:
    if roof.unit == "s":
        return units.seconds(value)
    floats = roof.name.startswith("gemm_") and roof.name.removeprefix("gemm_") not in INTEGERS
    return units.per_second(value, "B/s" if roof.unit == "byte/s" else "FLOP/s" if floats else "OP/s")
