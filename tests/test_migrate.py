"""Results of older schemas read as of today's, and those of newer ones say so."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from bench.core.record import SCHEMA as WRITTEN
from reports.read.load import load
from reports.read.migrate import MIGRATIONS, SCHEMA, current, schema_of
from reports.read.record import NotOurs
from tests.simulated_history import medians, write

ROOT = Path(__file__).resolve().parents[1]
OLD = next((ROOT / "results" / "amd-epyc").glob("*398b3dec07b8.json"))


def _of(tmp_path: Path, content: dict[str, Any]) -> Path:
    path = tmp_path / "x.json"
    path.write_text(json.dumps(content))
    return path


def _content(tmp_path: Path, schema: Any) -> dict[str, Any]:
    """A file of three rows as some schema has it."""
    file = write(tmp_path, medians(1, 3)).files[0]
    content: dict[str, Any] = json.loads(file.read_bytes())
    content["rooftile"]["schema"] = schema
    for row in content["benchmarks"]:
        row["extra_info"]["record"]["schema"] = schema
    return content


def test_what_is_written_can_be_read_and_every_older_schema_too() -> None:
    assert WRITTEN == SCHEMA
    assert [*MIGRATIONS] == [*range(1, SCHEMA)], "a gap, and older results would be lost"


def test_the_committed_results_of_schema_1_read_with_a_clock_of_their_own() -> None:
    assert json.loads(OLD.read_bytes())["rooftile"]["schema"] == 1
    results = load([[OLD]])
    assert not results.left_out
    measured = results.rows[results.rows.status == "measured"]
    assert len(measured) == 114
    assert set(measured.timer) == {"host_unflushed"}, "they would be compared with times behind a flushed cache"
    assert set(results.rows[results.rows.status == "absent"].timer) == {""}


@pytest.mark.parametrize(
    ("timer", "conditions", "expected"),
    [
        ("host", {}, "host_unflushed"),
        ("host", None, "host_unflushed"),
        ("host", {"flush_bytes": 1 << 20}, "host"),
        ("host", {"flush_bytes": 0}, "host"),
        ("device", {}, "device"),
        ("graph", {}, "graph"),
    ],
)
def test_only_samples_behind_unflushed_caches_get_another_clock(
    tmp_path: Path, timer: str, conditions: Any, expected: str
) -> None:
    content = _content(tmp_path, 1)
    content["rooftile"]["conditions"] = conditions
    for row in content["benchmarks"]:
        row["extra_info"]["record"]["timer"] = timer
    results = load([[_of(tmp_path, content)]])
    assert not results.left_out
    assert results.rows.timer.tolist() == [expected] * 3


def test_a_record_of_today_stays_as_it_is(tmp_path: Path) -> None:
    content = _content(tmp_path, SCHEMA)
    record, facts = content["benchmarks"][0]["extra_info"]["record"], content["rooftile"]
    assert current(record, facts) == record


def test_migrating_leaves_the_record_itself_alone() -> None:
    record = {"schema": 1, "timer": "host", "case": {}}
    before = copy.deepcopy(record)
    assert current(record, {"schema": 1}) == {"schema": SCHEMA, "timer": "host_unflushed", "case": {}}
    assert record == before


def test_a_journal_is_migrated_too(tmp_path: Path) -> None:
    content = _content(tmp_path, 1)
    facts = {name: value for name, value in content["rooftile"].items() if name not in ("absent", "conditions")}
    rows = [{"record": row["extra_info"]["record"], "samples_s": [1e-3] * 7} for row in content["benchmarks"]]
    path = tmp_path / "x.jsonl"
    path.write_text(
        "".join(json.dumps(line) + "\n" for line in ({"kind": "run"} | facts, {"kind": "rows", "rows": rows}))
    )
    results = load([[path]])
    assert not results.left_out
    assert results.rows.timer.tolist() == ["host_unflushed"] * 3


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        (SCHEMA + 1, f"written by a newer rooftile: schema {SCHEMA + 1}, and this one reads up to {SCHEMA}"),
        (10**400, "written by a newer rooftile: schema 1000000000"),
        (0, "schema: expected 1 or 2, got 0"),
        (-1, "schema: expected 1 or 2, got -1"),
        (True, "schema: expected 1 or 2, got true"),
        ("2", 'schema: expected 1 or 2, got "2"'),
        (None, "schema: expected 1 or 2, got null"),
    ],
)
def test_another_schema_is_named_and_left_out(tmp_path: Path, schema: Any, reason: str) -> None:
    results = load([[_of(tmp_path, _content(tmp_path, schema))]])
    assert not results.runs
    assert results.left_out[0][1].startswith(reason)


def test_a_record_of_another_schema_than_its_run_is_left_out_and_the_others_stay(tmp_path: Path) -> None:
    content = _content(tmp_path, SCHEMA)
    content["benchmarks"][1]["extra_info"]["record"]["schema"] = 1
    results = load([[_of(tmp_path, content)]])
    assert len(results.rows) == 2
    assert [reason for _, reason in results.left_out] == ["1 row: schema: expected 2, as its run has, got 1"]


def test_without_a_schema_nothing_is_read() -> None:
    with pytest.raises(NotOurs, match="schema: missing"):
        schema_of({})
