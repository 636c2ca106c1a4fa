"""Roofs are measured honestly, and condemn only what is impossible."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.core import roofs
from bench.core.opinion import CALLS, Activity, second_opinion
from bench.core.roofs import Roof, bound_s, implausible, measure

ROOT = Path(__file__).resolve().parents[1]
CPU = torch.device("cpu")
KNOWN = [
    Roof("copy", "byte/s", [90.0, 100.0, 100.0]),
    Roof("triad", "byte/s", [80.0]),
    Roof("gemm_bf16", "op/s", [1000.0]),
    Roof("gemm_fp32", "op/s", [50.0]),
    Roof("gemm_int8", "op/s", [2000.0]),
    Roof("gemm_fp8", "op/s", [], "needs sm_89"),
]


def test_a_cpu_is_measured_in_seconds() -> None:
    began = time.perf_counter()
    found = {roof.name: roof for roof in measure(CPU)}
    assert time.perf_counter() - began < 20
    assert {"copy", "triad", "read", "gemm_bf16", "gemm_fp32", "gemm_int8", "special", "launch"} <= {
        name for name, roof in found.items() if roof.values
    }
    assert found["gemm_fp8"].reason == "NotImplementedError: fp8 products need sm_89 or newer"
    assert min(len(roof.values) for roof in found.values() if roof.values) >= roofs.FEWEST
    source = torch.rand(1 << 26)
    target, fastest = torch.empty_like(source), float("inf")
    for _ in range(5):
        began = time.perf_counter()
        target.copy_(source)
        fastest = min(fastest, time.perf_counter() - began)
    by_hand = 2 * source.nbytes / fastest
    assert found["copy"].best is not None
    assert by_hand / 2.5 < found["copy"].best < 2.5 * by_hand
    assert 1e-8 < (found["launch"].best or 0) < 1e-3


def test_one_roof_that_fails_costs_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(_: Any) -> Any:
        raise torch.OutOfMemoryError("planted\nand more")

    monkeypatch.setattr(roofs, "_triad", failing)
    monkeypatch.setattr(roofs, "STREAM_BYTES", {"cpu": 1 << 20})
    monkeypatch.setattr(roofs, "GEMM", {"cpu": 16})
    found = {roof.name: roof for roof in measure(CPU)}
    assert found["triad"] == Roof("triad", "byte/s", [], "OutOfMemoryError: planted")
    assert found["copy"].values


def test_rates_are_amounts_over_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roofs, "_times", lambda *_: [0.5, 0.25])
    monkeypatch.setattr(roofs, "GEMM", {"cpu": 16})
    found = {roof.name: roof.values for roof in measure(CPU)}
    array = roofs._array(CPU).nbytes
    assert found["copy"] == [4 * array, 8 * array]
    assert found["triad"] == [6 * array, 12 * array]
    assert found["read"] == [2 * array, 4 * array]
    assert found["gemm_fp32"] == [2 * 16**3 / 0.5, 2 * 16**3 / 0.25]
    assert found["launch"] == [0.5 / roofs.LAUNCHES, 0.25 / roofs.LAUNCHES]


def test_the_best_is_the_most_lenient() -> None:
    assert KNOWN[0].best == 100.0
    assert KNOWN[0].lenient == 100.0
    assert Roof("copy", "byte/s", [80.0, 80.0, 100.0]).lenient == 125.0
    assert Roof("launch", "s", [1.0, 2.0, 2.0]).lenient == 0.5
    assert KNOWN[-1].best is None
    assert KNOWN[-1].lenient is None


@pytest.mark.parametrize(
    ("traffic", "flops", "dtypes", "cache", "seconds"),
    [
        (1000, 0, {"bf16"}, 0, 10.0),
        (1000, 0, {"bf16"}, 400, 6.0),  # what the cache holds need not move
        (300, 0, {"bf16"}, 400, 0.0),
        (0, 5000, {"bf16"}, 0, 5.0),
        (0, 5000, {"bf16", "fp32"}, 0, 5.0),  # the narrower of two inputs may decide
        (0, 5000, {"fp32"}, 0, 100.0),
        (0, 5000, {"int8", "fp32"}, 0, 2.5),
        (100, 5000, {"bf16"}, 0, 5.0),  # the larger of both
        (0, 5000, {"fp8"}, 0, None),  # whose rate is not known
        (0, 5000, set(), 0, None),
    ],
)
def test_the_bound_is_what_the_roofs_allow(
    traffic: int, flops: int, dtypes: set[str], cache: int, seconds: float | None
) -> None:
    bound = bound_s(traffic, flops, dtypes, cache, KNOWN)
    assert (bound.seconds if bound else None) == (pytest.approx(seconds) if seconds is not None else None)


def test_what_only_reads_is_held_against_what_reading_can_do() -> None:
    """A loss reads its logits and writes next to nothing; on a bus that reads faster than it copies, it is honest."""
    bound = bound_s(1000, 0, {"bf16"}, 0, [*KNOWN, Roof("read", "byte/s", [110.0])])
    assert bound is not None
    assert implausible(1000 / 108.0, bound) == ""
    assert implausible(1000 / 112.0, bound).startswith("above the roof")


def _on_the_cpu(make: Any, *size: Any, device: Any) -> Any:  # noqa: ARG001 - there is no other here
    return make(*size)


def test_products_in_fp8_are_measured_as_fast_as_they_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """On sm_90 sums of fewer bits are what kernels keep by default; a roof without them would condemn those."""
    asked: dict[str, Any] = {}
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (1 << 40, 1 << 40))
    monkeypatch.setattr(roofs, "GEMM", {"cuda": 64})
    for name in ("randn", "ones"):
        monkeypatch.setattr(torch, name, partial(_on_the_cpu, getattr(torch, name)))
    monkeypatch.setattr(torch, "_scaled_mm", lambda a, b, **how: asked.update(how, a=a, b=b))
    call, operations = roofs._gemm_fp8(torch.device("cuda"))
    call()
    assert asked["use_fast_accum"] is True
    assert (asked["a"].is_contiguous(), asked["b"].T.is_contiguous()) == (True, True), "expected rows times columns"
    assert operations == 2 * 64**3


def test_a_launch_is_a_bound_too() -> None:
    bound = bound_s(1, 1, {"bf16"}, 0, [*KNOWN, Roof("launch", "s", [2.0, 2.0])])
    assert bound is not None
    assert bound.seconds == 2.0
    assert bound_s(1, 1, {"bf16"}, 0, []) is None


def test_honest_rows_stand_below_the_roof_and_others_do_not() -> None:
    bound = bound_s(1000, 0, {"bf16"}, 0, KNOWN)
    assert bound is not None
    assert implausible(1000 / 99.0, bound) == ""
    assert "at most 9.09 s, where this device needs 10 s at least (1000 bytes at 100 byte/s" in implausible(
        1000 / 110.0, bound
    )


def test_the_probe_takes_exponentials_and_moves_each_value_once() -> None:
    """Compiled for sm_90 in a process where kernels are not interpreted."""
    program = """
