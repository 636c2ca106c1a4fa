"""Every verdict, with its reason: on tables whose truth is known."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pandas as pd
import pytest

from reports.judge.verdict import (
    AMBIGUOUS,
    COLUMNS,
    FASTER,
    INVALID,
    NOT_COMPARABLE,
    SAME,
    SLOWER,
    VERDICTS,
    verdicts,
)
from reports.read.summary import History
from tests.judged import OURS, VERSIONS, Change, becomes, name, runs, slower, together, without


def _judge(change: Change, *, history: int = 10, head: int = 3, margin: float = 0.03, **facts: Any) -> pd.DataFrame:
    """Head with a change against one run of base and some of history."""
    past, base = runs(history), runs(1, first=history)
    return verdicts(base, runs(head, first=history + 1, change=change, **facts), past, margin=margin)


def _of(found: pd.DataFrame, row: str = OURS) -> Any:
    return found[found.row == row].iloc[0]


def _unchanged(row: dict[str, Any]) -> dict[str, Any]:
    return row


def test_a_table_has_its_columns_and_each_row_once() -> None:
    found = _judge(_unchanged)
    assert tuple(found.columns) == COLUMNS
    assert len(found) == found.row.nunique() == 60
    assert set(found.verdict) <= set(VERDICTS)
    assert (found.device == "Simulated").all()


def test_slower_and_faster_stand_with_their_intervals() -> None:
    found = _judge(lambda row: slower(0.06, OURS)(slower(-0.06, name(1, "triton"))(row) or row))
    one, other = _of(found), _of(found, name(1, "triton"))
    assert (one.verdict, other.verdict) == (SLOWER, FASTER)
    assert 1.0 < one.ratio_low < one.ratio < one.ratio_high < 1.08
    assert 0.92 < other.ratio_low < other.ratio < other.ratio_high < 1.0
    assert one.p < 1e-4
    assert one.noise == pytest.approx(0.006, rel=0.5)
    assert found.row[0] == OURS, "expected what is slower at the top"
    words = r"[\d.]+ % slower, [\d.]+ to [\d.]+ %; runs of this row differ by 0\.[\d]+ %"
    assert re.fullmatch(words, one.reason)


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    change = slower(0.06, role="kernel")
    head = runs(3, first=11, cases=60, change=change)
    found = verdicts(runs(1, first=10, cases=60), head, runs(10, cases=60))
    truth = np.where(found.role == "kernel", 1.06, 1.0)
    covered = (found.ratio_low <= truth) & (truth <= found.ratio_high)
    assert len(found) == 300
    assert covered.sum() >= 270, "of 300 intervals of 95 %, 269 or fewer cover in 1 of 5,000 cases"
    assert (found[found.role == "kernel"].verdict == SLOWER).all()


def test_what_did_not_change_is_shown_to_be_the_same() -> None:
    found = _judge(_unchanged)
    assert (found.verdict == SAME).mean() > 0.95
    row = found[found.verdict == SAME].iloc[0]
    assert row.reason.startswith("same within 3 %: ")
    assert max(row.ratio_high, 1 / row.ratio_low) < 1.04


def test_same_needs_a_proof_that_noise_can_refuse() -> None:
    """Ratios near one with 4 % between runs show neither a difference nor its absence."""
    past, base = runs(10, noise=0.04), runs(1, first=10, noise=0.04)
    found = verdicts(base, runs(1, first=11, noise=0.04), past)
    assert (found.verdict == AMBIGUOUS).mean() > 0.9
    row = found[found.verdict == AMBIGUOUS].iloc[0]
    assert "more runs of head would decide" in row.reason or "more history" in row.reason
    wide = verdicts(base, runs(1, first=11, noise=0.04), past, margin=0.3)
    assert (wide.verdict == SAME).mean() > 0.9


def test_called_changed_are_few_where_nothing_changed() -> None:
    """Of 15 tables of 60 rows, no more hold a false lead than the level of the whole table allows."""
    wrong = 0
    for seed in range(15):
        past, base, head = (runs(count, first=first, seed=seed) for count, first in ((8, 0), (1, 8), (1, 9)))
        wrong += int(verdicts(base, head, past).verdict.isin([SLOWER, FASTER]).any())
    assert wrong <= 3, "of 15 tables at a level of 5 %, 4 or more are wrong in 1 of 180 cases"


@pytest.mark.parametrize(
    ("change", "facts", "row", "reason"),
    [
        (becomes(OURS, timer="graph"), {}, OURS, "another clock: device in base, graph in head"),
        (_unchanged, {"dirty": True}, OURS, "the tree of head had changes that no commit has"),
        (
            _unchanged,
            {"options": json.dumps({"tune": "cached", "config_from": None})},
            OURS,
            "other options: tune full in base, cached in head",
        ),
        (
            _unchanged,
            {"facts": json.dumps({"threads": 8})},
            OURS,
            "other options: threads none in base, 8 in head",
        ),
        (
            _unchanged,
            {"versions": json.dumps(VERSIONS | {"liger-kernel": "0.9.0"})},
            name(0, "liger"),
            "other versions: liger-kernel 0.8.5 -> 0.9.0",
        ),
        (
            _unchanged,
            {"versions": json.dumps(VERSIONS | {"triton": "3.8.0"})},
            name(0, "inductor"),
            "other versions: triton 3.7.1 -> 3.8.0",
        ),
    ],
)
def test_what_cannot_be_compared_says_why(change: Change, facts: dict[str, Any], row: str, reason: str) -> None:
    found = _of(_judge(change, **facts), row)
    assert (found.verdict, found.reason) == (NOT_COMPARABLE, reason)
    assert np.isnan(found.ratio)


def test_another_version_of_a_library_makes_only_its_own_rows_incomparable() -> None:
    found = _judge(_unchanged, versions=json.dumps(VERSIONS | {"liger-kernel": "0.9.0"}))
    assert set(found[found.verdict == NOT_COMPARABLE].provider) == {"liger"}
    torch = _judge(_unchanged, versions=json.dumps(VERSIONS | {"torch": "2.14.0"}))
    assert set(torch[torch.verdict != NOT_COMPARABLE].provider) == {"triton"}, "ours are what we ask about"


@pytest.mark.parametrize("status", ["failed", "invalid"])
def test_failed_and_invalid_records_are_invalid(status: str) -> None:
    wrong = becomes(OURS, status=status, median_s=np.nan, reason="Disproved: row 3\nTraceback: deep inside")
    found = _of(_judge(wrong))
    assert (found.verdict, found.reason) == (INVALID, f"{status} in head: Disproved: row 3")
    base = verdicts(runs(1, first=8, change=wrong), runs(1, first=9), runs(8))
    assert _of(base).reason == f"{status} in base: Disproved: row 3"


def test_rows_of_one_side_are_listed() -> None:
    gone = _of(_judge(without(OURS)))
    assert (gone.verdict, gone.vanished, gone.new) == (NOT_COMPARABLE, True, False)
    assert gone.reason == "vanished: it has a time in base, no record in head"
    absent = _of(_judge(becomes(OURS, status="absent", median_s=np.nan, reason="out of memory")))
    assert absent.reason == "vanished: it has a time in base, absent in head: out of memory"
    new = _of(verdicts(runs(1, first=8, change=without(OURS)), runs(1, first=9), runs(8, change=without(OURS))))
    assert (new.verdict, new.vanished, new.new) == (NOT_COMPARABLE, False, True)
    assert new.reason == "new: it has a time in head, no record in base"
    assert (new.base_runs, new.head_runs) == (0, 1)


def test_one_run_a_side_tells_nothing() -> None:
    found = verdicts(runs(1), runs(1, first=1))
    assert set(found.verdict) == {NOT_COMPARABLE}
    assert found.reason[0] == "too few runs: 1 of base and no history do not tell how much runs differ"


def test_several_runs_of_base_are_a_history() -> None:
    found = verdicts(runs(6), runs(3, first=6, change=slower(0.06, OURS)))
    assert (_of(found).verdict, _of(found).base_runs, _of(found).head_runs) == (SLOWER, 6, 3)


def test_drift_of_the_device_is_not_blamed_on_rows() -> None:
    """A walk of 1 % a night, and 8 % in head: rows are the same, apart from the one that is not."""

    def warm(row: dict[str, Any]) -> dict[str, Any]:
        night = np.random.default_rng(row["run"]).normal(0, 0.01) + (0.08 if row["run"] > 10 else 0)
        return row | {"median_s": row["median_s"] * np.exp(night)}

    found = verdicts(
        runs(1, first=10, change=warm),
        runs(3, first=11, change=lambda row: warm(slower(0.06, OURS)(row) or row)),
        runs(10, change=warm),
    )
    assert _of(found).verdict == SLOWER
    assert _of(found).ratio == pytest.approx(1.06, abs=0.015)
    assert (found.verdict == SAME).sum() >= 57


def test_a_clock_that_slows_arithmetic_only_is_taken_out_of_it_only() -> None:
    def split(row: dict[str, Any]) -> dict[str, Any]:
        computes = int(row["case_id"].removeprefix("case")) < 6
        slow = 1.1 if computes and row["run"] > 10 else 1.0
        return row | {"roof": "bf16 GEMM" if computes else "bandwidth", "median_s": row["median_s"] * slow}

    found = verdicts(runs(1, first=10, change=split), runs(3, first=11, change=split), runs(10, change=split))
    assert (found.verdict == SAME).sum() >= 57


def test_a_second_speed_seen_before_is_no_change() -> None:
    """newton #2534: 22.5 or 25.5 ms by the run."""

    def two(row: dict[str, Any]) -> dict[str, Any]:
        upper = row["row"] == OURS and row["run"] % 3 == 0
        return row | {"median_s": row["median_s"] * (25.5 / 22.5 if upper else 1)}

    found = _of(verdicts(runs(1, first=11, change=two), runs(1, first=12, change=two), runs(11, change=two)))
    assert found.verdict == AMBIGUOUS
    assert "at a second speed of this row, seen in 4 of 12 runs before" in found.reason


