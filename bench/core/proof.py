"""The proof: an answer is held against the reference in float64, with an error budget that comes from data.

Two errors that nobody chose are allowed to every entry, whichever is larger: the reference's own in the working dtype
(on the inputs, and on inputs one ulp away), and what half an ulp in the inputs does to the exact answer. The budget of
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

from bench.core.case import Inputs

ROW_MULTIPLE = 4.0
NORM_MULTIPLE = 2.0
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
    """The names of the inputs that have gradients."""
    return [name for name, value in inputs.items() if isinstance(value, Tensor) and value.is_floating_point()]


def outputs_of(result: Any) -> list[Tensor]:
    """What a function returned, as a list of tensors."""
    return [result] if isinstance(result, Tensor) else list(result)


def differentiable(inputs: Inputs) -> Inputs:
    """The same inputs as leaves of a new graph; storage and strides are shared."""
    names = floating(inputs)
    return {name: value.detach().requires_grad_() if name in names else value for name, value in inputs.items()}


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


def prove(
    got: Sequence[Tensor], reference: Function, inputs: Inputs, cotangents: Sequence[Tensor] | None, rows: str = "all"
) -> Proof:
    """Hold `got` (outputs, then gradients where cotangents are given) against `reference` on the same `inputs`.

    Raises `Disproved`, naming the output, the row, the error and the budget; returns the tightest bound otherwise.
    """
    oracle = _exactly(reference, inputs, cotangents)
    if len(got) != len(oracle):
        raise Disproved(f"expected {len(oracle)} outputs, got {len(got)}")
    own = evaluate(reference, inputs, cotangents)
    allowed = [(answer.double() - exact).abs() for answer, exact in zip(own, oracle, strict=True)]
    near_inputs, near_cotangents = _neighbour(inputs, cotangents)
    near = evaluate(reference, near_inputs, near_cotangents)
    near_oracle = _exactly(reference, near_inputs, near_cotangents)
    for i, (answer, exact) in enumerate(zip(near, near_oracle, strict=True)):
        allowed[i] = torch.maximum(allowed[i], (answer.double() - exact).abs())
        allowed[i] = torch.maximum(allowed[i], (exact.double() - oracle[i]).abs() / 2)
    grads = floating(inputs) if cotangents is not None else []
    names = [f"output {i}" for i in range(len(oracle) - len(grads))] + [f"gradient of {name}" for name in grads]
    proofs = [_judge(*item, rows) for item in zip(names, got, oracle, own, allowed, strict=True)]
    return max(proofs, key=lambda proof: proof.used)


def _exactly(reference: Function, inputs: Inputs, cotangents: Sequence[Tensor] | None) -> list[Tensor]:
    """The reference in float64."""
    return evaluate(reference, widened(inputs), None if cotangents is None else [seed.double() for seed in cotangents])


def _neighbour(inputs: Inputs, cotangents: Sequence[Tensor] | None) -> tuple[Inputs, list[Tensor] | None]:
    """Inputs one ulp away, which round anew: the error of a single evaluation may happen to be small."""
    generator = torch.Generator().manual_seed(1)
    near = {name: nudged(inputs[name], generator) if name in floating(inputs) else inputs[name] for name in inputs}
    return near, None if cotangents is None else [nudged(seed, generator) for seed in cotangents]


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
