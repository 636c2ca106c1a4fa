"""What changed beside a row is named with its figures, the likeliest first, and nothing is made up."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from reports.judge.causes import causes, explained
from reports.judge.changes import changes
from reports.read.committed import committed, no_ledger
from reports.read.counts import Counts, load
from reports.read.summary import History
from tests.simulated_past import FACTS, VERSIONS, names_of, noise, past

ROOT = Path(__file__).parents[1]
LEDGER = load(ROOT / "results" / "counts.json")
TRITON = "rms_norm/fwd/llama3-8b-seq_len512-bf16/triton"
LIGER = "rms_norm/fwd/llama3-8b-seq_len512-bf16/liger"


def _two(slower: float = 1.0) -> History:
    """Two runs of five rows of rms_norm, of which all are so much slower in the second."""
    history = past(np.log([[1.0] * 5, [slower] * 5]))
    names = {name: f"rms_norm/fwd/llama3-8b-seq_len512-bf16/{name.rpartition('/')[2]}" for name in names_of(5).row}
    history.rows["row"] = history.rows.row.astype(str).map(names)
    history.rows["operator"] = "rms_norm"
    history.rows["roof"] = "bf16 GEMM"
    return history


def _rows(column: str, one: Any, two: Any, slower: float = 1.0) -> History:
    history = _two(slower)
    history.rows[column] = np.where(history.rows.run == 0, one, two)
    return history


def _runs(column: str, one: dict[str, Any], two: dict[str, Any]) -> History:
    history = _two()
    history.runs[column] = [json.dumps(one), json.dumps(two)]
    return history


def _ledgers(change: Callable[[Counts], Counts]) -> Callable[[str], Counts | None]:
    """The repository's own ledger at the first commit, and what becomes of it at the second."""
    return lambda commit: LEDGER if commit == f"{0:040x}" else change(LEDGER)


def _resources(**values: Any) -> Callable[[Counts], Counts]:
    """Figures of the kernels of rms_norm on sm_90 as they become."""

    def changed(counts: Counts) -> Counts:
        table = counts.resources.copy()
        table.loc[
            (table.operator == "rms_norm") & (table["mode"] == "fwd") & (table.target == "sm_90"), list(values)
        ] = list(values.values())
        return replace(counts, resources=table)

    return changed


def test_where_nothing_changed_that_is_said() -> None:
    history = _two(1.1)
    assert causes(history, 0, 1, TRITON) == [
        f"nothing that was recorded has changed but the commit, {'0' * 12} -> {'0' * 12}"
    ]
    history.runs["commit"] = "abc1234"
    assert causes(history, 0, 1, TRITON) == ["nothing that was recorded has changed, not even the commit"]
    assert causes(history, 0, 1) == ["nothing that was recorded has changed, not even the commit"]


def test_registers_spills_and_shared_memory_are_told_for_the_devices_own_target() -> None:
    ledger = _ledgers(_resources(registers=255.0, spills_bytes=128.0, shared_bytes=65536.0))
    before = LEDGER.resources[
        (LEDGER.resources.operator == "rms_norm")
        & (LEDGER.resources["mode"] == "fwd")
        & (LEDGER.resources.target == "sm_90")
    ]
    spills, registers, shared = causes(_two(), 0, 1, TRITON, ledger)
    assert spills == "spills 0 B -> 128 B on sm_90 (_forward)"
    assert registers.startswith(f"registers {before.registers.min():.0f} -> 255 (+")
    assert registers.endswith("on sm_90 (_forward)")
    assert " -> 64.0 KiB" in shared


def test_what_no_longer_fits_is_told() -> None:
    gone = _resources(absent="needs 300 KiB of shared memory", registers=None)
    assert causes(_two(), 0, 1, TRITON, _ledgers(gone)) == [
        "_forward no longer fits sm_90: needs 300 KiB of shared memory"
    ]


def test_targets_that_the_ledger_lacks_are_no_reason_to_be_silent() -> None:
    history = _two()
    history.runs["facts"] = json.dumps(FACTS | {"capability": "9.4"})
    (found,) = causes(history, 0, 1, TRITON, _ledgers(_resources(registers=255.0)))
    assert found.startswith("registers ")
    assert "on sm_90" in found


