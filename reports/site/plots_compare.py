"""Devices against each other and rows over time as SVG text. What they show in words is for the caller to say."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from reports import units
from reports.judge.changes import Change
from reports.judge.hardware import Comparison
from reports.judge.roofs import INTEGERS
from reports.read.summary import History
from reports.site.looks import LIGHT, MARKERS, OTHERS
from reports.site.plots import INK, RULE, STYLE, as_svg, clipped

ROLES = {"reference": "naive", "peer": "blue", "kernel": "ours"}
# So many rows are named that their roofs explain least, and so many runs still get a dot of their own.
EXTREMES = 4
DOTS = 120
# A name stands to the right of its dot up to this share of the panel's width, beyond it to the left.
ROOM = 0.7


def ratios(comparison: Comparison, name: str) -> str:
    """How many times faster each row is than on the base, against what the roofs predict: on the line they explain it.

    A marker per device, a colour per role, a bar for the 95 % interval; rows without a prediction are not drawn. `name`
    is unique on the page.
    """
    rows = comparison.rows[(comparison.rows.predicted > 0) & (comparison.rows.ratio > 0)]
    with mpl.rc_context(STYLE):
        drawn = Figure(figsize=(5.6, 4.2))
        axes = drawn.add_axes((0.12, 0.12, 0.85, 0.85))
        if not len(rows):
            return _empty(drawn, axes, "no row with a prediction", name)
        axes.grid(visible=True)
        for place, device in enumerate(comparison.devices[1:]):
            for role, colour in ROLES.items():
                _points(axes, rows[(rows.device == device) & (rows.role == role)], colour, place, f"{role}, {device}")
        _square(axes, rows)
        _extremes(axes, rows)
        axes.set_xlabel("predicted by the roofs")
        axes.set_ylabel(f"observed, times faster than on {clipped(comparison.devices[0], 30)}")
        axes.legend(loc="upper left", frameon=False, fontsize=7.5, handletextpad=0.2, borderaxespad=0.2)
        return as_svg(drawn, name)


def _points(axes: Axes, rows: pd.DataFrame, colour: str, place: int, label: str) -> None:
    if len(rows):
        marker = "o" if not place else MARKERS[(place - 1) % len(MARKERS)]
        look: Any = {"color": LIGHT[colour], "zorder": 4 if colour == "ours" else 3}
        axes.vlines(rows.predicted, rows.ratio_low, rows.ratio_high, alpha=0.45, linewidth=1, **look)
        axes.plot(rows.predicted, rows.ratio, marker, markersize=4, label=clipped(label, 40), **look)


def _square(axes: Axes, rows: pd.DataFrame) -> None:
    """The same logarithmic scale both ways, with the line on which roofs explain everything."""
    values = rows[["predicted", "ratio", "ratio_low", "ratio_high"]].to_numpy(dtype=np.float64)
    low, high = float(np.nanmin(values)) / 1.25, float(np.nanmax(values)) * 1.25
    axes.plot([low, high], [low, high], color=RULE, linewidth=1.2, linestyle="--", zorder=1)
    subs = (1, 1.2, 1.5, 2, 3, 5, 7) if high / low < 10 else (1, 2, 5) if high / low < 200 else (1,)
    for axis, scale in ((axes.xaxis, axes.set_xscale), (axes.yaxis, axes.set_yscale)):
        scale("log")
        axis.set_major_locator(LogLocator(subs=subs, numticks=12))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}x"))
    axes.set(xlim=(low, high), ylim=(low, high))


def _extremes(axes: Axes, rows: pd.DataFrame) -> None:
    """The names of the rows furthest from the line, one per operator, mode and provider, inside the panel."""
    apart = rows.assign(apart=np.abs(np.log(rows.residual))).sort_values("apart", ascending=False, kind="stable")
    low, high = axes.get_xlim()
    most = low * (high / low) ** ROOM
    for row in apart.drop_duplicates(["operator", "mode", "provider"]).head(EXTREMES).itertuples():
        right = row.predicted > most
        axes.annotate(
            clipped(f"{row.operator} {row.mode}, {row.provider}", 34),
            (row.predicted, row.ratio),
            (-6 if right else 6, 0),
            textcoords="offset points",
            ha="right" if right else "left",
            va="center",
            fontsize=7.5,
            zorder=5,
        )


def roofs_bars(comparison: Comparison, name: str) -> str:
    """What every device measured of itself, over the base: longer is better, for launches too. Figures at the bars."""
    devices, roofs = comparison.devices, comparison.roofs
    with mpl.rc_context(STYLE):
        lines = -(-len(devices) // 2) * 0.17
        height = 0.5 + lines + len(roofs) * (0.2 * len(devices) + 0.14)
        drawn = Figure(figsize=(5.6, height))
        axes = drawn.add_axes((0.19, 0.42 / height, 0.77, 1 - (0.47 + lines) / height))
        if not len(roofs):
            return _empty(drawn, axes, "no roof was measured", name)
        axes.grid(visible=True, axis="x")
        most = max(_bars(axes, roofs, devices[0], device, place) for place, device in enumerate(devices))
        middle = (len(devices) - 1) / 2
        step = len(devices) + 0.7
        axes.set_yticks(
            [step * place + middle for place in range(len(roofs))], [_roof_name(each) for each in roofs.name]
        )
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(step * len(roofs) - 1, -0.8)
        axes.set_xlim(0, 1.3 * most)
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}x"))
        axes.set_xlabel(f"times {clipped(devices[0], 40)}")
        drawn.legend(loc="upper left", ncols=2, frameon=False, fontsize=7.5, borderaxespad=0.1)
        return as_svg(drawn, name)


def _bars(axes: Axes, roofs: pd.DataFrame, base: str, device: str, place: int) -> float:
    """The bars of one device, each with its figure; the length of the longest."""
    times = roofs.unit == "s"
    over = (roofs[device] / roofs[base]).where(~times, roofs[base] / roofs[device])
    step = len([column for column in roofs.columns if column not in ("name", "unit")]) + 0.7
    at = [step * number + place for number in range(len(roofs))]
    axes.barh(at, over.fillna(0), 0.9, color=LIGHT[OTHERS[place % len(OTHERS)]], label=clipped(device, 40))
    for y, length, name, value, unit in zip(at, over, roofs.name, roofs[device], roofs.unit, strict=True):
        text = _measured(str(name), float(value), str(unit)) if np.isfinite(value) else "not measured"
        axes.annotate(text, (length if np.isfinite(length) else 0, y), (4, 0), textcoords="offset points", va="center")
    return float(over.max()) if over.notna().any() else 1.0


def _measured(name: str, value: float, unit: str) -> str:
    if unit == "s":
        return units.seconds(value)
    floats = name.startswith("gemm_") and name.removeprefix("gemm_") not in INTEGERS
    return units.per_second(value, "B/s" if unit == "byte/s" else "FLOP/s" if floats else "OP/s")


def _roof_name(name: str) -> str:
    return clipped(name.replace("gemm_", "GEMM ").replace("_", " "), 16)


def timeline(history: History, device: str, row: str, changes: Iterable[Change], name: str) -> str:
    """One row of one device over time: medians, the band of their 95 % intervals, and its changes with their size.

    Those that two runs confirm are full lines, others dashed. The device's own are drawn as well, in grey. Runs whose
    time of start is unknown are left out.
    """
    runs = history.runs[(history.runs.device == device) & history.runs.started.notna()]
    rows = history.rows[
        (history.rows.row == row) & history.rows.run.isin(runs.run) & (history.rows.status == "measured")
    ]
    points = rows.merge(runs[["run", "started"]], on="run").sort_values(["started", "run"], kind="stable")
    with mpl.rc_context(STYLE):
        drawn = Figure(figsize=(5.6, 2.1))
        axes = drawn.add_axes((0.12, 0.22, 0.86, 0.6))  # below the days stand their month and year, above two lines
        if not len(points):
            return _empty(drawn, axes, "not measured", name)
        when = _dates(points.started)
        colour = LIGHT[ROLES.get(str(points.role.iloc[-1]), "blue")]
        axes.grid(visible=True, axis="y")
        axes.fill_between(when, points.low_s, points.high_s, color=colour, alpha=0.2, linewidth=0)
        dots = "o" if len(points) <= DOTS else ""
        axes.plot(when, points.median_s, color=colour, marker=dots, markersize=2.5, linewidth=1.1)
        marked = [
            each for each in changes if each.device == device and each.row in (row, "") and pd.notna(each.started)
        ]
        for each in marked:
            _mark(axes, each)
        _times(axes, points)
        return as_svg(drawn, name)


def _dates(started: Sequence[pd.Timestamp] | pd.Series) -> np.ndarray[tuple[int], np.dtype[np.datetime64]]:
    return pd.to_datetime(pd.Series(list(started)), utc=True).dt.tz_localize(None).to_numpy()


def _mark(axes: Axes, change: Change) -> None:
    when = _dates([change.started])[0]
    ink = INK if change.row else LIGHT["naive"]
    axes.axvline(when, color=ink, linewidth=1, linestyle="-" if change.confirmed else ":")
    axes.annotate(
        units.change(change.ratio) + ("" if change.row else " device"),
        (when, 1),
        (0, 2 if change.row else 11),  # of a row and of its device one run may hold both
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        ha="center",
        fontsize=7.5,
        annotation_clip=False,
    )


def _times(axes: Axes, points: pd.DataFrame) -> None:
    """Times from zero would hide what changes: the scale spans the medians, with room, and at least a tenth of them."""
    low, high = float(points.median_s.min()), float(points.median_s.max())
    room = max(0.05 * high, 0.25 * (high - low))
    axes.set_ylim(max(0.0, low - room), high + room)
    axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: units.seconds(value)))
    locator = AutoDateLocator(minticks=3, maxticks=6)  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
    if points.started.min() == points.started.max():
        axes.xaxis.set_ticks(_dates(points.started)[:1], [points.started.iloc[0].strftime("%Y-%m-%d")])


def sparkline(values: Sequence[float], name: str) -> str:
    """A few values in the height of a line of text, the newest marked; gaps where they are NaN."""
    known = np.asarray(values, dtype=np.float64)
    with mpl.rc_context(STYLE):
        drawn = Figure(figsize=(1.2, 0.24))
        axes = drawn.add_axes((0.02, 0.12, 0.94, 0.76))
        axes.axis("off")
        axes.plot(known, color=INK, linewidth=1, clip_on=False)
        if len(known) and np.isfinite(known[-1]):
            axes.plot([len(known) - 1], known[-1:], "o", color=LIGHT["ours"], markersize=3, clip_on=False)
        return as_svg(drawn, name)


def _empty(drawn: Figure, axes: Axes, words: str, name: str) -> str:
    axes.axis("off")
    axes.text(0.5, 0.5, words, transform=axes.transAxes, ha="center", va="center")
    return as_svg(drawn, name)
