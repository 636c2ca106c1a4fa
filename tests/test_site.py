"""The site tells what was judged, every number of it is in its data, and nothing in results can break out of it."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from reports.judge.derive import derive
from reports.read.essays import essays, paragraphs
from reports.read.load import Results
from reports.site.book import book
from reports.site.columns import MEANINGS, as_text, unit
from reports.site.data import as_csv, tables
from reports.site.drawing import ALONE, draw
from reports.site.operator_page import chapters
from reports.site.page import prose, slugs
from reports.site.panels import FACETS, job
from reports.site.plots import panel
from reports.site.site import MANIFEST, render, write
from reports.site.story import Story, Versus
from reports.site.tell import quality, tell
from tests.simulated import Reader, a_file, a_record, around, index_of, page_of, site_of, story_of, words_of
from tests.told import CASE_ID, DEVICES, ROOT, SLOWED, change, comparison, past, versus, whole

EVIL = "<script>alert(1)</script>$x$[bold]&--></style>\"'\x1b[31m\u202e"


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    return whole(tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="module")
def site(story: Story) -> dict[str, str]:
    return render(story)


def _pages(site: dict[str, str]) -> dict[str, str]:
    return {name: page for name, page in site.items() if name.endswith(".html")}


def _small(tmp_path: Path, **facts: Any) -> Path:
    return a_file(tmp_path, [(a_record(name, 512), around(1e-3)) for name in ("naive", "eager", "triton")], **facts)


def test_where_nothing_is_wrong_the_overview_says_so(tmp_path: Path) -> None:
    words = words_of(index_of(_small(tmp_path)))
    assert "Nothing is wrong as far as these runs can tell" in words
    assert "things are wrong" not in words


def test_all_that_is_wrong_is_counted_and_each_links_to_more(site: dict[str, str]) -> None:
    page = site["index.html"]
    status = re.findall(r'<section class="status wrong".*?</section>', page, flags=re.DOTALL)[0]
    assert "6 things are wrong" in status
    told = dict(re.findall(r'<a href="#([^"]*)">([^<]*)</a>', status))
    assert told == {
        "invalid": "2 rows invalid",
        "failed": "1 row failed",
        "verdicts": "1 row without a time that the run before had",
        "changes": "3 confirmed slowdowns in the last 30 days",
    }
    assert "the gate fails" in status
    assert "1 row slower than in the run before" in status
    assert {*told} <= {*Reader(page).ids}


@pytest.mark.parametrize(
    ("facts", "told"),
    [({"dirty": True}, "uncommitted changes"), ({"dirty": None}, "an unknown state of the tree")],
)
def test_a_run_of_no_commit_is_wrong(tmp_path: Path, facts: dict[str, Any], told: str) -> None:
    assert f'<a href="#state">{told}</a>' in index_of(_small(tmp_path, **facts))


def test_what_was_left_out_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text("{")
    page = index_of(_small(tmp_path), tmp_path / "broken.json")
    assert '<a href="#left-out">1 thing left out, not readable</a>' in page
    assert 'id="left-out"' in page


def test_an_old_slowdown_a_speed_up_and_a_lone_run_are_no_alarm(story: Story) -> None:
    old = change("rms_norm", "x", started=pd.Timestamp("2025-01-01", tz="UTC"))
    others = [old, change("rms_norm", "x", ratio=0.9), change("rms_norm", "x", confirmed=False)]
    others.append(change("rms_norm", "x", role="peer"))
    page = render(replace(story, changes=others))["index.html"]
    assert "confirmed slowdown" not in page
    assert page.count("one run, not confirmed") == 1


def test_the_headline_counts_by_intervals(tmp_path: Path) -> None:
    times = {"faster": (1e-3, 5e-4), "slower": (1e-3, 2e-3), "close": (1e-3, 1e-3)}
    rows = [
        (a_record(provider, 512, operator=operator), around(time))
        for operator, both in times.items()
        for provider, time in zip(("eager", "triton"), both, strict=True)
    ]
    told = "ours is faster in 1, slower in 1, too close to call in 1 of 3 operators and modes."
    assert told in words_of(index_of(a_file(tmp_path, rows)))
    alone = index_of(a_file(tmp_path / "b", [(a_record("triton", 512), around(1e-3))]))
    assert "nothing can be said of where they stand" in words_of(alone)


def test_verdicts_stand_on_the_overview_and_beside_their_rows(site: dict[str, str]) -> None:
    words = words_of(site["index.html"])
    told = "NVIDIA H200 commit 1e1e1e1e1e1e of 2026-01-31, against commit 1d1d1d1d1d1d of 2026-01-30"
    assert f"{told} registers 168 -&gt; 255 on sm_90 1 slower 1 not comparable 1 ambiguous 1 same" in words
    assert "slower rms_norm forward triton llama3-8b, bf16, 4096 +7.1 % registers 168 -&gt; 255 on sm_90" in words
    places = [words.index(f"{word} rms_norm forward") for word in ("slower", "not comparable")]
    assert places == sorted(places)
    page = site["operator-rms_norm.html"]
    bodies = re.findall(r'<tbody class="kernel first">.*?</tbody>', page, flags=re.DOTALL)
    row = next(body for body in bodies if "41.4 us" in body)
    assert "slower +7.1 %" in words_of(row)
    assert "slower since the run before: registers 168 -&gt; 255 on sm_90" in words_of(row)
    assert "since the run before" not in site["operator-int8_matmul.html"]


def test_without_an_earlier_run_the_overview_says_what_gives_one(tmp_path: Path) -> None:
    words = words_of(index_of(_small(tmp_path)))
    assert "There is no earlier run of the same device to compare with." in words
    assert "Months of runs on one device show them" in words


def test_changes_have_their_causes_and_the_device_as_a_whole_is_told_as_such(site: dict[str, str]) -> None:
    for name in ("index.html", "history.html"):
        words = words_of(site[name])
        row = "2026-01-31 1e1e1e1e1e1e rms_norm forward triton llama3-8b, bf16, 4096, NVIDIA H200 +7.1 %"
        causes = "registers 168 -&gt; 255 on sm_90 triton 3.6.0 -&gt; 3.7.1"
        assert f"{row} +6.2 % to +8.0 % confirmed by 4 runs {causes}" in words
        assert "the device as a whole most rows of NVIDIA H200 moved together" in words


def test_history_lists_the_newest_runs_and_says_how_many_are_older(site: dict[str, str]) -> None:
    words = words_of(site["history.html"])
    assert words.index("2026-03-01 00:00") < words.index("2026-02-28 00:00")
    assert "10 older runs are in the data." in words


def test_the_gate_is_quoted_with_its_command(site: dict[str, str]) -> None:
    words = words_of(site["index.html"])
    assert "gates that fail although nothing changed 0.4 % 0.36 % to 0.44 % 0.4 % 0.36 % to 0.44 %" in words
    assert "Nobody has measured it" not in words


def test_devices_stand_side_by_side_what_is_explained_least_first(site: dict[str, str]) -> None:
    words = words_of(site["hardware.html"])
    assert "NVIDIA B200 rms_norm forward 1.66x 1.67x 0.994x 8" in words
    first, last = "triton rms_norm forward, llama3-8b, bf16, 4096", "liger rms_norm forward, llama3-8b, bf16, 512"
    assert words.index(first) < words.index(last)
    assert "copy byte/s 4.10 TB/s 6.90 TB/s" in words
    assert "rms_norm forward llama3-8b, bf16: triton and liger NVIDIA B200 1730 1500 to 1980 liger" in words
    assert "1 pair is not seen to cross" in words
    assert "64.0 GiB" in words
    assert "1.20x 1.10x 1.30x 100 us 120 us" in words


@pytest.mark.parametrize(
    ("page", "told"),
    [
        ("hardware.html", "Run pytest bench --benchmark-only on another"),
        ("history.html", "pytest bench --benchmark-only makes one"),
        ("data.html", "pytest bench --benchmark-only makes some"),
        ("index.html", "pytest bench --benchmark-only makes some"),
    ],
)
def test_a_page_without_content_says_what_would_fill_it(page: str, told: str) -> None:
    assert told in words_of(render(Story(Results(), derive(Results().rows)))[page])


def test_an_operator_is_told_in_the_words_of_its_authors(site: dict[str, str]) -> None:
    words = words_of(site["operator-rms_norm.html"])
    assert "y = x / sqrt(mean(x^2) + eps) * weight over the last dimension" in words
    assert "How our kernel does it kernels/rms_norm.py Shapes: x, residual" in words
    assert "The reference reference/rms_norm.py ; arXiv:1910.07467" in words
    assert "torch.rsqrt(mean_square + eps)" in words
    below = "int8_matmul: out = (a @ b^T)"
    assert below in words_of(site["operator-int8_linear.html"]), "expected what the colon hands over to"


def test_every_operator_of_the_checkout_has_an_essay_with_a_paper() -> None:
    found = essays(ROOT)
    assert {*found} >= {"attention", "rms_norm", "add_rms_norm", "swiglu", "int8_linear", "quantize_int8"}
    for name, essay in found.items():
        assert essay.equation, name
        assert essay.idea, name
        assert essay.papers, name
        assert essay.reference.startswith(f"def {name}("), name


def test_sources_that_are_missing_or_broken_cost_only_their_essay(tmp_path: Path) -> None:
    assert essays(tmp_path) == {}
    (tmp_path / "reference").mkdir()
    (tmp_path / "reference" / "good.py").write_text('def good():\n    """Fine."""\n')
    (tmp_path / "reference" / "broken.py").write_text("def (")
    (tmp_path / "reference" / "binary.py").write_bytes(b"\xff\x00")
    found = essays(tmp_path)
    assert {*found} == {"good"}
    assert (found["good"].equation, found["good"].kernel_file) == ([], "")


def test_paragraphs_flow_and_indented_ones_keep_their_lines() -> None:
    told = paragraphs("One\ntwo.\n\n    a = b\n      + c\n\n\nThree.")
    assert [(each.text, each.preformatted) for each in told] == [
        ("One two.", False),
        ("a = b\n  + c", True),
        ("Three.", False),
    ]
    assert prose("<b> `x < y`") == "&lt;b&gt; <code>x &lt; y</code>"


def test_every_table_is_in_the_data_with_every_digit(story: Story, site: dict[str, str]) -> None:
    rows = pd.read_csv(io.StringIO(site["data/rows.csv"]))
    assert len(rows) == len(story.rows)
    for name in ("median_s", "low_s", "q3_s", "bytes_per_s", "over_rival", "peak_bytes", "joules_per_call", "error"):
        expected = story.rows[name].reset_index(drop=True)
        pd.testing.assert_series_equal(rows[name].astype("float64"), expected, check_names=False, rtol=0)
    linked = {link for page in _pages(site).values() for link in Reader(page).pages if link.startswith("data/")}
    assert linked == {name for name in site if name.startswith("data/")}
    expected_too = ("verdicts", "changes", "devices", "roofs", "runs", "kernels", "gate", "portability", "frontiers")
    assert linked >= {f"data/{name}.csv" for name in expected_too}


def test_every_column_of_the_data_has_a_meaning(story: Story, site: dict[str, str]) -> None:
    for each in tables(book(story)):
        unknown = {*each.table.columns} - {*MEANINGS} - {*DEVICES}
        assert not unknown, f"{each.name}.csv"
        for column in each.table.columns:
            assert f"<code>{column}</code>" in site["data.html"]


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        ("median_s", "seconds"),
        ("bytes_per_s", "bytes per second"),
        ("flop_per_s", "operations per second"),
        ("energy_per_token_j", "joules per token"),
        ("base_joules_per_call", "joules per call"),
        ("peak_bytes", "bytes"),
        ("base_mhz", "MHz"),
        ("sm_clock_hz", "Hz"),
        ("over_rival", ""),
    ],
)
def test_the_unit_of_a_column_is_in_its_name(column: str, expected: str) -> None:
    assert unit(column) == expected


def test_a_cell_is_told_in_the_unit_of_its_row_or_its_column() -> None:
    assert as_text("NVIDIA H200", 4.1e12, "byte/s") == "4.10 TB/s"
    assert as_text("NVIDIA H200", 2e-6, "s") == "2.00 us"
    assert as_text("cap_bytes", 2.0**36) == "64.0 GiB"
    assert as_text("largest", 65536.0) == "65536"
    assert as_text("case", None) == as_text("largest", float("nan")) == "-"


@pytest.mark.parametrize("begin", ["=", "+", "-", "@", " =", "\t=", "\r="])
def test_no_text_of_the_data_is_a_formula(begin: str) -> None:
    table = pd.DataFrame({"provider": [f'{begin}HYPERLINK("//x","y")\n,z'], "error": [-1.5], "new": [False]})
    (head, cells) = csv.reader(io.StringIO(as_csv(table)))
    assert head == ["provider", "error", "new"]
    assert not cells[0].lstrip().startswith(("=", "+", "-", "@"))
    assert cells[0].endswith('HYPERLINK("//x","y")\n,z')
    assert cells[1:] == ["-1.5", "false"], "expected numbers as they are"


def test_nothing_in_results_breaks_out_of_any_page(tmp_path: Path) -> None:
    site = render(whole(tmp_path, name=EVIL, text=EVIL))
    for name, page in site.items():
        page.encode()
        assert not {"\x1b", "\u202e"} & {*page}, name
    for name, page in _pages(site).items():
        assert not Reader(page).open, name
        assert page.count("<script") == page.count("</style>") == 1, name
        assert not re.search(r"<[a-z]+ [^>]*\bon[a-z]+=", page), name
    assert all("&lt;script&gt;alert(1)" in site[f"{name}.html"] for name in ("index", "hardware", "history"))


def test_devices_with_hostile_names_head_their_columns_as_text(story: Story) -> None:
    site = render(replace(story, comparison=comparison("rms_norm", "x", devices=("=A<b>", EVIL))))
    assert "=A&lt;b&gt;" in site["hardware.html"]
    assert not Reader(site["hardware.html"]).open
    assert next(csv.reader(io.StringIO(site["data/device-roofs.csv"])))[2] == "'=A<b>"


@pytest.mark.parametrize("name", ["../../etc/passwd", "/abs", "..", "CON", "a\x00b", "x" * 5000, "\u5feb", "", "index"])
def test_no_name_of_an_operator_leads_out_of_the_folder(tmp_path: Path, name: str) -> None:
    path = a_file(tmp_path, [(a_record("eager", 512, operator=name), around(1e-3))])
    index = write(story_of(path), tmp_path / "site" / "here")
    pages = {each.relative_to(tmp_path / "site").as_posix() for each in (tmp_path / "site").rglob("*.html")}
    (own,) = pages - {f"here/{fixed}.html" for fixed in ("index", "hardware", "history", "data")}
    assert re.fullmatch(r"here/operator-[a-z0-9_-]{1,60}\.html", own)
    assert Path(own).name in {link.partition("#")[0] for link in Reader(index.read_text()).pages}


def test_names_that_differ_have_files_that_differ() -> None:
    names = ["a b", "a-b", "A B", "a b", "\u5feb", "\u901f"]
    found = slugs(names, "unnamed")
    assert list(found.values()) == ["a-b", "a-b-2", "a-b-3", "unnamed", "unnamed-2"]


def test_a_page_names_its_own_style_and_script_by_their_hashes(site: dict[str, str]) -> None:
    for page in _pages(site).values():
        policy = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)[0]
        for tag, rule in (("style", "style-src-elem"), ("script", "script-src")):
            (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, flags=re.DOTALL)
            digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
            assert f"{rule} 'sha256-{digest}'" in policy
        assert policy.startswith("default-src 'none'")


def test_pages_of_an_earlier_site_go_and_nothing_else_does(tmp_path: Path) -> None:
    target = tmp_path / "site"
    both = [(a_record("eager", 512, operator=name), around(1e-3)) for name in ("first", "second")]
    write(story_of(a_file(tmp_path, both)), target)
    (target / "mine.html").write_text("kept")
    (tmp_path / "outside.html").write_text("kept")
    manifest = json.loads((target / MANIFEST).read_text())
    hostile = ["../outside.html", "/etc/hostname", "site.json", "data/../../outside.html", 7, None]
    (target / MANIFEST).write_text(json.dumps({"files": manifest["files"] + hostile}))
    write(story_of(a_file(tmp_path, both[:1])), target)
    left = {path.name for path in target.glob("*")}
    assert "operator-second.html" not in left
    assert {"operator-first.html", "mine.html", "index.html"} <= left
    assert (tmp_path / "outside.html").exists()
    assert not [name for name in left if name.startswith(".")], "expected nothing half written"


@pytest.mark.parametrize("content", ["", "[]", '{"files": 7}', "{" * 100_000])
def test_a_manifest_that_is_none_is_no_hindrance(tmp_path: Path, content: str) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / MANIFEST).write_text(content)
    assert write(story_of(_small(tmp_path)), tmp_path / "site").exists()


def test_a_site_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"target: expected a folder, .* got \S*page\.html"):
        write(story_of(_small(tmp_path)), tmp_path / "page.html")


def test_what_is_too_much_to_draw_is_named_and_stays_in_the_table(tmp_path: Path) -> None:
    count = FACETS + 2
    rows = [
        (a_record("eager", 512, case={"model": f"model{i:02}", "seq_len": 512}), around(1e-3)) for i in range(count)
    ]
    page = page_of(a_file(tmp_path, rows))
    assert page.count("<figcaption>") == FACETS
    assert "2 more combinations are in the table, but not drawn: model12; model13." in words_of(page)
    assert page.count('<th scope="row">') == count


def test_several_processes_draw_what_one_does(tmp_path: Path) -> None:
    case: Any = {"seq_len": 512}
    rows = [
        (a_record("eager", 512, operator=f"op{i}", case=case), around(1e-3 * (i + 1))) for i in range(ALONE // 3 + 1)
    ]
    whole_book = book(story_of(a_file(tmp_path, rows)))
    panels = [
        each for one in chapters(whole_book) for part in one.sections for facet in part.facets for each in facet.panels
    ]
    assert len(panels) > ALONE
    told: list[tuple[int, int]] = []
    jobs = [job(each, whole_book.looks) for each in panels]
    drawn = draw(jobs, lambda done, of: told.append((done, of)))
    assert told == [(i + 1, len(panels)) for i in range(len(panels))]
    for each in (panels[0], panels[-1]):
        assert drawn[each.name] == panel(each.rows, each.quantity, whole_book.looks, each.name)


def test_every_sortable_table_has_one_head_and_as_many_cells(site: dict[str, str]) -> None:
    for name, page in _pages(site).items():
        for table in re.findall(r"<table class=\"[^\"]*sortable.*?</table>", page, flags=re.DOTALL):
            heads = table.count('<th scope="col"')
            for row in re.findall(r"<tr>(.*?)</tr>", table.partition("</thead>")[2], flags=re.DOTALL):
                cells = len(re.findall(r"<t[dh][ >]", re.sub(r"<svg.*?</svg>", "", row, flags=re.DOTALL)))
                assert cells == heads or "colspan" in row, (name, row)


def test_verdicts_find_their_rows_by_device_and_case(story: Story) -> None:
    table = versus("rms_norm", "why").verdicts
    assert json.loads(CASE_ID) == {"dtype": "bf16", "model": "llama3-8b", "seq_len": 4096}
    elsewhere = replace(story.versus[0], verdicts=table.assign(device="another"))
    assert "since the run before" not in render(replace(story, versus=[elsewhere]))["operator-rms_norm.html"]


MEASURED = {
    "command": "python -m reports.judge.quality",
    "histories": [
        {
            "history_runs": 10,
            "false_alarms": {"rate": 0.004, "low": 0.002, "high": 0.007, "replays": 4500},
            "improvements_that_failed": {"rate": 0.0, "low": 0.0, "high": 0.001, "replays": 4500},
            "power": [{"change": 0.05, "all": {"rate": 0.97, "low": 0.96, "high": 0.98, "replays": 4500}}],
        }
    ],
}


def test_all_judgements_of_a_history_are_told(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reports.site.tell.stored", lambda: MEASURED)
    told = tell(story.results, past(), root=ROOT)
    assert [(each.row, each.confirmed) for each in told.changes] == [(SLOWED, True)]
    assert told.changes[0].causes
    (versus_,) = told.versus
    assert versus_.head == "commit 000000000000 of 2026-03-01 00:00"
    assert len(versus_.verdicts) == 40
    site = render(told)
    assert "slowdowns by 5 % that are found 97 % 96 % to 98 %" in words_of(site["index.html"])
    assert "python -m reports.judge.quality measures it again." in words_of(site["index.html"])
    assert "There is one device here" in words_of(site["hardware.html"])
    drawn = re.findall(r'aria-label="Time of ([^"]*)"', site["history.html"])
    ends = r"from [\d.]+ us to [\d.]+ us over 60 runs"
    assert re.match(rf"operator0 fwd: triton, model0, bf16, 512, {ends}\. Changes: \+", drawn[0])
    points = pd.read_csv(io.StringIO(site["data/timelines.csv"]))
    assert len(points) == 60 * len(drawn)
    assert points.row[0] == SLOWED


@pytest.mark.parametrize("stored", [{}, {"histories": [{}], "command": "x"}, OSError("none")])
def test_where_the_gate_was_not_measured_the_overview_says_what_measures_it(
    story: Story, monkeypatch: pytest.MonkeyPatch, stored: Any
) -> None:
    def found() -> Any:
        if isinstance(stored, OSError):
            raise stored
        return stored

    monkeypatch.setattr("reports.site.tell.stored", found)
    assert quality() is None
    words = words_of(render(replace(story, quality=None))["index.html"])
    assert "Nobody has measured it in this checkout. python -m reports.judge.quality does." in words


def test_a_gate_that_asks_for_more_runs_is_not_wrong_yet(tmp_path: Path) -> None:
    unsure = Versus("Simulated", "a", "b", status="confirm", words=["suspect: <x>"], command="pytest -k x")
    page = render(replace(story_of(_small(tmp_path)), versus=[unsure]))["index.html"]
    assert "Nothing is wrong" in page
    assert "The gate asks for more runs before it is sure." in words_of(page)
    assert "suspect: &lt;x&gt; the runs that settle it pytest -k x" in words_of(page)


def test_runs_of_which_git_knew_nothing_and_of_unknown_start_are_shown_as_such(story: Story) -> None:
    history = past(4)
    dirty, started = pd.array([pd.NA, True, False, False], dtype="boolean"), history.runs.started.copy()
    started.iloc[0] = pd.NaT
    history.runs = history.runs.assign(dirty=dirty, unfinished=pd.array([3, pd.NA, pd.NA, pd.NA], dtype="Int64"))
    history.runs["started"] = started
    words = words_of(render(replace(story, history=history))["history.html"])
    assert "- 000000000000 unknown state full unfinished 40 results/simulated/0.json" in words
    assert "2026-01-02 00:00 000000000000 dirty full 40" in words
    assert "2026-01-03 00:00 000000000000 full 40" in words


def test_the_same_story_makes_the_same_site(tmp_path: Path) -> None:
    path = _small(tmp_path)
    assert site_of(path) == site_of(path)
