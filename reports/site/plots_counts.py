"""Counts as SVG text: a roofline, and the bytes of each case as multiples of the floor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from reports import units
from reports.site.looks import LIGHT, MARKERS, OTHERS
from reports.site.plots import INK, STYLE, as_svg, clipped

PEAK_NAMES = {"fp32": "fp32 vector", "bf16": "bf16 tensor", "fp16": "fp16 tensor", "int8": "int8 tensor"}


def roofline(cases: pd.DataFrame, gpu: dict[str, Any], name: str) -> str:
    """Bounds over intensity, both logarithmic; a colour per operator, hollow markers for the backward."""
    # What computes nothing has no place on a roofline.
    known = cases[(cases.bound_s > 0) & (cases.floor_flops > 0) & (cases.intensity > 0) & np.isfinite(cases.intensity)]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.4, 4.2), layout="constrained")
        axes: Axes = figure.subplots()
        axes.set(
            xscale="log",
            yscale="log",
            xlabel="counted operations per byte moved",
            ylabel="bound, 10^12 operations per second",
        )
        places = known.intensity if len(known) else pd.Series([1.0])
        left, right = places.min() / 3, places.max() * 25  # to the right of all marks there is room for names of roofs
        _roofs(axes, gpu, sorted(set(known.unit) | {"fp32"}), left, right)
        _name_slope(axes, gpu, np.sort(np.log([left, *places, right])))
        for index, (operator, rows) in enumerate(known.groupby("operator")):
            colour = LIGHT[OTHERS[index % len(OTHERS)]]
            for mode, each in sorted(rows.groupby("mode"), key=lambda group: str(group[0]), reverse=True):
                axes.plot(
                    each.intensity, each.floor_flops / each.bound_s / 1e12, MARKERS[index % len(MARKERS)],
                    color=colour, markersize=7, markerfacecolor="none" if mode == "bwd" else colour,
                    label=clipped(f"{operator} {mode}", 40), zorder=3,
                )  # fmt: skip
        axes.set_xlim(left, right)
        for axis, (low, high) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
            # Within two decades powers of ten alone would leave an axis with one tick, or none.
            axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high / low < 100 else (1.0,)))
            axis.set_minor_locator(NullLocator())
            axis.set_major_formatter(FuncFormatter(lambda value, _: units.plain(value)))
        axes.grid(which="major")
        if len(known):
            # Above the axes, for inside them no corner is free in every roofline.
            figure.legend(frameon=False, fontsize=7.5, loc="outside upper left", ncols=4)
        return as_svg(figure, name)


def _name_slope(axes: Axes, gpu: dict[str, Any], places: Any) -> None:
    """The bandwidth beside its roof, in the widest gap that the marks leave there; logarithms of intensities."""
    ridge = np.log(max(gpu["peaks"].values(), default=1.0) / gpu["bandwidth"])
    angle = np.degrees(np.arctan(gpu["bandwidth"] / 1e12))
    places = np.append(places[places < ridge], ridge)
    widest = int(np.argmax(np.diff(places))) if len(places) > 1 else 0
    at = float(np.exp(places[widest : widest + 2].mean()))
    axes.text(
        at, at * gpu["bandwidth"] / 1e12 * 1.15, f"{units.digits(gpu['bandwidth'] / 1e12)} TB/s", fontsize=7.5,
        color=INK, rotation=angle, rotation_mode="anchor", transform_rotates_text=True, ha="center", va="bottom",
    )  # fmt: skip


def _roofs(axes: Axes, gpu: dict[str, Any], dtypes: Sequence[str], left: float, right: float) -> None:
    across = np.geomspace(left, right, 200)
    for dtype in dtypes:
        if dtype not in gpu["peaks"]:
            continue
        height = np.minimum(across * gpu["bandwidth"], gpu["peaks"][dtype]) / 1e12
        axes.plot(across, height, color=INK, linewidth=0.9, alpha=0.6, zorder=1)
        axes.annotate(
            f"{PEAK_NAMES.get(dtype, dtype)} {units.digits(gpu['peaks'][dtype] / 1e12)}",
            (right, height[-1]), xytext=(-3, 3), textcoords="offset points", ha="right", fontsize=7.5, color=INK,
        )  # fmt: skip


def bars(cases: pd.DataFrame, name: str) -> str:
    """What moved and, lighter, what was requested, as multiples of the floor; the axis is cut at eight."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.4, 0.9 + 0.24 * len(cases)), layout="constrained")
        axes: Axes = figure.subplots()
        cases = cases[np.isfinite(cases.traffic)]  # of what has no floor there is no multiple
        at = np.arange(len(cases))[::-1]
        asked = cases.traffic * cases.rereads.fillna(1)
        axes.barh(at, asked.clip(upper=8), color=LIGHT["sky"], alpha=0.35, height=0.72, label="requested")
        axes.barh(
            at, cases.traffic.clip(upper=8), color=LIGHT["blue"], height=0.72, label="moved (each byte once a launch)"
        )
        for height, moved, requested in zip(at, cases.traffic, asked, strict=True):
            text = f"{moved:.2f}x" if requested < 1.005 * moved else f"{moved:.2f}x, requested {requested:.2f}x"
            axes.text(min(requested, 8) + 0.06, height, text, va="center", fontsize=7, color=INK)
        axes.axvline(1, color=INK, linewidth=1)
        axes.set_yticks(at, [clipped(label, 40) for label in cases.label], fontsize=7.5)
        axes.set(xlim=(0, 10), xlabel="bytes, as multiples of the floor", ylim=(-0.7, len(cases) - 0.3))
        axes.tick_params(length=0)
        figure.legend(frameon=False, fontsize=7.5, loc="outside upper left", ncols=2)
        return as_svg(figure, name)
