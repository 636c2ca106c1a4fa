"""Units of counting, the ledger that they are compared with, and regressions planted to be found."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.core import fingerprint
from bench.core.baseline import FILE, Baseline, differences, told
from bench.core.case import grid, select
from bench.core.child import ChildFailed
from bench.core.counts import Counts, Unit, paths_of, units_of, versions
from bench.core.registry import operators
from bench.core.verify import Changed, Verification, floors_of
from bench.hardware import GPUS, as_dict
from tests import planted


@pytest.fixture(scope="module")
def counts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Counts]:
    counts = Counts(tmp_path_factory.mktemp("cache"), processes=1)
    yield counts
    counts.close()


def _traffic(operator: Any, provider: str) -> Unit:
    (case,) = operator.counted_cases()
    return Unit(operator.__module__, operator.__qualname__, provider, "fwd", case=case.id)


def _resources(provider: str, target: str) -> Unit:
    return Unit(planted.Multiplied.__module__, planted.Multiplied.__qualname__, provider, "fwd", target=target)


def _found(counts: Counts, regression: str) -> str:
    """What a planted regression changes, as it is told."""
    before = counts.result(_traffic(planted.Doubled, "sound")).found
    return "\n".join(differences(before, counts.result(_traffic(planted.Doubled, regression)).found))


def test_a_sound_kernel_is_at_its_floor(counts: Counts) -> None:
    (launch,) = counts.result(_traffic(planted.Doubled, "sound")).found.values()
    assert launch["programs"] == 3
    assert launch["read"] == {"x_ptr": {"requested": 1200, "footprint": 1200}}
    assert launch["written"] == {"y_ptr": {"requested": 1200, "footprint": 1200}}


def test_a_second_load_is_found(counts: Counts) -> None:
    assert "0 _double > read > x_ptr: requested 1200 -> 2400 (+100.0%)" in _found(counts, "second_load")
    assert "footprint" not in _found(counts, "second_load")


def test_an_extra_pass_is_found(counts: Counts) -> None:
    found = _found(counts, "extra_pass")
    assert "1 aten::div > read > inputs: requested is new: 1200" in found
    assert "2 _double > written > y_ptr: requested is new: 1200" in found


def test_a_widened_dtype_is_found(counts: Counts) -> None:
    found = _found(counts, "widened")
    assert "0 _double > written > y_ptr: footprint 1200 -> 2400 (+100.0%)" in found
    assert "1 aten::_to_copy > read > inputs: requested is new: 2400" in found


def test_a_dropped_bound_is_found(counts: Counts) -> None:
    with pytest.raises(
        ChildFailed, match="_double: expected every byte read to belong to an argument, got 112 that do"
    ):
        counts.result(_traffic(planted.Doubled, "unbounded"))
    found = _found(counts, "unbounded_inside")
    assert "0 _double > read > x_ptr: requested 1200 -> 1536 (+28.0%)" in found
    assert "0 _double > read > x_ptr: footprint 1200 -> 1312" in found


def _kernel(counts: Counts, provider: str, target: str) -> Any:
    (found,) = counts.result(_resources(provider, target)).found.values()
    return found


@pytest.mark.parametrize(
    ("target", "unit", "regression"),
    [
        ("sm_80", "mma", "off_the_tensor_core"),
        ("sm_90", "wgmma", "off_the_tensor_core"),
        ("sm_90", "wgmma", "too_few_rows"),
        ("sm_100", "tcgen05", "too_few_rows"),
    ],
)
def test_a_dot_that_falls_off_the_tensor_core_is_found(counts: Counts, target: str, unit: str, regression: str) -> None:
    sound, found = (_kernel(counts, name, target) for name in ("sound", regression))
    amount = sound["instructions"][unit]
    assert f"instructions: {unit} is gone, was {amount}" in differences(sound, found)
    if regression == "off_the_tensor_core":
        assert found["instructions"]["fma"] > 1000


def test_a_configuration_that_spills_is_found(counts: Counts) -> None:
    sound, found = (_kernel(counts, name, "sm_90") for name in ("sound", "spilling"))
    assert sound["spills"] == sound["stack"] == 0
    assert found["spills"] > 0
    assert any(change.startswith("spills 0 -> ") for change in differences(sound, found))


def test_what_does_not_fit_is_absent_with_its_reason(counts: Counts) -> None:
    needs = 2 * 256 * 512
    reason = _kernel(counts, "too_large", "sm_86")["absent"]
    assert reason.startswith("shared memory: needs ")
    assert int(reason.split()[3]) >= needs
    assert reason.endswith(" bytes, a block may have 101376")
    reason = _kernel(counts, "too_wide", "sm_100")["absent"]
    assert re.fullmatch(r"tensor memory: needs \d+ columns, a block may have 512", reason)


def test_every_record_is_whole(counts: Counts) -> None:
    for unit in units_of(planted.Multiplied, "sound"):
        if not unit.target:
            continue
        ((name, found),) = counts.result(unit).found.items()
        assert name.startswith("_multiply SIZE=128 BLOCK_M=64 WIDE=False num_warps=4 num_stages=")
        assert name.endswith("a_ptr=fp16 b_ptr=fp16 out_ptr=fp16")
        fields = {"registers", "spills", "stack", "shared", "warps", "occupancy", "instructions", "default"}
        assert set(found) == fields, unit
        assert 16 <= found["registers"] <= 512
        assert 0 < found["occupancy"] <= 1
        assert found["warps"] == 4
        assert {"load.128"} & set(found["instructions"]) or {"cp.async.128"} & set(found["instructions"]), unit


def test_gluon_kernels_are_compiled_alike(counts: Counts) -> None:
    found = counts.result(Unit("tests.planted_gluon", "Doubled", "gluon", "fwd", target="sm_90")).found
    ((name, record),) = found.items()
    assert name.startswith("_double_in_gluon BLOCK=256 num_warps=1 ")
    assert record["warps"] == 1
    assert record["spills"] == 0
    assert {"load", "store"} <= {kind.partition(".")[0] for kind in record["instructions"]}


def test_a_second_count_takes_the_cache_and_agrees(counts: Counts, tmp_path: Path) -> None:
    units = [_traffic(planted.Doubled, "sound"), _resources("sound", "sm_90")]
    first = [counts.result(unit).found for unit in units]
    cold, warm = Counts(tmp_path, processes=2), Counts(counts._cache, processes=2)
    try:
        assert [cold.result(unit).found for unit in units] == first
        assert [warm.result(unit).found for unit in units] == first
    finally:
        cold.close()
        warm.close()
    assert {path.name for path in tmp_path.iterdir()} <= {path.name for path in counts._cache.iterdir()}


# The ledger.


def _filled(file: Path) -> Baseline:
    baseline = Baseline(file)
    baseline.put(("versions",), {"torch": "2.13.0", "triton": "3.7.1"})
    baseline.put(("cases", "double", "fwd-x", "triton"), {"0 _double": {"programs": 3, "read": {"x_ptr": {"a": 1}}}})
    baseline.put(("resources", "double", "fwd", "triton", "sm_90"), {"_double": {"registers": 16, "instructions": {}}})
    baseline.put(("floors", "double"), {"fwd-x": {"bytes": 8, "flops": 2}})
    return baseline


def test_the_ledger_is_written_the_same_way_twice(tmp_path: Path) -> None:
    _filled(tmp_path / "a.json").write()
    again = Baseline(tmp_path / "a.json")
    again.file = tmp_path / "b.json"
    again.write()
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    read = again.get(("cases", "double", "fwd-x", "triton"))
    assert read == {"0 _double": {"programs": 3, "read": {"x_ptr": {"a": 1}}}}


def test_the_ledger_has_a_line_for_every_kernel(tmp_path: Path) -> None:
    baseline = _filled(tmp_path / "a.json")
    record = {"registers": 16, "instructions": {"load.128": 4, "store.128": 4}, "shared": 0}
    path = ("resources", "double", "fwd", "triton", "sm_90")
    baseline.put(path, {f"_double BLOCK={block}": record for block in (64, 128, 256)})
    baseline.write()
    lines = [line.strip() for line in (tmp_path / "a.json").read_text().splitlines()]
    inside = '{"instructions": {"load.128": 4, "store.128": 4}, "registers": 16, "shared": 0}'
    assert f'"_double BLOCK=64": {inside}' in lines
    assert f'"_double BLOCK=128": {inside},' in lines


def test_what_nobody_counts_any_more_is_dropped(tmp_path: Path) -> None:
    baseline = _filled(tmp_path / "a.json")
    baseline.prune([("cases", "double", "fwd-x", "triton")])
    assert list(baseline.paths()) == [("cases", "double", "fwd-x", "triton")]
    assert baseline.content["versions"]


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "expected JSON"), ("[]", "expected schema 1, got list"), ('{"schema": 7}', "expected schema 1, got 7")],
)
def test_a_foreign_file_is_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "counts.json").write_text(text)
    with pytest.raises(ValueError, match=f"^counts.json: {message}"):
        Baseline(tmp_path / "counts.json")


def test_other_versions_are_not_comparable(tmp_path: Path) -> None:
    baseline = _filled(tmp_path / "a.json")
    assert baseline.foreign({"torch": "2.13.0", "triton": "3.7.1"}) == ""
    assert baseline.foreign({"torch": "2.13.0", "triton": "3.6.0"}) == (
        "not comparable: the ledger was made with triton 3.7.1, here 3.6.0"
    )
    assert Baseline(tmp_path / "none.json").foreign({"torch": "1", "triton": "1"}) == ""


def test_differences_are_told_with_what_from_and_to() -> None:
    before = {"_k": {"registers": 168, "spills": 0, "instructions": {"wgmma": 8}}, "_old": {"absent": "no"}}
    after = {"_k": {"registers": 255, "spills": 24, "instructions": {"mma": 64}}}
    assert differences(before, after) == [
        "_k > instructions: mma is new: 64",
        "_k > instructions: wgmma is gone, was 8",
        "_k: registers 168 -> 255 (+51.8%)",
        "_k: spills 0 -> 24",
        "_old: absent is gone, was no",
    ]
    assert differences(before, before) == []
    message = told(("resources", "attention", "fwd", "triton", "sm_90"), ["x"] * 50)
    assert message.startswith("attention fwd triton sm_90: 50 differences from results/counts.json\n")
    assert "... and 10 more" in message


def test_verification_compares_accepts_and_names_what_changed(counts: Counts, tmp_path: Path) -> None:
    file, unit = tmp_path / "counts.json", _traffic(planted.Doubled, "sound")
    with pytest.raises(Changed, match="not in the ledger yet"):
        Verification(counts, Baseline(file)).unit(unit)
    accepting = Verification(counts, Baseline(file), accept=True)
    accepting.begin([unit], paths_of(planted.Doubled))
    accepting.unit(unit)
    accepting.floors(planted.Doubled)
    accepting.finish()
    verifying = Verification(counts, Baseline(file))
    verifying.unit(unit)
    verifying.floors(planted.Doubled)
    assert verifying.counted == 2
    content = json.loads(file.read_text())
    content["cases"]["double"]["fwd-seq_len512-fp16"]["sound"]["0 _double"]["read"]["x_ptr"]["requested"] = 1
    file.write_text(json.dumps(content))
    with pytest.raises(Changed, match=r"double fwd-seq_len512-fp16 sound: 1 difference from .*\n.*requested 1 -> 1200"):
        Verification(counts, Baseline(file)).unit(unit)


def _accepted(counts: Counts, file: Path, units: list[Unit]) -> None:
    accepting = Verification(counts, Baseline(file), accept=True)
    accepting.begin(units, paths_of(planted.Doubled))
    for unit in units:
        accepting.unit(unit)
    accepting.finish()


def test_what_is_sealed_is_not_counted_again(counts: Counts, tmp_path: Path) -> None:
    file, unit = tmp_path / "counts.json", _traffic(planted.Doubled, "sound")
    _accepted(counts, file, [unit])
    idle = Counts(tmp_path / "cache", processes=1)
    for accept in (False, True):
        verifying = Verification(idle, Baseline(file), accept, recount=0.0)
        verifying.begin([unit], paths_of(planted.Doubled))
        verifying.unit(unit)
        verifying.finish()
        assert (verifying.counted, verifying.sealed) == (0, 1)
        assert "0 counts (1 more are sealed" in verifying.summary()
    assert not idle._workers, "expected nothing to be counted"
    again = Verification(counts, Baseline(file), recount=1.0)
    again.begin([unit], paths_of(planted.Doubled))
    again.unit(unit)
    assert (again.counted, again.sealed) == (1, 0)


def test_a_seal_breaks_with_its_line_and_with_its_sources(
    counts: Counts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, unit = tmp_path / "counts.json", _traffic(planted.Doubled, "sound")
    _accepted(counts, file, [unit])
    text = file.read_text()
    file.write_text(text.replace('"requested": 1200', '"requested": 1201'))
    verifying = Verification(counts, Baseline(file), recount=0.0)
    verifying.begin([unit], paths_of(planted.Doubled))
    with pytest.raises(Changed, match=r"requested 1201 -> 1200"):
        verifying.unit(unit)
    file.write_text(text)
    content = fingerprint._content
    monkeypatch.setattr(fingerprint, "_content", lambda path: content(path) + b"#" * path.match("tests/planted.py"))
    verifying = Verification(counts, Baseline(file), recount=0.0)
    verifying.begin([unit], paths_of(planted.Doubled))
    verifying.unit(unit)
    assert (verifying.counted, verifying.sealed) == (1, 0)


def test_a_fingerprint_follows_what_runs_and_nothing_else() -> None:
    unit = _traffic(planted.Doubled, "sound")
    behind = {str(path.relative_to(fingerprint.ROOT)) for path in fingerprint._sources("bench.bench_swiglu")}
    assert {"bench/bench_swiglu.py", "kernels/swiglu.py", "kernels/_launch.py", "bench/core/trial.py"} <= behind
    assert not behind & {"reference/swiglu.py", "bench/models.py", "bench/core/ledger.py", "kernels/geglu.py"}
    counting = {path.name for path in fingerprint._sources(fingerprint.COUNTING)}
    assert {"count.py", "compile.py", "interpreter.py", "resources.py", "hardware.py"} <= counting
    others = [each for each in units_of(planted.Doubled, "sound") if each != unit]
    assert len({fingerprint.fingerprint(each) for each in [unit, *others]}) == 1 + len(others)


def test_a_part_is_not_accepted_into_a_ledger_of_other_versions(counts: Counts, tmp_path: Path) -> None:
    baseline = _filled(tmp_path / "counts.json")
    baseline.put(("versions",), {"torch": "2.13.0", "triton": "0.1"})
    accepting = Verification(counts, baseline, accept=True)
    with pytest.raises(ValueError, match=r"^--accept-counts: expected all .* made with .*triton 0.1, here"):
        accepting.begin([_traffic(planted.Doubled, "sound")], paths_of(planted.Doubled))


def test_every_model_is_compiled_at_its_own_shortest_length() -> None:
    sweep = grid(model=["short", "long"], seq_len=[512, 1024]) + grid(model=["late"], seq_len=[2048, 4096])
    assert select(sweep, "shortest") == grid(model=["short", "long"], seq_len=[512]) + grid(
        model=["late"], seq_len=[2048]
    )
    assert select(sweep, "short") == grid(model=["short", "long"], seq_len=[512])
    without = grid(model=["a", "b"], batch=[1, 4])
    assert select(without, "shortest") == without


def test_the_committed_ledger_lists_exactly_what_is_counted() -> None:
    known = {path for operator in operators() for path in paths_of(operator)}
    baseline = Baseline(FILE)
    assert set(baseline.paths()) == known
    sealed = {path for path in known if path[0] != "floors"}
    assert all(isinstance(baseline.get(("seals", *path)), str) for path in sealed)
    assert baseline.content["gpus"] == {name: as_dict(gpu) for name, gpu in GPUS.items()}
    assert set(baseline.content["versions"]) == set(versions())


def test_floors_cover_the_whole_sweep() -> None:
    for operator in operators():
        floors = floors_of(operator)
        assert len(floors) == len(operator.sweep_cases("full"))
        assert all(floor["bytes"] > 0 and floor["flops"] >= 0 for floor in floors.values())
