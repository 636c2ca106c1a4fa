"""Whatever a file is or holds, nothing is raised for it, and the rows that are whole stay."""

from __future__ import annotations

import copy
import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reports.judge.derive import derive
from reports.judge.summarise import summarise
from reports.read import load as loading
from reports.read.load import expand, load
from tests import simulated_gpu
from tests.simulated import a_file, a_record, around
from tests.simulated_history import Past, medians, write

SLOW = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much)
Place = tuple[str | int, ...]

WHOLE = 6


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A results file with everything in it that one can tell: six measured rows, one absent, one invalid."""
    folder = tmp_path_factory.mktemp("valid")
    rows, absent = simulated_gpu.rows()[3 : 3 + WHOLE], simulated_gpu.absent()[1:4:2]
    path = a_file(folder, rows, absent, **simulated_gpu.FACTS)
    content: dict[str, Any] = json.loads(path.read_bytes())
    return content


def _places(value: Any, place: Place = ()) -> list[Place]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place, *(deep for name, each in inner for deep in _places(each, (*place, name)))]


def _edit(content: Any, place: Place, change: Callable[[Any, Any], None]) -> Any:
    inner = content
    for step in place[:-1]:
        inner = inner[step]
    change(inner, place[-1])
    return content


def _deep(levels: int) -> Any:
    value: Any = []
    for _ in range(levels):
        value = [value]
    return value


NUMBERS = st.one_of(
    st.floats(), st.integers(), st.sampled_from([0, -1, 2**63, 2**64, 10**30, 10**400, 5e-324, 1.7e308, -0.0, 1e-320])
)
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    NUMBERS,
    st.text(max_size=20),
    st.sampled_from(["\ud800", "\x00", "\x1b[31m", "=1+1", "../../x", _deep(60)]),
    st.recursive(
        NUMBERS | st.text(max_size=3),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
        max_leaves=6,
    ),
    st.lists(NUMBERS, max_size=9),
)


def _mutated(data: st.DataObject, content: dict[str, Any]) -> tuple[dict[str, Any], Place]:
    """A copy of a content in which one place holds something else, or nothing, or is there twice."""
    content = copy.deepcopy(content)
    place = data.draw(st.sampled_from(_places(content)[1:]))

    def put(inner: Any, name: Any) -> None:
        inner[name] = data.draw(VALUES)

    def remove(inner: Any, name: Any) -> None:
        del inner[name]

    def repeat(inner: Any, name: Any) -> None:
        if isinstance(inner, list):
            inner.insert(name, copy.deepcopy(inner[name]))
        else:
            inner[data.draw(st.text(max_size=5))] = inner[name]

    return _edit(content, place, data.draw(st.sampled_from([put, put, remove, repeat]))), place


def _looked_at(path: Path) -> tuple[Any, Any]:
    """A file by both ways: what it holds, and its summary, which must tell of the same rows, cold and warm."""
    with warnings.catch_warnings():
        # What a number near the end of floats may bring about; the suite makes warnings errors.
        warnings.simplefilter("ignore", RuntimeWarning)
        results = load([[path]])
        rows = derive(results.rows, results.runs)
        cold, warm = (summarise([path]) for _ in range(2))
    assert len(cold.rows) == len(warm.rows) == len(rows)
    assert cold.left_out == warm.left_out
    assert {*results.left_out} <= {*cold.left_out}
    return rows, results


@given(data=st.data())
@settings(max_examples=30, deadline=None, suppress_health_check=SLOW)
def test_a_change_in_any_place_costs_at_most_what_it_touches(
    valid: dict[str, Any], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content, place = _mutated(data, valid)
    path = tmp_path_factory.mktemp("x") / "x.json"
    path.write_text(json.dumps(content))
    rows, results = _looked_at(path)
    everything = WHOLE + 2
    if not results.runs:
        assert place[0] in ("rooftile", "benchmarks")
        assert results.left_out
    elif place[:1] == ("benchmarks",) and len(place) > 1:
        others = [each["extra_info"]["record"]["id"] for i, each in enumerate(valid["benchmarks"]) if i != place[1]]
        assert {*others} <= {*rows.id}
        assert rows.median_s[rows.id.isin(others)].notna().all()
    elif place[:2] == ("rooftile", "absent"):
        assert (rows.status == "measured").sum() == WHOLE
    elif place[0] == "rooftile" or place[0] not in ("benchmarks", "rooftile"):
        assert len(rows) == everything, place


@given(data=st.data())
@settings(max_examples=30, deadline=None, suppress_health_check=SLOW)
def test_bytes_changed_anywhere_are_named_or_read(
    valid: dict[str, Any], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = json.dumps(valid).encode()
    at, until = sorted(data.draw(st.tuples(*[st.integers(0, len(content))] * 2)))
    until = data.draw(st.sampled_from([at, until, at + 1, at + 20, len(content)]))
    path = tmp_path_factory.mktemp("x") / "x.json"
    path.write_bytes(content[:at] + data.draw(st.binary(max_size=10)) + content[until:])
    rows, results = _looked_at(path)
    assert len(rows) or results.left_out


@given(data=st.data())
@settings(max_examples=30, deadline=None, suppress_health_check=SLOW)
def test_a_line_changed_in_a_journal_costs_its_rows_and_no_others(
    valid: dict[str, Any], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    facts = {name: value for name, value in valid["rooftile"].items() if name != "absent"}
    lines: list[Any] = [{"kind": "run"} | facts]
    lines += [
        {"kind": "rows", "rows": [{"record": row["extra_info"]["record"], "samples_s": row["stats"]["data"]}]}
        for row in valid["benchmarks"]
    ]
    at = data.draw(st.integers(1, WHOLE))
    texts = [json.dumps(line).encode() for line in lines]
    if data.draw(st.booleans()):
        texts[at] = json.dumps(_mutated(data, lines[at])[0]).encode()
    else:
        texts[at] = data.draw(st.binary(max_size=40)).replace(b"\n", b"") + texts[at][data.draw(st.integers(0, 99)) :]
    path = tmp_path_factory.mktemp("x") / "x.jsonl"
    path.write_bytes(b"\n".join(texts) + b"\n")
    rows, results = _looked_at(path)
    others = [row["extra_info"]["record"]["id"] for i, row in enumerate(valid["benchmarks"]) if i != at - 1]
    assert {*others} <= {*rows.id}
    assert results.runs[0].unfinished == len(rows)


@pytest.fixture
def past(tmp_path: Path) -> Past:
    return write(tmp_path, medians(2, 5))


def _odd_files(home: Path) -> dict[str, str]:
    """Everything that may be called x.json and is no file of ours, with why each is left out."""
    os.mkfifo(home / "pipe.json")
    (home / "folder.json").mkdir()
    (home / "loop.json").symlink_to(home / "loop.json")
    (home / "dangling.json").symlink_to(home / "nowhere.json")
    (home / "round").symlink_to(home)
    (home / "empty.json").touch()
    (home / "torn.jsonl").touch()
    (home / "utf16.json").write_bytes("[1]".encode("utf-16"))
    (home / "latin.json").write_bytes(b'{"rooftile": "\xe9"}')
    (home / "deep.json").write_bytes(b'{"rooftile":' * 50_000)
    (home / "digits.json").write_bytes(b"1" * 10_000)
    (home / "foreign.json").write_text('{"benchmarks": [], "version": "5.3.1"}')
    (home / os.fsdecode(b"\xff\xfe.json")).write_text("{}")
    (home / "\u202e\x1b[31m.json").write_text("{}")
    return {
        "pipe.json": "expected a file, got a folder, a pipe or a device",
        "folder.json": "expected a file, got a folder, a pipe or a device",
        "loop.json": "Too many levels of symbolic links",
        "dangling.json": "No such file or directory",
        "empty.json": "is not JSON, or not all of it",
        "torn.jsonl": "expected a journal whose first line is a run",
        "utf16.json": "rooftile: expected an object that holds it, got [1]",
        "latin.json": "is not JSON, or not all of it",
        "deep.json": "is not JSON, or not all of it",
        "digits.json": "",
        "foreign.json": "rooftile: missing",
        "\N{REPLACEMENT CHARACTER}" * 2 + ".json": "rooftile: missing",
        "\N{REPLACEMENT CHARACTER}" * 2 + "[31m.json": "rooftile: missing",
    }


def test_what_is_no_file_of_ours_is_named_and_left_out(past: Past, tmp_path: Path) -> None:
    reasons = _odd_files(past.files[0].parent)
    results = load([[file] for file in expand([tmp_path])])
    for found in (results.left_out, *(summarise(folder=tmp_path / "results").left_out for _ in range(2))):
        told = {path.rpartition("/")[2]: reason for path, reason in found}
        assert {*told} == {*reasons}
        assert all(part in told[name] for name, part in reasons.items()), told
    assert len(results.rows) == 10
    assert len(summarise(folder=tmp_path / "results").rows) == 10


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), OSError(5, "Input/output error")])
def test_a_file_that_cannot_be_read_now_is_tried_again_next_time(
    past: Past, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    def fail(path: Path) -> bytes:
        if path == past.files[1]:
            raise error
        return real(path)

    real = Path.read_bytes
    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_bytes", fail)
        history = summarise(folder=tmp_path / "results")
    assert history.left_out == [(str(past.files[1]), f"cannot be read: {error.strerror}")]
    assert len(history.rows) == 5
    assert len(summarise(folder=tmp_path / "results").rows) == 10


def test_a_file_may_vanish_at_any_moment(past: Past, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = expand([tmp_path])
    past.files[0].unlink()
    monkeypatch.setattr(loading, "expand", lambda _: found)
    gone = [(str(past.files[0]), "cannot be read: No such file or directory")]
    assert load([[file] for file in found]).left_out == gone
    assert summarise(found).left_out == gone
    assert len(summarise(found).rows) == 5


def test_a_path_that_no_file_can_have_is_named() -> None:
    for path in (Path("a\0b"), Path("x" * 5000)):
        assert load([[path]]).left_out[0][1].startswith("cannot be read: ")
        assert summarise([path]).left_out[0][1].startswith("cannot be read: ")


def test_rows_that_a_file_has_twice_count_once(tmp_path: Path) -> None:
    rows = [(a_record("eager", 512), around(1e-3)), (a_record("eager", 512), around(5e-3))]
    history = summarise([a_file(tmp_path, rows)])
    assert history.rows.median_s.tolist() == pytest.approx([1e-3])
    assert "1 row: the same row as one before" in history.left_out[0][1]
