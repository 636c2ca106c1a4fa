"""The worked example in CONTRIBUTING.md is executed: three files in a copy of the tree, and nothing else."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_the_worked_example_passes_every_inherited_test(tmp_path: Path) -> None:
    for room in ("kernels", "reference", "bench"):
        shutil.copytree(ROOT / room, tmp_path / room, ignore=shutil.ignore_patterns("__pycache__", "bench_*.py"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    blocks = re.findall(r"```python\n# (\S+)\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)
    assert [path for path, _ in blocks] == [
        "reference/relu_squared.py",
        "kernels/relu_squared.py",
        "bench/bench_relu_squared.py",
    ]
    for path, text in blocks:
        assert not (ROOT / path).exists(), f"{path} is an operator of the suite now: the page needs another example"
        (tmp_path / path).write_text(text)
    arguments = ["bench/bench_relu_squared.py", "--benchmark-skip", "-q", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", *arguments]
    done = subprocess.run(command, check=False, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    outcome = re.search(r"(\d+) passed", done.stdout)
    assert outcome
    assert int(outcome[1]) >= 60, done.stdout
    assert "failed" not in done.stdout
