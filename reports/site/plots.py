"""Panels as SVG text: time, throughput, peak memory and energy, one line per provider, bands from the raw samples."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, Locator, LogLocator, MaxNLocator, MultipleLocator, NullLocator

from reports import units
from reports.judge.derive import Throughput
from reports.site.looks import LIGHT, Look

# Drawn in these, then replaced by what the page's style says, so that a figure follows light and dark.
INK, RULE = "#010203", "#040506"
WIDTH_INCHES, HEIGHT_INCHES, LINE_INCHES = 3.7, 2.5, 0.21
TICKS = 7
# Of marker and line, by rank. Naive lies below and is broad: it shows where others lie upon it.
SIZES = {1: (5.5, 2.8), 2: (4.5, 1.4), 3: (4.5, 1.9)}

STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "rooftile",  # ids, and so the page, are the same for the same results
    "font.family": "sans-serif",
    "font.size": 8.5,
    "text.parse_math": False,
    "text.color": INK,
    "axes.edgecolor": RULE,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
}


@dataclass(frozen=True)
class Quantity:
    """What a panel shows: a column, the columns of its band (if any), and how its values are told."""

    title: str
    column: str
    band: tuple[str, str] | None
    text: Callable[[float], str]
    logarithmic: bool
    scale: float = 1.0


def quantities(told: Throughput, *, energy: bool) -> tuple[Quantity, ...]:
    """The panels of an operator whose throughput is told so; one of energy where there is any."""
    found = (Quantity("Energy per call", "joules_per_call", None, units.joules, logarithmic=True),) if energy else ()
    return (
        Quantity("Time per call", "median_s", ("q1_s", "q3_s"), units.seconds, logarithmic=True),
        Quantity(
            f"Throughput, {told.unit}", told.column, ("q3", "q1"), units.digits, logarithmic=False, scale=told.scale
        ),
        Quantity("Peak memory above inputs", "peak_bytes", None, units.size, logarithmic=True),
        *found,
    )


def panel(rows: pd.DataFrame, quantity: Quantity, look: dict[str, Look], name: str) -> str:
    """A panel of the measured rows of one facet: lines along `x`, or dots where there is but one. `name` is unique."""
    rows = rows.assign(q1=rows[quantity.column] * rows.median_s / rows.q1_s)
    rows = rows.assign(q3=rows[quantity.column] * rows.median_s / rows.q3_s)
    along = len(set(rows.x.dropna())) > 1
    with mpl.rc_context(STYLE):
        height = HEIGHT_INCHES if along else max(1.2, 0.7 + LINE_INCHES * len(rows))
        drawn = Figure(figsize=(WIDTH_INCHES, height))
        left, below, above = (0.19, 0.42, 0.12) if along else (0.33, 0.34, 0.12)
        axes = drawn.add_axes((left, below / height, 0.96 - left, 1 - (below + above) / height))
        axes.grid(visible=True, axis="y" if along else "x")
        (_lines if along else _dots)(axes, rows, quantity, look)
        return as_svg(drawn, name)


def swatch(look: Look, name: str) -> str:
    """A piece of a provider's line, for legends."""
    with mpl.rc_context(STYLE):
        drawn = Figure(figsize=(0.36, 0.18))
        axes = drawn.add_axes((0, 0, 1, 1))
        axes.axis("off")
        axes.set(xlim=(-1, 1), ylim=(-1, 1))
        axes.plot([-1, 0, 1], [0, 0, 0], markevery=[1], **_style(look))
        return as_svg(drawn, name)


def _lines(axes: Axes, rows: pd.DataFrame, quantity: Quantity, look: dict[str, Look]) -> None:
    for provider, line in rows.sort_values("x").groupby("provider", sort=False):
        style = _style(look[str(provider)])
        axes.plot(line.x, line[quantity.column] * quantity.scale, **style)
        if quantity.band:
            low, high = (line[name] * quantity.scale for name in quantity.band)
            axes.fill_between(line.x, low, high, color=style["color"], alpha=0.16, linewidth=0)
    places = sorted({float(x) for x in rows.x})
    while len(places) > TICKS:
        places = places[len(places) % 2 == 0 :: 2]
    axes.set_xscale("log", base=2)
    axes.set_xticks(places, [units.plain(place) for place in places])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(clipped(axis_title(rows.axis.iloc[0]), 40))
    _scale(axes, "y", rows, quantity)


