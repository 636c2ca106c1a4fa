"""The worked example in CONTRIBUTING.md is executed: three files in a copy of the tree, checked, clocked, reported."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
STEM = "relu_squared"


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tree whose only operator is the example."""
    tree = tmp_path_factory.mktemp("tree")
    for room in ("kernels", "reference", "bench", "reports"):
        shutil.copytree(ROOT / room, tree / room, ignore=shutil.ignore_patterns("__pycache__", "bench_*.py"))
    shutil.copy(ROOT / "pyproject.toml", tree)
    blocks = re.findall(r"```python\n# (\S+)\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)
    assert [path for path, _ in blocks] == [f"reference/{STEM}.py", f"kernels/{STEM}.py", f"bench/bench_{STEM}.py"]
    for path, text in blocks:
        assert not (ROOT / path).exists(), f"{path} is an operator of the suite now: the page needs another example"
        (tree / path).write_text(text)
    return tree


def _run(tree: Path, *arguments: str, fails: bool = False) -> str:
    """What a command in the copy says, given as a user without our test runner would give it."""
    environment = {name: value for name, value in os.environ.items() if "XDIST" not in name} | {"COLUMNS": "160"}
    command = [sys.executable, "-m", *arguments]
    done = subprocess.run(command, check=False, cwd=tree, capture_output=True, text=True, env=environment)
    assert bool(done.returncode) == fails, done.stdout + done.stderr
    return done.stdout


def _newest(tree: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(
        max((tree / "results").rglob("*.json"), key=lambda path: path.name).read_text()
    )
    return content


def test_it_passes_every_inherited_check(tree: Path) -> None:
    shown = _run(tree, "pytest", f"bench/bench_{STEM}.py", "--benchmark-skip", "-q", "-p", "no:cacheprovider")
    outcome = re.search(r"(\d+) passed", shown)
    assert outcome
    assert int(outcome[1]) >= 60, shown
    assert "failed" not in shown


def test_it_is_clocked_and_reported(tree: Path) -> None:
    chosen = ["-k", "seq_len512 and not inductor", "--profile", "smoke", "-q", "-p", "no:cacheprovider"]
    shown = _run(tree, "pytest", "bench", "--benchmark-only", *chosen)
    assert re.search(r"the harness added -?[\d.]+%", shown)
    saved = _newest(tree)
    assert {row["name"] for row in saved["benchmarks"]} == {
        f"test_speed[{mode}-gpt2-xl-seq_len512-bf16-{provider}]"
        for mode in ("fwd", "bwd")
        for provider in ("naive", "eager")
    }
    for row in saved["benchmarks"]:
        record = row["extra_info"]["record"]
        assert len(row["stats"]["data"]) == record["stop"]["rounds"] >= 6
        assert row["params"]["case"] == {"model": "gpt2-xl", "seq_len": 512, "dtype": "bf16"}
        assert record["commit"] == saved["rooftile"]["commit"] == "nocommit"
        assert f"::ReluSquared::{row['name']}" in record["command"]
    (ours,) = {(row["provider"], row["status"], row["reason"]) for row in saved["rooftile"]["absent"]}
    assert ours[:2] == ("triton", "absent")
    assert "needs a GPU" in ours[2]
    assert "relu_squared fwd: gpt2-xl, bf16, 512" in _run(tree, "reports", "show")
    assert "page: report/index.html" in _run(tree, "reports", "build")
    assert (tree / "report/index.html").exists()


def test_a_run_in_which_everything_is_absent_is_kept_too(tree: Path) -> None:
    chosen = ["-k", "relu_squared and seq_len1024 and triton", "-q", "-p", "no:cacheprovider"]
    _run(tree, "pytest", "bench", "--benchmark-only", *chosen)
    saved = _newest(tree)
    assert saved["benchmarks"] == []
    assert [row["provider"] for row in saved["rooftile"]["absent"]] == ["triton", "triton"]
    assert "needs a GPU" in _run(tree, "reports", "show")


def test_it_is_listed(tree: Path) -> None:
    shown = " ".join(_run(tree, "bench", "list", "--cases").split())
    assert "relu_squared 28 cases (full), 54 checks, fwd, bwd" in shown
    assert "bwd-llama3-8b-seq_len32768-bf16" in shown
    assert re.search(r"eager peer yes", shown)
    assert re.search(r"triton kernel no needs a GPU", shown)


def test_it_is_counted_and_a_regression_is_named(tree: Path) -> None:
    one_target_and_model = "sm_90 or not (sm_ or gfx or llama)"
    count = ["pytest", "bench", "-m", "count", "-q", "-k", one_target_and_model]
    assert "accepted 5 counts" in _run(tree, *count, "--accept-counts")
    ledger = tree / "results" / "counts.json"
    first = ledger.read_bytes()
    _run(tree, *count, "--accept-counts", "--recount", "1", "-p", "no:cacheprovider")
    assert ledger.read_bytes() == first, "expected the same bytes from a second count without the cache of the first"
    assert "compared 1 counts (4 more are sealed" in _run(tree, *count)

    kernel = tree / "kernels" / f"{STEM}.py"
    text = kernel.read_text()
    kernel.write_text(
        text.replace("x = tl.where(x < 0, 0.0, x)", "x += 0 * tl.load(x_ptr + at, mask=at < n, other=0.0)")
    )
    shown = _run(tree, *count[:-1], "fwd and gpt2 and not (sm_ or gfx)", fails=True)
    size = 512 * 4 * 1600 * 2
    assert "relu_squared fwd-gpt2-xl-seq_len512-bf16 triton: " in shown
    assert f"0 _forward > read > x_ptr: requested {size} -> {2 * size} (+100.0%)" in shown
    assert "pytest bench -m count --accept-counts" in shown
    assert ledger.read_bytes() == first
    kernel.write_text(text)
