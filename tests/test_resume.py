"""A run that is killed loses the case in flight, and goes on; what is another run is refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from bench.core import journal
from bench.core.journal import Journal, NotResumable
from bench.core.record import Run

ROOT = Path(__file__).resolve().parents[1]
CHOSEN = ["-k", "layer_norm and (naive or eager or triton)", "--profile", "smoke"]
COMMAND = [sys.executable, "-m", "pytest", "bench", "--benchmark-only", "-q", "-p", "no:cacheprovider", *CHOSEN]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A committed copy of the tree with one operator."""
    tree = tmp_path_factory.mktemp("tree")
    for room in ("kernels", "reference", "bench", "reports"):
        others = [file.name for file in (ROOT / room).glob("bench_*.py") if file.name != "bench_layer_norm.py"]
        shutil.copytree(ROOT / room, tree / room, ignore=shutil.ignore_patterns("__pycache__", *others))
    shutil.copy(ROOT / "pyproject.toml", tree)
    (tree / ".gitignore").write_text("__pycache__/\nreport/\n")
    _git(tree, "init", "-q")
    _git(tree, "add", "-A")
    _git(tree, "commit", "-qm", "all")
    return tree


def _git(tree: Path, *arguments: str) -> None:
    who = ["-c", "user.name=nobody", "-c", "user.email=nobody@localhost"]
    subprocess.run(["git", *who, *arguments], cwd=tree, check=True)


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if "XDIST" not in name} | {"COLUMNS": "160"}


def _run(tree: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *more], cwd=tree, capture_output=True, text=True, env=_environment(), check=False)


def _samples(file: Path) -> dict[str, list[float]]:
    rows = json.loads(file.read_text())["benchmarks"]
    return {row["extra_info"]["record"]["id"]: row["stats"]["data"] for row in rows}


def test_a_killed_run_keeps_its_rows_and_goes_on(tree: Path) -> None:
    process = subprocess.Popen(COMMAND, cwd=tree, env=_environment(), stdout=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 120
    found: list[Path] = []
    while time.monotonic() < deadline and not (found and found[0].read_text().count('"kind": "rows"') >= 2):
        time.sleep(0.05)
        found = list((tree / "results").rglob("*.jsonl"))
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    (left,) = found
    with left.open("a") as file:
        file.write('{"kind": "rows", "rows": [{"rec')  # as if it had been killed in the middle of a line
    before = journal.read(left)
    kept = {row["record"]["id"]: row["samples_s"] for row in before.rows}
    assert len(kept) >= 6, "expected the three rows of two cases"
    assert not left.with_suffix(".json").exists()
    shown = subprocess.run(
        [sys.executable, "-m", "reports", "show"],
        cwd=tree,
        capture_output=True,
        text=True,
        env=_environment(),
        check=True,
    )
    assert "unfinished" in shown.stdout + shown.stderr

    refused = _run(tree, "--resume", "--tune", "first")
    assert refused.returncode == 4
    assert "--resume: expected the options of" in refused.stderr
    assert "tune full, got first" in refused.stderr
    refused = _run(tree, "--resume", "-k", "layer_norm and naive")
    assert "expected the selection of" in refused.stderr
    (tree / "kernels" / "layer_norm.py").write_text((tree / "kernels" / "layer_norm.py").read_text() + "\n# changed\n")
    assert "expected a tree without uncommitted changes" in _run(tree, "--resume").stderr
    _git(tree, "checkout", "-q", "kernels")

    done = _run(tree, "--resume")
    assert done.returncode == 0, done.stdout + done.stderr
    assert not left.exists(), "expected the journal to go when everything it holds is saved"
    saved = _samples(left.with_suffix(".json"))
    for name, samples in kept.items():
        assert saved.get(name, []) == samples, f"{name}: expected the very samples of before"
    assert len(saved) == 9, "expected 12 without the backward of torch, which is absent on a CPU"
    assert len(json.loads(left.with_suffix(".json").read_text())["rooftile"]["roofs"]) >= 9


def test_there_must_be_something_to_go_on_with(tree: Path) -> None:
    done = _run(tree, "--resume")
    assert done.returncode == 4
    assert "--resume: expected the journal of a run that was cut short in" in done.stderr


def test_an_option_that_is_refused_is_told_and_nothing_else(tree: Path) -> None:
    done = _run(tree, "--config-from", "nowhere.json")
    assert done.returncode == 4
    assert done.stderr.startswith("ERROR: --config-from: expected a results file of this suite, got nowhere.json")
    assert "Error" not in done.stderr.partition("FileNotFoundError")[2]


def _a_run(**changed: Any) -> Run:
    known: dict[str, Any] = {
        "device": {"name": "a", "sms": 1},
        "versions": {"torch": "2.13.0"},
        "commit": "abc",
        "dirty": False,
        "command": "pytest",
        "profile": "smoke",
        "started": "2026-01-01T00:00:00Z",
        "options": {"tune": "full", "time_budget_s": None},
    }
    return Run(**known | changed)


def _past(tmp_path: Path, run: Run) -> journal.Past:
    with closing(Journal(tmp_path / "a.jsonl", run, ["row"])) as written:
        written.write(kind="rows", rows=[{"record": {"id": "row"}, "samples_s": [1.0]}], races=[])
    return journal.read(tmp_path / "a.jsonl")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"commit": "abd"}, "the commit of a.jsonl, abc, got abd"),
        ({"device": {"name": "a", "sms": 2}}, "the device of a.jsonl, sms 1, got 2"),
        ({"versions": {"torch": "2.14.0"}}, "the versions of a.jsonl, torch 2.13.0, got 2.14.0"),
        ({"profile": "full"}, "the profile of a.jsonl, smoke, got full"),
        ({"options": {"tune": "first"}}, "the options of a.jsonl, tune full, got first"),
        ({"dirty": True}, "a tree without uncommitted changes then and now"),
        ({"dirty": None}, "a tree without uncommitted changes then and now"),
    ],
)
def test_another_run_is_refused_by_what_differs(tmp_path: Path, changed: dict[str, Any], words: str) -> None:
    past = _past(tmp_path, _a_run())
    with pytest.raises(NotResumable, match=words):
        journal.resume(past, _a_run(**changed), ["row"])


