"""Memory is counted to the byte, and the frontier found under a cap, whatever a provider does at it."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.utils.checkpoint
from torch import Tensor

from bench.core import memory, record
from bench.core.child import Child
from bench.core.frontier import ENVIRONMENT, FITS, NO_ROOM, Probe, frontier, parse_size, search, serve_probe
from bench.core.ledger import Ledger
from bench.core.memory import measure, out_of_memory
from bench.core.trial import Trial
from tests import greedy

CPU = torch.device("cpu")
ROOM = 64 << 20
MIB = 1 << 20


def _measured(function: Callable[[Tensor], Any], mode: str = "fwd") -> memory.Memory:
    """What a function of 1 MiB needs, having run before."""
    trial = Trial(lambda x: lambda: function(x), {"x": torch.rand(1 << 18)}, mode)
    trial.once()
    return measure(trial, CPU)


class _Hiding(torch.autograd.Function):
    """Keeps a tensor where autograd does not look."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Any:
        ctx.hidden = x * 3
        return x * 2

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return grads[0] * 2 + 0 * ctx.hidden


class _Keeping(torch.autograd.Function):
    """Keeps nothing but its input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.exp()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        return grads[0] * x.exp()


def _two_of_one(x: Tensor) -> tuple[Tensor, Tensor]:
    both = torch.cat([x, x])
    return both[: len(x)], both[len(x) :]


@pytest.mark.parametrize(
    ("function", "peak", "output", "least"),
    [
        (lambda x: x * 2, 1, 1, 1),
        (lambda x: (x * 2).exp(), 2, 1, 1),
        (lambda x: (x * 2).exp_(), 1, 1, 1),
        (lambda x: (x.repeat(3) * 2)[: len(x)], 6, 3, 1),  # a view keeps the whole
        (lambda x: x[:1].clone().expand(len(x)), 0, 0, 1),
        (_two_of_one, 2, 2, 2),
        (lambda x: (x * 2, x * 3), 2, 2, 2),
    ],
    ids=["plain", "temporary", "in place", "view", "expanded", "one storage", "two"],
)
def test_forward_memory_is_exact(function: Callable[[Tensor], Any], peak: int, output: int, least: int) -> None:
    found = _measured(function)
    assert found.peak_bytes // MIB == peak
    assert found.output_bytes // MIB == output
    assert found.least_bytes == least * MIB
    assert found.workspace_bytes == found.peak_bytes - found.output_bytes
    assert found.saved_bytes is None


@pytest.mark.parametrize(
    ("function", "saved"),
    [
        (_Hiding.apply, MIB),
        (_Keeping.apply, 0),
        (lambda x: x.exp(), 0),  # saves its answer
        (lambda x: x.exp().sin(), MIB),  # saves what lies between
        (lambda x: torch.utils.checkpoint.checkpoint(lambda x: x.exp().sin(), x, use_reentrant=False), 0),
    ],
    ids=["hidden", "input", "answer", "between", "recomputed"],
)
def test_what_waits_for_the_backward_is_exact(function: Callable[[Tensor], Any], saved: int) -> None:
    found = _measured(function, "bwd")
    assert found.saved_bytes is not None
    assert saved <= found.saved_bytes < saved + 8192, "expected no more than the state of a generator besides"
    assert found.least_bytes == 2 * MIB, "expected the answer and its gradient"


def test_a_gpu_is_counted_by_its_allocator(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    held = iter([100, 130, 130, 100, 170])
    told: dict[str, Callable[..., Any]] = {
        "synchronize": lambda _: asked.append("settle"),
        "reset_peak_memory_stats": lambda _: asked.append("reset"),
        "memory_allocated": lambda _: next(held),
        "max_memory_allocated": lambda _: 250,
    }
    for name, how in told.items():
        monkeypatch.setattr(torch.cuda, name, how)
    answer = torch.zeros(5, dtype=torch.int8)
    trial: Any = SimpleNamespace(mode="fwd", once=lambda: [answer])
    found = measure(trial, torch.device("cuda"))
    assert found == memory.Memory(150, 5, 145, None, 5)
    assert asked == ["settle", "reset", "settle"]


@pytest.mark.parametrize(
    ("error", "ran_out"),
    [
        (torch.OutOfMemoryError("CUDA"), True),
        (MemoryError(), True),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
            True,
        ),
        (RuntimeError("std::bad_alloc"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_running_out_of_memory_is_told_from_other_errors(error: BaseException, ran_out: bool) -> None:
    assert out_of_memory(error) is ran_out


@pytest.mark.parametrize("limit", [600, 1023, 1024, 5000, 100_000, 1_234_567])
def test_the_limit_is_found_in_few_probes(limit: int) -> None:
    tried: list[int] = []

    def fits(length: int) -> str:
        tried.append(length)
        return FITS if length <= limit else NO_ROOM

    found = search(fits)
    assert found.largest is not None
    assert found.fails_at is not None
    assert found.largest <= limit < found.fails_at
    assert found.fails_at - found.largest <= max(128, found.largest / 32)
    assert found.probes == len(tried) <= math.log2(limit) + 8
    assert len(set(tried)) == len(tried)


def test_searches_that_find_no_limit_say_so() -> None:
    assert search(lambda _: NO_ROOM).stopped == "out of memory at once"
    everything = search(lambda _: FITS, most=4096)
    assert (everything.largest, everything.fails_at, everything.stopped) == (4096, None, "everything fits up to 4096")
    slow = search(lambda n: FITS if n < 4096 else "time-out")
    assert slow.largest == 2048
    assert slow.stopped.startswith("time-out at 4096; the longest that fits is longer")


@pytest.fixture(scope="module")
def child() -> Iterator[Child]:
    """One that probes."""
    started = Child(serve_probe, ENVIRONMENT)
    yield started
    started.stop()


def _frontier(child: Child, provider: str) -> dict[str, Any]:
    return frontier(greedy.Twice, "fwd", provider, CPU, ROOM, child, timeout_s=60.0)


@pytest.mark.parametrize(("provider", "tensors"), [("naive", 2), ("threefold", 4)])
def test_a_real_limit_is_found_under_a_cap(child: Child, provider: str, tensors: int) -> None:
    found = _frontier(child, provider)
    truth = ROOM / (tensors * greedy.ROW_BYTES)
    assert found["stopped"] == "out of memory"
    assert 0.9 * truth < found["largest"] <= 1.01 * truth
    assert found["cap_bytes"] == ROOM


def test_what_is_compiled_is_compiled_for_every_length() -> None:
    """torch would run the function as written from the ninth length on: the frontier of something else."""
    greedy.compilations.clear()
    lengths = [128 * i for i in range(1, 13)]
    for length in lengths:
        axes = {"seq_len": length, "dtype": torch.float32}
        asked = Probe(greedy.__name__, "Twice", "compiled", "fwd", axes, "cpu", 1 << 30)
        assert list(serve_probe(asked)) == [FITS]
    assert greedy.compilations == lengths


def test_a_probe_leaves_nothing_behind() -> None:
    """What the call before it still held would count against the cap of the next."""
    asked = Probe(greedy.__name__, "Twice", "naive", "fwd", {"seq_len": 512, "dtype": torch.float32}, "cpu", 1 << 30)
    answers = serve_probe(asked)
    assert next(answers) == FITS
    held = [each for each in gc.get_objects() if type(each) is Tensor and each.shape == (512, greedy.ROW_BYTES // 4)]
    assert not held


def test_a_crash_and_an_absence_are_told_as_such(child: Child) -> None:
    crashed = _frontier(child, "crashing")
    assert crashed["largest"] == 1024
    assert crashed["stopped"].startswith("crashed with SIGSEGV at 2048")
    absent = _frontier(child, "elsewhere")
    assert (absent["largest"], absent["reason"], absent["remedy"]) == (None, "needs more", "pip install more")


@pytest.mark.parametrize(
    ("text", "size"),
    [("2GiB", 2 << 30), ("500MB", 500_000_000), ("1.5 GiB", 3 << 29), ("1073741824", 1 << 30), ("4k", 4000)],
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GiB", "-1", "1.2.3", "0", "8 bananas", "nan"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="--memory-cap: expected a size"):
        parse_size(text)


def test_a_journal_stays_until_every_frontier_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C saves what was found as JSON; what is left to find must not go with the journal."""
    monkeypatch.setattr(record, "ROOT", tmp_path)
    with closing(Ledger(record.this_run(CPU, "smoke"), CPU, surveys=False)) as ledger:
        ledger.frontiers = 2
        ledger.begin()
        saved = ledger.run.file
        saved.write_text('{"benchmarks": [], "rooftile": {"absent": []}}')
        ledger.note(frontiers=[{"provider": "one"}])
        assert ledger.finish(saved).startswith("1 of 2 frontiers are found; the same command with --resume")
        assert saved.with_suffix(".jsonl").exists()
        ledger.note(frontiers=[{"provider": "one"}, {"provider": "other"}])
        assert not ledger.finish(saved)
        assert not saved.with_suffix(".jsonl").exists()
