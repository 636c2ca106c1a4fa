"""Bounds on time that follow from counts and data sheets. Nothing here is measured.

Each roof of a GPU gives a time: bytes over bandwidth, operations over the peak of the unit that does them, results of
special functions over their rate, launches times the shortest launch. The largest binds. What a cache hands from one
launch to the next, or has yet to write back when the clock stops, is charged to memory all the same: where that is much
of what moved, a kernel can be faster than its bound by bandwidth.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pandas as pd

Gpu = dict[str, Any]
# The dtypes whose dots do not run on tensor cores, but on the units that do all other arithmetic.
VECTOR = ("fp32", "fp64")
# In the name of a device, what does not tell one board of the table from another; all else must match.
DECORATION = re.compile(r"|nvidia|amd|tesla|geforce|instinct|oam|sxm\d?|hbm\d?e?")


@dataclass(frozen=True)
class Bound:
    """The least time that a case can take on a GPU, in seconds, and the roof that says so.

    seconds is NaN, and roof the reason, where the table lacks the peak of a dtype.
    """

    seconds: float
    roof: str


def floor(case: pd.Series, gpu: Gpu) -> Bound:
    """By the fewest bytes and operations, as the operator states them; all operations run where its dots do."""
    unit = main_unit(case)
    tensor = unit not in VECTOR
    return _longest(
        {
            "bandwidth": case.floor_bytes / gpu["bandwidth"],
            "tensor core" if tensor else "vector unit": _over_peak(case.floor_flops, gpu, unit),
        },
        gpu,
        [unit],
    )


def main_unit(case: pd.Series) -> str:
    """The dtype of most of a case's dots, which says on what its operations run; fp32 where there is no dot."""
    dots = case["dots"]
    return max(dots, key=lambda dtype: dots[dtype]) if dots else "fp32"


def counted(case: pd.Series, gpu: Gpu) -> Bound:
    """By what was counted, if caches serve every byte that one launch asks for again."""
    tensor = {dtype: flops for dtype, flops in case["dots"].items() if dtype not in VECTOR}
    vector = case.vector_flops + sum(flops for dtype, flops in case["dots"].items() if dtype in VECTOR)
    return _longest(
        {
            "bandwidth": case.footprint_bytes / gpu["bandwidth"],
            "tensor core": sum(_over_peak(flops, gpu, dtype) for dtype, flops in tensor.items()),
            "vector unit": _over_peak(vector, gpu, "fp32"),
            "special functions": case.special / gpu["special"],
            "launch": case.launches * gpu["launch_s"],
        },
        gpu,
        tensor,
    )


def uncached_s(case: pd.Series, gpu: Gpu) -> float:
    """Seconds that the bandwidth takes if no cache serves a byte that is asked for again: the worst, not a bound."""
    return float(case.requested_bytes / gpu["bandwidth"])


def gpu_of(device: str, gpus: Iterable[str]) -> str | None:
    """The key of the GPU that torch calls so, e.g. h100 of `NVIDIA H100 80GB HBM3`; None for any other board."""
    words = [word for word in re.split(r"[^a-z0-9]+", device.lower()) if not DECORATION.fullmatch(word)]
    whole = "".join(word.removesuffix("gb") for word in words)
    less = "".join(word for word in words if not re.fullmatch(r"\d+gb", word))
    keys = {key.replace("-", ""): key for key in gpus}
    return keys.get(whole) or keys.get(less)


def _over_peak(flops: float, gpu: Gpu, dtype: str) -> float:
    peak = gpu["peaks"].get(dtype)
    return flops / peak if peak else math.nan


def _longest(times: dict[str, float], gpu: Gpu, dtypes: Iterable[str]) -> Bound:
    missing = [dtype for dtype in dtypes if dtype not in gpu["peaks"]]
    if missing:
        return Bound(math.nan, f"no {' or '.join(missing)} peak")
    roof = max(times, key=lambda name: times[name])
    return Bound(times[roof], roof)


def multiples(cases: pd.DataFrame) -> pd.DataFrame:
    """The counted cases, with what they moved and computed as multiples of their floor.

    `traffic`: footprint over floor; `rereads`: requested bytes over footprint, which caches must serve; `work`:
    operations over floor, those of dots where there are dots (an operator states no others then).
    """
    found = cases[cases.provider.notna()].copy()
    dots = found["dots"].map(lambda each: sum(each.values()))
    return found.assign(
        traffic=found.footprint_bytes / found.floor_bytes,
        rereads=found.requested_bytes / found.footprint_bytes,
        work=dots.where(dots > 0, found.vector_flops + found.special) / found.floor_flops,
    )
