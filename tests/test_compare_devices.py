"""Two devices whose truth is known: what is observed, what their roofs predict, what is refused, where lines cross."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from reports.judge.between import over
from reports.judge.crossover import CROSSOVERS, crossings, crossovers
from reports.judge.hardware import CAVEAT, FRONTIERS, REFUSED, ROWS, Comparison, compare_devices
from reports.judge.portability import PORTABILITY
from reports.judge.sides import sides
from reports.read.summary import FRONTIERS as FOUND
from reports.read.summary import History
from tests.simulated_past import VERSIONS, history_of, names_of, rows_of, runs_of

LENGTHS = (512, 1024, 2048, 4096, 8192, 16384)
BANDWIDTH, GEMM, LAUNCH = {"A": 2e12, "B": 4e12}, {"A": 300e12, "B": 900e12}, {"A": 4e-6, "B": 2e-6}
NAMES = names_of(60)
# What a row must move and compute: operators of even number are bound by bytes, of odd number by operations.
BYTES = NAMES.seq_len * 2e4
FLOPS = BYTES * np.where(NAMES.operator.str[-1].astype(int) % 2 == 0, 1.0, 2000.0)


def _least(device: str) -> pd.Series:
    return pd.Series(np.maximum(BYTES / BANDWIDTH[device], FLOPS / GEMM[device]))


def _device(device: str, first: int, reached: float = 0.8, **facts: Any) -> History:
    """One run of a device on which all rows reach so much of their roof, but no less than a launch takes."""
    runs = runs_of(1, device, first, **({"commit": "c" * 40} | facts))
    least = _least(device)
    bound = np.maximum(least, LAUNCH[device])
    rows = rows_of(runs, NAMES, np.log(np.asarray(bound)[None, :] / reached))
    rows = rows.assign(
        least_s=least, traffic_bytes=BYTES, flops=FLOPS, joules_per_call=rows.median_s * 500, sm_clock_hz=1.98e9,
        energy_per_token_j=rows.median_s * 500 / NAMES.seq_len,
        roof=np.where(BYTES / BANDWIDTH[device] >= FLOPS / GEMM[device], "bandwidth", "bf16 GEMM"),
    )  # fmt: skip
    found = [
        (first, "copy", "byte/s", BANDWIDTH[device], np.nan, np.nan, ""),
        (first, "gemm_bf16", "op/s", GEMM[device], np.nan, np.nan, ""),
        (first, "launch", "s", LAUNCH[device], np.nan, np.nan, ""),
    ]
    return history_of(runs, rows, found)


def _both(*parts: History) -> History:
    return History(
        *(
            pd.concat([getattr(part, name) for part in parts], ignore_index=True)
            for name in ("runs", "rows", "roofs", "frontiers")
        )
    )


def _compared(change: dict[str, Any] | None = None, **facts: Any) -> Comparison:
    """A beside B, of which the rows of a provider are changed."""
    other = _device("B", 1, **facts)
    for name, value in (change or {}).items():
        old = other.rows[name] if other.rows[name].dtype.kind == "f" else other.rows[name].astype(str)
        other.rows[name] = old.where(other.rows.provider != "triton", value)
    return compare_devices(_both(_device("A", 0), other))


def test_a_kernel_that_reaches_the_same_share_of_both_roofs_is_explained() -> None:
    found = _compared()
    assert found.devices == ["A", "B"]
    assert list(found.rows.columns) == list(ROWS)
    assert len(found.rows) == len(NAMES)
    assert found.rows.residual.to_numpy() == pytest.approx(1)
    assert set(zip(found.rows.by, found.rows.predicted.round(3), strict=True)) == {
        ("bandwidth", 2.0), ("bf16 GEMM", 3.0),
    }  # fmt: skip
    assert (found.rows.ratio_low < found.rows.ratio).all()
    assert (found.rows.ratio < found.rows.ratio_high).all()
    row = found.rows.iloc[0]
    assert (row.base, row.device, row.base_mhz, row.base_of_roof) == ("A", "B", 1980, pytest.approx(0.8))
    assert row.base_joules_per_call == pytest.approx(row.base_s * 500)
    assert row.device_joules_per_token == pytest.approx(row.device_s * 500 / row.seq_len)
    assert not len(found.refused)


def test_what_roofs_do_not_explain_is_the_residual() -> None:
    found = compare_devices(_both(_device("A", 0), _device("B", 1, reached=0.4)))
    assert found.rows.residual.to_numpy() == pytest.approx(0.5)
    assert found.rows.device_of_roof.to_numpy() == pytest.approx(0.4)


def test_small_cases_are_bound_by_a_launch_except_in_a_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LAUNCH, "A", 8e-6)
    found = _compared()
    small = found.rows[(found.rows.seq_len == 512) & (found.rows.operator == "operator0")]
    assert set(small.by) == {"launch / bandwidth"}
    assert small.predicted.to_numpy() == pytest.approx(8e-6 / (512 * 2e4 / 4e12))
    assert found.rows.residual.to_numpy() == pytest.approx(1)
    history = _both(_device("A", 0), _device("B", 1))
    history.rows["timer"] = "graph"
    graph = compare_devices(history).rows
    assert "launch" not in " ".join(graph.by)


def test_without_roofs_nothing_is_predicted() -> None:
    history = _both(_device("A", 0), _device("B", 1))
    history.rows.loc[history.rows.run == 1, "least_s"] = np.nan
    found = compare_devices(replace(history, roofs=history.roofs[history.roofs.run == 0]))
    assert found.rows.predicted.isna().all()
    assert found.rows.ratio.notna().all()
    assert found.roofs.B.isna().all()


def test_roofs_stand_beside_each_other() -> None:
    roofs = _compared().roofs.set_index("name")
    assert list(roofs.columns) == ["unit", "A", "B"]
    assert list(roofs.loc["copy"]) == ["byte/s", 2e12, 4e12]
    assert list(roofs.loc["launch"]) == ["s", 4e-6, 2e-6]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"status": "invalid", "reason": "above a roof\nby far"}, "invalid on B: above a roof"),
        ({"status": "absent", "reason": "No module named 'x'"}, "absent on B: No module named 'x'"),
        ({"status": "failed"}, "failed on B"),
        ({"timer": "graph"}, "another clock: device on A, graph on B"),
        ({"traffic_bytes": 1.0}, "another amount of work: the case has other bytes on A than on B"),
        ({"flops": 1.0}, "another amount of work: the case has other operations on A than on B"),
        ({"row": "elsewhere"}, "B has no such row"),
    ],
)
def test_rows_that_are_not_alike_are_refused_with_their_reason(change: dict[str, Any], reason: str) -> None:
    found = _compared(change)
    assert set(found.rows.provider) == {"naive", "inductor", "eager", "liger"}
    refused = found.refused[found.refused.reason == reason]
    assert list(refused.columns) == list(REFUSED)
    assert len(refused) == 12
    assert set(refused.provider) == {"triton"}
    assert set(refused.row) == set(NAMES.row[NAMES.provider == "triton"])
    assert set(refused.operator) <= set(NAMES.operator)


def test_what_differs_but_is_compared_is_named() -> None:
    newer = json.dumps(VERSIONS | {"triton": "3.7.1"})
    found = _compared(kind="cpu", versions=newer, commit="d" * 40, options=json.dumps({"tune": "first"}))
    assert len(found.rows) == len(NAMES)
    assert list(found.refused.reason) == [
        f"{CAVEAT}cuda against cpu, each by the clock of its kind",
        f"{CAVEAT}commit {'c' * 12} against {'d' * 12}",
        f"{CAVEAT}triton 3.6.0 against 3.7.1",
        f"{CAVEAT}tune full against first",
    ]
    assert set(found.refused.row) == {""}


@pytest.mark.parametrize(
    ("timer", "kind", "compared"), [("host", "cpu", True), ("graph", "cpu", False), ("host", "cuda", False)]
)
def test_a_cpu_is_held_against_a_gpu_by_the_clock_of_each(timer: str, kind: str, compared: bool) -> None:
    other = _device("B", 1, kind=kind)
    other.rows["timer"] = timer
    assert bool(len(compare_devices(_both(_device("A", 0), other)).rows)) == compared


@pytest.mark.parametrize(
    ("facts", "change", "reason"),
    [
        ({"dirty": True}, {}, "all its runs are of trees with changes"),
        (
            {"options": json.dumps({"config_from": "a.json"})},
            {},
            "all its clean runs had the configurations of another run (--config-from)",
        ),
        ({}, {"status": "absent"}, "none of its clean runs has a measured row"),
    ],
)
def test_a_device_without_a_run_that_counts_is_left_out(facts: Any, change: Any, reason: str) -> None:
    other = _device("B", 1, **facts)
    other.rows = other.rows.assign(**change)
    found = compare_devices(_both(_device("A", 0), other))
    assert found.devices == ["A"]
    assert not len(found.rows)
    assert list(found.refused.reason) == [reason]
    assert list(found.refused.base) == ["B"]


def test_devices_stand_with_their_newest_common_commit_and_each_row_with_its_newest_time() -> None:
    shared, newest = _device("A", 0, reached=0.5), _device("A", 3, commit="e" * 40)
    again, other = _device("A", 2, reached=0.8), _device("B", 1)
    again.rows = again.rows[again.rows.provider == "triton"]
    found = sides(_both(shared, other, again, newest), ["A", "B"])
    assert list(found["A"].runs.run) == [0, 2]
    assert set(found["A"].rows.run[found["A"].rows.provider == "triton"]) == {2}
    assert set(found["A"].rows.run[found["A"].rows.provider == "eager"]) == {0}
    assert list(sides(_both(shared, newest), ["A"])["A"].runs.run) == [3]


def test_any_number_of_devices_is_held_against_the_first_that_is_named() -> None:
    third = _device("B", 2)
    third.runs["device"] = "C"
    history = _both(_device("A", 0), _device("B", 1), third)
    found = compare_devices(history, ["B", "C", "A"])
    assert found.devices == ["B", "C", "A"]
    assert found.rows.groupby("device", sort=False).ratio.median().round(2).to_dict() == {"C": 1.0, "A": 0.5}
    assert len(compare_devices(history, ["C"]).rows) == 0
    with pytest.raises(ValueError, match="devices: expected names among A, B, C, got X"):
        compare_devices(history, ["A", "X"])


def test_no_history_is_no_comparison() -> None:
    empty = _device("A", 0).of([])
    found = compare_devices(empty)
    assert (found.devices, len(found.rows), len(found.refused)) == ([], 0, 0)
    assert list(found.rows.columns) == list(ROWS)
    assert list(found.crossovers.columns) == list(CROSSOVERS)


def test_frontiers_are_those_of_the_newest_run_that_looked() -> None:
    history = _both(_device("A", 0), _device("A", 1), _device("B", 2))
    place = ("attention", "fwd", "llama3-8b, bf16", "triton")
    lines = [(run, *place, largest, np.nan, "longest tried", 1e9, "", "") for run, largest in ((0, 1), (1, 2), (2, 3))]
    history.frontiers = pd.DataFrame(lines, columns=list(FOUND))
    found = compare_devices(history).frontiers
    assert list(found.columns) == list(FRONTIERS)
    assert list(zip(found.device, found.largest, strict=True)) == [("A", 2), ("B", 3)]


def test_what_another_gpus_configurations_cost_is_told_of_tuned_rows() -> None:
    options = json.dumps({"tune": "full", "config_from": "results/b/1.json"})
    own, theirs = _device("A", 0), _device("A", 1, reached=0.64, options=options)
    for history, tuned in ((own, "BLOCK=64"), (theirs, "BLOCK=128")):
        history.rows["tuned"] = np.where(history.rows.provider == "triton", tuned, "")
    other = _device("A", 2, reached=0.1, options=options, commit="f" * 40)
    found = compare_devices(_both(own, theirs, _device("B", 3), other))
    assert list(found.portability.columns) == list(PORTABILITY)
    assert set(found.portability.provider) == {"triton"}
    assert found.portability.cost.to_numpy() == pytest.approx(0.8 / 0.64)
    line = found.portability.iloc[0]
    assert (line.device, line.config_from, line.tuned, line.foreign) == (
        "A",
        "results/b/1.json",
        "BLOCK=64",
        "BLOCK=128",
    )
    assert line.cost_low < line.cost < line.cost_high
    assert found.rows.base_of_roof.to_numpy() == pytest.approx(0.8), "they do not stand for the device"


def test_intervals_of_ratios_cover_the_truth() -> None:
    """Of medians of 15 log-normal samples, by simulation; the intervals of medians are wider than 95 %."""
    draws = np.random.default_rng(0)
    one, two = (np.sort(np.exp(0.1 * draws.standard_normal((4000, 15))), axis=1) for _ in range(2))
    tables = [pd.DataFrame({"median_s": each[:, 7], "low_s": each[:, 3], "high_s": each[:, 11]}) for each in (one, two)]
    found = over(*tables)
    covered = ((found.ratio_low < 1) & (found.ratio_high > 1)).mean()
    assert 0.95 < covered < 0.985
    worst = np.log(tables[0].high_s / tables[1].low_s)
    assert (np.log(found.ratio_high) < worst).all()


def _curve(provider: str, role: str, times: list[float], spread: float = 0.01) -> pd.DataFrame:
    runs = runs_of(1)
    names = names_of(len(times), {provider: role})
    names = names.assign(operator="attention", series="llama3-8b, bf16", seq_len=list(LENGTHS[: len(times)]))
    rows = rows_of(runs, names, np.log([times]))
    return rows.assign(low_s=rows.median_s * (1 - spread), high_s=rows.median_s * (1 + spread))


def _crossed(one: list[float], two: list[float], spread: float = 0.01) -> pd.DataFrame:
    rows = pd.concat([_curve("triton", "kernel", one, spread), _curve("eager", "peer", two, spread)], ignore_index=True)
    return crossovers({"A": rows})


def test_a_crossing_is_found_within_its_interval() -> None:
    """One provider costs 10 us and 1 ns a token, the other 2 ns a token without a start: they are equal at 10,000."""
    one, two = [10e-6 + 1e-9 * n for n in LENGTHS], [2e-9 * n for n in LENGTHS]
    (line,) = _crossed(one, two).to_dict("records")
    assert (line["faster_below"], line["faster_above"]) == ("eager", "triton")
    assert line["low"] < 10_000 < line["high"]
    assert line["seq_len"] == pytest.approx(10_000, rel=0.03)
    wide = _crossed(one, two, spread=0.05).iloc[0]
    assert wide.low < line["low"] < line["high"] < wide.high


def test_intervals_of_crossings_cover_the_truth() -> None:
    """Power laws, which are straight between lengths, through noise: of 300 intervals at least 95 % hold the truth."""
    draws, truth = np.random.default_rng(1), 3000.0
    held = []
    for _ in range(300):
        noisy = np.log(np.array(LENGTHS) / truth) * 0.5 + 0.03 * draws.standard_normal(len(LENGTHS))
        half = 1.96 * 0.03
        found = crossings(np.array(LENGTHS, float), np.exp(noisy), np.exp(noisy - half), np.exp(noisy + half))
        held += [each.low < truth < each.high for each in found]
    assert len(held) > 295
    assert np.mean(held) > 0.93, "0.95 less three standard deviations of it"


def test_several_crossings_are_told_one_by_one() -> None:
    found = _crossed([1, 2, 4, 8, 16, 32], [2, 1, 2, 16, 32, 16])
    assert list(found.faster_below) == ["triton", "eager", "triton"]
    assert list(found.faster_above) == ["eager", "triton", "eager"]
    assert found.seq_len.is_monotonic_increasing
    assert ((found.low < found.seq_len) & (found.seq_len < found.high)).all()


def test_lines_that_do_not_cross_or_cannot_be_told_apart_say_so() -> None:
    (never,) = _crossed([1, 2, 4], [2, 4, 8]).to_dict("records")
    assert (never["faster_below"], never["faster_above"]) == ("triton", "triton")
    assert np.isnan(never["seq_len"])
    (alike,) = _crossed([1, 2, 4], [1.001, 1.999, 4.001]).to_dict("records")
    assert (alike["faster_below"], alike["faster_above"]) == ("", "")
    (wobbling,) = _crossed([1, 2, 4, 8], [2, 1.999, 4.001, 16]).to_dict("records")
    assert (wobbling["faster_below"], wobbling["faster_above"]) == ("triton", "triton"), "a touch is no crossing"


def test_lengths_that_decide_nothing_lie_inside_the_interval() -> None:
    (line,) = _crossed([1, 2, 4, 8, 16], [2, 2.001, 4, 7.999, 8]).to_dict("records")
    assert line["low"] < 1024
    assert line["high"] > 4096
    assert 1024 <= line["seq_len"] <= 4096


def test_other_clocks_and_other_runs_do_not_cross() -> None:
    one, two = _curve("triton", "kernel", [1, 2, 4]), _curve("eager", "peer", [2, 2, 2])
    for change in ({"timer": "graph"}, {"run": 7}, {"status": "invalid"}):
        assert not len(crossovers({"A": pd.concat([one, two.assign(**change)], ignore_index=True)}))
