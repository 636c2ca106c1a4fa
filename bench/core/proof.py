"""The proof: an answer is held against the reference in float64, with an error budget that comes from data.

Two errors that nobody chose are allowed to every entry, whichever is larger: the reference's own in the working dtype
(on the inputs, and on inputs one ulp away), and what half an ulp in the inputs does to the exact answer, each the
largest of several draws: one draw may be lucky, and by a factor of three where few terms make an entry. The budget of
a row (last dimension) is 4 x the largest allowed error in it plus one eps of the largest entry of all, so that one bad
row cannot hide; the budget of the whole is half as wide, by the Euclidean norm, so that an error everywhere cannot hide
either. Integer outputs are exactly equal; NaN and Inf stand where they stand in the reference.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bench.core.case import Inputs, Make

ROW_MULTIPLE = 4.0
NORM_MULTIPLE = 2.0
# How many draws of inputs one ulp away are looked at. Each costs two evaluations: cheap where the case is small.
DRAWS, DRAWS_OF_MANY = 8, 1
MANY = 1 << 20  # entries of all inputs together
BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}

Function = Callable[..., Any]


class Disproved(AssertionError):  # noqa: N818 - it reads as the verdict
    """An answer lies outside its budget, or a run broke a rule (changed an input, differed between two runs)."""


@dataclass(frozen=True)
class Proof:
    """The tightest bound of a proven answer: `error` and the `budget` it kept to, and which rows were looked at."""

    error: float
    budget: float
    rows: str = "all"

    @property
    def used(self) -> float:
        """The part of the budget that was used; at most 1."""
        return self.error / self.budget if self.budget else 0.0


@dataclass(frozen=True)
class Sample:
    """A part of a case that can be proven alone: the index of the part, per input and for the outputs."""

    views: dict[str, Any]
    outputs: Any


def floating(inputs: Inputs) -> list[str]:
    """The names of the inputs that have gradients. Numbers of one byte have none: they are quantised, like integers."""
    tensors = {name: value for name, value in inputs.items() if isinstance(value, Tensor)}
    return [name for name, value in tensors.items() if value.is_floating_point() and value.element_size() > 1]


def outputs_of(result: Any) -> list[Tensor]:
    """What a function returned, as a list of tensors."""
    return [result] if isinstance(result, Tensor) else list(result)


def differentiable(inputs: Inputs) -> Inputs:
    """The same inputs as leaves of a new graph; storage and strides are shared."""
    names = floating(inputs)
    return {name: value.detach().requires_grad_() if name in names else value for name, value in inputs.items()}


def detached(inputs: Inputs) -> Inputs:
    """The same inputs outside of any graph."""
    return {name: value.detach() if isinstance(value, Tensor) else value for name, value in inputs.items()}


def gradients(
    outputs: Sequence[Tensor], leaves: Sequence[Tensor], cotangents: Sequence[Tensor], retain: bool = False
) -> list[Tensor]:
    """d(sum of outputs x cotangents) / d leaves; a leaf that no output depends on has gradient zero."""
    pairs = [(out, cotangent) for out, cotangent in zip(outputs, cotangents, strict=True) if out.requires_grad]
    if not pairs or not leaves:
        raise Disproved("expected outputs that are differentiable in the inputs, got none that requires a gradient")
    outs, seeds = zip(*pairs, strict=True)
    return list(torch.autograd.grad(outs, leaves, seeds, retain_graph=retain, materialize_grads=True))


def evaluate(function: Function, inputs: Inputs, cotangents: Sequence[Tensor] | None) -> list[Tensor]:
    """The outputs of a function and, given cotangents, the gradients of its floating inputs behind them."""
    if cotangents is None:
        with torch.no_grad():
            return outputs_of(function(**inputs))
    inputs = differentiable(inputs)
    with torch.enable_grad():
        outputs = outputs_of(function(**inputs))
        grads = gradients(outputs, [inputs[name] for name in floating(inputs)], cotangents)
    return [out.detach() for out in outputs] + grads


def widened(inputs: Inputs) -> Inputs:
    """The same inputs in float64; a floating dtype given as an argument becomes float64 too. Integers stay."""

    def wide(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.double() if value.is_floating_point() else value
        return torch.float64 if value in (torch.float32, torch.float16, torch.bfloat16) else value

    return {name: wide(value) for name, value in inputs.items()}


def nudged(value: Tensor, generator: torch.Generator) -> Tensor:
    """Every entry moved by one ulp of its dtype, up or down at random."""
    # torch.nextafter lacks dtypes on some devices; neighbours of a float are neighbours as integers.
    bits = value.contiguous().view(BITS[value.element_size()])
    steps = torch.randint(0, 2, value.shape, generator=generator).mul_(2).sub_(1).to(value.device, bits.dtype)
    moved = (bits + steps).view(value.dtype)
    return torch.where((value != 0) & value.isfinite() & moved.isfinite(), moved, value)


@contextmanager
def poisoned() -> Iterator[None]:
    """Every `torch.empty` inside holds NaN (integers: their largest value), so that what is not written shows."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*deterministic", category=UserWarning)
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = True  # type: ignore[attr-defined]
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before[0], warn_only=before[1])


