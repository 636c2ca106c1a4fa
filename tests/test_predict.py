"""Bounds by hand on a ledger of a few cases, and how they are shown."""

from __future__ import annotations

import copy
import io
import json
import math
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from markupsafe import Markup
from rich.console import Console
from typer.testing import CliRunner

from bench.__main__ import app
from bench.hardware import GPUS, named
from reports.judge.derive import derive
from reports.judge.predict import Bound, counted, floor, gpu_of, main_unit, multiples, uncached_s
from reports.read.counts import LEDGER, Counts, load
from reports.read.load import Results, expand
from reports.read.record import NotOurs
from reports.show.counts_terminal import show_cases, show_resources
from reports.site.book import book
from reports.site.counts_page import counts_section
from reports.site.drawing import draw
from reports.site.operator_page import chapters, operator_page
from reports.site.site import render
from reports.site.story import Story

GPU = {
    "name": "NVIDIA Toy <b>", "bandwidth": 1e12, "peaks": {"fp32": 1e13, "bf16": 1e14}, "special": 1e12,
    "launch_s": 1e-6, "processors": 10,
}  # fmt: skip


def _moved(requested: int, footprint: int) -> dict[str, int]:
    return {"requested": requested, "footprint": footprint}


def _launch(requested: int, footprint: int, **more: Any) -> dict[str, Any]:
    return {"programs": 1, "read": {"x_ptr": _moved(requested, footprint)}} | more


CASES = {
    # 100 MB at 1 TB/s: 100 us
    "fwd-moves-seq_len512": ((100_000_000, 1000), [_launch(150_000_000, 100_000_000)]),
    # 10 G operations at 100 TFLOP/s: 100 us
    "fwd-dots-seq_len512": ((1_000_000, 10**10), [_launch(2_000_000, 1_000_000, dots={"bf16": 2 * 10**10})]),
    # 2 G operations at 10 TFLOP/s: 200 us
    "fwd-computes-seq_len512": ((1_000_000, 10**9), [_launch(10**6, 10**6, flops={"add": 10**9, "multiply": 10**9})]),
    # 500 M exponentials at 1 T/s: 500 us
    "fwd-exponentiates-seq_len512": ((10**6, 10**6), [_launch(10**6, 10**6, special={"exp2": 500_000_000})]),
    # three launches of 1 us
    "fwd-launches-seq_len512": ((1000, 10), [_launch(1000, 1000)] * 3),
    "fwd-dots_in_fp8-seq_len512": ((1000, 10), [_launch(1000, 1000, dots={"fp8e4nv": 1000})]),
}


def _ledger() -> dict[str, Any]:
    floors = {case: {"bytes": least[0], "flops": least[1]} for case, (least, _) in CASES.items()}
    floors["fwd-dots-seq_len8192"] = {"bytes": 16_000_000, "flops": 16 * 10**10}
    record = {
        "registers": 255, "spills": 24, "stack": 32, "shared": 2048, "warps": 4, "occupancy": 0.25, "default": True,
        "instructions": {"load.128": 2, "store.32": 1, "wgmma": 8},
    }  # fmt: skip
    kernels = {
        "_k BLOCK=1": record,
        "_k BLOCK=2": record | {"default": False},
        "_large": {"absent": "shared memory: needs <i>much</i>", "default": True},
    }
    counted_cases = {
        case: {"triton": {f"{index} _k": launch for index, launch in enumerate(launches)}}
        for case, (_, launches) in CASES.items()
    }
    return {
        "schema": 1,
        "versions": {"torch": "2.13.0", "triton": "3.7.1"},
        "gpus": {"toy": GPU, "h200": GPU | {"name": "NVIDIA H200"}},
        "floors": {"<script>op": floors},
        "cases": {"<script>op": counted_cases},
        "resources": {"<script>op": {"fwd": {"triton": {"sm_90": kernels}}}},
    }


@pytest.fixture
def counts(tmp_path: Path) -> Counts:
    (tmp_path / "counts.json").write_text(json.dumps(_ledger()))
    return load(tmp_path / "counts.json")


def _case(counts: Counts, name: str) -> pd.Series:
    (row,) = (row for _, row in counts.cases.iterrows() if row.case == name)
    return row


