"""Reports tell what results hold: right figures, absences with reasons, hostile names as text, broken files by name."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from reports import units
from reports.judge.derive import derive, throughput
from reports.judge.standing import Standing, standings
from reports.read.load import Results, expand, load, newest
from reports.site.looks import DARK, LIGHT, looks
from reports.site.site import render
from reports.site.story import Story
from tests.simulated import (
    MIB,
    Reader,
    a_file,
    a_record,
    around,
    command,
    index_of,
    load_files,
    page_of,
    rows_of,
    site_of,
    words_of,
)


@pytest.fixture
def typical(tmp_path: Path) -> Path:
    """Three lengths, naive at 4 ms a 512 rows, eager twice and ours four times as fast; one peer absent, one failed."""
    measured = [
        (a_record(provider, length), around(4e-3 * length / 512 / speed))
        for length in (512, 1024, 2048)
        for provider, speed in (("naive", 1), ("eager", 2), ("triton", 4))
    ]
    reasons = {"status": "absent", "reason": "No module named 'liger_kernel'", "remedy": "pip install liger-kernel"}
    absent = [a_record("liger", length, **reasons) for length in (512, 1024, 2048)]
    failure = "Disproved: output 0, row 3: expected an error of ...\nTraceback: deep inside"
    absent.append(a_record("quack", 512, status="failed", reason=failure))
    return a_file(tmp_path, measured, absent)


def _row(path: Path, provider: str, length: int) -> Any:
    rows = rows_of(path)
    return rows[(rows.provider == provider) & (rows.x == length)].iloc[0]


def _standing(*paths: Path) -> Standing:
    return standings(rows_of(*paths))[0]


def test_figures_follow_from_the_samples(typical: Path) -> None:
    eager = _row(typical, "eager", 1024)
    assert eager.median_s == pytest.approx(4e-3)
    assert eager.bytes_per_s == pytest.approx(32 * MIB / 4e-3)
    assert eager.flop_per_s == pytest.approx(8 * MIB / 4e-3)
    assert (eager.low_s, eager.high_s) == (pytest.approx(4e-3 * 0.97), pytest.approx(4e-3 * 1.03))
    assert (eager.q1_s, eager.q3_s) == (pytest.approx(4e-3 * 0.985), pytest.approx(4e-3 * 1.015))
    assert eager.over_naive == pytest.approx(2)


def test_an_axis_that_is_none_at_all_is_told(tmp_path: Path) -> None:
    case = {"model": "gpt2-xl", "axis": None, "seq_len": 512}
    (row,) = rows_of(a_file(tmp_path, [(a_record("eager", 512, case=case), around(1e-3))])).to_dict("records")
    assert row["case"] == "gpt2-xl, axis none, 512"


def test_everything_that_is_committed_is_read() -> None:
    found = load(newest())
    assert len(found.rows) > 300
    assert found.left_out == []


def test_the_interval_of_the_median_covers_it_as_often_as_it_says(tmp_path: Path) -> None:
    draws = np.random.default_rng(0).lognormal(0.0, 0.5, size=(400, 15))
    path = a_file(tmp_path, [(a_record("eager", i + 1), draw.tolist()) for i, draw in enumerate(draws)])
    rows = rows_of(path)
    covered = ((rows.low_s <= 1.0) & (rows.high_s >= 1.0)).mean()
    assert 0.95 <= covered < 0.99, "of 15 order statistics the narrowest interval of 95 % covers 96.5 %"


def test_the_rival_is_the_strongest_and_never_naive_nor_ours(typical: Path) -> None:
    triton = _row(typical, "triton", 512)
    assert (triton.rival, triton.over_rival) == ("eager", pytest.approx(2))
    assert triton.over_rival_low == pytest.approx(2 * 0.97 / 1.03)
    assert triton.over_rival_high == pytest.approx(2 * 1.03 / 0.97)
    assert pd.isna(_row(typical, "eager", 512).over_rival), "expected no rival where only naive and ours are left"


def test_the_strongest_of_several_peers_is_the_rival_even_if_naive_is_faster(tmp_path: Path) -> None:
    times = {"naive": 1e-3, "inductor": 3e-3, "eager": 4e-3, "liger": 2e-3, "triton": 2.5e-3}
    path = a_file(tmp_path, [(a_record(name, 512), around(time)) for name, time in times.items()])
    assert _row(path, "triton", 512).over_rival == pytest.approx(0.8)
    assert _row(path, "liger", 512).over_rival == pytest.approx(1.5), "the strongest is compared with the next"
    standing = _standing(path)
    assert (standing.fastest, standing.rival, standing.ours) == ("naive", "liger", "triton")
    assert "0.800x the speed of liger" in words_of(index_of(path))


def test_the_overview_judges_the_largest_case_of_which_ours_has_a_time(typical: Path, tmp_path: Path) -> None:
    standing = _standing(typical)
    assert (standing.case, standing.fastest, standing.wins, standing.cases) == ("llama3-8b, bf16, 2048", "triton", 3, 3)
    assert (standing.ratio, standing.ratio_least, standing.ratio_most) == pytest.approx((2, 2, 2))
    big = (a_record("eager", 4096), around(1e-3))
    both = [(a_record(name, 512), around(1e-3)) for name in ("eager", "triton")]
    standing = _standing(a_file(tmp_path, [big, *both]))
    assert (standing.case, standing.cases) == ("llama3-8b, bf16, 512", 2)
    assert standing.ratio == pytest.approx(1)


@pytest.mark.parametrize(("status", "failed"), [("absent", False), ("failed", True)])
def test_without_a_time_of_ours_the_overview_says_why(tmp_path: Path, status: str, failed: bool) -> None:
    absent = [a_record("triton", 512, status=status, reason="needs a GPU\nmore")]
    path = a_file(tmp_path, [(a_record("eager", 512), around(1e-3))], absent)
    standing = _standing(path)
    assert (standing.fastest, standing.rival, standing.ours) == ("eager", "eager", "")
    assert standing.reason == ("triton failed: needs a GPU" if failed else "needs a GPU")
    assert standing.failed is failed
    assert standing.reason in words_of(index_of(path))


def test_runs_are_never_mixed(tmp_path: Path) -> None:
    """A fast run of naive beside a slow one of eager would make a ratio that nobody measured."""
    first = a_file(tmp_path, [(a_record("naive", 512), around(1e-3))], started="2026-01-01T00:00:00Z")
    second = a_file(tmp_path, [(a_record("eager", 512), around(5e-4))], started="2026-01-02T00:00:00Z")
    assert rows_of(first, second).over_naive.isna().all()
    assert newest(tmp_path / "results") == [[second, first]]
    assert expand([tmp_path, first]) == [first, second]
    words = words_of(page_of(first, second))
    assert "llama3-8b, bf16 on Simulated, 2026-01-02T00:00:00Z, 0123456789ab" in words, "expected each run by its name"


def test_each_device_has_its_own_line_in_the_overview(tmp_path: Path) -> None:
    paths = [
        a_file(tmp_path / name, [(a_record("eager", 512), around(1e-3))], device={"name": name, "kind": "cuda"})
        for name in ("H200", "B200")
    ]
    rows = rows_of(*paths)
    assert len(standings(rows)) == 2
    words = words_of(page_of(*paths))
    assert "llama3-8b, bf16 on H200" in words
    assert "llama3-8b, bf16 on B200" in words


def test_throughput_is_told_in_the_unit_that_fits() -> None:
    moving = pd.DataFrame({"flops": [100.0], "traffic_bytes": [100.0], "unit": ["int8"]})
    computing = pd.DataFrame({"flops": [1e6], "traffic_bytes": [100.0], "unit": ["bf16"]})
    assert (throughput(moving).unit, throughput(computing).unit) == ("GB/s", "TFLOP/s")
    assert throughput(computing.assign(unit="int8")).unit == "TOP/s"
    assert 2e12 * throughput(computing).scale == pytest.approx(2)
    assert 3e9 * throughput(moving).scale == pytest.approx(3)


def test_the_pages_show_everything(typical: Path) -> None:
    site = site_of(typical)
    words = words_of(site["index.html"])
    assert "Simulated cpu, cores 2, memory 16.0 GiB" in words
    assert "2026-01-01 00:00 UTC" in words
    assert "ncommitted" not in words
    page = site["operator-rms_norm.html"]
    shown = "triton llama3-8b, bf16, 512 1.00 ms 970 us to 1.03 ms 16.8 2.00x 4.00x 8.00 MiB 1 / 4 all 7 precise host"
    assert shown in words_of(page)
    assert page.count("test_speed[") == 10, "expected the command behind each row and each failure"
    for told in (words, words_of(page)):
        assert "9 measured 3 absent, with a reason 1 failed" in told
        assert "liger No module named &#39;liger_kernel&#39; rms_norm fwd pip install liger-kernel 3" in told
        assert "quack on rms_norm fwd 1 row Disproved: output 0, row 3: expected an error of ..." in told


def test_every_panel_is_drawn_and_described(typical: Path) -> None:
    page = page_of(typical)
    panels = re.findall(r'role="img" aria-label="([^"]*)"><svg', page)
    assert [panel.partition(":")[0] for panel in panels] == [
        "Time per call",
        "Throughput, GB/s",
        "Peak memory above inputs",
    ]
    assert panels[0] == (
        "Time per call: rms_norm forward, llama3-8b, bf16, against sequence length from 512 to 2048. "
        "At 2048: triton 4.00 ms, eager 8.00 ms, naive 16.0 ms."
    )
    assert page.count('<ul class="legend">') == 1
    assert page.count("opacity: 0.16") == 6, "expected a band of time and of throughput for each provider"


def test_the_pages_ask_for_nothing(typical: Path) -> None:
    for name, page in site_of(typical).items():
        if name.endswith(".html"):
            assert "default-src 'none'" in page
            assert not re.search(r"""src=|<link(?! rel="icon" href="data:,")|url\((?!#)|@import""", page)
            assert page.count("<script") == 1
            # What remains are names of kinds of markup, which nobody asks a host for.
            found = {*re.findall(r"[a-z]+://[^\"'\s]+", page)}
            assert found <= {"http://www.w3.org/1999/xlink", "http://www.w3.org/2000/svg"}


def test_the_same_results_make_the_same_site(typical: Path) -> None:
    assert site_of(typical) == site_of(typical)


def test_colours_are_variables_that_both_papers_define(typical: Path) -> None:
    page = page_of(typical)
    assert set(LIGHT) == set(DARK)
    style = page[page.index("<style>") : page.index("</style>")]
    assert all(f"--{name}: {colour};" in style for palette in (LIGHT, DARK) for name, colour in palette.items())
    drawn = page[page.index("</style>") :]
    assert not re.search(r"(stroke|fill): #", drawn), "a colour that does not follow light and dark"
    assert "var(--ours)" in drawn


def test_rivals_differ_in_look_and_ours_is_alike_everywhere(tmp_path: Path) -> None:
    names = ["naive", "triton", *(f"peer{i}" for i in range(14))]
    path = a_file(tmp_path, [(a_record(name, 512), around(1e-3)) for name in names])
    look = looks(rows_of(path))
    assert len({(each.colour, each.marker) for each in look.values()}) == len(names)
    assert (look["triton"].colour, look["naive"].colour) == ("ours", "naive")
    assert len({look[f"peer{i}"].colour for i in range(7)}) == 7, "expected a colour twice only when all are taken"


def test_pages_are_well_formed_and_their_links_lead_somewhere(typical: Path) -> None:
    site = site_of(typical)
    readers = {name: Reader(page) for name, page in site.items() if name.endswith(".html")}
    for reader in readers.values():
        assert not reader.open
        assert len(reader.ids) == len(set(reader.ids))
        assert reader.links <= set(reader.ids)
        for link in reader.pages:
            file, _, anchor = link.partition("#")
            assert file in site
            assert not anchor or anchor in readers[file].ids


@pytest.mark.parametrize(("dirty", "words"), [(True, "uncommitted changes"), (None, "unknown state")])
def test_a_run_of_no_commit_is_marked(tmp_path: Path, dirty: bool | None, words: str) -> None:
    path = a_file(tmp_path, [(a_record("eager", 512), around(1e-3))], dirty=dirty)
    page = index_of(path)
    assert f"{words.capitalize()}." in words_of(page)
    assert ("<title>DIRTY: " in page) is bool(dirty)
    assert words.upper() in command("show", path).output


EVIL = "<script>alert(1)</script>$x$[bold]&--></style>\x1b[31m\u202e\ud800"


def test_names_are_text_wherever_they_stand(tmp_path: Path) -> None:
    """Names come from files: neither markup, mathematics, rich's tags nor escape sequences may be read into them."""
    case = {"model": EVIL, "seq_len": 512, "dtype": "bf16", EVIL: 3}
    texts: dict[str, Any] = dict(operator=EVIL, mode=EVIL, case=case, command=EVIL, timer=EVIL, reason=EVIL)
    record = a_record(EVIL, 512) | texts
    gone = a_record("liger", 512) | texts | {"status": "absent", "remedy": EVIL}
    lost = a_record("quack", 512) | texts | {"status": "failed"}
    facts: dict[str, Any] = dict(device={"name": EVIL, "kind": EVIL, EVIL: EVIL}, versions={EVIL: EVIL}, profile=EVIL)
    path = a_file(tmp_path, [(record, around(1e-3))], [gone, lost], command=EVIL, commit=EVIL, **facts)
    site = site_of(path)
    for name, page in site.items():
        page.encode()
        assert not {"\x1b", "\u202e"} & {*page}
        if name.endswith(".html"):
            assert not Reader(page).open
            assert page.count("<script") == page.count("</style>") == 1
    (operator_page,) = (name for name in site if name.startswith("operator"))
    assert re.fullmatch(r"operator-[a-z0-9_-]+\.html", operator_page)
    for name in ("index.html", operator_page):
        assert "&lt;script&gt;alert(1)&lt;/script&gt;$x$[bold]&amp;--&gt;" in site[name]
    shown = command("show", path, columns=2000)
    assert shown.exit_code == 0
    assert not {"\x1b", "\u202e"} & {*shown.output}
    assert "<script>alert(1)</script>$x$[bold]&--></style>" in shown.output


def test_letters_that_no_font_has_and_very_long_names_are_drawn(tmp_path: Path) -> None:
    names = ["\u5feb\u901f\u5b9e\u73b0", "long" * 200]
    measured = [(a_record(name, 512, command="x", id="x"), around(1e-3)) for name in names]
    page = page_of(a_file(tmp_path, measured))
    assert f">{names[0]}</text>" in page
    assert f">{names[1][:15]}\N{HORIZONTAL ELLIPSIS}</text>" in page


@pytest.mark.parametrize(
    ("cases", "axis", "panels"),
    [
        ([{"k": 1, "sorted": True}, {"k": 8, "sorted": True}], "k", 3),
        ([{"k": 1, "sorted": True}, {"k": 8, "sorted": False}], "k", 6),
        ([{"layout": "nchw"}, {"layout": "nhwc"}], "", 6),
        ([{"model": "vit-b", "k": 8}], "", 3),
        ([{}], "", 3),
        ([{"model": "a", "seq_len": 512}, {"model": "a"}], "seq_len", 6),
    ],
)
def test_cases_of_any_axes_are_drawn(tmp_path: Path, cases: list[dict[str, Any]], axis: str, panels: int) -> None:
    measured = [
        (a_record(name, 512, case=case), around(1e-3 * (i + 1)))
        for i, case in enumerate(cases)
        for name in ("eager", "triton")
    ]
    path = a_file(tmp_path, measured)
    assert set(rows_of(path).axis) == {axis}
    assert page_of(path).count('role="img"') == panels


def test_what_has_no_memory_figure_says_so_where_it_would_stand(tmp_path: Path) -> None:
    records = [a_record("eager", 512), a_record("naive", 512, memory=None)]
    assert page_of(a_file(tmp_path, [(record, around(1e-3)) for record in records])).count(">not measured</text>") == 1
    lengths = [(a_record("naive", length, memory=None), around(1e-3)) for length in (512, 1024)]
    assert page_of(a_file(tmp_path, lengths)).count(">not measured</text>") == 1


@pytest.mark.parametrize("peaks", [(0, 0), (0, 4096), (4096, 4096), (1 << 20, 1 << 34)])
def test_any_memory_is_drawn(tmp_path: Path, peaks: tuple[int, int]) -> None:
    memory = [{"peak_bytes": peak, "output_bytes": 0} for peak in peaks]
    rows = [(a_record("eager", 512 * 2**i, memory=each), around(1e-3)) for i, each in enumerate(memory)]
    assert units.size(peaks[1]) in words_of(page_of(a_file(tmp_path, rows)))


def test_a_repeated_row_is_left_out(tmp_path: Path) -> None:
    results = load_files(a_file(tmp_path, [(a_record("eager", 512), around(time)) for time in (1e-3, 2e-3)]))
    assert derive(results.rows).median_s.tolist() == pytest.approx([1e-3])
    assert "1 row: the same row as one before: rms_norm/fwd" in results.left_out[0][1]


BROKEN = {
    "empty": (b"", "is not JSON"),
    "truncated": (b'{"benchmarks": [{"name": "x", ', "is not JSON"),
    "a list": (b"[1, 2]", "rooftile: expected an object that holds it, got [1, 2]"),
    "foreign": (b'{"benchmarks": [], "version": "5"}', "rooftile: missing"),
    "another schema": (
        b'{"benchmarks": [], "rooftile": {"schema": 99}}',
        "written by a newer rooftile: schema 99, and this one reads up to 2",
    ),
    "null": (b"null", "rooftile: expected"),
    "deep": (b"[" * 100_000, "is not JSON"),
    "binary": (bytes(range(256)), "is not JSON"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_files_are_named_and_left_out(tmp_path: Path, typical: Path, kind: str) -> None:
    content, reason = BROKEN[kind]
    broken = tmp_path / "broken.json"
    broken.write_bytes(content)
    results = load_files(broken, typical, tmp_path / "missing.json")
    assert len(results.rows) == 13
    assert [Path(path).name for path, _ in results.left_out] == ["broken.json", "missing.json"]
    assert results.left_out[0][1].startswith(reason)


def test_the_page_names_what_was_left_out(tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text("{")
    words = words_of(
        index_of(tmp_path / "broken.json", a_file(tmp_path, [(a_record("eager", 512, role="odd"), [1.0])]))
    )
    assert re.search(r"Left out\. \S+broken\.json is not JSON", words)
    assert "1 row: role: expected one of reference, kernel, peer, got &#34;odd&#34;" in words


def _set(content: Any, path: tuple[str | int, ...], value: Any) -> Any:
    content = copy.deepcopy(content)
    inner = content
    for step in path[:-1]:
        inner = inner[step]
    if value is KeyError:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return content


ODD: tuple[Any, ...] = (None, "x", [1], {"a": 1}, -1, True, float("nan"), 10**400, "\ud800\x1b[31m", KeyError)


def test_no_value_in_any_place_makes_a_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every field of a file becomes every kind of value: the file or the row is named, or shown, and all else stays."""
    # Drawing takes most of the time, and is tried elsewhere.
    monkeypatch.setattr("reports.site.drawing._each", lambda jobs: ["<svg/>" for _ in jobs])
    monkeypatch.setattr("reports.site.book.swatch", lambda *_: "<svg/>")
    absent = [a_record("liger", 512, status="absent", reason="none here")]
    path = a_file(tmp_path, [(a_record("eager", 512), around(1e-3))], absent)
    good = json.loads(path.read_text())
    row: tuple[str | int, ...] = ("benchmarks", 0, "extra_info", "record")
    record = good["benchmarks"][0]["extra_info"]["record"]
    places = [(*row, name) for name in record] + [("rooftile", name) for name in good["rooftile"]]
    places += [(*row, name, inner) for name in ("case", "proof", "memory", "stop") for inner in record[name]]
    places += [("rooftile", "device", name) for name in good["rooftile"]["device"]]
    places += [("rooftile", "versions", "torch"), ("rooftile", "absent"), ("benchmarks",)]
    places += [("benchmarks", 0, "stats"), ("benchmarks", 0, "stats", "data"), ("benchmarks", 0, "extra_info")]
    for place in places:
        files = []
        for i, value in enumerate(ODD):
            files.append(tmp_path / f"{i}.json")
            files[-1].write_text(json.dumps(_set(good, place, value)))
        results = load_files(*files)
        rows = derive(results.rows)
        assert all(page.encode() for page in render(Story(results, rows)).values())
        odd = {path for path, _ in results.left_out}
        assert all(str(file) in odd or (rows.run == str(file)).sum() == 2 for file in files), place


@pytest.mark.parametrize(
    ("changes", "samples", "why"),
    [
        ({}, [], "samples are missing"),
        ({}, [0.0, 1.0], "not positive times"),
        ({}, [float("nan")], "not positive times"),
        ({}, [-1.0], "not positive times"),
        ({}, [float("inf")], "not positive times"),
        ({}, [1.0, "2.0"], "not positive times"),
        ({}, None, "samples are missing"),
        (
            {"proof": {"error": 5.0, "budget": 4.0, "rows": "all"}},
            [1.0],
            "its error 5.00 is not within its budget 4.00",
        ),
        ({"proof": {"error": float("nan"), "budget": 4.0, "rows": "all"}}, [1.0], "its error NaN is not within"),
    ],
)
def test_a_measured_row_that_cannot_be_believed_is_a_failed_one(
    tmp_path: Path, changes: dict[str, Any], samples: Any, why: str
) -> None:
    path = a_file(tmp_path, [(a_record("eager", 512, **changes), samples)])
    row = rows_of(path).iloc[0]
    assert row.status == "failed"
    assert why in row.reason
    assert pd.isna(row.median_s)
    assert "Failed These rows were wrong, or broke." in words_of(page_of(path))


def test_records_without_proof_or_memory_show_as_unknown(tmp_path: Path) -> None:
    record = a_record("eager", 512, proof=None, memory=None, stop=None, setup_s=None)
    words = words_of(page_of(a_file(tmp_path, [(record, [1e-3])])))
    assert "eager llama3-8b, bf16, 512 1.00 ms too few rounds 16.8 - - - no proof 1 - host" in words


@pytest.mark.parametrize("name", ["show", "build", "hardware", "history"])
def test_nothing_to_show_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    bare = command(name)
    assert bare.exit_code == 1
    assert "No results to show" in bare.output
    assert "There are no rows to show" in render(Story(Results(), derive(Results().rows)))["index.html"]
    lost = command("show", "nowhere")
    assert lost.exit_code == 2
    assert "nowhere" in lost.output


@pytest.mark.usefixtures("typical")
def test_the_newest_results_become_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shown = command("show", columns=80)
    assert shown.exit_code == 0
    assert "\x1b" not in shown.output, "expected plain text where there is no terminal"
    assert max(map(len, shown.output.splitlines())) <= 80
    assert re.search(
        r"rms_norm fwd: llama3-8b, bf16, 512\n +triton +1\.00 ms +3 % +16\.8 GB/s +8\.00 MiB +2\.00x +25 %",
        shown.output,
    )
    assert re.search(
        r"liger +3 of rms_norm: No module named 'liger_kernel'\n +mend with pip install liger-kernel", shown.output
    )
    assert re.search(r"FAILED quack on rms_norm fwd, 1 row: Disproved: [^\"]*\n  pytest ", shown.output)
    assert re.search(r"rms_norm fwd +triton 4\.00 ms \+- 3 % +2\.00x the speed of eager", shown.output)


@pytest.mark.usefixtures("typical")
def test_the_newest_results_become_a_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    built = command("build")
    assert built.exit_code == 0
    assert built.output.endswith("page: report/index.html\n")
    assert (tmp_path / "report/index.html").read_text().startswith("<!doctype html>")


def test_a_newest_file_that_was_cut_off_gives_way_to_the_one_before(
    typical: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (typical.parent / "20990101T000000Z.json").write_text('{"benchmarks": [')
    a_file(tmp_path, [(a_record("old", 512), around(1e-3))], started="2025-01-01T00:00:00Z")
    shown = command("show")
    assert shown.exit_code == 0
    assert "left out: results/simulated/20990101T000000Z.json: is not JSON, or not all of it" in shown.output
    assert "triton" in shown.output
    assert "old" not in shown.output


def test_the_output_is_a_folder_and_says_when_it_cannot_be(typical: Path, tmp_path: Path) -> None:
    assert command("build", typical, "--output", tmp_path / "deep/er").exit_code == 0
    assert (tmp_path / "deep/er/index.html").exists()
    single = command("build", typical, "--output", tmp_path / "page.html")
    assert single.exit_code == 2
    assert "expected a folder" in single.output
    impossible = command("build", typical, "--output", typical)
    assert impossible.exit_code == 2
    assert "expected a place to write to" in impossible.output


TOLD = [
    (units.seconds(1.2345e-3), "1.23 ms"),
    (units.seconds(999e-9), "999 ns"),
    (units.seconds(999.7e-9), "1.00 us"),
    (units.seconds(12.3456e-6), "12.3 us"),
    (units.seconds(75.0), "75.0 s"),
    (units.seconds(3600.0), "3600 s"),
    (units.seconds(float("nan")), "-"),
    (units.seconds(None), "-"),
    (units.size(0), "0 B"),
    (units.size(1536), "1.50 KiB"),
    (units.size(16 * MIB), "16.0 MiB"),
    (units.size(3 << 40), "3072 GiB"),
    (units.rate(2.5e12, 1e-12), "2.50"),
    (units.rate(1.5e7, 1e-9), "0.0150"),
    (units.ratio(1.239), "1.24x"),
    (units.ratio(0.0123), "0.0123x"),
    (units.ratio(float("inf")), "-"),
    (units.percent(0.125), "12 %"),
    (units.percent(1.0), "100 %"),
    (units.percent(12.34), "1234 %"),
    (units.percent(0.0033), "0.33 %"),
    (units.plain(131072.0), "131072"),
    (units.plain(0.5), "0.5"),
    (units.digits(0.0), "0"),
    (units.digits(9.996), "10.0"),
]


def test_quantities_as_text() -> None:
    assert [text for text, _ in TOLD] == [expected for _, expected in TOLD]


def test_reports_need_no_torch() -> None:
    program = "import sys, reports.__main__; assert not {'torch', 'triton', 'kernels', 'bench'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[1])
