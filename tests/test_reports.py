"""Reports tell what results hold: right figures, absences with reasons, hostile names as text, broken files by name."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

from reports import units
from reports.__main__ import app
from reports.derive import derive, standings, throughput
from reports.load import Results, expand, load, newest
from reports.page import render

MIB = 1 << 20


def _record(
    provider: str, length: int, *, operator: str = "rms_norm", mode: str = "fwd", **changes: Any
) -> dict[str, Any]:
    role = {"naive": "reference", "inductor": "reference", "triton": "kernel"}.get(provider, "peer")
    record = {
        "id": f"{operator}/{mode}/llama3-8b-seq_len{length}-bf16/{provider}",
        "operator": operator,
        "mode": mode,
        "case": {"model": "llama3-8b", "seq_len": length, "dtype": "bf16"},
        "sizes": {"rows": length, "cols": 4096, "dtype": "bf16"},
        "provider": provider,
        "role": role,
        "status": "measured",
        "reason": "",
        "remedy": "",
        "traffic_bytes": 16 * MIB,
        "flops": 4 * MIB,
        "timer": "host",
        "other_samples_s": {},
        "proof": {"error": 1.0, "budget": 4.0, "rows": "all"},
        "memory": {"peak_bytes": 8 * MIB, "output_bytes": 8 * MIB},
        "setup_s": 0.1,
        "stop": {"rounds": 7, "reason": "precise", "half_width": 0.01},
        "device": "Simulated",
        "commit": "0123456789abcdef",
        "dirty": False,
        "command": f'pytest "bench/bench_rms_norm.py::RmsNorm::test_speed[{mode}-{length}-{provider}]"',
        "schema": 1,
    }
    return record | changes


def _file(
    folder: Path,
    measured: Sequence[tuple[dict[str, Any], list[float]]],
    absent: Sequence[dict[str, Any]] = (),
    **facts: Any,
) -> Path:
    path = folder / "results" / "simulated" / f"{facts.get('started', '20260101T000000Z')}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    run = {
        "schema": 1,
        "device": {"name": "Simulated", "kind": "cpu"},
        "versions": {"torch": "2.13.0"},
        "commit": "0123456789abcdef",
        "dirty": False,
        "command": "pytest bench --benchmark-only",
        "profile": "smoke",
        "started": "2026-01-01T00:00:00Z",
        "overhead": 0.01,
        "absent": list(absent),
    }
    benchmarks = [{"name": "x", "extra_info": {"record": record}, "stats": {"data": data}} for record, data in measured]
    path.write_text(json.dumps({"benchmarks": benchmarks, "rooftile": run | facts}))
    return path


def _around(median: float) -> list[float]:
    return [median * factor for factor in (0.97, 0.98, 0.99, 1.0, 1.01, 1.02, 1.03)]


@pytest.fixture
def typical(tmp_path: Path) -> Path:
    """Three lengths, naive at 4 ms a 512 rows, eager twice and ours four times as fast; one peer absent, one failed."""
    measured = [
        (_record(provider, length), _around(4e-3 * length / 512 / speed))
        for length in (512, 1024, 2048)
        for provider, speed in (("naive", 1), ("eager", 2), ("triton", 4))
    ]
    reasons = {"status": "absent", "reason": "No module named 'liger_kernel'", "remedy": "pip install liger-kernel"}
    absent = [_record("liger", length, **reasons) for length in (512, 1024, 2048)]
    absent.append(_record("quack", 512, status="failed", reason="Disproved: output 0, row 3: expected an error of ..."))
    return _file(tmp_path, measured, absent)


def _rows(path: Path) -> pd.DataFrame:
    return derive(load([path]).rows)


def _row(path: Path, provider: str, length: int) -> Any:
    rows = _rows(path)
    return rows[(rows.provider == provider) & (rows.seq_len == length)].iloc[0]


def _page(path: Path) -> str:
    results = load([path])
    return render(results, derive(results.rows))


def test_figures_follow_from_the_samples(typical: Path) -> None:
    eager = _row(typical, "eager", 1024)
    assert eager.median_s == pytest.approx(4e-3)
    assert eager.bytes_per_s == pytest.approx(16 * MIB / 4e-3)
    assert eager.flop_per_s == pytest.approx(4 * MIB / 4e-3)
    assert (eager.low_s, eager.high_s) == (pytest.approx(4e-3 * 0.97), pytest.approx(4e-3 * 1.03))
    assert eager.q1_s == pytest.approx(4e-3 * 0.985)
    assert eager.over_naive == pytest.approx(2)


def test_the_rival_is_the_strongest_and_never_naive_nor_ours(typical: Path) -> None:
    assert _row(typical, "triton", 512).over_rival == pytest.approx(2)  # eager, not naive
    assert pd.isna(_row(typical, "eager", 512).over_rival), "expected no rival where only naive and ours are left"
    standing = standings(_rows(typical))[0]
    assert (standing.fastest, standing.rival, standing.ours) == ("triton", "eager", "2.00x")
    assert standing.case == "llama3-8b, bf16, 2048"


def test_an_absent_kernel_says_why_in_the_overview(tmp_path: Path) -> None:
    absent = [_record("triton", 512, status="absent", reason="needs a GPU")]
    standing = standings(_rows(_file(tmp_path, [(_record("eager", 512), _around(1e-3))], absent)))[0]
    assert (standing.fastest, standing.rival, standing.ours) == ("eager", "eager", "needs a GPU")


def test_runs_are_never_mixed(tmp_path: Path) -> None:
    """A fast run of naive beside a slow one of eager would make a ratio that nobody measured."""
    first = _file(tmp_path, [(_record("naive", 512), _around(1e-3))], started="20260101T000000Z")
    second = _file(tmp_path, [(_record("eager", 512), _around(5e-4))], started="20260102T000000Z")
    rows = derive(load([first, second]).rows)
    assert rows.over_naive.isna().all()
    assert newest(tmp_path / "results") == [second]
    assert expand([tmp_path]) == [first, second]


def test_throughput_is_told_in_the_unit_that_fits() -> None:
    moving = pd.DataFrame({"flops": [100], "traffic_bytes": [100]})
    computing = pd.DataFrame({"flops": [10**6], "traffic_bytes": [100]})
    assert (throughput(moving).unit, throughput(computing).unit) == ("GB/s", "TFLOP/s")
    assert 2e12 * throughput(computing).scale == pytest.approx(2)
    assert 3e9 * throughput(moving).scale == pytest.approx(3)


def test_the_page_shows_everything_and_asks_for_nothing(typical: Path) -> None:
    page = _page(typical)
    assert page.count("<svg") == page.count("</svg>") == 1
    assert "9 rows measured, 3 absent with a reason" in page
    assert "No module named &#39;liger_kernel&#39;" in page
    assert "pip install liger-kernel" in page
    assert "Failed: quack on llama3-8b, bf16, 512: Disproved" in page
    assert "25 %" in page, "expected the part of the error budget that was used"
    assert page.count("test_speed[") == 9, "expected the command behind each row"
    assert "seq_len" not in re.sub(r"<code>.*?</code>", "", page)
    assert not re.search(r"""(src|href)=["'](?!#)|url\((?!#)|@import|<script|<link""", page), "expected no request"
    assert "uncommitted" not in page


