"""The ledger, its child and the replay: every row ends with samples or with a reason, whatever its neighbours do."""

from __future__ import annotations

import json
import re
import resource
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bench.core import child, journal
from bench.core.case import Case
from bench.core.ledger import Ledger
from bench.core.messages import Options
from bench.core.record import ROOT, Record, Run, this_run
from bench.core.registry import NEEDS_GPU, operators
from bench.core.roofs import Roof
from tests import toy


@pytest.fixture(scope="module")
def warm() -> Iterator[list[child.Child]]:
    """The child that the ledger of one test leaves to that of the next, for a new one has torch to import."""
    left: list[child.Child] = []
    yield left
    for each in left:
        each.stop()


@pytest.fixture
def book(warm: list[child.Child]) -> Iterator[Ledger]:
    """A ledger on the CPU."""
    device = torch.device("cpu")
    opened = Ledger(this_run(device, "smoke"), device, surveys=False)
    if warm:
        opened._child = warm.pop()
    yield opened
    warm.append(opened._child)
    opened._child = opened._prober  # so that `close` ends no other
    opened.close()


def _case(mode: str = "fwd") -> Case:
    return next(case for case in toy.Double.sweep_cases("smoke") if case.mode == mode)


def _records(book: Ledger, *providers: str, mode: str = "fwd") -> dict[str, Record]:
    case = _case(mode)
    book.planned[toy.Double, case.id] = list(providers)
    return {name: book.record(toy.Double, case, name) for name in providers}