def test_a_change_inside_history_is_no_noise() -> None:
    """The row became 20 % faster on the sixth night; 6 % since base is found all the same."""
    past = together(runs(6, change=slower(0.2, OURS)), runs(6, first=6))
    found = _of(verdicts(runs(1, first=12), runs(2, first=13, change=slower(0.06, OURS)), past))
    assert found.verdict == SLOWER
    assert found.noise < 0.012
    assert found.ratio == pytest.approx(1.06, abs=0.02)


def test_one_outlier_in_history_hides_nothing() -> None:
    past = together(runs(1, change=slower(0.3, OURS)), runs(9, first=1))
    found = _of(verdicts(runs(1, first=10), runs(2, first=11, change=slower(0.06, OURS)), past))
    assert found.verdict == SLOWER
    assert found.noise < 0.012


def test_throttled_runs_of_history_do_not_count_and_those_of_head_do_not_convict() -> None:
    hot = becomes(OURS, marks="unsteady clock, throttled")
    past = together(runs(4, change=lambda row: slower(0.1, OURS)(hot(row) or row)), runs(6, first=4))
    found = _of(verdicts(runs(1, first=10), runs(2, first=11), past))
    assert found.verdict == SAME
    assert found.noise < 0.012
    slow = _of(_judge(lambda row: slower(0.2, OURS)(hot(row) or row)))
    assert slow.verdict == AMBIGUOUS
    assert "the device was throttled or shared in every run of head" in slow.reason
    everywhere = runs(10, change=hot)
    kept = _of(verdicts(runs(1, first=10, change=hot), runs(2, first=11), everywhere))
    assert kept.verdict == SAME, "a row whose every run was throttled keeps them"