def test_bytes_and_operations_are_told_of_the_rows_own_case() -> None:
    def changed(counts: Counts) -> Counts:
        cases = counts.cases.copy()
        here = (cases.operator == "rms_norm") & (cases["mode"] == "fwd")
        cases.loc[here, ["footprint_bytes", "vector_flops"]] *= 2
        cases.loc[here & (cases.case != "llama3-8b-seq_len512-bf16"), "footprint_bytes"] *= 8
        return replace(counts, cases=cases)

    moved, operations = causes(_two(), 0, 1, TRITON, _ledgers(changed))
    assert moved.startswith("bytes moved 8.0")
    assert moved.endswith("(+100 %)")
    assert operations.startswith("operations ")
    other = _two()
    other.rows["row"] = other.rows.row.str.replace("512", "4096")
    moved = causes(other, 0, 1, TRITON.replace("512", "4096"), _ledgers(changed))[0]
    assert "(+1500 %) on " in moved


def test_what_is_one_byte_more_is_told_to_the_byte() -> None:
    def changed(counts: Counts) -> Counts:
        cases = counts.cases.copy()
        cases.loc[cases.operator == "rms_norm", "footprint_bytes"] += 1
        return replace(counts, cases=cases)

    (found,) = causes(_two(), 0, 1, TRITON, _ledgers(changed))
    assert found == "bytes moved 8,396,800 -> 8,396,801 (+0.0 %)"


def test_counts_tell_nothing_of_a_peer_nor_without_ledgers() -> None:
    ledger = _ledgers(_resources(registers=255.0))
    assert "nothing" in causes(_two(), 0, 1, LIGER, ledger)[0]
    assert "nothing" in causes(_two(), 0, 1, TRITON, no_ledger)[0]
    assert "nothing" in causes(_two(), 0, 1, TRITON, lambda commit: None)[0]


def test_a_configuration_tuned_otherwise_is_told() -> None:
    assert causes(_rows("tuned", "BLOCK=64 num_warps=4", "BLOCK=128 num_warps=8"), 0, 1, TRITON) == [
        "configuration BLOCK=64 num_warps=4 -> BLOCK=128 num_warps=8"
    ]


def test_versions_of_what_a_row_is_made_of_come_first() -> None:
    newer = VERSIONS | {"triton": "3.7.1", "python": "3.12.1", "liger-kernel": "0.9.0", "quack-kernels": "0.6.5"}
    history = _runs("versions", VERSIONS, newer)
    assert causes(history, 0, 1, TRITON) == [
        "triton 3.6.0 -> 3.7.1", "python 3.11.9 -> 3.12.1", "liger-kernel 0.8.5 -> 0.9.0", "quack-kernels 0.6.5 is new",
    ]  # fmt: skip
    assert set(causes(history, 0, 1, LIGER)[:2]) == {"triton 3.6.0 -> 3.7.1", "liger-kernel 0.8.5 -> 0.9.0"}
    assert "quack-kernels 0.6.5 is gone" in causes(_runs("versions", newer, VERSIONS), 0, 1, LIGER)


def test_facts_conditions_options_and_profile_are_told() -> None:
    assert causes(_runs("facts", FACTS, FACTS | {"runtime": "13.0", "memory_bytes": 1 << 30}), 0, 1, TRITON) == [
        "runtime 12.8 -> 13.0"
    ], "what only one side tells is no change"
    assert causes(_runs("facts", {"l2_bytes": 1 << 20}, {"l2_bytes": 2 << 20}), 0, 1) == ["l2 1.00 MiB -> 2.00 MiB"]
    assert causes(_runs("conditions", {"threads": 16}, {"threads": 8}), 0, 1) == ["threads 16 -> 8"]
    assert causes(_runs("options", {"row_timeout_s": None}, {"row_timeout_s": 5.0}), 0, 1) == [
        "row timeout none -> 5.00 s"
    ]
    history = _two()
    history.runs["profile"] = ["quick", "full"]
    assert causes(history, 0, 1) == ["profile quick -> full"]