@pytest.mark.parametrize("mode", ["fwd", "bwd"])
def test_measured_row_carries_samples_proof_memory_and_reason_to_stop(book: Ledger, mode: str) -> None:
    record = _records(book, "naive", "eager", mode=mode)["eager"]
    samples = book._samples[toy.Double, _case(mode).id, "eager"]
    assert record.status == "measured"
    assert record.stop
    assert record.proof
    assert record.memory
    assert record.id == f"double/{mode}/seq_len512-fp32/eager"
    assert record.timer == "host"
    assert len(samples) == record.stop["rounds"] >= 6
    assert all(0 < sample < 1 for sample in samples)
    assert record.proof["error"] <= record.proof["budget"]
    assert record.proof["rows"].endswith(" sampled"), "expected the proof to say that it looked at a part of a case"
    assert record.proof["seed"] > 0
    assert record.dtypes == ["fp32"]
    assert record.stop["low_s"] <= sorted(samples)[len(samples) // 2] <= record.stop["high_s"]
    assert len(record.other_samples_s["host_warm"]) == len(samples)
    assert record.telemetry
    assert record.telemetry["monitor"] == "psutil"
    assert record.telemetry["readings"][0]["round"] == 0
    y_bytes = 512 * 256 * 4
    assert record.memory["output_bytes"] == y_bytes * (1 if mode == "fwd" else 2)
    assert y_bytes <= record.memory["peak_bytes"] <= 3 * y_bytes
    assert record.memory["least_bytes"] == record.memory["output_bytes"]
    assert record.memory["workspace_bytes"] == record.memory["peak_bytes"] - record.memory["output_bytes"]
    assert record.memory["saved_bytes"] == (None if mode == "fwd" else 8), "expected the factor 2 to be saved"
    assert record.traffic_bytes == 2 * y_bytes


def test_absent_and_failed_rows_say_why(book: Ledger) -> None:
    records = _records(book, "ours", "eager", "missing", "elsewhere", "wrong", "raising")
    found = {name: (record.status, record.reason, record.remedy) for name, record in records.items()}
    assert found["ours"] == ("absent", NEEDS_GPU, "")
    assert found["eager"][0] == "measured"
    assert found["missing"] == ("absent", "No module named 'nowhere_to_be_found'", "pip install nowhere-to-be-found")
    assert found["elsewhere"] == ("absent", "needs a CUDA device", "")
    assert found["raising"] == ("failed", "RuntimeError: planted error", "")
    assert found["wrong"][0] == "failed"
    assert found["wrong"][1].startswith("Disproved: output 0, row ")
    assert re.search(r"(\d+) of \1 rows are out", found["wrong"][1])
    assert [record.provider for record in book.without_time] == ["ours", "missing", "elsewhere", "wrong", "raising"]


def test_forward_only_peer_is_absent_from_the_backward(book: Ledger) -> None:
    record = _records(book, "forward_only", mode="bwd")["forward_only"]
    assert (record.status, record.reason) == ("absent", "has no backward")


def test_provider_that_changes_its_inputs_costs_only_its_own_row(book: Ledger) -> None:
    records = _records(book, "naive", "mutating", "eager")
    assert records["mutating"].status == "failed"
    assert records["mutating"].reason.startswith("Disproved: ")
    assert records["naive"].status == records["eager"].status == "measured"


def test_declaration_that_raises_fails_every_row_of_its_case_with_the_reason(book: Ledger) -> None:
    case = next(case for case in toy.Double.sweep_cases("smoke") if case.sizes["n"] == 1024)
    book.planned[toy.Double, case.id] = ["naive", "eager"]
    for name in ("naive", "eager"):
        record = book.record(toy.Double, case, name)
        assert (record.status, record.reason) == ("failed", "RuntimeError: planted error in the declaration")
    assert _records(book, "eager")["eager"].status == "measured"


@pytest.mark.parametrize(
    ("culprit", "reason"),
    [
        ("crashing", "crashed with SIGSEGV"),
        ("crashing_late", "crashed with SIGSEGV"),
        ("crashing_import", "crashed with SIGSEGV"),
        ("raising_late", "RuntimeError: planted late"),
        ("poisoning", "RuntimeError: planted illegal access"),
        ("poisoning_late", "RuntimeError: planted illegal access in the race"),
    ],
)
def test_crash_costs_only_the_row_that_crashed(book: Ledger, culprit: str, reason: str) -> None:
    records = _records(book, "naive", culprit, "eager")
    assert (records[culprit].status, records[culprit].reason) == ("failed", reason)
    assert [record.provider for record in book.without_time] == [culprit]
    assert records["naive"].status == records["eager"].status == "measured"


@pytest.mark.parametrize(
    ("culprit", "reason"),
    [
        ("hanging", "stalled: no message and no work for 6 s"),
        ("spinning", "time-out: at work without a result for 15 s"),
    ],
)
def test_hang_costs_only_the_row_that_hangs(
    book: Ledger, monkeypatch: pytest.MonkeyPatch, culprit: str, reason: str
) -> None:
    monkeypatch.setattr(child.Child.ask, "__defaults__", (6.0, child.TIMEOUT_S, None))
    book.options = Options(row_timeout_s=15.0)
    records = _records(book, culprit, "eager")
    assert (records[culprit].status, records[culprit].reason) == ("failed", reason)
    assert records["eager"].status == "measured"


def test_memory_that_runs_out_is_told_as_that(book: Ledger) -> None:
    records = _records(book, "greedy", "eager")
    assert (records["greedy"].status, records["greedy"].reason) == ("absent", "out of memory")
    assert records["eager"].status == "measured"
    book._records.clear()
    records = _records(book, "naive", "greedy_late", "eager")
    late = records["greedy_late"]
    assert (late.status, late.reason) == ("absent", "out of memory beside its rivals")
    assert records["naive"].status == records["eager"].status == "measured"
    book._records.clear()
    records = _records(book, "greedy_afterwards", "eager")
    late = records["greedy_afterwards"]
    assert (late.status, late.reason) == ("absent", "out of memory in the check behind the race")
    assert late.other_samples_s["host"], "expected its samples to be kept"
    case = next(case for case in toy.Double.sweep_cases("smoke") if case.sizes["n"] == 2048)
    record = book.record(toy.Double, case, "eager")
    assert record.status == "absent"
    assert record.reason == "out of memory in the check: the float64 reference does not fit here"


def test_a_row_above_a_measured_roof_is_invalid(book: Ledger) -> None:
    book._cache_bytes = 0
    book._roofs = [Roof("copy", "byte/s", [1e3, 1e3])]
    record = _records(book, "eager")["eager"]
    assert record.status == "invalid"
    assert record.reason.startswith("above the roof: at most ")
    assert "1048576 bytes at 1000 byte/s" in record.reason
    assert len(record.other_samples_s["host"]) >= 6
    book._roofs = [Roof("copy", "byte/s", [1e15, 1e15])]
    book._records.clear()
    assert _records(book, "eager")["eager"].status == "measured"


def test_the_roofs_of_this_machine_are_measured_once(book: Ledger) -> None:
    book._roofs = None
    assert _records(book, "eager", mode="fwd")["eager"].status == "measured"
    assert _records(book, "eager", mode="bwd")["eager"].status == "measured"
    rates = {roof["name"]: roof["values"] for roof in book.facts["roofs"]}
    assert min(rates["copy"]) > 1e8
    assert book.facts["conditions"]["threads"] == torch.get_num_threads()


def test_a_spent_time_budget_leaves_cases_out_by_name(book: Ledger) -> None:
    book.options = Options(time_budget_s=0.0)
    record = _records(book, "naive", "ours")["naive"]
    assert (record.status, record.remedy) == ("absent", "a larger --time-budget")
    assert record.reason == "left out: the time budget of 0 s was spent (priority 2)"
    assert book.facts["dropped"] == [{"operator": "double", "case": "fwd-seq_len512-fp32", "priority": 2}]


def test_a_case_that_outlives_the_time_budget_is_cut_short(book: Ledger) -> None:
    book._started = time.monotonic()
    book.options = Options(time_budget_s=12.0)
    began = time.monotonic()
    records = _records(book, "naive", "spinning")
    assert {record.reason.partition(":")[0] for record in records.values()} == {"left out"}
    assert all(record.reason.endswith(", and ended proof spinning") for record in records.values())
    assert time.monotonic() - began < 20


def test_what_runs_first_under_a_time_budget() -> None:
    order = sorted(operators()[0].sweep_cases("quick"), key=lambda case: case.priority)
    lengths = [case.axes["seq_len"] for case in order]
    assert lengths[:2] == [2048, 2048]
    assert order[0].axes["model"] == order[1].axes["model"]
    assert {case.mode for case in order[:2]} == {"fwd", "bwd"}
    assert lengths[-1] == 512


def test_nothing_is_clocked_or_sought_by_several_processes(book: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    disabled: Any = SimpleNamespace(disabled=True)  # as pytest-benchmark is under pytest-xdist
    with pytest.raises(pytest.skip.Exception, match="not clocked: --benchmark-disable"):
        book.replay(toy.Double, _case(), "eager", disabled)
    monkeypatch.setenv("PYTEST_XDIST_WORKER", "gw0")
    with pytest.raises(pytest.skip.Exception, match="not sought: expected one process"):
        book.seek(toy.Double, "fwd", "eager")
    assert not book._records
    assert not book.facts


def test_records_are_json(book: Ledger) -> None:
    for record in _records(book, "eager", "missing").values():
        assert json.loads(json.dumps(record.as_dict(), allow_nan=False))["schema"] == 2


def test_dirty_run_says_so_in_its_name_and_records(monkeypatch: pytest.MonkeyPatch) -> None:
    for dirty, suffix in ((True, "-dirty.json"), (False, "abc.json"), (None, "abc.json")):
        monkeypatch.setattr("bench.core.record.repository_state", lambda dirty=dirty: ("abc", dirty))
        run = this_run(torch.device("cpu"), "smoke")
        assert run.file.name.endswith(suffix)
        assert run.file.is_relative_to(ROOT / "results")
        assert Ledger(run, torch.device("cpu"))._record(toy.Double, _case(), "eager", status="absent").dirty is dirty


def test_a_frontier_is_sought_once_and_kept(book: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    sought: list[str] = []

    def seek(_: object, mode: str, provider: str, *__: object) -> dict[str, object]:
        sought.append(f"{provider} {mode}")
        return {"largest": 2048, "fails_at": 2176, "stopped": "out of memory", "reason": "", "remedy": ""}

    monkeypatch.setattr("bench.core.ledger.frontier", seek)
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    book.seek(toy.Double, "fwd", "eager")
    book.seek(toy.Double, "fwd", "eager")  # as when a run that was cut short goes on
    with pytest.raises(pytest.skip.Exception, match="needs a GPU"):
        book.seek(toy.Double, "fwd", "ours")
    assert sought == ["eager fwd"]
    kept, absent = book.facts["frontiers"]
    assert (kept["operator"], kept["case"], kept["largest"]) == ("double", {"dtype": "fp32"}, 2048)
    assert kept["command"].endswith('::Double::test_frontier[eager-fwd]" -m frontier')
    assert (absent["largest"], absent["reason"]) == (None, NEEDS_GPU)


def _with_journal(book: Ledger, tmp_path: Path, *providers: str) -> Path:
    """Begin to clock the first case, with results in a folder of its own; gives the file that they belong in."""
    saved = tmp_path / "results" / "a.json"
    book.run = Elsewhere.of(book.run, saved)
    book.planned[toy.Double, _case().id] = list(providers)
    book.begin()
    return saved


class Elsewhere(Run):
    """A run whose results belong somewhere else."""

    place: Path

    @classmethod
    def of(cls, run: Run, place: Path) -> Run:
        """The same run, with its results in `place`."""
        elsewhere = cls(**asdict(run))
        object.__setattr__(elsewhere, "place", place)
        return elsewhere

    @property
    def file(self) -> Path:
        """Where its results belong."""
        return self.place


def _save(saved: Path, *records: Record) -> None:
    rows = [{"extra_info": {"record": record.as_dict()}} for record in records]
    saved.write_text(json.dumps({"benchmarks": rows, "rooftile": {"absent": []}}))


def test_the_journal_goes_only_when_every_row_is_in_the_file(book: Ledger, tmp_path: Path) -> None:
    saved = _with_journal(book, tmp_path, "naive", "eager")
    left = saved.with_suffix(".jsonl")
    first, second = (book.record(toy.Double, _case(), name) for name in ("naive", "eager"))
    assert len(journal.read(left).rows) == 2
    assert "all rows are done, but not all are in" in book.finish(saved), "expected no file to be noticed"
    _save(saved, first)  # as after -x or ctrl-C, when the second was clocked but not yet told
    assert "all rows are done, but not all are in" in book.finish(saved)
    saved.write_text(saved.read_text()[:-9])
    assert "all rows are done, but not all are in" in book.finish(saved), "expected half a file to be noticed"
    assert left.exists()
    _save(saved, first, second)
    assert book.finish(saved) == ""
    assert not left.exists()


def test_the_run_ends_where_rows_would_be_lost(book: Ledger, tmp_path: Path) -> None:
    saved = _with_journal(book, tmp_path, "eager")
    book.note(roofs=[])
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    used = saved.with_suffix(".jsonl").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (used + 40, limits[1]))  # a disk with room for 40 bytes
    try:
        with pytest.raises(pytest.exit.Exception, match="expected to write what was clocked, got File too large"):
            book.note(words="x" * 100)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert saved.with_suffix(".jsonl").stat().st_size == used, "expected no half line"
    book.note(words="short")
    assert journal.read(saved.with_suffix(".jsonl")).facts == {"roofs": [], "words": "short"}


def test_a_folder_that_cannot_be_written_is_told_before_anything_is_clocked(book: Ledger, tmp_path: Path) -> None:
    (tmp_path / "results").write_text("in the way")
    with pytest.raises(journal.Unwritable, match="expected a folder for results that can be written, got File exists"):
        _with_journal(book, tmp_path, "eager")
