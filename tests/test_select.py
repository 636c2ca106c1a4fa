"""What an argument means: every kind of it, and what is said where it means nothing or several things."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from reports.judge.summarise import summarise
from reports.read.select import NotSelected, Selection, select, slug, sources
from reports.read.summary import History
from tests.simulated_history import Past, medians, write

H200, CPU = "NVIDIA H200", "AMD EPYC"
A, B, C, D = (letter * 8 + "0123456789abcdef" * 2 for letter in "abcd")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def past(here: Path) -> Past:
    """Four runs of a GPU, the first two of one commit; two of a CPU, of the first and of the third commit."""
    write(here, medians(2, 3), device=CPU, commits=[A, C])
    past = write(here, medians(4, 3), device=H200, commits=[A, A, B, C])
    return replace(past, files=[file.relative_to(here) for file in past.files])


@pytest.fixture
def history(past: Past) -> History:
    return summarise([past.files[0].parents[1]])


def _git(*arguments: str) -> str:
    name = ["-c", "user.name=x", "-c", "user.email=x@localhost", "-c", "commit.gpgsign=false"]
    return subprocess.run(["git", *name, *arguments], check=True, capture_output=True, text=True).stdout.strip()


def _numbers(history: History, device: str, *places: int) -> list[int]:
    mine = history.runs[history.runs.device == device].run.tolist()
    return [mine[place] for place in places]


def test_a_file_a_folder_and_a_glob_mean_the_runs_in_them(history: History, past: Past, here: Path) -> None:
    file = past.files[1]
    for text in (str(file), f"./{file}", str(here / file)):
        assert select(text, history) == Selection(text, "path", {H200: _numbers(history, H200, 1)})
    for text in ("results/nvidia-h200", "results/nvidia-h200/", "results/nv*", "./results/*/../nvidia-h200/2025*"):
        assert select(text, history).runs == {H200: _numbers(history, H200, 0, 1, 2, 3)}
    assert select("results/**/20250102*", history).runs == {
        CPU: _numbers(history, CPU, 1),
        H200: _numbers(history, H200, 1),
    }
    assert select("results", history).numbers == [*range(6)]


def test_a_path_may_be_a_link(history: History, past: Past, here: Path) -> None:
    (here / "newest").symlink_to(here / past.files[3])
    assert select("newest", history).runs == {H200: _numbers(history, H200, 3)}


@pytest.mark.parametrize("text", ["nvidia-h200", "NVIDIA H200", "nvidia h200"])
def test_a_device_means_all_its_runs(history: History, text: str) -> None:
    assert select(text, history) == Selection(text, "device", {H200: _numbers(history, H200, 0, 1, 2, 3)})


@pytest.mark.parametrize("text", [B, B[:12], B[:7], B.upper()[:9]])
def test_a_commit_means_its_runs(history: History, text: str) -> None:
    assert select(text, history) == Selection(text, "commit", {H200: _numbers(history, H200, 2)})


def test_a_commit_on_several_devices_is_told_by_device(history: History) -> None:
    assert select(A, history).runs == {CPU: _numbers(history, CPU, 0), H200: _numbers(history, H200, 0, 1)}
    assert select(A, history, device="amd-epyc").runs == {CPU: _numbers(history, CPU, 0)}
    assert select(A, history, device=H200).runs == {H200: _numbers(history, H200, 0, 1)}


@pytest.mark.parametrize(
    "date", ["20250103", "2025-01-03", "20250103T020000Z", "2025-01-03T02:00", f"20250103T020000Z-{B[:12]}"]
)
def test_a_run_is_told_by_its_device_and_its_date(history: History, date: str) -> None:
    found = select(f"nvidia-h200/{date}", history)
    assert (found.how, found.runs) == ("run", {H200: _numbers(history, H200, 2)})


def test_a_date_means_several_runs_only_of_one_commit(history: History) -> None:
    with pytest.raises(NotSelected, match=r"nvidia-h200/2025-01: expected one commit, got nvidia-h200/20250104T0200"):
        select("nvidia-h200/2025-01", history)
    only = history.of(_numbers(history, H200, 0, 1))
    assert select("nvidia-h200/2025-01", only).numbers == _numbers(history, H200, 0, 1)


def test_short_commits_and_commits_that_begin_alike(here: Path) -> None:
    first, second = "1234567" + "a" * 33, "1234567" + "b" * 33
    write(here, medians(2, 3), device=H200, commits=[first, second])
    history = summarise()
    assert select("1234567a", history).numbers == [0]
    with pytest.raises(NotSelected, match="1234567: expected one commit, got nvidia-h200/20250102"):
        select("1234567", history)
    with pytest.raises(NotSelected, match="expected a file"):
        select("123456", history)


def test_the_runs_of_a_clean_tree_are_those_of_a_commit(past: Past) -> None:
    content = json.loads(past.files[0].read_bytes())
    content["rooftile"]["dirty"] = True
    past.files[0].write_text(json.dumps(content))
    history = summarise()
    assert select(A, history, device=H200).runs == {H200: _numbers(history, H200, 1)}
    content["rooftile"] |= {"commit": D, "dirty": None}
    past.files[0].write_text(json.dumps(content))
    assert select(D, summarise()).numbers, "expected what there is where no tree was clean"


@pytest.fixture
def commits(here: Path) -> list[str]:
    """Three commits of a repository, the first of them tagged; a run of each."""
    _git("init", "--quiet", "--initial-branch", "trunk")
    for i in range(3):
        _git("commit", "--quiet", "--allow-empty", "-m", str(i))
    found = _git("rev-list", "--reverse", "HEAD").split()
    _git("tag", "-a", "v1", "-m", "x", found[0])
    write(here, medians(3, 3), device=H200, commits=found)
    return found


@pytest.mark.usefixtures("commits")
@pytest.mark.parametrize(
    ("text", "place"), [("HEAD", 2), ("HEAD~1", 1), ("trunk", 2), ("v1", 0), ("trunk@{0}", 2), ("v1^0", 0)]
)
def test_a_revision_is_resolved_by_git(text: str, place: int) -> None:
    found = select(text, summarise())
    assert (found.how, found.numbers) == ("revision", [place])


@pytest.mark.usefixtures("commits")
def test_a_revision_without_results_says_which_commit_it_is() -> None:
    _git("commit", "--quiet", "--allow-empty", "-m", "later")
    commit = _git("rev-parse", "HEAD")
    with pytest.raises(NotSelected, match=f"got HEAD, which is commit {commit[:12]}, of which there are no results"):
        select("HEAD", summarise())


def test_a_name_of_git_that_is_a_device_too_means_the_device(commits: list[str]) -> None:
    _git("branch", "nvidia-h200", commits[0])
    assert select("nvidia-h200", summarise()).numbers == [0, 1, 2]


@pytest.mark.usefixtures("commits")
@pytest.mark.parametrize(
    "text", ["", "-", "--help", "\0", "HEAD~9", "a\nb", "[", "x" * 5000, "~", "\ud800", "results/["]
)
def test_odd_arguments_are_refused_in_words(text: str) -> None:
    history = summarise()
    with pytest.raises(NotSelected, match="expected a file, folder, glob, run") as caught:
        select(text, history)
    str(caught.value).encode()
    assert "\0" not in str(caught.value)


def test_without_git_other_arguments_still_mean_something(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert select("nvidia-h200", history).how == "device"
    with pytest.raises(NotSelected, match="got HEAD; there are the devices amd-epyc, nvidia-h200 and the runs"):
        select("HEAD", history)


def test_what_means_several_things_is_refused_with_all_of_them(history: History, here: Path) -> None:
    (here / "amd-epyc").symlink_to(here / "results" / "nvidia-h200")
    with pytest.raises(NotSelected) as caught:
        select("amd-epyc", history)
    assert str(caught.value) == (
        "amd-epyc: may mean the path (4 runs), the device (2 runs): "
        "write ./amd-epyc for the path, <device>/<date> for a run"
    )
    assert select("./amd-epyc", history).runs == {H200: _numbers(history, H200, 0, 1, 2, 3)}
    (here / "nvidia-h200").symlink_to(here / "results" / "nvidia-h200")
    assert select("nvidia-h200", history).runs == {H200: _numbers(history, H200, 0, 1, 2, 3)}, "both mean the same"


@pytest.mark.parametrize(
    ("text", "near"),
    [
        ("nvidia-h20", "nvidia-h200"),
        ("H200", "nvidia-h200"),
        ("nvidia-h200/20250103T020001Z", f"nvidia-h200/20250103T020000Z-{B[:12]}"),
        (B[:8] + "ffff", B[:12]),
    ],
)
def test_what_comes_near_is_named(history: History, text: str, near: str) -> None:
    with pytest.raises(NotSelected) as caught:
        select(text, history)
    assert (
        near
        in str(caught.value).rpartition("nearest: ")[0] + "nearest: " + str(caught.value).rpartition("nearest: ")[2]
    )
    assert "nearest: " in str(caught.value)


def test_a_device_that_there_is_not_is_named_with_those_that_there_are(history: History) -> None:
    with pytest.raises(
        NotSelected, match=re.escape("device: expected one of amd-epyc, nvidia-h200, got h200; nearest: nvidia-h200")
    ):
        select(A, history, device="h200")


def test_a_path_without_results_says_why(history: History, here: Path) -> None:
    (here / "empty").mkdir()
    with pytest.raises(NotSelected, match="got empty, which holds no results that could be read; there are"):
        select("empty", history)
    (here / "bad.json").write_text("{")
    history = summarise(sources(["bad.json"]))
    with pytest.raises(NotSelected, match=r"got bad\.json, which holds no results that could be read: is not JSON"):
        select("bad.json", history)


@pytest.mark.usefixtures("here")
def test_nothing_at_all_is_said() -> None:
    for device, words in (
        ("", "got nvidia-h200; there are no results"),
        ("x", "one of none, for there are no results"),
    ):
        with pytest.raises(NotSelected, match=words):
            select("nvidia-h200", summarise(), device=device)


@pytest.mark.usefixtures("past")
def test_sources_are_the_results_and_what_is_named_besides(here: Path) -> None:
    outside = write(here / "elsewhere", medians(1, 3), device="Other", commits=[D]).files[0]
    texts = [str(outside), "HEAD", "nvidia-h200", "elsewhere/**/*.json"]
    found = sources(texts)
    assert found == [Path("results"), outside, outside.relative_to(here)]
    history = summarise(found)
    assert len(history.runs) == 7
    assert select(str(outside), history).runs == {"Other": history.runs[history.runs.commit == D].run.tolist()}
    assert sources([], Path("nowhere")) == []


def _hostile() -> Iterator[str]:
    yield from ("<script>", "\x1b[31m", "a/../../b", "\u202e", "{0}", "%s", "*")


def test_hostile_names_of_devices_are_told_harmlessly(here: Path) -> None:
    for i, name in enumerate(_hostile()):
        write(here, medians(1, 3, seed=i), device=f"{name} device {i}")
    history = summarise()
    with pytest.raises(NotSelected) as caught:
        select("nothing", history)
    assert str(caught.value).isprintable()
    assert slug("a/../../b") == "a-b"
