"""The operator: a class of facts, and the tests that every operator inherits.

A declaration subclasses `Operator` in `bench/bench_<stem>.py` and states its entry point, reference, grids, inputs and
cost; its providers are methods marked `@kernel` (ours) or `@peer` (anyone else's). pytest collects the class as it is.
"""

from __future__ import annotations

import inspect
import os
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from sysconfig import get_paths
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
import torch
from torch import Tensor

from bench.core.case import (
    Axes,
    Case,
    Inputs,
    Make,
    bf16,
    fp16,
    fp32,
    fp64,
    grid,
    priority,
    select,
)
from bench.core.hazards import HAZARDS, MISTAKES
from bench.core.proof import (
    Function,
    Sample,
    Yardstick,
    detached,
    differentiable,
    floating,
    outputs_of,
    poisoned,
    widened,
    yardsticks,
)
from bench.core.replay import REPLAY
from bench.core.trial import Trial

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture

    from bench.core.counts import Unit
    from bench.core.ledger import Ledger
    from bench.core.verify import Verification

# What a declaration needs, from one place.
__all__ = [
    "Case", "Inputs", "Make", "Operator", "Provider", "Sample", "Unsupported",
    "bf16", "fp16", "fp32", "fp64", "grid", "kernel", "needs_cuda", "peer",
]  # fmt: skip

SAMPLED_ROWS = 256


class Unsupported(Exception):  # noqa: N818 - it reads as the reason it becomes
    """Raised by a provider that cannot run a case here: becomes an absent record with this reason (and its remedy)."""

    def __init__(self, reason: str, remedy: str = "") -> None:
        super().__init__(reason)
        self.remedy = remedy


def needs_cuda(x: Tensor) -> None:
    """Raise `Unsupported` unless `x` is on a CUDA device."""
    if not x.is_cuda:
        raise Unsupported("needs a CUDA device")


@dataclass(frozen=True)
class Provider:
    """One way to compute an operator: given the inputs, `prepare` returns the thunk that is timed.

    role: `kernel` (ours), `peer` (anyone else's) or `reference`; install: the command that brings it where it is
    missing.
    """

    prepare: Callable[..., Callable[[], Any]]
    role: str
    install: str = ""


def kernel(prepare: Callable[..., Callable[[], Any]]) -> Provider:
    """Mark a provider as ours: checked everywhere (interpreted where there is no GPU), clocked on a GPU only."""
    return Provider(prepare, "kernel")


def peer(install: str = "") -> Callable[[Callable[..., Callable[[], Any]]], Provider]:
    """Mark a provider as a peer; `install` is the command that brings it where it is missing."""
    return lambda prepare: Provider(prepare, "peer", install)


def _reference(prepare: Callable[..., Callable[[], Any]]) -> Provider:
    return Provider(prepare, "reference")