@dataclass(frozen=True)
class Yardstick:
    """What every provider's answer to a case (or to a sample of it) is held against.

    oracle: the exact outputs, then, in mode `bwd`, the gradients; own: the reference's in the working dtype; allowed:
    the error that each entry may have for data's sake; cotangents: those behind the gradients.
    """

    names: list[str]
    oracle: list[Tensor]
    own: list[Tensor]
    allowed: list[Tensor]
    cotangents: list[Tensor]
    sample: Sample | None = None
    rows: str = "all"

    def judge(self, got: Sequence[Tensor]) -> Proof:
        """The tightest bound that an answer keeps. Raises `Disproved`, naming output, row, error and budget."""
        if len(got) != len(self.oracle):
            raise Disproved(f"expected {len(self.oracle)} outputs, got {len(got)}")
        answers = zip(self.names, got, self.oracle, self.own, self.allowed, strict=True)
        return max((_judge(*answer, self.rows) for answer in answers), key=lambda proof: proof.used)


def yardsticks(reference: Function, inputs: Inputs, mode: str, samples: Sequence[Sample] = ()) -> list[Yardstick]:
    """The yardstick of a case, or those of its samples."""
    if not samples:
        return [_yardstick(reference, inputs, mode)]
    return [_yardstick(reference, part_of(inputs, sample), mode, sample) for sample in samples]


def part_of(inputs: Inputs, sample: Sample) -> Inputs:
    """The inputs that a sample needs."""
    return {name: value[sample.views[name]] if name in sample.views else value for name, value in inputs.items()}


def draw_cotangents(outputs: Sequence[Tensor]) -> list[Tensor]:
    """Random cotangents that lie like the outputs; the same values whenever these are shaped alike."""
    drawn = (Make(out.device, seed=2 + i).normal(*out.shape, dtype=out.dtype) for i, out in enumerate(outputs))
    return [torch.empty_like(out).copy_(values) for out, values in zip(outputs, drawn, strict=True)]


def _yardstick(reference: Function, inputs: Inputs, mode: str, sample: Sample | None = None) -> Yardstick:
    outputs = evaluate(reference, inputs, None)
    cotangents = draw_cotangents(outputs) if mode == "bwd" else None
    oracle, own = _exactly(reference, inputs, cotangents), evaluate(reference, inputs, cotangents)
    allowed = [(mine.double() - exact).abs() for mine, exact in zip(own, oracle, strict=True)]
    for near_inputs, near_cotangents in _neighbours(inputs, cotangents):
        near = evaluate(reference, near_inputs, near_cotangents)
        near_oracle = _exactly(reference, near_inputs, near_cotangents)
        drawn = zip(allowed, near, near_oracle, oracle, strict=True)
        # torch.maximum hands NaN on, so that an entry which is not finite in every evaluation is known by it.
        allowed = [
            torch.maximum(most, torch.maximum((mine.double() - its).abs(), (its - exact).abs() / 2))
            for most, mine, its, exact in drawn
        ]
    names = [f"output {i}" for i in range(len(outputs))]
    names += [f"gradient of {name}" for name in floating(inputs)] if mode == "bwd" else []
    rows = f"{outputs[0].numel() // max(1, outputs[0].shape[-1])} sampled" if sample else "all"
    return Yardstick(names, oracle, own, allowed, cotangents or [], sample, rows)