def _dots(axes: Axes, rows: pd.DataFrame, quantity: Quantity, look: dict[str, Look]) -> None:
    """One line per provider, the fastest on top."""
    rows = rows.sort_values("median_s", ascending=False, kind="stable")
    for place, (_, row) in enumerate(rows.iterrows()):
        style = _style(look[str(row.provider)])
        if pd.isna(row[quantity.column]):
            axes.annotate("not measured", (0, place), (4, 0), textcoords="offset points", va="center")
            continue
        if quantity.band:
            ends = [row[name] * quantity.scale for name in quantity.band]
            axes.plot(ends, [place, place], color=style["color"], alpha=0.3, linewidth=5, solid_capstyle="butt")
        axes.plot([row[quantity.column] * quantity.scale], [place], **style)
    axes.set_yticks(range(len(rows)), [clipped(str(name), 16) for name in rows.provider])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.tick_params(axis="y", length=0)
    _scale(axes, "x", rows, quantity)


def _scale(axes: Axes, direction: Literal["x", "y"], rows: pd.DataFrame, quantity: Quantity) -> None:
    """The scale and the ticks of the quantity; says so where no row has it."""
    values = (rows[quantity.column] * quantity.scale).dropna()
    axis = axes.yaxis if direction == "y" else axes.xaxis
    if not len(values):
        axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", va="center")
        axis.set_ticks([])
        return
    if direction == "y" and quantity.logarithmic and values.max() > 0:
        _logarithmic(axes, values, binary=quantity.text is units.size)
    else:
        # A band that dwarfs every median would press all lines to the floor, so it may leave the panel at the top.
        most = min(axes.dataLim.max[0 if direction == "x" else 1], 2 * values.max()) or 1.0
        (axes.set_ylim if direction == "y" else axes.set_xlim)(0, 1.05 * most)
        axis.set_major_locator(_locator(quantity, 1.05 * most, 4 if direction == "x" else 5))
    axis.set_major_formatter(FuncFormatter(lambda value, _: _short(quantity.text(value))))


def _locator(quantity: Quantity, most: float, count: int) -> Locator:
    """Ticks from zero at round numbers: of bytes in binary, of all else in decimal."""
    if quantity.text is not units.size:
        return MaxNLocator(count, steps=[1, 2, 2.5, 5, 10])
    return MultipleLocator(2.0 ** np.ceil(np.log2(most / count)))


def _logarithmic(axes: Axes, values: pd.Series[float], *, binary: bool) -> None:
    """A logarithmic y axis, with a straight piece down to zero where some value is zero."""
    base = 2 if binary else 10
    if (values == 0).any():
        axes.set_yscale("symlog", linthresh=float(values[values > 0].min()), base=base)
        axes.set_ylim(0, None)
        return
    axes.set_yscale("log", base=base)
    bottom, top = axes.get_ylim()
    if top / bottom < 4:
        middle = float(np.sqrt(bottom * top))
        bottom, top = axes.set_ylim(middle / 2, middle * 2)
    if binary:
        octaves = max(1, round(np.log2(top / bottom) / 5))
        axes.yaxis.set_major_locator(LogLocator(base=2.0**octaves, numticks=12))
    else:
        subs = (1, 2, 3, 5) if top / bottom < 10 else (1, 3) if top / bottom < 300 else (1,)
        axes.yaxis.set_major_locator(LogLocator(subs=subs, numticks=12))
    axes.yaxis.set_minor_locator(NullLocator())


def _style(look: Look) -> dict[str, Any]:
    return {
        "color": LIGHT[look.colour],
        "marker": look.marker,
        "linestyle": look.line,
        "markersize": SIZES[look.rank][0],
        "linewidth": SIZES[look.rank][1],
        "zorder": 2 + look.rank,
    }


def axis_title(axis: str) -> str:
    """The name of an axis in words."""
    return {"seq_len": "sequence length"}.get(axis, axis.replace("_", " "))


def clipped(text: str, length: int) -> str:
    """Text on one line, shortened where it is too long for a plot."""
    text = " ".join(text.split())
    return text if len(text) <= length else f"{text[: length - 1]}\N{HORIZONTAL ELLIPSIS}"


def _short(text: str) -> str:
    """A tick's text without digits that say nothing, e.g. `100 ms` for `100.0 ms`, `0.5` for `0.500`."""
    return re.sub(r"(\.\d*?)0+(?=\D|$)", lambda found: "" if found[1] == "." else found[1], text)


def as_svg(drawn: Figure, name: str) -> str:
    """The figure as an SVG element, its ids unique on the page, its colours left to the page's style."""
    buffer = io.StringIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a font that lacks a letter only measures it wrongly: the browser draws it
        drawn.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<defs>\s*</defs>", "", text, flags=re.DOTALL)
    text = re.sub(r"\s+", " ", text)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(url\(|href=")#', rf"\1#{name}-", text)
    for colour, hexadecimal in LIGHT.items():
        text = text.replace(hexadecimal, f"var(--{colour})")
    return text.replace(INK, "currentColor").replace(RULE, "var(--rule)")