def test_history_with_other_options_or_another_clock_is_no_history() -> None:
    other = runs(8, change=slower(0.5, OURS), options=json.dumps({"tune": "first"}))
    found = _of(verdicts(runs(3, first=8), runs(2, first=11), other))
    assert found.verdict == SAME
    clock = runs(8, change=lambda row: becomes(OURS, timer="graph")(slower(0.5, OURS)(row) or row))
    assert _of(verdicts(runs(3, first=8), runs(2, first=11), clock)).verdict == SAME


def test_history_that_is_constant_to_the_digit_still_has_noise() -> None:
    found = verdicts(runs(1, first=9, noise=0), runs(1, first=10, noise=0, change=slower(0.01, OURS)), runs(9, noise=0))
    assert _of(found).verdict == SLOWER
    assert (found.noise > 0).all()
    assert (found[found.row != OURS].verdict == SAME).all()


def test_a_table_of_one_row_is_judged_by_its_own_runs() -> None:
    def only(row: dict[str, Any]) -> dict[str, Any] | None:
        return row if row["row"] == OURS else None

    past = runs(12, change=only)
    found = verdicts(runs(1, first=12, change=only), runs(3, first=13, change=only), past)
    assert list(found.verdict) == [SAME]
    slow = verdicts(
        runs(1, first=12, change=only), runs(3, first=13, change=lambda row: only(slower(0.2, OURS)(row) or row)), past
    )
    assert list(slow.verdict) == [SLOWER]


@pytest.mark.parametrize("time", [np.nan, 0.0, -1.0, np.inf])
def test_what_is_no_time_is_none(time: float) -> None:
    found = _of(_judge(becomes(OURS, median_s=time)))
    assert found.verdict == NOT_COMPARABLE
    assert found.vanished
    assert found.reason.endswith("measured in head, but its time is not a positive number")


def test_names_from_results_are_names() -> None:
    evil = "<script>alert(1)</script>/fwd/'; DROP TABLE rows/%s{0}"
    found = _judge(becomes(OURS, row=evil))
    assert _of(found, evil).new
    assert _of(found).vanished


@pytest.mark.parametrize("margin", [0, 1, -0.1, np.nan])
def test_a_margin_is_a_share(margin: float) -> None:
    with pytest.raises(ValueError, match=r"margin: expected a share between 0 and 1, got"):
        verdicts(runs(1), runs(1, first=1), margin=margin)


def test_both_sides_have_runs_of_one_device() -> None:
    nothing = runs(0)
    with pytest.raises(ValueError, match="head: expected one run or more, got none"):
        verdicts(runs(1), nothing)
    with pytest.raises(ValueError, match='expected runs of one device, got "Another", "Simulated"'):
        verdicts(runs(1), runs(1, first=1, device="Another"))
    empty = History(runs(1).runs, nothing.rows, nothing.roofs, nothing.frontiers)
    assert len(verdicts(empty, empty)) == 0