def test_the_same_run_goes_on_under_its_first_name(tmp_path: Path) -> None:
    past = _past(tmp_path, _a_run())
    later = _a_run(started="2026-02-02T00:00:00Z", options={"tune": "full", "time_budget_s": 60.0})
    assert journal.resume(past, later, ["row"]).started == "2026-01-01T00:00:00Z"


@pytest.mark.parametrize("content", ["", "{", "[]\n", '{"kind": "rows"}\n', '{"kind": "run", "schema": 0}\n'])
def test_what_is_no_journal_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.jsonl").write_text(content)
    with pytest.raises(NotResumable, match="--resume: expected a journal of this suite, got "):
        journal.read(tmp_path / "a.jsonl")


def test_a_torn_line_is_cut_off_before_the_next_one(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    _past(tmp_path, _a_run())
    with path.open("a") as file:
        file.write('{"kind": "ro')
    past = journal.read(path)
    with closing(Journal(path, _a_run(), ["row"], past)) as resumed:
        resumed.write(kind="facts", roofs=[])
    assert journal.read(path).facts["roofs"] == []
    assert len(path.read_text().splitlines()) == 3


def test_a_run_that_is_still_going_on_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    running = Journal(path, _a_run(), ["row"])
    running.write(kind="facts", roofs=[])
    with pytest.raises(NotResumable, match=r"got .*a\.jsonl, which is still running"):
        Journal(path, _a_run(), ["row"], journal.read(path))
    running.write(kind="facts", roofs=[1])
    assert journal.read(path).facts["roofs"] == [1], "expected the refused one to have touched nothing"
    running.close()
    with closing(Journal(path, _a_run(), ["row"], journal.read(path))) as resumed:
        resumed.write(kind="facts", roofs=[2])
    assert journal.read(path).facts["roofs"] == [2]


def test_two_runs_of_the_same_second_never_share_a_journal(tmp_path: Path) -> None:
    first, second = (Journal(tmp_path / "a.jsonl", _a_run(), [row]) for row in ("one", "two"))
    with closing(first), closing(second):
        first.write(kind="facts", roofs=[])
        with pytest.raises(journal.Unwritable, match="got File exists"):
            second.write(kind="facts", roofs=[])
    assert journal.read(tmp_path / "a.jsonl").planned == ["one"]


def test_the_newest_of_this_commit_goes_on_though_another_was_cut_short_later(tmp_path: Path) -> None:
    for name in ("20260101T000000Z-aaa.jsonl", "20260102T000000Z-aaa.jsonl", "20260103T000000Z-bbb.jsonl"):
        (tmp_path / name).touch()
    assert journal.newest(tmp_path, "aaa").name == "20260102T000000Z-aaa.jsonl"
    assert journal.newest(tmp_path, "ccc").name == "20260103T000000Z-bbb.jsonl", "expected one to be refused by name"