def test_a_clock_is_told_with_what_it_explains_and_first_if_that_is_most() -> None:
    history = _rows("sm_clock_hz", 1.98e9, 1.755e9, slower=1.15)
    history.runs["versions"] = [json.dumps(VERSIONS), json.dumps(VERSIONS | {"triton": "3.7.1"})]
    clock = "SM clock 1980 -> 1755 MHz (-11 %), which alone makes what is bound by it 12.8 % slower"
    assert causes(history, 0, 1, TRITON) == [clock, "triton 3.6.0 -> 3.7.1"]
    assert causes(history, 0, 1) == [clock, "triton 3.6.0 -> 3.7.1"], "also of the device as a whole"
    history.rows["roof"] = "bandwidth"
    history.rows["tuned"] = np.where(history.rows.run == 0, "a", "b")
    assert causes(history, 0, 1, TRITON)[0] == "configuration a -> b", "memory is not bound by the SM clock"
    faster = _rows("sm_clock_hz", 1.755e9, 1.98e9, slower=1.15)
    faster.runs["versions"] = history.runs.versions
    assert causes(faster, 0, 1, TRITON) == [
        "triton 3.6.0 -> 3.7.1",
        "SM clock 1755 -> 1980 MHz (+13 %), which alone makes what is bound by it 11.4 % faster",
    ], "a clock that rose explains no slowdown"


def test_the_memory_clock_explains_what_memory_binds() -> None:
    history = _rows("memory_clock_hz", 3.2e9, 2.6e9, slower=1.2)
    history.rows["roof"] = "bandwidth"
    assert causes(history, 0, 1, TRITON)[0].startswith("memory clock 3200 -> 2600 MHz (-19 %)")


def test_clocks_and_temperatures_that_only_wander_are_not_told() -> None:
    assert "nothing" in causes(_rows("sm_clock_hz", 1.98e9, 1.97e9), 0, 1, TRITON)[0]
    assert "nothing" in causes(_rows("temperature_c", 54, 57), 0, 1, TRITON)[0]
    assert "nothing" in causes(_rows("sm_clock_hz", np.nan, 1.97e9), 0, 1, TRITON)[0]


@pytest.mark.parametrize(
    ("column", "one", "two", "words"),
    [
        ("throttled", 0.0, 0.4, "the device held itself back in 0 % -> 40 % of the rounds"),
        ("foreign_processes", 0.0, 2.0, "other processes on the device 0 -> 2"),
        ("load", 0.02, 0.3, "load of the processors by others 2 % -> 30 %"),
        ("temperature_c", 41.0, 67.0, "temperature 41 -> 67 °C"),
    ],
)
def test_company_and_heat_are_told(column: str, one: float, two: float, words: str) -> None:
    assert causes(_rows(column, one, two), 0, 1, TRITON) == [words]


def test_names_from_results_are_harmless() -> None:
    (found,) = causes(_runs("versions", {"torch": "1"}, {"torch": "\x1b[31m2\n\u202e"}), 0, 1)
    assert found == "torch 1 -> \N{REPLACEMENT CHARACTER}[31m2 \N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize("text", ["", "null", "[1]", "{", None, np.nan, "[" * 100_000])
def test_what_a_run_tells_in_no_object_is_not_told(text: Any) -> None:
    history = _two()
    for column in ("versions", "facts", "options", "conditions"):
        history.runs[column] = pd.Series([text, text], dtype="object")
    assert "nothing" in causes(history, 0, 1, TRITON)[0]


def test_a_run_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="before: expected the number of a run in the history, got 7"):
        causes(_two(), 7, 1)


def test_changes_get_their_causes() -> None:
    logs = noise((40, 200), 2)
    logs[25:, 9] -= 0.2
    history = past(logs)
    newer = json.dumps(VERSIONS | {"triton": "3.7.1"})
    history.runs["versions"] = [json.dumps(VERSIONS) if run < 25 else newer for run in history.runs.run]
    (found,) = explained(history, changes(history))
    assert found.causes == ["triton 3.6.0 -> 3.7.1"]


def test_ledgers_are_read_from_git(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        identity = ("-c", "user.name=x", "-c", "user.email=x@localhost")
        done = subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    git("init", "-q")
    (tmp_path / "results").mkdir()
    commits = []
    for content in ((ROOT / "results" / "counts.json").read_text(), "{}"):
        (tmp_path / "results" / "counts.json").write_text(content)
        git("add", ".")
        git("commit", "-q", "-m", "x")
        commits.append(git("rev-parse", "HEAD"))
    ledger = committed(tmp_path)
    found = ledger(commits[0])
    assert found is not None
    assert found.versions == LEDGER.versions
    assert ledger(commits[1]) is None, "no ledger of ours"
    assert ledger("0" * 40) is None
    assert ledger("--help") is None
    assert committed(tmp_path / "results" / "none")(commits[0]) is None
