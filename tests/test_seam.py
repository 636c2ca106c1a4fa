"""The seam to pytest-benchmark, fact by fact: whoever changes one of them breaks a test that names it."""

from __future__ import annotations

import inspect
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import pytest_benchmark.hookspec
from pytest_benchmark.session import BenchmarkSession

from bench.core.record import ROOT

SAMPLES = {"three": [3.0, 1.0, 2.0], "one": [0.5], "tiny": [1e-9] * 7, "many": [1.0 + i / 1000 for i in range(500)]}
TESTS = f"""
import pytest
from bench.core.replay import REPLAY

SAMPLES = {SAMPLES!r}

@pytest.mark.benchmark(timer=REPLAY)
@pytest.mark.parametrize("row", SAMPLES)
def test_row(benchmark, row):
    samples = [sample * FACTOR for sample in SAMPLES[row]]
    REPLAY.load(samples)
    benchmark.group = "a group"
    benchmark.extra_info["record"] = {{"id": row}}
    assert benchmark.disabled is False, "expected the fixture to say whether it times"
    calls = []
    benchmark.pedantic(lambda: calls.append(1), rounds=len(samples))
    assert len(calls) == len(samples), "expected pedantic to call once a round, and never to calibrate or warm up"
    assert not REPLAY._samples, "expected pedantic to take every sample, and a difference of two readings for each"
"""
HOOKS = """
def pytest_benchmark_update_json(config, output_json):
    output_json["rooftile"] = {"rows": len(output_json["benchmarks"])}

def pytest_benchmark_update_machine_info(machine_info):
    machine_info.pop("node", None)
"""


def _run(folder: Path, *arguments: str, factor: float = 1.0) -> subprocess.CompletedProcess[str]:
    (folder / "test_seam.py").write_text(TESTS.replace("FACTOR", str(factor)))
    (folder / "conftest.py").write_text(HOOKS)
    environment = {name: value for name, value in os.environ.items() if "XDIST" not in name}
    plain = ["-p", "no:cacheprovider", f"--rootdir={folder}", "-c", os.devnull, "--benchmark-only", *arguments]
    command = [sys.executable, "-m", "pytest", "test_seam.py", *plain]
    environment |= {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the rows above were replayed and saved."""
    folder = tmp_path_factory.mktemp("seam")
    done = _run(folder, "--benchmark-json=saved.json", "--benchmark-save=first")
    assert done.returncode == 0, done.stdout
    return folder


def test_samples_arrive_whole_in_order_and_with_their_statistics(folder: Path) -> None:
    saved = json.loads((folder / "saved.json").read_text())
    rows = {row["params"]["row"]: row for row in saved["benchmarks"]}
    assert set(rows) == set(SAMPLES)
    for name, samples in SAMPLES.items():
        stats = rows[name]["stats"]
        assert stats["data"] == samples, "expected stats.data to hold the samples as they were replayed"
        assert stats["rounds"] == len(samples)
        assert stats["iterations"] == 1
        assert (stats["min"], stats["max"]) == (min(samples), max(samples))
        assert stats["median"] == pytest.approx(statistics.median(samples))
        assert stats["mean"] == pytest.approx(statistics.fmean(samples))
        assert rows[name]["extra_info"] == {"record": {"id": name}}
        assert rows[name]["group"] == "a group"
        assert rows[name]["name"] == f"test_row[{name}]"


def test_hooks_see_what_is_saved(folder: Path) -> None:
    saved = json.loads((folder / "saved.json").read_text())
    assert saved["rooftile"] == {"rows": 4}, "expected pytest_benchmark_update_json before the file is written"
    assert "node" not in saved["machine_info"]
    assert {"machine_info", "commit_info", "benchmarks", "datetime", "version"} <= set(saved)


@pytest.mark.parametrize(
    ("hook", "arguments"),
    [
        ("pytest_benchmark_generate_machine_info", {"config"}),
        ("pytest_benchmark_generate_commit_info", {"config"}),
        (
            "pytest_benchmark_generate_json",
            {"config", "benchmarks", "include_data", "machine_info", "commit_info"},
        ),
        ("pytest_benchmark_update_json", {"config", "benchmarks", "output_json"}),
        ("pytest_benchmark_update_machine_info", {"config", "machine_info"}),
    ],
)
def test_hooks_take_what_we_give_them(hook: str, arguments: set[str]) -> None:
    found = set(inspect.signature(getattr(pytest_benchmark.hookspec, hook)).parameters)
    assert found == arguments, f"{hook}: bench/conftest.py calls or implements it with {arguments}"


def test_the_session_is_the_plugin_and_holds_what_we_use(pytestconfig: pytest.Config) -> None:
    session: Any = pytestconfig.pluginmanager.get_plugin("pytest-benchmark")
    assert isinstance(session, BenchmarkSession), "expected the plugin of that name to be the session"
    assert isinstance(session.benchmarks, list)
    assert hasattr(session, "json")
    assert isinstance(session.disabled, bool)
    for option in ("benchmark_json", "benchmark_skip", "benchmark_only"):
        assert hasattr(pytestconfig.option, option), f"expected an option {option}"


@pytest.mark.parametrize(("factor", "fails"), [(1.0, False), (1.1, True), (0.9, False)])
def test_stock_comparison_works_on_replayed_samples(folder: Path, factor: float, fails: bool) -> None:
    done = _run(folder, "--benchmark-compare=0001", "--benchmark-compare-fail=median:5%", factor=factor)
    assert bool(done.returncode) is fails, done.stdout
    assert ("Performance has regressed" in done.stdout + done.stderr) is fails


def test_the_command_line_compares_what_was_saved(folder: Path) -> None:
    command = [sys.executable, "-m", "pytest_benchmark", "compare", "saved.json"]
    shown = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    assert "test_row[three]" in shown.stdout + shown.stderr


def test_several_processes_are_refused_rather_than_replayed_wrongly(folder: Path) -> None:
    done = _run(folder, "-n", "2", "-W", "error")
    assert done.returncode != 0, "expected pytest-benchmark to refuse --benchmark-only under pytest-xdist"