@pytest.mark.parametrize(
    ("case", "least", "bound"),
    [
        ("moves-seq_len512", Bound(1e-4, "bandwidth"), Bound(1e-4, "bandwidth")),
        ("dots-seq_len512", Bound(1e-4, "tensor core"), Bound(2e-4, "tensor core")),
        ("computes-seq_len512", Bound(1e-4, "vector unit"), Bound(2e-4, "vector unit")),
        ("exponentiates-seq_len512", Bound(1e-6, "bandwidth"), Bound(5e-4, "special functions")),
        ("launches-seq_len512", Bound(1e-9, "bandwidth"), Bound(3e-6, "launch")),
    ],
)
def test_each_roof_binds_where_it_should(counts: Counts, case: str, least: Bound, bound: Bound) -> None:
    row = _case(counts, case)
    for got, expected in ((floor(row, GPU), least), (counted(row, GPU), bound)):
        assert got.roof == expected.roof
        assert got.seconds == pytest.approx(expected.seconds)


def test_a_peak_that_the_table_lacks_predicts_nothing(counts: Counts) -> None:
    case = _case(counts, "dots_in_fp8-seq_len512")
    for bound in (floor(case, GPU), counted(case, GPU)):
        assert math.isnan(bound.seconds)
        assert bound.roof == "no fp8 peak"
    hopper = GPU | {"peaks": {"fp32": 1e13, "fp8": 1e8}}
    assert counted(case, hopper) == Bound(1e-5, "tensor core"), "expected fp8e4nv to run at the peak of fp8"


def test_without_caches_every_request_goes_to_memory(counts: Counts) -> None:
    assert uncached_s(_case(counts, "moves-seq_len512"), GPU) == pytest.approx(1.5e-4)


def test_a_case_that_was_not_counted_has_a_floor_on_the_unit_of_its_operator(counts: Counts) -> None:
    row = _case(counts, "dots-seq_len8192")
    assert pd.isna(row.provider)
    assert main_unit(row) == "fp8", "that of a counted case of its operator"
    row["dots"] = {"fp32": 1, "bf16": 2}
    assert floor(row, GPU).seconds == pytest.approx(16e-4)
    assert floor(row, GPU).roof == "tensor core"


def test_multiples_of_the_floor(counts: Counts) -> None:
    found = multiples(counts.cases).set_index("case")
    assert len(found) == len(CASES)
    assert found.traffic["moves-seq_len512"] == 1
    assert found.rereads["moves-seq_len512"] == pytest.approx(1.5)
    assert found.traffic["launches-seq_len512"] == 3
    assert found.work["dots-seq_len512"] == 2
    assert found.work["computes-seq_len512"] == 2


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "expected JSON"),
        ("[" * 100_000, "expected JSON"),
        ("[1]", "expected counts of schema 1, got list"),
        ('{"schema": 9}', "expected counts of schema 1, got 9"),
        ('{"schema": 1, "floors": {"op": {"fwd-x": {}}}, "cases": {}}', "expected counts, got an entry that is none"),
    ],
)
def test_what_is_no_ledger_is_refused_with_a_reason(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "counts.json").write_text(text)
    with pytest.raises(NotOurs, match=reason):
        load(tmp_path / "counts.json")


def test_the_ledger_is_no_results_file(tmp_path: Path) -> None:
    (tmp_path / "device").mkdir()
    for name in ("counts.json", "device/run.json"):
        (tmp_path / name).write_text("{}")
    assert expand([tmp_path]) == [tmp_path / "device" / "run.json"]


def test_the_page_shows_counts_and_escapes_names(counts: Counts) -> None:
    results, rows = Results(), derive(Results().rows)
    site = render(Story(results, rows, counts))
    page = site["operator-script-op.html"]
    assert "What our kernels cost" in page
    assert "<script>op" not in page
    assert "<i>much" not in page
    assert page.count('class="plot"') == 2
    assert "of them spills" in page
    assert "none of them was measured" in page
    bare = render(Story(results, rows))
    assert not any("What our kernels cost" in page for page in bare.values())
    assert "There are no counts to show." in bare["index.html"]


def test_the_page_takes_the_gpu_of_the_run(counts: Counts) -> None:
    for devices, name in ((["AMD EPYC"], "NVIDIA H200"), (["AMD EPYC", "NVIDIA Toy"], "NVIDIA Toy <b>")):
        section = counts_section(counts, devices, "<script>op", "1")
        assert section
        assert section.gpu == name


