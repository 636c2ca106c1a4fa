"""Reports tell what the clock adds: roofs, warm caches, energy, doubts, invalid rows, and what a killed run left."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from reports.judge.derive import derive, throughput
from reports.judge.gaps import gaps
from reports.judge.roofs import roof_lines
from reports.judge.standing import standings
from reports.read.counts import load as load_counts
from reports.read.load import expand, load, newest
from reports.show.details import details
from reports.show.header import options
from reports.site.looks import looks
from reports.site.site import render
from reports.site.story import Story
from tests import simulated_gpu
from tests.simulated import (
    MIB,
    Reader,
    a_file,
    a_record,
    around,
    command,
    load_files,
    page_of,
    rows_of,
    site_of,
    words_of,
)
from tests.simulated_gpu import BF16, COPY, INT8, LENGTHS

ROOT = Path(__file__).parents[1]
COUNTS = load_counts(ROOT / "results" / "counts.json")


@pytest.fixture(scope="module")
def gpu(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulated_gpu.results(tmp_path_factory.mktemp("gpu"))


@pytest.fixture(scope="module")
def rows(gpu: Path) -> pd.DataFrame:
    return rows_of(gpu)


@pytest.fixture(scope="module")
def site(gpu: Path) -> dict[str, str]:
    return site_of(gpu, counts=COUNTS)


@pytest.fixture(scope="module")
def page(site: dict[str, str]) -> str:
    return site["operator-rms_norm.html"]


def _row(rows: pd.DataFrame, provider: str, length: int = 1024, operator: str = "rms_norm", mode: str = "fwd") -> Any:
    is_it = (rows.operator == operator) & (rows["mode"] == mode) & (rows.provider == provider) & (rows.x == length)
    return rows[is_it].iloc[0]


def _one(tmp_path: Path, **changes: Any) -> pd.Series:
    rows = rows_of(a_file(tmp_path, [(a_record("triton", 512, **changes), around(1e-3))]))
    return rows.iloc[0]


def test_figures_follow_from_what_the_clock_adds(rows: pd.DataFrame) -> None:
    row = _row(rows, "eager")
    middle = 32 * MIB / COPY * 4 / 2.9 + 3e-6
    assert row.warm_s == pytest.approx(0.7 * middle)
    assert row.cold_over_warm == pytest.approx(row.median_s / row.warm_s)
    assert row.sm_clock_hz == pytest.approx(1.98e9 - 1.5e7)
    assert row.cycles == pytest.approx(row.median_s * row.sm_clock_hz)
    assert row.energy_per_token_j == pytest.approx(middle * 560 / 1024)
    assert (row.workspace_bytes, row.least_bytes, row.peak_over_least) == (24 * MIB, 16 * MIB, 3)
    assert pd.isna(row.saved_bytes)
    assert _row(rows, "eager", mode="bwd").saved_bytes == 4 * MIB


def test_the_roof_is_the_higher_one_that_the_run_measured(rows: pd.DataFrame) -> None:
    """Bytes at copy, which was faster than triad, or operations at the GEMM of the dtype that they run in."""
    moving = _row(rows, "triton")
    assert (moving.roof, moving.unit) == ("bandwidth", "bf16")
    assert moving.of_roof == pytest.approx(32 * MIB / COPY / moving.median_s)
    computing = _row(rows, "triton", operator="int8_matmul")
    assert (computing.roof, computing.unit) == ("int8 GEMM", "int8"), "its axis says bf16, its dots are of int8"
    assert computing.of_roof == pytest.approx(32 * MIB * 2000 / INT8 / computing.median_s)
    assert throughput(rows[rows.operator == "int8_matmul"]).unit == "TOP/s"
    assert rows.of_roof.max() < 1


def test_a_float_operator_is_held_against_the_gemm_of_its_dtype(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"operator": "attention", "flops": int(1e12)}
    path = a_file(tmp_path, [(a_record("triton", 512, **changes), around(2e-3))], **simulated_gpu.FACTS)
    row = rows_of(path).iloc[0]
    assert (row.roof, row.of_roof) == ("bf16 GEMM", pytest.approx(1e12 / BF16 / 2e-3))
    assert throughput(rows_of(path)).unit == "TFLOP/s"


@pytest.mark.parametrize(
    ("changes", "roofs"),
    [
        ({"case": {"model": "llama3-8b", "seq_len": 512}}, simulated_gpu.roofs()),
        ({"case": {"dtype": "fp64"}}, simulated_gpu.roofs()),
        ({"dtypes": ["bf16", "torch.float8_e4m3fn"]}, simulated_gpu.roofs()),
        ({}, []),
        ({}, simulated_gpu.roofs()[2:]),
    ],
)
def test_where_a_roof_is_unknown_there_is_no_share_of_it(
    tmp_path: Path, changes: dict[str, Any], roofs: list[Any]
) -> None:
    """No dtype, no GEMM of it, one that could not be measured, no roofs, no bandwidth."""
    row = rows_of(a_file(tmp_path, [(a_record("triton", 512, **changes), around(1e-3))], roofs=roofs)).iloc[0]
    assert pd.isna(row.of_roof)
    assert not row.roof


def test_roofs_stand_beside_the_data_sheet(gpu: Path) -> None:
    run = load_files(gpu).runs[0]
    lines = {line.name: line for line in roof_lines(run, COUNTS)}
    assert (lines["copy"].measured, lines["copy"].spread) == ("4.10 TB/s", "0.9 %")
    assert (lines["copy"].sheet, lines["copy"].share) == ("4.80 TB/s", "85 %")
    assert (lines["bf16 GEMM"].sheet, lines["int8 GEMM"].measured) == ("989 TFLOP/s", "1320 TOP/s")
    assert (lines["launch"].measured, lines["launch"].sheet, lines["launch"].share) == ("2.10 us", "1.30 us", "62 %")
    assert "_scaled_mm" in lines["fp8 GEMM"].reason
    assert {line.sheet for line in roof_lines(run, None)} == {"-"}


def test_the_overview_tells_how_the_run_was_measured(site: dict[str, str]) -> None:
    words = words_of(site["index.html"])
    assert (
        "the harness added 34 % to the wall time of what it timed ; "
        "flushing caches and, on a GPU, holding it back until calls are launched took another 21 %"
    ) in words
    assert (
        "options that are not the defaults tune cached, config from results/nvidia-h100, energy, second opinion, "
        "memory cap 64.0 GiB conditions"
    ) in words
    assert "threads 16 , pinned close on cores , flush 120 MiB" in words.replace(",", " ,")
    assert "no garbage collection" in words
    assert "roof median spread data sheet reached copy 4.10 TB/s 0.9 % 4.80 TB/s 85 %" in words


def test_options_at_their_defaults_are_not_told(tmp_path: Path) -> None:
    quiet = {"tune": "full", "config_from": None, "energy": False, "time_budget_s": None, "row_timeout_s": 600.0}
    budgeted = {"time_budget_s": 600.0, "row_timeout_s": 120.0}
    for profile, usual in (("smoke", budgeted), ("quick", budgeted), ("full", {"energy": True})):
        facts: dict[str, Any] = {"profile": profile, "options": quiet | usual}
        assert options(load_files(a_file(tmp_path, [], **facts)).runs[0]) == []
    chosen = {"energy": True, "time_budget_s": 90.0}
    assert options(load_files(a_file(tmp_path, [], options=chosen)).runs[0]) == ["energy", "time budget 90.0 s"]


def test_a_row_tells_all_that_is_known_of_it(page: str) -> None:
    words = words_of(page)
    for told in (
        "1965 MHz, 46 \N{DEGREE SIGN}C, 520 W, 4.38 mJ a call cold and warm caches 7.83 us and 5.47 us: 1.43x",
        "roof 52 %: bandwidth allows 4.09 us",
        "rounds 30 rounds, stopped: precise; bootstrapped 95 % interval 7.78 us to 7.85 us, +- 0.4 %",
        "cycles 15,395 at the median SM clock",
        "energy a call 4.38 mJ (resolved to 15.6 uJ, 153,568 calls in 1.20 s, nvmlDeviceGetTotalEnergyConsumption)",
        "energy a token 8.55 uJ SM clock 1965 MHz (1950 MHz to 1980 MHz) memory clock 3200 MHz",
        "throttled rounds 12 to 18: power cap, heat",
        "outputs 8.00 MiB, workspace 12.0 MiB, least that results need 8.00 MiB; the peak is 3.00x the least",
        "saved for backward 4.00 MiB",
        "configuration of _forward BLOCK=4096, num_warps=8, num_stages=3, maxnreg=null; key 4096, bf16; cached",
        "second opinion cupti 7.74 us against device 7.81 us +- 156 ns: DISAGREES: 12 % apart, 2 % allowed",
        "first call 3.10 s, of which compiling 1.90 s; 12 kernels, 3 from the cache; tuning 800 ms",
        "2 modes 12.6 us (60 %), 15.2 us (40 %)",
        "not read load: NVML does not tell it",
    ):
        assert told in words, told


def test_doubts_are_visible_without_a_click(page: str) -> None:
    doubts = re.findall(r'<p class="doubt"><b>(.*?)</b> (.*?)</p>', page)
    assert [kind for kind, _ in doubts] == ["throttled", "second opinion", "bimodal", "foreign load"]
    assert doubts[0][1] == "rounds 12 to 18 at 1.41 GHz: power cap, heat"
    folded = "".join(re.findall(r"<details>.*?</details>", page, flags=re.DOTALL))
    assert "doubt" not in folded


def test_energy_has_a_panel_where_there_is_any(page: str, tmp_path: Path) -> None:
    panels = [panel.partition(":")[0] for panel in re.findall(r'role="img" aria-label="([^"]*)"><svg', page)]
    assert panels.count("Energy per call") == panels.count("Time per call") == 2
    without = a_file(tmp_path, [(a_record("eager", 512), around(1e-3))])
    assert "Energy per call" not in page_of(without)


def test_the_site_of_everything_is_well_formed_and_asks_for_nothing(site: dict[str, str]) -> None:
    for page in (site[name] for name in site if name.endswith(".html")):
        reader = Reader(page)
        assert not reader.open
        assert len(reader.ids) == len(set(reader.ids))
        assert reader.links <= set(reader.ids)
        assert {link.partition("#")[0] for link in reader.pages} <= set(site)
        assert not re.search(r"""src=|<link(?! rel="icon" href="data:,")|url\((?!#)|@import""", page)


def test_invalid_rows_are_loud_and_enter_nothing(rows: pd.DataFrame, site: dict[str, str]) -> None:
    invalid = rows[rows.status == "invalid"]
    assert len(invalid) == 2
    assert invalid.median_s.isna().all()
    assert invalid.samples_s.map(len).eq(0).all()
    assert "flashinfer" not in looks(rows)
    assert not rows.rival.eq("flashinfer").any()
    words = words_of(site["index.html"])
    assert "60 measured 4 absent, with a reason 1 failed 2 invalid" in words
    assert "Invalid These rows were timed, but their times cannot be true." in words
    assert "flashinfer on rms_norm fwd 2 rows needs 5.31 TB/s, 1.29x what copy measured" in words
    assert words.index("Invalid These rows") < words.index("Failed These rows") < words.index("Against the run before")
    words = words_of(site["operator-rms_norm.html"])
    assert words.index("Invalid These rows") < words.index("rms_norm forward 1.00")
    assert "Failed These rows" in words_of(site["operator-int8_matmul.html"])


def test_samples_of_an_invalid_row_are_kept_out_wherever_they_stand(tmp_path: Path) -> None:
    """Even where the row stands among the measured ones with samples that would win."""
    cheat = a_record("triton", 512, status="invalid", reason="above copy", other_samples_s={"device_warm": [1e-9]})
    path = a_file(tmp_path, [(cheat, around(1e-9)), (a_record("eager", 512), around(1e-3))])
    rows = rows_of(path)
    assert rows.median_s.tolist() == pytest.approx([float("nan"), 1e-3], nan_ok=True)
    assert rows.warm_s.isna().all()
    standing = standings(rows)[0]
    assert (standing.fastest, standing.reason, standing.failed) == ("eager", "triton is invalid: above copy", True)
    assert [gap.status for gap in gaps(rows)] == ["invalid"]
    assert "1.00 ns" not in words_of(page_of(path))


def test_frontiers_and_dropped_cases_are_listed(site: dict[str, str], tmp_path: Path) -> None:
    words = words_of(site["operator-attention.html"])
    row = "attention forward llama3-8b, causal, bf16 naive 16384 not 32768 out of memory tried to allocate 128 GiB"
    assert row in words
    assert "triton 1048576 longest tried" in words
    assert "flash_attn none fits not 512 failed" in words
    for name in ("index.html", "operator-swiglu.html"):
        words = words_of(site[name])
        assert "Dropped by the time budget These 3 cases were planned" in words
        assert "swiglu bwd-llama3-70b-seq_len8192-fused-bf16 priority 3" in words
    for bare in site_of(a_file(tmp_path, [(a_record("eager", 512), around(1e-3))])).values():
        assert "Out-of-memory frontier" not in words_of(bare)
        assert "Dropped" not in words_of(bare)


def test_the_terminal_has_the_new_columns_where_there_is_room(gpu: Path) -> None:
    wide = command("show", gpu, columns=160).output
    assert "budget  of roof  cold/warm\n" in wide
    assert re.search(r"triton +7\.83 us .* 25 % +52 % +1\.43x  throttled, second opinion\n", wide)
    assert re.search(r"INVALID flashinfer on rms_norm fwd, 2 rows: needs 5\.31 TB/s[^\n]*\n  pytest ", wide)
    assert "TOP/s" in wide
    assert "dropped by the time budget: 3 cases" in wide
    assert (
        "attention fwd: llama3-8b, causal, bf16: naive 16384 (out of memory), triton 1048576 (longest tried), "
        "flash_attn none (failed)\n"
    ) in wide
    narrow = command("show", gpu, columns=80).output
    assert "cold/warm" not in narrow
    assert "throttled" in narrow
    assert max(len(line) for line in narrow.splitlines() if not line.startswith("  pytest")) <= 80


def test_old_results_read_as_before() -> None:
    old = next((ROOT / "results" / "amd-epyc").glob("*398b3dec07b8.json"))
    results = load([[old]])
    rows = derive(results.rows, results.runs)
    assert not results.left_out
    assert (rows.status == "measured").sum() == 114
    assert not rows.of_roof.notna().any()
    assert not rows.warm_s.notna().any()
    assert all(not details(row).facts and not details(row).marks for _, row in rows.iterrows())
    site = render(Story(results, rows[rows.operator == "swiglu"], COUNTS))
    assert 'class="more"' not in site["operator-swiglu.html"]


ODD: tuple[Any, ...] = ("x", [1], {"a": 1}, -1, True, float("nan"), float("inf"), 10**400, [None], [[]], [{}])
PARTS = ("dtypes", "memory", "compiling", "tuned", "stop", "telemetry", "energy", "opinion", "marks", "other_samples_s")


def _places(value: Any, place: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Every place in a value, itself included; of a list only the first entry."""
    inner = value.items() if isinstance(value, dict) else list(enumerate(value))[:1] if isinstance(value, list) else ()
    return [place, *(deep for name, each in inner for deep in _places(each, (*place, name)))]


def _with(content: Any, place: tuple[str | int, ...], value: Any) -> Any:
    content = json.loads(json.dumps(content))
    inner = content
    for step in place[:-1]:
        inner = inner[step]
    inner[place[-1]] = value
    return content


@pytest.mark.parametrize("part", PARTS)
def test_no_value_in_any_place_of_a_record_makes_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    # Drawing takes most of the time, and is tried elsewhere.
    monkeypatch.setattr("reports.site.drawing._each", lambda jobs: ["<svg/>" for _ in jobs])
    monkeypatch.setattr("reports.site.book.swatch", lambda *_: "<svg/>")
    record, samples = simulated_gpu.rows()[4][0], around(1e-3)
    for place in _places(record[part]):
        odd = [(_with(record, (part, *place), value) | {"case": {"k": i}}, samples) for i, value in enumerate(ODD)]
        path = a_file(tmp_path, [(record, samples), *odd], **simulated_gpu.FACTS)
        results = load_files(path)
        rows = derive(results.rows, results.runs)
        assert all(page.encode() for page in render(Story(results, rows)).values())
        lost = sum(int(reason.split()[0]) for _, reason in results.left_out)
        assert len(rows) + lost == 1 + len(ODD), place


@pytest.mark.parametrize("part", ["options", "conditions", "roofs", "frontiers", "dropped", "overhead", "flush_share"])
def test_a_bad_fact_of_a_run_costs_no_rows(tmp_path: Path, part: str) -> None:
    for place in _places(simulated_gpu.FACTS[part]):
        for value in ODD:
            facts = _with(simulated_gpu.FACTS, (part, *place), value)
            path = a_file(tmp_path, [(a_record("eager", 512), around(1e-3))], **facts)
            results = load_files(path)
            assert len(results.rows) == 1, (place, value)
            assert all(part in reason for _, reason in results.left_out), (place, value)
            run = results.runs[0]
            roof_lines(run, COUNTS)
            assert all(isinstance(told, str) for told in options(run))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"memory": {"peak_bytes": 1, "workspace_bytes": "8"}}, 'workspace_bytes: expected a number from 0, got "8"'),
        ({"energy": {"joules_per_call": float("nan")}}, "joules_per_call: expected a number from 0, got NaN"),
        ({"telemetry": {"monitor": "nvml", "readings": [7]}}, "readings: expected objects, got 7"),
        ({"other_samples_s": {"device_warm": [0.0]}}, "other_samples_s: expected positive times of device_warm"),
        ({"marks": [{"kind": "throttled"}]}, "text: missing"),
        ({"opinion": {"by": "cupti", "agrees": "yes"}}, 'agrees: expected true, false or null, got "yes"'),
        ({"tuned": [{"kernel": "k", "config": {"BLOCK": []}, "source": "only"}]}, "config: expected text, a number"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, changes: dict[str, Any], why: str) -> None:
    results = load_files(a_file(tmp_path, [(a_record("eager", 512, **changes), around(1e-3))]))
    assert results.rows.empty
    assert results.left_out[0][1].startswith(f"1 row: {why}")


def test_a_record_may_lack_any_of_it(tmp_path: Path) -> None:
    row = _one(tmp_path, telemetry={"monitor": "psutil", "readings": [], "unavailable": {"energy": "no counter"}})
    assert details(row).facts == [("read by", "psutil"), ("first call", "100 ms"), ("not read", "energy: no counter")]
    silent = {"by": "cupti", "seconds": None, "agrees": None, "reason": "CUPTI is in use"}
    assert ("second opinion", "cupti has none: CUPTI is in use") in details(_one(tmp_path, opinion=silent)).facts


EVIL = "<script>alert(1)</script>\x1b[31m\u202e"


def test_new_names_are_text_too(tmp_path: Path) -> None:
    record, samples = simulated_gpu.rows()[4]
    record["tuned"] = [{"kernel": EVIL, "key": [EVIL], "config": {EVIL: EVIL}, "source": EVIL}]
    record["marks"] = [{"kind": EVIL, "text": EVIL}]
    record["telemetry"] |= {"monitor": EVIL, "unavailable": {EVIL: EVIL}}
    record["opinion"] |= {"by": EVIL, "against": EVIL, "reason": EVIL}
    frontier = simulated_gpu.FACTS["frontiers"][0]
    evil = {name: EVIL if isinstance(value, str) else value for name, value in frontier.items()} | {
        "case": {EVIL: EVIL}
    }
    facts: dict[str, Any] = dict(conditions={EVIL: EVIL}, options={EVIL: EVIL}, frontiers=[evil])
    facts |= dict(dropped=[{"operator": EVIL, "case": EVIL, "priority": 1}])
    facts |= dict(roofs=[{"name": EVIL, "unit": "s", "values": [], "reason": EVIL}])
    gone = a_record(EVIL, 512, status="invalid", reason=EVIL, command=EVIL)
    path = a_file(tmp_path, [(record, samples)], [gone], **facts)
    site = site_of(path, counts=COUNTS)
    for page in (site[name] for name in site if name.endswith(".html")):
        assert not Reader(page).open
        assert page.count("<script") == 1
    shown = command("show", path, columns=300).output
    assert not {"\x1b", "\u202e"} & {*"".join(site.values()), *shown}
    assert "INVALID <script>" in shown


def test_a_journal_is_shown_and_said_to_be_unfinished(tmp_path: Path) -> None:
    path = simulated_gpu.journal(tmp_path)
    results = load_files(path)
    assert len(results.rows) == 6
    assert results.left_out == [(str(path), "its last line is torn: the row in flight is lost")]
    assert results.runs[0].unfinished == 6
    assert results.runs[0].roofs[0].name == "copy", "expected the facts of a later line"
    rows = derive(results.rows, results.runs)
    assert (rows.status == "invalid").sum() == 1
    assert rows.of_roof.notna().sum() == 5
    words = words_of(render(Story(results, rows, COUNTS))["index.html"])
    assert "Unfinished: 6 rows. The run was cut short; continue it with pytest bench --benchmark-only --resume" in words
    shown = command("show", path).output
    assert "unfinished: 6 rows; continue it with `pytest bench --benchmark-only --resume`" in shown
    assert load_files(simulated_gpu.journal(tmp_path, torn=False)).left_out == []


RUN_LINE = {
    "kind": "run", "schema": 2, "device": {"name": "Simulated", "kind": "cpu"}, "versions": {}, "commit": "0123",
    "dirty": False, "command": "pytest bench", "profile": "smoke", "started": "2026-01-01T00:00:00Z",
}  # fmt: skip


def _journal(tmp_path: Path, *lines: Any) -> Path:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(
        b"".join((each if isinstance(each, bytes) else json.dumps(each).encode()) + b"\n" for each in lines)
    )
    return path


def test_bad_lines_of_a_journal_are_named_and_the_others_stay(tmp_path: Path) -> None:
    good = {"kind": "rows", "rows": [{"record": a_record("eager", 512), "samples_s": around(1e-3)}]}
    stranger = {"kind": "facts", "commit": "another", "overhead": 0.5}
    bad: list[Any] = [b"{", b"\xff\xfe", [1], {"kind": "odd"}, {"kind": "rows", "rows": {}}, RUN_LINE, {}]
    results = load_files(_journal(tmp_path, RUN_LINE, *bad, stranger, good))
    assert len(results.rows) == 1
    run = results.runs[0]
    assert (run.commit, run.overhead, run.unfinished) == ("0123", 0.5, 1), "expected facts, but no other commit"
    reasons = [reason for _, reason in results.left_out]
    assert [reason.partition(":")[0] for reason in reasons] == [f"line {number}" for number in range(2, 9)]


def test_bad_rows_of_a_journal_are_named(tmp_path: Path) -> None:
    measured = {"record": a_record("eager", 512), "samples_s": None}
    results = load_files(_journal(tmp_path, RUN_LINE, {"kind": "rows", "rows": [7, {}, measured]}))
    assert results.rows.status.tolist() == ["failed"], "expected a measured row without samples to be none"
    assert [reason.partition(":")[0] for _, reason in results.left_out] == ["1 row", "1 row"]


@pytest.mark.parametrize("content", [b"", b"\n\n", b'{"kind": "run", "sch', b'{"kind": "rows", "rows": []}\n', b"7\n"])
def test_what_does_not_begin_with_a_run_is_no_journal(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(content)
    results = load_files(path)
    assert not results.runs
    assert "expected a journal whose first line is a run" in results.left_out[0][1]


def test_results_count_and_their_journal_is_a_leftover(tmp_path: Path) -> None:
    journal = simulated_gpu.journal(tmp_path)
    folder = journal.parent
    assert (newest(tmp_path / "results"), expand([folder])) == ([[journal]], [journal])
    results = folder / f"{journal.stem}.json"
    shutil.copy(simulated_gpu.results(tmp_path / "other"), results)
    later = folder / "20270101T000000Z-0123456789ab.jsonl"
    shutil.copy(journal, later)
    assert newest(tmp_path / "results") == [[later, results, journal]]
    assert expand([folder]) == [results, later]
    assert expand([journal, results]) == [results]
    assert expand([journal]) == [journal], "whoever asks for the journal alone gets it"


def test_every_length_of_the_sweep_is_drawn(rows: pd.DataFrame) -> None:
    assert set(rows.x.dropna()) == set(LENGTHS)