def test_the_page_is_well_formed_and_its_ids_are_unique(typical: Path) -> None:
    class Reader(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.open: list[str] = []
            self.ids: list[str] = []

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            self.ids += [str(value) for name, value in attrs if name == "id"]
            if tag not in ("meta", "br"):
                self.open.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert self.open.pop() == tag

    reader = Reader()
    reader.feed(_page(typical))
    assert not reader.open
    assert len(reader.ids) == len(set(reader.ids))


@pytest.mark.parametrize(("dirty", "words"), [(True, "with uncommitted changes"), (None, "unknown state")])
def test_a_run_of_no_commit_is_marked(tmp_path: Path, dirty: bool | None, words: str) -> None:
    path = _file(tmp_path, [(_record("eager", 512), _around(1e-3))], dirty=dirty)
    assert words in _page(path)
    if dirty:
        assert words in CliRunner().invoke(app, [str(path), "--output", str(tmp_path / "page")]).output


def test_names_are_text_wherever_they_stand(tmp_path: Path) -> None:
    """Names come from files: neither markup nor mathematics nor rich's tags may be read into them."""
    evil = "<script>alert(1)</script>$x$[bold]"
    case = {"model": evil, "seq_len": 512, "dtype": "bf16"}
    record = _record("eager", 512, operator=evil, case=case) | {"provider": evil}
    gone = _record("liger", 512, operator=evil, case=case, status="absent", reason=evil, remedy=evil)
    path = _file(tmp_path, [(record, _around(1e-3))], [gone], command=evil, commit=evil)
    page = _page(path)
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;$x$" in page
    shown = CliRunner().invoke(app, [str(path), "--output", str(tmp_path / "page")], env={"COLUMNS": "400"})
    assert shown.exit_code == 0
    assert f"{evil} fwd: {evil}, bf16, 512" in shown.output


def test_two_repeated_lengths_or_a_case_without_length_do_not_break_the_page(tmp_path: Path) -> None:
    plain = _record("eager", 512, case={"model": "vit-b"})
    twice = [(_record("eager", 512), _around(1e-3)), (_record("eager", 512), _around(2e-3))]
    page = _page(_file(tmp_path, [(plain, _around(1e-3)), *twice]))
    assert "vit-b" in page


BROKEN = {
    "empty": ("", "is not JSON"),
    "truncated": ('{"benchmarks": [{"name": "x", ', "is not JSON"),
    "a list": ("[1, 2]", "lacks what results have"),
    "foreign": ('{"benchmarks": [], "version": "5"}', "lacks what results have: KeyError('rooftile')"),
    "another schema": ('{"benchmarks": [], "rooftile": {"schema": 99}}', "has schema 99, expected 1"),
    "null": ("null", "lacks what results have"),
    "deep": ("[" * 100_000, "is not JSON"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_files_are_named_and_left_out(tmp_path: Path, typical: Path, kind: str) -> None:
    text, reason = BROKEN[kind]
    broken = tmp_path / "broken.json"
    broken.write_text(text)
    results = load([broken, typical, tmp_path / "missing.json"])
    assert len(results.rows) == 13
    assert [path.name for path, _ in results.left_out] == ["broken.json", "missing.json"]
    assert results.left_out[0][1].startswith(reason)
    assert "broken.json" in render(results, derive(results.rows))


@pytest.mark.parametrize("samples", [[], [0.0, 1.0], [float("nan")], [-1.0], [float("inf")]])
def test_a_measured_row_without_usable_samples_is_a_failed_one(tmp_path: Path, samples: list[float]) -> None:
    row = _rows(_file(tmp_path, [(_record("eager", 512), samples)])).iloc[0]
    assert row.status == "failed"
    assert pd.isna(row.median_s)


def test_records_without_proof_or_memory_show_as_unknown(tmp_path: Path) -> None:
    record = _record("eager", 512, proof=None, memory=None, stop=None, setup_s=None)
    page = _page(_file(tmp_path, [(record, [1e-3])]))
    assert '<td class="n">- to -</td>' in page, "one sample has no interval"


def test_nothing_to_show_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    bare = CliRunner().invoke(app, [])
    assert bare.exit_code == 1
    assert "No results yet" in bare.output
    assert "There are no rows to show" in render(Results(), pd.DataFrame())
    lost = CliRunner().invoke(app, ["nowhere"])
    assert lost.exit_code == 2
    assert "nowhere" in lost.output


@pytest.mark.usefixtures("typical")
def test_the_newest_results_become_a_table_and_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shown = CliRunner().invoke(app, [], env={"COLUMNS": "120"})
    assert shown.exit_code == 0
    assert "page: report/index.html" in shown.output
    assert re.search(r"rms_norm fwd: llama3-8b, bf16, 512\n +naive +4\.00 ms +3 % ", shown.output)
    assert re.search(r"liger +rms_norm +No module named 'liger_kernel' +pip install liger-kernel", shown.output)
    assert "FAILED rms_norm fwd quack" in shown.output
    assert (tmp_path / "report/index.html").read_text().startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (units.seconds(1.2345e-3), "1.23 ms"),
        (units.seconds(999e-9), "999 ns"),
        (units.seconds(12.3456e-6), "12.3 us"),
        (units.seconds(75.0), "75.0 s"),
        (units.seconds(float("nan")), "-"),
        (units.size(0), "0 B"),
        (units.size(1536), "1.50 KiB"),
        (units.size(16 * MIB), "16.0 MiB"),
        (units.rate(2.5e12, 1e-12, "TFLOP/s"), "2.50 TFLOP/s"),
        (units.rate(1.5e7, 1e-9, "GB/s"), "0.0150 GB/s"),
        (units.ratio(1.239), "1.24x"),
        (units.percent(0.125), "12 %"),
    ],
)
def test_quantities_as_text(text: str, expected: str) -> None:
    assert text == expected


def test_reports_need_no_torch() -> None:
    program = "import sys, reports.__main__; assert not {'torch', 'triton', 'kernels', 'bench'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[1])