def _exactly(reference: Function, inputs: Inputs, cotangents: Sequence[Tensor] | None) -> list[Tensor]:
    """The reference in float64."""
    return evaluate(reference, widened(inputs), None if cotangents is None else [seed.double() for seed in cotangents])


def _neighbours(inputs: Inputs, cotangents: Sequence[Tensor] | None) -> Iterator[tuple[Inputs, list[Tensor] | None]]:
    """Inputs one ulp away, which round anew: the error of a single evaluation may happen to be small."""
    generator, names = torch.Generator().manual_seed(1), floating(inputs)
    many = sum(inputs[name].numel() for name in names) > MANY
    for _ in range(DRAWS_OF_MANY if many else DRAWS):
        near = {name: nudged(value, generator) if name in names else value for name, value in inputs.items()}
        yield near, None if cotangents is None else [nudged(seed, generator) for seed in cotangents]


def _judge(name: str, got: Tensor, oracle: Tensor, own: Tensor, allowed: Tensor, rows: str) -> Proof:
    """Hold one output against its oracle; `allowed` is the error that each of its entries may have for data's sake."""
    if got.shape != own.shape or got.dtype != own.dtype:
        raise Disproved(
            f"{name}: expected {own.dtype} of shape {tuple(own.shape)}, got {got.dtype} of {tuple(got.shape)}"
        )
    if not got.is_floating_point():
        wrong = int((got != oracle.to(got.dtype)).sum())
        if wrong:
            raise Disproved(f"{name}: expected integers equal to the reference's, got {wrong} of {got.numel()} unequal")
        return Proof(0.0, 0.0, rows)
    if got.numel() == 0:
        return Proof(0.0, 0.0, rows)
    _judge_nonfinite(name, got, oracle.to(got.dtype), own)
    return _judge_finite(name, got, oracle, allowed, rows)


def _judge_nonfinite(name: str, got: Tensor, oracle: Tensor, own: Tensor) -> None:
    """NaN and Inf must stand where they stand in the reference, in float64 or (an overflow) in the working dtype."""

    def alike(other: Tensor) -> Tensor:
        return (got.isnan() & other.isnan()) | (got.isfinite() & other.isfinite()) | (got == other)

    strange = ~(alike(oracle) | alike(own))
    if bool(strange.any()):
        at = tuple(int(i) for i in strange.nonzero()[0])
        raise Disproved(
            f"{name}: expected {float(oracle[at])} at {at}, got {float(got[at])} ({int(strange.sum())} entries of "
            f"{got.numel()} are not finite where the reference is, or finite where it is not)"
        )


def _judge_finite(name: str, got: Tensor, oracle: Tensor, allowed: Tensor, rows: str) -> Proof:
    """The row bound and the norm bound over the entries that are finite in every evaluation."""
    eps = torch.finfo(got.dtype).eps
    got, oracle, allowed = (torch.atleast_1d(value.double()) for value in (got, oracle, allowed))
    finite = oracle.isfinite() & got.isfinite() & allowed.isfinite()
    error, size, allowed = (
        torch.where(finite, value, 0.0).reshape(-1, got.shape[-1])
        for value in ((got - oracle).abs(), oracle.abs(), allowed)
    )
    row_error, row_budget = error.amax(-1), ROW_MULTIPLE * allowed.amax(-1) + eps * size.amax()
    excess = row_error - row_budget
    worst = int(excess.argmax())
    if float(excess[worst]) > 0:
        raise Disproved(
            f"{name}, row {worst}: expected an error of at most {float(row_budget[worst]):.3g}, got "
            f"{float(row_error[worst]):.3g} (largest entry {float(size[worst].amax()):.3g}); "
            f"{int((excess > 0).sum())} of {len(excess)} rows are out"
        )
    norm, budget = float(error.norm()), NORM_MULTIPLE * float(allowed.norm()) + eps * float(size.norm())
    if norm > budget:
        raise Disproved(f"{name}: expected an error norm of at most {budget:.3g}, got {norm:.3g}")
    tightest = int((row_error / row_budget.clamp_min(torch.finfo(torch.float64).tiny)).argmax())
    row = Proof(float(row_error[tightest]), float(row_budget[tightest]), rows)
    return max(row, Proof(norm, budget, rows), key=lambda proof: proof.used)