import re, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from bench.core.probe import BLOCK, STEPS, WARPS, exponentials_kernel
source = ASTSource(exponentials_kernel, {"x_ptr": "*fp32", "BLOCK": "constexpr", "STEPS": "constexpr"},
                   constexprs={"BLOCK": BLOCK, "STEPS": STEPS})
ptx = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": WARPS}).asm["ptx"]
each = BLOCK // (32 * WARPS)
assert len(re.findall(r"ex2\\.approx", ptx)) % each == 0 and "ex2.approx" in ptx, "chains per thread"
vectors = [4 if ".v4" in line else 1 for line in ptx.splitlines() if re.search(r"(ld|st)\\.global", line)]
assert sum(vectors) == 2 * each, vectors
"""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, check=True)


def _calls(*kernels: tuple[str, int, int]) -> list[Activity]:
    """Ten calls alike, a millisecond apart: name, start and duration in nanoseconds from the start of the call."""
    return [Activity(name, i * 10**6 + start, ns) for i in range(CALLS) for name, start, ns in kernels]


def _opinion(seen: list[Activity], against_s: float = 10e-6) -> Any:
    return second_opinion(lambda: None, lambda: None, "device_warm", against_s, 1e-6, record=lambda *_: seen)


def test_cupti_is_heard_by_spans_of_calls() -> None:
    agreed = _opinion(_calls(("a", 0, 4000), ("b", 3000, 7000)))
    assert (agreed.seconds, agreed.agrees, agreed.reason) == (pytest.approx(10e-6), True, "")
    shuffled = _opinion(list(reversed(_calls(("a", 0, 4000), ("b", 3000, 7000)))))
    assert shuffled.seconds == pytest.approx(10e-6)
    differs = _opinion(_calls(("a", 0, 4000)))
    assert differs.agrees is False
    assert differs.reason == "CUPTI says 4e-06 s, device_warm says 1e-05 s with a spread of 1e-06 s"
    assert differs.as_dict()["by"] == "cupti"


@pytest.mark.parametrize(("against_s", "agrees"), [(8.9e-6, False), (9.1e-6, True), (12.9e-6, True), (13.1e-6, False)])
def test_what_a_clock_adds_of_its_own_is_no_disagreement(against_s: float, agrees: bool) -> None:
    """CUPTI says 10 us. A clock that reads 2 us around nothing may say 2 us more, but not less; both spread by 1 us."""
    seen = _calls(("a", 0, 10_000))
    found = second_opinion(
        lambda: None, lambda: None, "device_warm", against_s, 1e-6, own_s=2e-6, record=lambda *_: seen
    )
    assert (found.agrees, found.own_s) == (agrees, 2e-6)


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        ([], "saw nothing"),
        (_calls(("a", 0, 10))[1:], "saw 9 activities in 10 calls alike"),
        (_calls(("a", 0, 10), ("b", 20, 10))[:-10] + _calls(("a", 0, 10))[5:] * 2, "it has dropped some"),
    ],
)
def test_there_is_no_opinion_rather_than_a_guess(seen: list[Activity], words: str) -> None:
    found = _opinion(seen)
    assert found.seconds is None
    assert found.agrees is None
    assert words in found.reason


def test_a_profiler_that_fails_costs_no_row() -> None:
    def failing(*_: Any) -> Any:
        raise RuntimeError("planted")

    found = second_opinion(lambda: None, lambda: None, "graph", 1.0, 0.1, record=failing)
    assert found.reason == "the profiler fails: RuntimeError: planted"
    assert second_opinion(lambda: None, lambda: None, "host", 1.0, 0.1).reason == "the profiler saw nothing on a device"
