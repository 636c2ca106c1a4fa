"""Figures as SVG text: time, throughput and peak memory against sequence length, one line per provider."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from reports import units
from reports.derive import throughput

# Okabe and Ito's palette, which colour-blind readers can tell apart, without its yellow (too faint on white). Markers
# differ as well. Ours is always vermilion.
OURS = "#d55e00"
COLOURS = ("#0072b2", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#7f5fc7", "#8c6d31", "#5d8a8a")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
# Drawn in these, then replaced by what the page's style says, so that a figure follows light and dark.
INK, GRID = "#010203", "#040506"
PANEL_INCHES = (3.6, 2.9)

STYLE: Any = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "text.parse_math": False,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": INK,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
}


def looks(providers: Sequence[str], kernels: set[str]) -> dict[str, tuple[str, str]]:
    """Colour and marker of every provider, the same all over a page: naive in ink, our kernels vermilion."""
    others = [name for name in providers if name != "naive" and name not in kernels]
    found = {name: (COLOURS[i % len(COLOURS)], MARKERS[1 + i % (len(MARKERS) - 1)]) for i, name in enumerate(others)}
    found |= {name: (OURS, MARKERS[i % len(MARKERS)]) for i, name in enumerate(sorted(kernels))}
    return found | {"naive": (INK, "o")}


def figure(rows: pd.DataFrame, look: dict[str, tuple[str, str]], name: str) -> str:
    """The three panels of one operator, mode and combination of other axes, as SVG. `name` makes its ids unique."""
    rows = rows[rows.median_s.notna()].sort_values("seq_len")
    told = throughput(rows)
    with mpl.rc_context(STYLE):
        drawn = Figure(figsize=(3 * PANEL_INCHES[0], PANEL_INCHES[1] + 0.5), layout="constrained")
        time, rate, memory = drawn.subplots(1, 3)
        for provider, line in rows.groupby("provider", sort=False):
            colour, marker = look[str(provider)]
            style = {"color": colour, "marker": marker, "markersize": 4, "linewidth": 1.4, "label": str(provider)}
            time.plot(line.seq_len, line.median_s, **style)
            time.fill_between(line.seq_len, line.q1_s, line.q3_s, color=colour, alpha=0.18, linewidth=0)
            rate.plot(line.seq_len, line[told.column] * told.scale, **style)
            work = line[told.column] * line.median_s * told.scale
            rate.fill_between(line.seq_len, work / line.q3_s, work / line.q1_s, color=colour, alpha=0.18, linewidth=0)
            memory.plot(line.seq_len, line.peak_bytes, **style)
        lengths = sorted({int(length) for length in rows.seq_len})
        _panel(time, "time per call (band: quartiles)", lengths, units.seconds)
        _panel(rate, f"throughput, {told.unit}", lengths, lambda value: f"{value:g}")
        _panel(memory, "peak memory above inputs", lengths, units.size)
        handles, labels = time.get_legend_handles_labels()
        drawn.legend(handles, labels, loc="outside lower center", ncols=min(8, len(labels)), frameon=False)
        return _svg(drawn, name)


def _panel(axes: Axes, title: str, lengths: list[int], text: Callable[[float], str]) -> None:
    """Both axes logarithmic; ticks at the lengths that were run, and at round numbers of the quantity."""
    axes.set_title(title, loc="left")
    axes.set_xlabel("sequence length")
    axes.set_xscale("log", base=2)
    axes.set_xticks(lengths, [str(length) for length in lengths])
    axes.xaxis.set_minor_locator(NullLocator())
    if not any((np.asarray(line.get_ydata(), float) > 0).any() for line in axes.lines):
        axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center")
        axes.set_yticks([])
        return
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    if text is units.size:
        axes.yaxis.set_major_locator(LogLocator(base=2, numticks=7))
    elif high / low < 30:  # less than a decade and a half: decades alone would leave the axis without numbers
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(text(value))))
    axes.grid(visible=True, which="major")


def _short(text: str) -> str:
    """A tick's text without digits that say nothing, e.g. `100 ms` for `100.0 ms`."""
    return re.sub(r"(\d)\.0+(?=\D|$)", r"\1", text)


def _svg(drawn: Figure, name: str) -> str:
    """The figure as an inline SVG element, its ids unique on the page, ink and grid left to the page's style."""
    buffer = io.StringIO()
    drawn.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(url\(|href=")#', rf"\1#{name}-", text)
    return text.replace(INK, "currentColor").replace(GRID, "var(--rule)")