class Operator:
    """What is to be known of one operator.

    entry: the public function of our kernel, whose name is the operator's; reference: the textbook's. checks: sizes to
    be proven at, small and odd. sweep: shapes to be clocked at, whose axes `sizes` turns into those of checks. grad:
    adds the mode `bwd`. hostile: the sizes at which hostile inputs and wrong arguments are tried. vast: sizes with more
    than 2^31 elements (tried on a GPU). rows_of: the inputs whose first dimension counts rows that are independent of
    each other, if the operator has such. prepared: inputs that providers may convert before they are timed (weights and
    scales, which stay the same from call to call). frozen: floating inputs that are not trained: the reference detaches
    them, so that their gradient is zero whatever finite differences say.
    """

    __test__ = False

    entry: ClassVar[Function]
    reference: ClassVar[Function]
    checks: ClassVar[list[Axes]]
    sweep: ClassVar[list[Axes]]
    hostile: ClassVar[Axes]
    vast: ClassVar[Axes | None] = None
    grad: ClassVar[bool] = False
    rows_of: ClassVar[tuple[str, ...]] = ()
    prepared: ClassVar[tuple[str, ...]] = ()
    frozen: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls) -> None:
        """Let pytest collect every operator, whatever its class is called."""
        cls.__test__ = True

    # Facts that declarations state. Their parameters are the axes of `sweep` and of `checks`.

    def sizes(self, *_: Any, **axes: Any) -> Axes:
        """The axes of `checks` for a point of the sweep."""
        raise NotImplementedError

    def inputs(self, make: Make, *_: Any, **sizes: Any) -> Inputs:
        """The arguments of a case by name, tensors drawn from `make`."""
        raise NotImplementedError

    def traffic(self, mode: str, *_: Any, **sizes: Any) -> int:
        """The fewest bytes that can be moved: each input read once, each output written once."""
        raise NotImplementedError

    def flops(self, mode: str, *_: Any, **sizes: Any) -> int:
        """The operations that the mathematics needs."""
        raise NotImplementedError

    def samples(self, inputs: Inputs, seed: int = 0) -> list[Sample]:
        """What is proven of a large case in place of the whole (empty: the whole): first, last and random rows.

        seed: decides which rows; whoever clocks draws one that no provider can foresee.
        """
        if not self.rows_of:
            return []
        first = inputs[self.rows_of[0]]
        if len(first) <= SAMPLED_ROWS:
            return []
        quarter = SAMPLED_ROWS // 4
        scattered = torch.randint(len(first), (SAMPLED_ROWS // 2,), generator=torch.Generator().manual_seed(seed))
        rows = torch.cat([torch.arange(quarter), scattered, torch.arange(len(first) - quarter, len(first))]).unique()
        rows = rows.to(first.device)
        return [Sample(dict.fromkeys(self.rows_of, rows), rows)]

    # Providers that every operator has.

    @_reference
    def naive(self, **inputs: Any) -> Callable[[], Any]:
        """The reference as written."""
        return lambda: type(self).reference(**inputs)

    @_reference
    def inductor(self, **inputs: Any) -> Callable[[], Any]:
        """`torch.compile` of the reference."""
        if not any(isinstance(value, Tensor) and value.is_cuda for value in inputs.values()):
            needs_cpp_compiler()
        from torch._functorch import config

        # A backward that is timed runs more than once, so its compiled form may not consume what the forward saved.
        config.donated_buffer = False
        compiled = torch.compile(type(self).reference, dynamic=False)
        return lambda: compiled(**inputs)

    # What the instrument asks of an operator.

    @classmethod
    def name(cls) -> str:
        """The operator's name: that of its entry point."""
        return cls.entry.__name__

    @classmethod
    def modes(cls) -> tuple[str, ...]:
        """`fwd`, and `bwd` where there are gradients."""
        return ("fwd", "bwd") if cls.grad else ("fwd",)

    @classmethod
    def providers(cls, *roles: str) -> dict[str, Provider]:
        """Providers by name, inherited ones first; of the given roles, or all."""
        found: dict[str, Provider] = {}
        for owner in reversed(cls.__mro__):
            found |= {name: value for name, value in vars(owner).items() if isinstance(value, Provider)}
        return {name: provider for name, provider in found.items() if not roles or provider.role in roles}

    @classmethod
    def check_cases(cls) -> list[Case]:
        """The cases to be proven."""
        return [Case(axes, axes, mode) for axes in cls.checks for mode in cls.modes()]

    @classmethod
    def sweep_cases(cls, profile: str) -> list[Case]:
        """The cases to be clocked under a profile."""
        points = select(cls.sweep, profile)
        ranks = [priority(axes, points) for axes in points]
        return [
            Case(axes, cls().sizes(**axes), mode, rank)
            for axes, rank in zip(points, ranks, strict=True)
            for mode in cls.modes()
        ]

    @classmethod
    def counted_cases(cls, every: bool = False) -> list[Case]:
        """The cases to be counted: of the models that `quick` takes at the shortest length, or of all at their own."""
        return cls.sweep_cases("shortest" if every else "short")

    def trial(self, provider: str, case: Case, device: torch.device | str, **changed: Any) -> Trial:
        """A provider on the inputs of a case, ready to run; `changed` replaces inputs by name."""
        inputs = self.inputs(Make(device), **case.sizes) | changed
        return Trial(self.provider(provider), inputs, case.mode)

    def yardsticks(self, inputs: Inputs, mode: str, samples: Sequence[Sample] = ()) -> list[Yardstick]:
        """What answers on these inputs, or on samples of them, are held against."""
        return yardsticks(type(self).reference, detached(inputs), mode, samples)

    def provider(self, name: str) -> Callable[..., Callable[[], Any]]:
        """A provider by name, as a function of the inputs that returns its thunk."""
        prepare = self.providers()[name].prepare
        return lambda **inputs: prepare(self, **inputs)

    # The tests. `bench/conftest.py` gives them their parameters.

    def test_agrees(self, case: Case, provider: str, device: torch.device) -> None:
        """Our kernel agrees with the float64 oracle, forward and backward."""
        trial = self.trial(provider, case, device)
        with poisoned():
            trial.prove(self.yardsticks(trial.inputs, case.mode))

    def test_withstands(self, hazard: str, mode: str, provider: str, device: torch.device) -> None:
        """Our kernel agrees on hostile inputs too."""
        for inputs in HAZARDS[hazard].variants(self.inputs(Make(device), **self.hostile)):
            with poisoned():
                Trial(self.provider(provider), inputs, mode).prove(self.yardsticks(inputs, mode))

    def test_repeats(self, mode: str, provider: str, device: torch.device) -> None:
        """The same inputs give the same bits; new values in the same memory give the new answer, not the old one."""
        inputs = self.inputs(Make(device), **self.hostile)
        trial = Trial(self.provider(provider), inputs, mode)
        with poisoned():
            for first, second in zip(trial.once(), trial.once(), strict=True):
                assert torch.equal(first, second), "expected the same bits from the same inputs"
        for name, fresh in self.inputs(Make(device, seed=9), **self.hostile).items():
            if isinstance(fresh, Tensor):
                inputs[name].copy_(fresh)
        with poisoned():
            trial.prove(self.yardsticks(inputs, mode))

    def test_refuses(self, argument: str, mistake: str, device: torch.device) -> None:
        """A wrong argument raises an error that names it, and nothing crashes inside a kernel."""
        inputs = self.inputs(Make(device), **self.hostile)
        known = inspect.signature(self.entry).parameters
        wrong = MISTAKES[mistake].make(inputs.get(argument, known[argument].default))
        if MISTAKES[mistake].fatal:
            with pytest.raises((TypeError, ValueError), match=rf"{argument}: expected .*, got "):
                type(self).entry(**inputs | {argument: wrong})
            return
        try:
            got = type(self).entry(**inputs | {argument: wrong})
        except (TypeError, ValueError) as error:
            named = re.match(rf"({'|'.join(known)}): expected .*, got ", str(error))
            assert named, f"expected an argument's name, got {error}"  # noqa: PT017
        else:
            (yardstick,) = self.yardsticks(inputs | {argument: wrong}, "fwd")
            yardstick.judge(outputs_of(got))

    def test_differentiates(self) -> None:
        """The reference's gradients are those of finite differences, in float64."""
        inputs = differentiable(widened(self.inputs(Make("cpu"), **self.hostile)))
        names = [name for name in floating(inputs) if name not in self.frozen]

        def function(*leaves: Tensor) -> Any:
            return type(self).reference(**inputs | dict(zip(names, leaves, strict=True)))

        assert torch.autograd.gradcheck(function, [inputs[name] for name in names], fast_mode=True)

    def test_is_vast(self, mode: str, provider: str, device: torch.device) -> None:
        """More than 2^31 elements: no offset wraps. Proven on a sample of rows, the last ones among them."""
        if device.type != "cuda":
            pytest.skip("needs a GPU")
        assert self.vast is not None
        try:
            trial = self.trial(provider, Case(self.vast, self.vast, mode), device)
            trial.prove(self.yardsticks(trial.inputs, mode, self.samples(trial.inputs)))
        except torch.OutOfMemoryError as error:
            pytest.skip(f"needs more device memory: {error}")

    @pytest.mark.count
    def test_counts(self, unit: Unit, verification: Verification) -> None:
        """Our kernel moves and computes what results/counts.json says, in every launch: interpreted, no GPU needed."""
        verification.unit(unit)

    @pytest.mark.count
    def test_compiles(self, unit: Unit, verification: Verification) -> None:
        """Its kernels take what results/counts.json says of a target, in every tuned configuration; no GPU needed."""
        verification.unit(unit)

    @pytest.mark.count
    def test_floors(self, verification: Verification) -> None:
        """`traffic` and `flops` are what results/counts.json says, at every case of the sweep."""
        verification.floors(type(self))

    @pytest.mark.frontier
    def test_frontier(self, mode: str, provider: str, ledger: Ledger) -> None:
        """The longest sequence that fits into memory (`--memory-cap`), by doubling and bisection, in a child."""
        ledger.seek(type(self), mode, provider)

    @pytest.mark.benchmark(timer=REPLAY)
    def test_speed(self, case: Case, provider: str, benchmark: BenchmarkFixture, ledger: Ledger) -> None:
        """One row of the clock: proven, then timed in a race against the other providers of the case."""
        ledger.replay(type(self), case, provider, benchmark)


def mistakes_of(operator: type[Operator]) -> list[tuple[str, str]]:
    """The arguments of an operator's entry point, each with the mistakes that can be made with it."""
    inputs = operator().inputs(Make("cpu"), **operator.hostile)
    return [
        (argument, mistake)
        for argument, parameter in inspect.signature(operator.entry).parameters.items()
        for mistake in MISTAKES
        if MISTAKES[mistake].make(inputs.get(argument, parameter.default)) is not None
    ]


def joined(gate: Tensor, up: Tensor) -> Tensor:
    """The one tensor whose halves gate and up are: a view, since a copy would miss the values that they take later.

    Raises `Unsupported` where they are not such halves, and where gradients are asked for: who takes one tensor for
    both has, at most, one gradient for both.
    """
    if gate.requires_grad:
        raise Unsupported("has no gradients of gate and up apart")
    rows, cols = gate.shape
    if gate.stride() != (2 * cols, 1) or up.data_ptr() - gate.data_ptr() != cols * gate.element_size():
        raise Unsupported("takes gate and up as halves of one tensor: joining them would cost more than the gate")
    return gate.as_strided((rows, 2 * cols), (2 * cols, 1))


def needs_cpp_compiler() -> None:
    """Raise `Unsupported` where Inductor could not build its C++ code."""
    if not any(shutil.which(name) for name in (os.environ.get("CXX", ""), "g++", "clang++", "c++") if name):
        raise Unsupported("needs a C++ compiler", "apt-get install g++")
    if not (Path(get_paths()["include"]) / "Python.h").exists():
        raise Unsupported("needs Python's headers", "apt-get install python3-dev")
