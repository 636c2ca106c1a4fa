"""Which configuration a kernel runs with, where that came from, and what finding it took: on Triton's own autotuner."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from triton import Config, knobs
from triton.runtime.autotuner import Autotuner
from triton.runtime.errors import OutOfResources

from bench.core.stored import load_configs
from bench.core.tuning import NoConfiguration, Plan, recording

ROW = "op/fwd/case/triton"
CONFIGS = [Config({"BLOCK": size}, num_warps=4) for size in (16, 32, 64)]
SECONDS = {16: 3.0, 32: 1.0, 64: 2.0}


def kernel(x_ptr: Any, n: int, BLOCK: int) -> None:  # noqa: N803 - a kernel's signature
    """What is tuned; never run."""


class Jit:
    """Stands in for a compiled function: notes what it is launched with, and may not fit."""

    fn = staticmethod(kernel)

    def __init__(self, too_large: tuple[int, ...] = ()) -> None:
        self.launched: list[int] = []
        self.too_large = too_large

    def run(self, *_: Any, **options: Any) -> None:
        """A launch."""
        if options["BLOCK"] in self.too_large:
            raise OutOfResources(300, 200, "shared memory")
        self.launched.append(options["BLOCK"])


def _tuner(jit: Jit, configs: list[Config] | None = None) -> Autotuner:
    """An autotuner that finds 32 the fastest of what fits."""

    def bench(call: Any, **_: Any) -> list[float]:
        call()
        return [SECONDS[jit.launched[-1]]] * 3

    return Autotuner(jit, ["x_ptr", "n", "BLOCK"], configs or list(CONFIGS), ["n"], None, None, do_bench=bench)


def _call(tuner: Autotuner, n: int = 8) -> None:
    tuner.run(torch.zeros(n), n)


KEY = ["8", "torch.float32"]


def _facts(block: int) -> dict[str, Any]:
    return {**CONFIGS[0].all_kwargs(), "BLOCK": block}


def test_full_tunes_once_and_the_timed_calls_use_what_it_found() -> None:
    jit = Jit()
    tuner = _tuner(jit)
    with recording(Plan("full"), ROW) as notes:
        _call(tuner)
        _call(tuner)
    (tuned,) = notes.tuned
    assert (tuned.kernel, tuned.key, tuned.config, tuned.source) == ("kernel", KEY, _facts(32), "tuned")
    assert jit.launched == [16, 32, 64, 32, 32]
    assert notes.compiling.tune_s > 0
    _call(tuner)
    assert jit.launched[-1] == 32
    with recording(Plan("full"), ROW) as again:
        _call(tuner)
    assert [each.source for each in again.tuned] == ["cached"]


def test_every_key_is_told_apart() -> None:
    tuner = _tuner(Jit())
    with recording(Plan("full"), ROW) as notes:
        _call(tuner, 8)
        _call(tuner, 16)
    assert [each.key[0] for each in notes.tuned] == ["8", "16"]


@pytest.mark.parametrize(("too_large", "runs"), [((), 16), ((16,), 32), ((16, 32), 64)])
def test_first_takes_the_first_that_runs_without_a_benchmark(too_large: tuple[int, ...], runs: int) -> None:
    jit = Jit(too_large)
    tuner = _tuner(jit)
    with recording(Plan("first"), ROW) as notes:
        _call(tuner)
    assert [(each.config["BLOCK"], each.source) for each in notes.tuned] == [(runs, "first")]
    assert jit.launched == [runs]
    assert notes.compiling.tune_s == 0
    _call(tuner)
    assert jit.launched == [runs, runs], "expected the timed call to run with the same one"


def test_none_that_fits_is_an_error_of_the_kernel() -> None:
    with pytest.raises(OutOfResources), recording(Plan("first"), ROW):
        _call(_tuner(Jit((16, 32, 64))))


def test_a_kernel_without_a_choice_says_so() -> None:
    jit = Jit()
    with recording(Plan("full"), ROW) as notes:
        _call(_tuner(jit, CONFIGS[2:]))
    assert [(each.config["BLOCK"], each.source) for each in notes.tuned] == [(64, "only")]
    assert jit.launched == [64]


def _file(tmp_path: Path, block: int, row: str = ROW, schema: int = 2) -> Path:
    entry = {"kernel": "kernel", "key": KEY, "config": _facts(block), "source": "tuned"}
    record = {"schema": schema, "id": row, "tuned": [entry]}
    path = tmp_path / f"{block}.json"
    path.write_text(json.dumps({"benchmarks": [{"extra_info": {"record": record}}]}))
    return path


def test_configurations_of_another_gpu_are_used_and_no_others(tmp_path: Path) -> None:
    jit = Jit()
    tuner = _tuner(jit)
    for block in (64, 16):  # one file after the other, in the same process
        with recording(Plan.of("full", str(_file(tmp_path, block))), ROW) as notes:
            _call(tuner)
        _call(tuner)
        assert jit.launched[-2:] == [block, block]
        assert [each.source for each in notes.tuned] == [f"from {block}.json"]
    assert len(jit.launched) == 4, "expected no benchmark"


def test_a_configuration_that_none_of_its_own_is_made_anew(tmp_path: Path) -> None:
    jit = Jit()
    with recording(Plan.of("full", str(_file(tmp_path, 128))), ROW):
        _call(_tuner(jit))
    assert jit.launched == [128]


@pytest.mark.parametrize(
    ("row", "n", "too_large", "words"),
    [
        ("op/fwd/other/triton", 8, (), "for row op/fwd/case/triton in 64.json, got none"),
        (ROW, 9, (), r"with key \(9, torch.float32\)"),
        (ROW, 8, (64,), "which cannot run here: out of resource"),
    ],
)
def test_what_a_file_lacks_or_cannot_run_is_named(
    tmp_path: Path, row: str, n: int, too_large: tuple[int, ...], words: str
) -> None:
    plan = Plan.of("full", str(_file(tmp_path, 64, row)))
    with pytest.raises(NoConfiguration, match=words), recording(plan, ROW):
        _call(_tuner(Jit(too_large)), n)


def test_a_provider_that_swallows_the_refusal_is_refused_all_the_same(tmp_path: Path) -> None:
    plan = Plan.of("full", str(_file(tmp_path, 64, "another/row")))

    def swallow() -> None:
        with recording(plan, ROW), suppress(NoConfiguration):
            _call(_tuner(Jit()))

    with pytest.raises(NoConfiguration):
        swallow()


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"benchmarks": [{}]}', '{"benchmarks": [{"extra_info": {"record": {"schema": 9, "id": "a"}}}]}'],
)
def test_what_is_no_results_file_is_refused_by_the_option(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(ValueError, match="--config-from: expected a results file"):
        load_configs(tmp_path / "a.json")
    with pytest.raises(ValueError, match="--config-from: expected a results file"):
        load_configs(tmp_path / "missing.json")


def test_a_file_without_any_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"benchmarks": []}')
    with pytest.raises(ValueError, match=r"with tuned configurations, got .* without any"):
        load_configs(tmp_path / "a.json")


def test_the_autotuner_is_as_before_when_the_recording_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[Any] = []
    monkeypatch.setattr(knobs.compilation, "listener", lambda **told: heard.append(told))
    before = Autotuner.run, Autotuner._bench, Autotuner.prune_configs, knobs.compilation.listener
    tuner = _tuner(Jit())

    def fail() -> None:
        with recording(Plan("full"), ROW):
            _call(tuner)
            raise RuntimeError("planted")

    with pytest.raises(RuntimeError, match="planted"):
        fail()
    assert (Autotuner.run, Autotuner._bench, Autotuner.prune_configs, knobs.compilation.listener) == before
    assert tuner.configs == CONFIGS
    assert not tuner.cache_results


def test_cached_takes_what_an_earlier_process_has_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton's own cache on disk, of which only the file is simulated."""
    disk: dict[Any, Any] = {}

    def check(tuner: Autotuner, key: Any, _: Any, bench: Any) -> bool:
        if key not in disk:
            bench()
            disk[key] = tuner.cache[key]
            return False
        tuner.cache[key] = disk[key]
        return True

    monkeypatch.setattr(Autotuner, "check_disk_cache", check)
    monkeypatch.setattr(knobs.runtime, "interpret", False)
    sources, launches = [], []
    for _ in range(2):
        jit = Jit()
        with recording(Plan("cached"), ROW) as notes:
            _call(_tuner(jit))
        sources += [(each.source, each.config["BLOCK"]) for each in notes.tuned]
        launches.append(jit.launched)
    assert sources == [("tuned", 32), ("cached", 32)]
    assert launches == [[16, 32, 64, 32], [32]]


def test_plans_name_the_option() -> None:
    with pytest.raises(ValueError, match="--tune: expected full, cached, first, got 'best'"):
        Plan("best")
