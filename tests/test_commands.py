"""`python -m reports` as a CI calls it: exit statuses, Markdown, what is refused; and the scripts of a night."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from reports.show.listing import Listing, as_markdown
from tests import simulated_history
from tests.simulated import command
from tests.simulated_history import Past

ROOT = Path(__file__).resolve().parents[1]
RUNS, ROWS = 12, 40
OURS = 6  # a row of our kernel


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def past(home: Path) -> Past:
    """Ten quiet nights; then the same commit twice, at which one of our rows takes a fifth longer."""
    medians = simulated_history.medians(RUNS, ROWS, noise=0.003)
    medians[-2:, OURS] *= 1.2
    commits = [f"{run + 1:040x}" for run in range(RUNS - 2)] + ["f" * 40] * 2
    written = simulated_history.write(home, medians, commits=commits)
    assert written.rows[OURS].endswith("/triton")
    return written


@pytest.fixture
def there(home: Path, past: Past, monkeypatch: pytest.MonkeyPatch) -> Past:
    monkeypatch.chdir(home)
    return past


def test_the_gate_passes_a_quiet_night(there: Past) -> None:
    quiet = command("gate", there.commits[-4], there.commits[-3])
    assert quiet.exit_code in (0, 3), "expected no failure: suspects may be there by chance"
    assert "slower:" not in quiet.output


def test_the_gate_fails_a_slower_row_by_name_and_tells_it_in_markdown(there: Past, tmp_path: Path) -> None:
    summary = tmp_path / "summary.md"
    failed = command("gate", "results", "fffffff", "--markdown", summary, columns=200)
    assert failed.exit_code == 1
    assert f"slower: {there.rows[OURS]}: " in failed.output
    words = summary.read_text()
    assert words.startswith("### Simulated GPU: fail\n")
    assert there.rows[OURS].replace("_", r"\_") in words


def test_a_row_that_is_slower_once_is_to_be_clocked_again(there: Past, tmp_path: Path) -> None:
    """The last run alone: a suspect, and a command that clocks it with its rivals and nothing else."""
    again = tmp_path / "again.sh"
    base, head = (str(there.files[at]) for at in (-3, -1))
    asked = command("gate", base, head, "--again", again)
    assert asked.exit_code == 3
    words = again.read_text()
    assert "pytest" in words
    assert "triton" in words
    case = there.rows[OURS].split("/")[2]
    assert all(case in each for each in words.split("test_speed[")[1:])


def test_the_first_night_has_nothing_to_be_judged_against(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    only = simulated_history.write(tmp_path, simulated_history.medians(1, 5))
    told = command("gate", "results", only.commits[0], "--markdown", "gate.md")
    assert told.exit_code == 3
    assert "there is no earlier run to judge against" in (tmp_path / "gate.md").read_text()


def test_compare_gives_every_row_a_verdict(there: Past) -> None:
    told = command("compare", there.commits[-3], "fffffff", "--all", columns=250)
    assert told.exit_code == 0
    assert all(row in told.output for row in there.rows)
    assert (
        f"slower          {there.rows[OURS]}".split()
        == next(line for line in told.output.splitlines() if there.rows[OURS] in line).split()[:2]
    )
    few = command("compare", there.commits[-3], "fffffff", columns=250).output
    assert sum(row in few for row in there.rows) < ROWS, "expected rows that are the same to be counted only"


def test_history_tells_the_change(there: Past) -> None:
    told = command("history", columns=250)
    assert told.exit_code == 0
    assert there.rows[OURS] in told.output
    assert command("history", "simulated-gpu", columns=250).output == told.output


def test_devices_are_compared(there: Past, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    medians = simulated_history.medians(1, ROWS)
    simulated_history.write(tmp_path, medians, device="Slow GPU")
    simulated_history.write(tmp_path, medians / 2, device="Fast GPU")
    told = command("hardware", "slow-gpu", "fast-gpu", columns=250)
    assert told.exit_code == 0
    assert "Fast GPU against Slow GPU" in told.output
    assert f"{there.rows[OURS]} on Fast GPU" in told.output
    assert "2.00x" in told.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["compare", "nothing", "fffffff"], "got nothing; there are the devices simulated-gpu"),
        (["compare", "fffffff", "fffffff"], "expected both sides on one device, and not the same runs"),
        (["gate", "results", "fffffff", "--device", "h200"], "device: expected one of simulated-gpu, got h200"),
        (["gate", "results", "fffffff", "--margin", "7"], "--margin"),
        (["hardware", "nothing"], "got nothing"),
        (["compare", "results", "fffffff", "--markdown", "no/where.md"], "--markdown: expected a file to write to"),
        (["nonsense"], "No such command 'nonsense'"),
    ],
)
@pytest.mark.usefixtures("there")
def test_wrong_arguments_are_refused_by_name(arguments: list[str], words: str) -> None:
    refused = command(*arguments, columns=400)
    assert refused.exit_code == 2
    assert words in refused.output


@pytest.mark.parametrize("name", ["build", "show", "compare", "gate", "hardware", "history"])
def test_help_has_examples(name: str) -> None:
    assert f"python -m reports {name}" in command(name, "--help").output


def test_names_are_plain_text_in_markdown() -> None:
    evil = "a|b\n@somebody [x](https://x) ![y](z) <b>*s*</b> `c` #1 $m$ \x1b[31m\u202e"
    text = as_markdown(Listing(evil, [evil], [[evil]], note=evil))
    assert "\x1b" not in text
    assert "\u202e" not in text
    row = text.splitlines()[-1]
    assert row.count("|") - row.count(r"\|") == 2, "expected one cell"
    for special in "@[]()!<>*`#$":
        assert row.count(special) == row.count(f"\\{special}")
    assert as_markdown(Listing("t", ["c"])).endswith("None.\n")


def _git(where: Path, *arguments: str) -> str:
    who = ["-c", "user.name=nobody", "-c", "user.email=nobody@localhost"]
    done = subprocess.run(["git", *who, *arguments], cwd=where, capture_output=True, text=True, check=True)
    return done.stdout


def test_results_are_appended_to_a_branch_and_never_changed(tmp_path: Path) -> None:
    origin, tree = tmp_path / "origin.git", tmp_path / "tree"
    _git(tmp_path, "init", "-q", "--bare", str(origin))
    _git(tmp_path, "clone", "-q", str(origin), str(tree))
    (tree / ".ci").mkdir()
    shutil.copy(ROOT / ".ci/append-results", tree / ".ci")
    (tree / "source.py").write_text("")
    _git(tree, "add", "-A")
    _git(tree, "commit", "-qm", "all")
    _git(tree, "push", "-q", "origin", "HEAD")

    def night(files: dict[str, str]) -> dict[str, str]:
        for name, text in files.items():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).write_text(text)
        environment = os.environ | {"GIT_CONFIG_GLOBAL": os.devnull}
        subprocess.run([tree / ".ci/append-results", "h200"], check=True, env=environment)
        _git(tree, "fetch", "-q", "origin", "results:refs/remotes/origin/results")
        names = _git(tree, "ls-tree", "-r", "--name-only", "origin/results").split()
        return {name: _git(tree, "show", f"origin/results:{name}") for name in names}

    assert night({"results/h200/a.json": "1"}) == {"results/h200/a.json": "1"}
    both = night({"results/h200/a.json": "another", "results/h200/b.json": "2"})
    assert both == {"results/h200/a.json": "1", "results/h200/b.json": "2"}
    assert night({}) == both
    assert _git(tree, "rev-list", "--count", "origin/results").strip() == "2", "expected no commit for nothing"
    assert len(_git(tree, "branch").split()) == 2, "expected no branch beside the one that is checked out"
