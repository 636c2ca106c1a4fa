"""Many runs as light tables: the same figures as their files have, from a cache that is never in the way."""

from __future__ import annotations

import ast
import json
import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from reports.judge import reduce as reducing
from reports.judge import summarise as summarising
from reports.judge.derive import derive
from reports.judge.summarise import summarise
from reports.read import cache
from reports.read.load import load
from reports.read.summary import CATEGORIES, FRONTIERS, NUMBERS, ROOFS, RUNS, History
from tests.simulated_history import Past, medians, write

ROOT = Path(__file__).resolve().parents[1]
RUNS_N, ROWS_N = 5, 40


@pytest.fixture
def past(tmp_path: Path) -> Past:
    return write(tmp_path, medians(RUNS_N, ROWS_N))


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are read from now on."""
    read: list[str] = []
    real = reducing.reduce

    def reduce(path: Path, key: cache.Key) -> cache.Kept | str:
        read.append(path.name)
        return real(path, key)

    monkeypatch.setattr(summarising, "reduce", reduce)
    return read


def _alike(left: History, right: History) -> None:
    for name in ("runs", "roofs", "frontiers"):
        pd.testing.assert_frame_equal(getattr(left, name), getattr(right, name), check_exact=True)
    plain = dict.fromkeys(CATEGORIES, "object")
    left_rows, right_rows = (each.rows.astype(plain).reset_index(drop=True) for each in (left, right))
    pd.testing.assert_frame_equal(left_rows, right_rows, check_exact=True)
    assert left.left_out == right.left_out


def _home(past: Past) -> Path:
    return past.files[0].parent


def test_medians_are_those_of_the_samples_to_the_last_bit(past: Past, tmp_path: Path) -> None:
    history = summarise(folder=tmp_path / "results")
    assert history.runs.commit.tolist() == past.commits, "expected runs by time"
    assert history.runs.run.tolist() == [*range(RUNS_N)]
    assert history.runs.started.dt.strftime("%Y-%m-%dT%H:%M:%SZ").tolist() == past.started
    table = history.rows.pivot_table(index="run", columns="row", values="median_s", observed=True)
    np.testing.assert_array_equal(table[past.rows].to_numpy(), past.medians_s)
    assert not history.left_out
    assert not history.notes


def test_every_figure_is_the_one_that_the_file_itself_gives(past: Past) -> None:
    history = summarise([past.files[2]])
    results = load([[past.files[2]]])
    whole = derive(results.rows, results.runs)
    shared = [name for name in (*CATEGORIES, *NUMBERS) if name in whole and name not in ("tuned", "marks", "modes")]
    assert {"median_s", "low_s", "of_roof", "over_rival", "rival", "peak_bytes", "reason", "unit"} <= {*shared}
    for name in shared:
        pd.testing.assert_series_equal(
            history.rows[name].astype(whole[name].dtype), whole[name], check_exact=True, check_names=False
        )
    assert [*zip(history.roofs.name, history.roofs.value, strict=True)] == [
        ("copy", 4.1e12),
        ("triad", 4.0e12),
        ("gemm_bf16", 7e14),
    ]
    assert history.roofs.low.iloc[1] < history.roofs.value.iloc[1] < history.roofs.high.iloc[1]


@pytest.mark.usefixtures("past")
def test_tables_have_the_same_columns_and_types_whatever_they_hold(tmp_path: Path) -> None:
    full, empty = summarise(folder=tmp_path / "results"), summarise(folder=tmp_path / "nowhere")
    for history in (full, empty):
        assert [*history.runs] == [*RUNS]
        assert [*history.roofs] == [*ROOFS]
        assert [*history.frontiers] == [*FRONTIERS]
        assert [*history.rows] == ["run", *CATEGORIES, *NUMBERS]
        assert all(isinstance(history.rows[name].dtype, pd.CategoricalDtype) for name in CATEGORIES)
        assert all(history.rows[name].dtype == "float64" for name in NUMBERS)
    for name in ("runs", "roofs", "frontiers"):
        assert getattr(full, name).dtypes.equals(getattr(empty, name).dtypes)
    assert not len(empty.rows)


def test_a_second_look_reads_no_results_file_and_tells_the_same(past: Past, tmp_path: Path, counted: list[str]) -> None:
    cold = summarise(folder=tmp_path / "results")
    assert sorted(counted) == [file.name for file in past.files]
    counted.clear()
    _alike(summarise(folder=tmp_path / "results"), cold)
    assert not counted


def test_of_many_files_only_the_new_and_the_changed_are_read(past: Past, tmp_path: Path, counted: list[str]) -> None:
    summarise(past.files[:3])
    counted.clear()
    told: list[tuple[int, int]] = []
    assert len(summarise(folder=tmp_path / "results", progress=lambda *at: told.append(at)).runs) == RUNS_N
    assert counted == [file.name for file in past.files[3:]]
    assert told == [(1, 2), (2, 2)]
    counted.clear()
    content = json.loads(past.files[1].read_bytes())
    content["benchmarks"] = content["benchmarks"][:7]
    past.files[1].write_text(json.dumps(content))
    history = summarise(folder=tmp_path / "results")
    assert counted == [past.files[1].name]
    assert history.rows.groupby("run").size().tolist() == [ROWS_N, 7, ROWS_N, ROWS_N, ROWS_N]
    past.files[0].unlink()
    assert summarise(folder=tmp_path / "results").runs.commit.tolist() == past.commits[1:]


def test_a_part_of_what_is_kept_is_told_like_that_part_alone(past: Past, tmp_path: Path) -> None:
    alone = summarise([past.files[3]])
    summarise(folder=tmp_path / "results")
    _alike(summarise([past.files[3]]), alone)
    assert summarise(past.files[3:]).of([1]).runs.commit.tolist() == [past.commits[4]]


@pytest.mark.usefixtures("past")
def test_another_version_of_the_code_reads_everything_anew(
    tmp_path: Path, counted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    summarise(folder=tmp_path / "results")
    counted.clear()
    monkeypatch.setattr(summarising, "version", lambda: "another")
    summarise(folder=tmp_path / "results")
    assert len(counted) == RUNS_N


def test_the_version_covers_all_code_that_makes_a_summary() -> None:
    found, todo = set(), ["reports.judge.reduce"]
    while todo:
        module = todo.pop()
        path = ROOT / f"{module.replace('.', '/')}.py"
        if not path.exists() or module in found:
            continue
        found.add(module)
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("reports"):
                todo += [str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)]
    assert sorted(f"{module.removeprefix('reports.').replace('.', '/')}.py" for module in found) == [*reducing.CODE]


def _spoiled(kept: bytes) -> Iterator[bytes]:
    """A cache cut short, replaced by something else, and with a byte changed in many places."""
    yield from (b"", b"PAR1", b"{}", kept[:100], kept[:-1], kept[: len(kept) // 2], kept + kept)
    for place in np.linspace(0, len(kept) - 1, 30).astype(int):
        yield kept[:place] + bytes([kept[place] ^ 0x55]) + kept[place + 1 :]


def test_a_broken_cache_is_made_again_and_believed_nowhere(tmp_path: Path) -> None:
    past = write(tmp_path, medians(2, 15))
    cold = summarise(folder=tmp_path / "results")
    place = _home(past) / cache.FOLDER / cache.NAME
    kept = place.read_bytes()
    for spoiled in _spoiled(kept):
        place.write_bytes(spoiled)
        _alike(summarise(folder=tmp_path / "results"), cold)
    place.unlink()
    place.mkdir()
    _alike(summarise(folder=tmp_path / "results"), cold)


def test_where_nothing_can_be_kept_all_is_read_and_that_is_said_once(past: Past, tmp_path: Path) -> None:
    (_home(past) / cache.FOLDER).write_text("in the way")
    history = summarise(folder=tmp_path / "results")
    assert len(history.rows) == RUNS_N * ROWS_N
    assert history.notes == [
        f"{_home(past)}: what was read cannot be kept there (File exists), so it is read anew every time"
    ]


def test_results_are_never_touched_and_git_ignores_what_is_kept(past: Past, tmp_path: Path) -> None:
    before = [(file.read_bytes(), file.stat().st_mtime_ns) for file in past.files]
    summarise(folder=tmp_path / "results")
    assert [(file.read_bytes(), file.stat().st_mtime_ns) for file in past.files] == before
    assert sorted(each.name for each in _home(past).iterdir()) == sorted(
        [".cache", *(file.name for file in past.files)]
    )
    kept = ROOT / "results" / "nvidia-h200" / cache.FOLDER / cache.NAME
    assert subprocess.run(["git", "check-ignore", "--quiet", str(kept)], cwd=ROOT, check=False).returncode == 0


def test_many_at_once_neither_meet_nor_leave_anything_behind(past: Past, tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = [*pool.map(lambda _: summarise(folder=tmp_path / "results"), range(8))]
    for each in found:
        _alike(each, found[0])
    home = _home(past) / cache.FOLDER
    assert [each.name for each in home.iterdir()] == [cache.NAME]
    kept = cache.read(home.parent, reducing.version(), lambda _: True)
    assert sorted(entry.key.name for entry in kept.entries) == [file.name for file in past.files]


def test_what_a_killed_writer_left_is_removed(past: Past, tmp_path: Path) -> None:
    home = _home(past) / cache.FOLDER
    home.mkdir()
    old, new = home / "summary-old.part", home / "summary-new.part"
    for part in (old, new):
        part.write_bytes(b"half")
    os.utime(old, (0, 0))
    summarise(folder=tmp_path / "results")
    assert not old.exists()
    assert new.exists(), "someone may be writing it"


def test_many_files_are_read_side_by_side_to_the_same_end(
    past: Past, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = summarise(folder=tmp_path / "results")
    (_home(past) / cache.FOLDER / cache.NAME).unlink()
    monkeypatch.setattr(summarising, "WORTH_A_PROCESS_BYTES", 1)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    _alike(summarise(folder=tmp_path / "results"), alone)


class _Breaking:
    """A pool whose processes die: after two results."""

    def __init__(self, *_: object) -> None: ...

    def __enter__(self) -> _Breaking:
        return self

    def __exit__(self, *_: object) -> None: ...

    def map(self, function: Any, *items: Any, chunksize: int) -> Iterator[Any]:
        for each in [*zip(*items, strict=True)][:2]:
            yield function(*each)
        raise BrokenProcessPool


def test_where_processes_die_the_rest_is_read_one_by_one(
    past: Past, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, counted: list[str]
) -> None:
    monkeypatch.setattr(summarising, "WORTH_A_PROCESS_BYTES", 1)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(summarising, "ProcessPoolExecutor", _Breaking)
    assert len(summarise(folder=tmp_path / "results").rows) == RUNS_N * ROWS_N
    assert counted == [file.name for file in past.files]


def test_devices_stand_beside_each_other_by_time(tmp_path: Path) -> None:
    first = write(tmp_path, medians(3, 6), device="NVIDIA H200")
    second = write(tmp_path, medians(2, 6, seed=1), device="NVIDIA B200")
    history = summarise(folder=tmp_path / "results")
    assert history.runs.device.tolist() == ["NVIDIA B200", "NVIDIA H200"] * 2 + ["NVIDIA H200"]
    for past in (first, second):
        numbers = history.runs.run[history.runs.device == past.device]
        found = [history.rows.median_s[history.rows.run == number].tolist() for number in numbers]
        assert found == past.medians_s.tolist()


def _edited(path: Path, **facts: Any) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_bytes())
    content["rooftile"] |= facts
    path.write_text(json.dumps(content))
    return content


@pytest.mark.parametrize("started", ["yesterday", "", "2026-01-01", "2026-01-01T00:00:00", "0001-01-01T00:00:00+23:00"])
def test_a_run_without_a_time_keeps_its_rows_and_is_named(past: Past, tmp_path: Path, started: str) -> None:
    _edited(past.files[2], started=started)
    history = summarise(folder=tmp_path / "results")
    assert history.runs.started.isna().tolist() == [True, False, False, False, False]
    assert len(history.rows) == RUNS_N * ROWS_N
    assert [path for path, _ in history.left_out] == [str(past.files[2])]
    assert "started: expected a time with its zone" in history.left_out[0][1]


def test_a_time_with_another_zone_is_told_in_utc(past: Past) -> None:
    _edited(past.files[0], started="2026-01-01T01:30:00.25+02:00")
    assert summarise([past.files[0]]).runs.started[0] == pd.Timestamp("2025-12-31T23:30:00.25Z")


def test_rows_of_one_id_are_told_apart(past: Past) -> None:
    content = json.loads(past.files[0].read_bytes())
    for row in content["benchmarks"]:
        row["extra_info"]["record"]["id"] = "x"
    past.files[0].write_text(json.dumps(content))
    history = summarise([past.files[0]])
    assert history.rows.row.nunique() == ROWS_N
    assert history.rows.row.iloc[0].startswith("x (attention/fwd/{")


SPANS = [
    ([], 0.0),
    ([(0, 6)], 1.0),
    ([(0, 0)], 1 / 7),
    ([(1, 2), (2, 3)], 3 / 7),
    ([(5, 6), (0, 1), (0, 0)], 4 / 7),
    ([(6, 10**12)], 1 / 7),
    ([(4, 2)], 0.0),
]


@pytest.mark.parametrize(("spans", "share"), SPANS)
def test_throttled_is_the_share_of_rounds(past: Past, spans: list[tuple[int, int]], share: float) -> None:
    content = json.loads(past.files[0].read_bytes())
    looked, blind, unknown = (row["extra_info"]["record"] for row in content["benchmarks"][:3])
    told = [{"first_round": first, "last_round": last, "reasons": ["heat"]} for first, last in spans]
    looked["telemetry"] = {"monitor": "nvml", "readings": [], "throttled": told}
    blind["telemetry"] = {"monitor": "nvml", "throttled": [], "unavailable": {"throttled": "no permission"}}
    unknown.pop("telemetry", None)
    past.files[0].write_text(json.dumps(content))
    found = summarise([past.files[0]]).rows.throttled
    assert found[0] == pytest.approx(share)
    assert found[1:3].isna().all()


def test_configurations_marks_and_heaps_are_told_in_short(past: Past) -> None:
    content = json.loads(past.files[0].read_bytes())
    record = content["benchmarks"][0]["extra_info"]["record"]
    record["tuned"] = [
        {"kernel": "_forward", "key": ["4096", "bf16"], "config": {"BLOCK": 64, "num_warps": 4}, "source": "tuned"},
        {"kernel": "_backward", "key": [], "config": {}, "source": "only"},
    ]
    record["marks"] = [{"kind": kind, "text": "x"} for kind in ("throttled", "bimodal", "throttled")]
    record["stop"]["modes"] = [{"median_s": 1.0, "share": 0.6}, {"median_s": 2.0, "share": 0.4}]
    past.files[0].write_text(json.dumps(content))
    row, other = (summarise([past.files[0]]).rows.iloc[i] for i in (0, 1))
    assert row.tuned == "_backward no configuration | _forward BLOCK=64, num_warps=4; key 4096, bf16"
    assert (row.marks, row.modes) == ("throttled,bimodal", 2)
    assert (other.tuned, other.marks) == ("", "")
    assert np.isnan(other.modes)
