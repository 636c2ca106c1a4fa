"""Plots of devices and of time are SVG, say what they must as text, keep to the palette, survive hostile names."""

from __future__ import annotations

import re
from dataclasses import replace
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from reports import units
from reports.judge.changes import changes
from reports.judge.hardware import Comparison, compare_devices
from reports.read.summary import History
from reports.site.plots_compare import ratios, roofs_bars, sparkline, timeline
from tests.simulated_past import names_of, noise, past
from tests.test_compare_devices import _both, _device

EVIL = "<script>alert('x')</script> & $x_1$"


def _words(svg: str, name: str) -> list[str]:
    """The texts of a drawing, which is well-formed, has ids of its own only, and no colour but those of the page."""
    tree = ET.fromstring(svg)
    assert all(each.get("id", name).startswith(name) for each in tree.iter())
    assert not re.findall(r"#[0-9a-f]{6}", svg)
    return ["".join(each.itertext()).strip() for each in tree.iter() if each.tag.endswith("text")]


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    other = _device("B", 1)
    slow = (other.rows.provider == "liger") & (other.rows.operator == "operator2")
    for column in ("median_s", "low_s", "high_s"):
        other.rows[column] = other.rows[column].where(~slow, other.rows[column] * 2)
    return compare_devices(_both(_device("A", 0), other))


@pytest.fixture(scope="module")
def moved() -> History:
    logs = noise((60, 100), 1)
    logs[30:, 4] += 0.12
    logs[50:] += 0.07
    return past(logs)


def test_ratios_name_the_rows_that_roofs_explain_least(comparison: Comparison) -> None:
    words = _words(ratios(comparison, "plot-1"), "plot-1")
    assert "operator2 fwd, liger" in words
    assert {"predicted by the roofs", "observed, times faster than on A", "kernel, B", "peer, B", "2x"} <= set(words)


def test_roofs_tell_what_was_measured_and_what_was_not(comparison: Comparison) -> None:
    words = _words(roofs_bars(comparison, "plot-2"), "plot-2")
    assert {"2.00 TB/s", "4.00 TB/s", "300 TFLOP/s", "4.00 us", "copy", "GEMM bf16", "times A"} <= set(words)
    lacking = replace(comparison, roofs=comparison.roofs.assign(B=np.nan))
    assert _words(roofs_bars(lacking, "plot-2"), "plot-2").count("not measured") == 3


def test_a_timeline_marks_changes_and_the_devices_own(moved: History) -> None:
    row = names_of(100).row[4]
    device, own = changes(moved)
    marks = f"{units.change(device.ratio)} device", units.change(own.ratio)
    words = _words(timeline(moved, "Simulated", row, [device, own], "plot-3"), "plot-3")
    assert {*marks, "Feb"} <= set(words)
    calm = _words(timeline(moved, "Simulated", names_of(100).row[5], changes(moved), "plot-3"), "plot-3")
    assert marks[0] in calm
    assert marks[1] not in calm, "the change of another row"


def test_what_holds_nothing_says_so(comparison: Comparison, moved: History) -> None:
    empty = replace(comparison, rows=comparison.rows.iloc[:0], roofs=comparison.roofs.iloc[:0])
    assert _words(ratios(empty, "a"), "a") == ["no row with a prediction"]
    assert _words(roofs_bars(empty, "a"), "a") == ["no roof was measured"]
    assert _words(timeline(moved, "Simulated", "none", [], "a"), "a") == ["not measured"]
    assert _words(sparkline([], "a"), "a") == []


def test_one_run_is_a_timeline_too(moved: History) -> None:
    words = _words(timeline(moved.of([0]), "Simulated", names_of(100).row[4], [], "a"), "a")
    assert "2026-01-01" in words


def test_a_sparkline_is_small_and_has_gaps() -> None:
    svg = sparkline([1.0, np.nan, 3.0, 2.0], "spark-1")
    assert not _words(svg, "spark-1")
    assert len(svg) < 3000
    assert "var(--ours)" in svg
    assert "var(--ours)" not in sparkline([1.0, np.nan], "spark-1")


def test_names_are_text_whatever_they_hold(comparison: Comparison) -> None:
    rows = comparison.rows.assign(operator=EVIL, base=EVIL)
    roofs = comparison.roofs.rename(columns={"A": EVIL}).assign(name=EVIL)
    hostile = replace(comparison, devices=[EVIL, "B"], rows=rows, roofs=roofs)
    for svg in (ratios(hostile, "a"), roofs_bars(hostile, "a")):
        assert any("<script>" in word for word in _words(svg, "a"))
        assert "<script" not in svg


def test_a_thousand_runs_make_a_small_drawing() -> None:
    history = past(noise((1000, 1), 0))
    assert len(timeline(history, "Simulated", names_of(1).row[0], [], "a")) < 120_000