@pytest.mark.parametrize(
    "device",
    [
        "NVIDIA H200", "NVIDIA H100 80GB HBM3", "NVIDIA H100 PCIe", "NVIDIA A100-SXM4-80GB", "NVIDIA A100-SXM4-40GB",
        "Tesla V100-SXM2-32GB", "Tesla T4", "NVIDIA L4", "NVIDIA L40S", "NVIDIA GeForce RTX 4090", "NVIDIA B200",
        "AMD Instinct MI300X", "AMD Instinct MI300X OAM", "NVIDIA H100 NVL", "NVIDIA A100 80GB PCIe", "AMD EPYC",
        "NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA H200 NVL", "", "h100 h200",
    ],
)  # fmt: skip
def test_a_device_is_the_gpu_that_the_hardware_table_takes_it_for(device: str) -> None:
    expected = named(device)
    assert gpu_of(device, GPUS) == (expected.key if expected else None)


EVIL = "<script>alert(1)</script>$x$[bold]&--></style>\x1b[31m\u202e\ud800[/red]"


def _renamed(value: Any, names: dict[str, str]) -> Any:
    if not isinstance(value, dict):
        return value
    return {names.get(name, name): _renamed(inner, names) for name, inner in value.items()}


def test_names_are_text_on_the_page_and_on_the_terminal(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    case = "fwd-moves-seq_len512"
    evil = dict.fromkeys(("<script>op", "triton", "_k BLOCK=1", "sm_90", "toy", "bf16", "x_ptr"), EVIL)
    ledger = _renamed(_ledger(), evil | {case: f"fwd-{EVIL}"})
    ledger["versions"] = {"torch": EVIL, "triton": EVIL}
    (folder / LEDGER).write_text(json.dumps(ledger))
    site = render(Story(Results(), derive(Results().rows), load(folder / LEDGER)))
    for page in (site[name] for name in site if name.endswith(".html")):
        assert page.count("<script") == page.count("</style>") == 1
    page = "".join(site.values())
    page.encode()
    target = load(folder / LEDGER).resources.target[0]
    monkeypatch.setattr("bench.__main__._known", lambda _, text, __: [text])
    for arguments in (["--all", "--gpu", "h200"], ["--resources", "--target", target]):
        code, shown = _cli(monkeypatch, folder, *arguments, columns=2000)
        assert code == 0, shown
        assert "<script>alert(1)</script>$x$[bold]" in shown
        page += shown
    assert not {"\x1b", "\u202e", "\ud800"} & set(page)


ODD: tuple[Any, ...] = (None, "x", [1], {}, -1, 0, True, math.nan, 10**400, KeyError)


def _places(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if path:
        yield path
    for name, inner in value.items() if isinstance(value, dict) else ():
        yield from _places(inner, (*path, name))


# Drawing takes most of the time, and is tried elsewhere.
BLANK: defaultdict[str, Markup] = defaultdict(lambda: Markup("<svg/>"))


def test_no_value_in_any_place_makes_a_traceback(folder: Path) -> None:
    """Every part of a ledger becomes every kind of value: the ledger is refused with a reason, or it is shown."""
    rows = derive(Results().rows)
    refused = 0
    good = _ledger()
    name, launch = "fwd-moves-seq_len512", _launch(1, 1, dots={"bf16": 1}, flops={"add": 1}, special={"exp2": 1})
    good["gpus"].pop("h200")
    for found in (good["floors"], good["cases"]):  # one case that has everything
        found["<script>op"] = {name: found["<script>op"][name]}
    good["cases"]["<script>op"][name]["triton"] = {"0 _k": launch}
    for place in _places(good):
        for value in ODD:
            ledger = inner = copy.deepcopy(good)
            for step in place[:-1]:
                inner = inner[step]
            inner.pop(place[-1])
            if value is not KeyError:
                inner[place[-1]] = value
            (folder / LEDGER).write_text(json.dumps(ledger))
            try:
                found = load(folder / LEDGER)
            except NotOurs:
                refused += 1
                continue
            whole = book(Story(Results(), rows, found))
            assert all(operator_page(whole, each, BLANK).encode() for each in chapters(whole))
            out = Console(file=io.StringIO())
            show_cases(found, found.cases, list(found.gpus), out)
            show_resources(found.resources, out)
    assert refused > 400


@pytest.mark.parametrize("least", [(0, 0), (0, 5), (5, 0)])
def test_a_case_without_a_floor_or_launches_is_drawn(tmp_path: Path, least: tuple[int, int]) -> None:
    ledger = _ledger()
    ledger["floors"] = {"<script>op": {"fwd-dots-seq_len512": {"bytes": least[0], "flops": least[1]}}}
    for launches in ({}, {"0 _k": {"programs": 1}}, {"0 _k": _launch(1, 1)}):
        ledger["cases"] = {"<script>op": {"fwd-dots-seq_len512": {"triton": launches}}}
        (tmp_path / "counts.json").write_text(json.dumps(ledger))
        section = counts_section(load(tmp_path / "counts.json"), [], "<script>op", "1")
        assert section
        drawn = draw([section.roofline, section.bars])
        assert "nan" not in drawn[section.bars.name]


def test_tables_keep_to_the_terminal(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    gpus = ["--gpu", "toy,h200"]
    wide = _cli(monkeypatch, folder, *gpus, columns=200)[1]
    narrow = _cli(monkeypatch, folder, *gpus, columns=100)[1]
    assert wide.count("bound by") == narrow.count("bound by") == 2
    assert wide.count("exponentiates") == 1
    assert narrow.count("exponentiates") > 1
    assert max(map(len, narrow.splitlines())) <= 100


def _cli(monkeypatch: pytest.MonkeyPatch, folder: Path, *arguments: str, columns: int = 200) -> tuple[int, str]:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", str(columns))
    outcome = CliRunner().invoke(app, ["counts", *arguments])
    return outcome.exit_code, outcome.output


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "results").mkdir()
    (tmp_path / LEDGER).write_text(json.dumps(_ledger()))
    return tmp_path


def test_the_command_shows_bounds(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    code, shown = _cli(monkeypatch, folder, "--gpu", "toy", "-k", "fwd and (moves or launches)")
    assert code == 0
    assert "1.50x" in shown
    assert "100 us" in shown
    assert "bandwidth" in shown
    assert "launch" in shown
    assert "exponentiates" not in shown
    assert "not measurements" in shown
    assert "seq_len8192" not in shown
    assert "seq_len8192" in _cli(monkeypatch, folder, "--gpu", "toy", "--all")[1]


def test_the_command_shows_resources(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    code, shown = _cli(monkeypatch, folder, "--resources", "--target", "sm_90")
    assert code == 0
    assert "24 B" in shown
    assert "8 wgmma" in shown
    assert "128, 32 bit" in shown
    assert "absent: shared memory" in shown
    assert "BLOCK=2" not in shown
    assert "BLOCK=2" in _cli(monkeypatch, folder, "--resources", "--target", "sm_90", "--all")[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gpu", "h900"], "expected some of h200, toy, got h900"),
        (["--resources", "--target", "sm_1"], "expected some of sm_90, got sm_1"),
        (["--gpu", "toy", "-k", "nothing_like_it"], "expected to match something"),
        (["--gpu", "toy", "-k", "and and"], "expected an expression as pytest's"),
    ],
)
def test_the_command_refuses_what_it_does_not_know(
    monkeypatch: pytest.MonkeyPatch, folder: Path, arguments: list[str], message: str
) -> None:
    code, shown = _cli(monkeypatch, folder, *arguments)
    assert code == 2
    assert message in " ".join(shown.replace("\N{BOX DRAWINGS LIGHT VERTICAL}", " ").split())


def test_the_command_names_a_missing_ledger(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    code, shown = _cli(monkeypatch, tmp_path)
    assert code == 2
    assert "counts.json" in shown
    assert "Traceback" not in shown


def test_the_committed_ledger_reads_and_no_counted_bound_is_below_what_memory_allows() -> None:
    found = load(Path(__file__).resolve().parents[1] / LEDGER)
    for _, case in multiples(found.cases).iterrows():
        assert case.traffic >= 1, f"{case.operator} {case.case} moves less than its own floor"
        for gpu in found.gpus.values():
            bound = counted(case, gpu)
            assert math.isnan(bound.seconds) or bound.seconds >= case.footprint_bytes / gpu["bandwidth"]
