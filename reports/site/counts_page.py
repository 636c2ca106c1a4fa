"""The counts on a page: a roofline, the multiples of the floor, and both as tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from reports.judge.predict import counted, floor, gpu_of, main_unit, multiples, uncached_s
from reports.read.counts import Counts
from reports.site.drawing import Job
from reports.site.plots_counts import bars, roofline

DEFAULT_GPU = "h200"
TARGETS = ("sm_80", "sm_90", "sm_100", "gfx942")


@dataclass(frozen=True)
class CountsSection:
    """What a page shows of counts: two plots, to be drawn, and text and numbers for the cells of two tables."""

    gpu: str
    versions: dict[str, str]
    roofline: Job
    roofline_alt: str
    bars: Job
    bars_alt: str
    cases: list[dict[Any, Any]]
    resources: list[dict[Any, Any]]
    spilling: int


def counts_section(counts: Counts, devices: Sequence[str], operator: str, name: str) -> CountsSection | None:
    """The section for the first of these devices that the hardware table knows, else the H200; None of no counts.

    name: what the names of its plots end in, unique in the site.
    """
    of_cases, of_resources = (each[each.operator == operator] for each in (counts.cases, counts.resources))
    if not counts.gpus or of_cases.provider.isna().all():
        return None
    gpu = _chosen(counts, devices)
    cases = _bounded(of_cases, gpu)
    resources = of_resources[of_resources.default & of_resources.target.isin(TARGETS)]
    spills = resources[resources.spills_bytes.fillna(0) > 0]
    furthest = cases.sort_values("traffic", na_position="first").iloc[-1]
    return CountsSection(
        gpu=gpu["name"],
        versions=counts.versions,
        roofline=Job(f"roofline-{name}", roofline, (cases, gpu, f"roofline-{name}")),
        roofline_alt=(
            f"Roofline of {gpu['name']}: the bound on the throughput of {len(cases)} counted cases against their "
            "operations per byte. " + "; ".join(f"{row.label} is bound by {row.roof}" for _, row in cases.iterrows())
        ),
        bars=Job(f"multiples-{name}", bars, (cases, f"multiples-{name}")),
        bars_alt=f"Bytes moved as multiples of the floor; the largest is {furthest.label} with {furthest.traffic:.2f}.",
        cases=cases.to_dict("records"),
        resources=resources.sort_values(["operator", "mode", "kernel", "configuration"]).to_dict("records"),
        spilling=len(spills),
    )


def bounded(counts: Counts, devices: Sequence[str]) -> pd.DataFrame:
    """All counted cases with their multiples and bounds on the GPU that a section shows, whose name is `gpu`."""
    if not counts.gpus or counts.cases.provider.isna().all():
        return pd.DataFrame()
    gpu = _chosen(counts, devices)
    return _bounded(counts.cases, gpu).assign(gpu=gpu["name"])


def _chosen(counts: Counts, devices: Sequence[str]) -> dict[str, Any]:
    known = [key for device in devices if (key := gpu_of(device, counts.gpus))]
    return counts.gpus.get(known[0] if known else DEFAULT_GPU) or next(iter(counts.gpus.values()))


def _bounded(cases: pd.DataFrame, gpu: dict[str, Any]) -> pd.DataFrame:
    """The counted cases with their multiples, bounds on this GPU and a label."""
    found = multiples(cases).sort_values(["operator", "mode", "case"], ascending=[True, False, True])
    least = [floor(row, gpu) for _, row in found.iterrows()]
    bound = [counted(row, gpu) for _, row in found.iterrows()]
    return found.assign(
        label=found.operator + " " + found["mode"] + " " + found.case.str.partition("-seq_len")[0],
        unit=[main_unit(row) for _, row in found.iterrows()],
        floor_s=[each.seconds for each in least],
        bound_s=[each.seconds for each in bound],
        uncached_s=[uncached_s(row, gpu) for _, row in found.iterrows()],
        roof=[each.roof for each in bound],
        intensity=_operations(found) / found.footprint_bytes,
    )


def _operations(cases: pd.DataFrame) -> pd.Series:
    return cases["dots"].map(lambda each: sum(each.values())) + cases.vector_flops + cases.special
