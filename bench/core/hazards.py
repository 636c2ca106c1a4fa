"""Hostile inputs and wrong arguments, made from the good inputs of any operator."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bench.core.case import Inputs
from bench.core.proof import floating


@dataclass(frozen=True)
class Hazard:
    """What it does to good inputs (one or several variants), and in which modes the answer must still hold.

    Magnitudes and non-finite values are forward only: behind them a gradient is decided by which of two equal formulas
    cancels better, not by right and wrong.
    """

    variants: Callable[[Inputs], Iterator[Inputs]]
    modes: tuple[str, ...] = ("fwd", "bwd")


def _each(change: Callable[[Tensor], Tensor], floats_only: bool = False) -> Callable[[Inputs], Iterator[Inputs]]:
    """All tensors of the inputs changed at once."""

    def variants(inputs: Inputs) -> Iterator[Inputs]:
        names = (
            floating(inputs) if floats_only else [name for name, value in inputs.items() if isinstance(value, Tensor)]
        )
        yield {name: change(value) if name in names else value for name, value in inputs.items()}

    return variants


def _planted(entry: float) -> Callable[[Inputs], Iterator[Inputs]]:
    """One entry planted into one floating tensor at a time, in the middle of it."""

    def variants(inputs: Inputs) -> Iterator[Inputs]:
        for name in floating(inputs):
            value = inputs[name].clone()
            value.view(-1)[value.numel() // 2] = entry
            yield {**inputs, name: value}

    return variants


def _strided(value: Tensor) -> Tensor:
    """Every other entry of a wider tensor whose gaps hold other numbers."""
    if not value.ndim:
        return value
    bits = value.view(torch.int8) if value.element_size() == 1 else value  # torch does not add numbers of fp8
    wide = torch.cat([bits, bits + 1], dim=-1).reshape(*value.shape[:-1], 2 * value.shape[-1])
    spread: Tensor = wide.unflatten(-1, (2, value.shape[-1])).transpose(-1, -2).flatten(-2)
    return spread[..., ::2].view(value.dtype)


def _transposed(value: Tensor) -> Tensor:
    return value.transpose(-1, -2).contiguous().transpose(-1, -2) if value.ndim > 1 else value


def _expanded(value: Tensor) -> Tensor:
    return value[:1].expand(value.shape) if value.ndim else value


def _misaligned(value: Tensor) -> Tensor:
    """The same values one entry behind an aligned address."""
    return torch.cat([value.reshape(-1)[:1], value.reshape(-1)])[1:].view(value.shape)


HAZARDS: dict[str, Hazard] = {
    "strided": Hazard(_each(_strided)),
    "transposed": Hazard(_each(_transposed)),
    "expanded": Hazard(_each(_expanded)),
    "misaligned": Hazard(_each(_misaligned)),
    "huge": Hazard(_each(lambda value: value * 1e15, floats_only=True), ("fwd",)),
    "tiny": Hazard(_each(lambda value: value * 1e-15, floats_only=True), ("fwd",)),
    "nan": Hazard(_planted(float("nan")), ("fwd",)),
    "inf": Hazard(_planted(float("inf")), ("fwd",)),
    "negative_inf": Hazard(_planted(float("-inf")), ("fwd",)),
}


@dataclass(frozen=True)
class Mistake:
    """A wrong argument.

    `make` gives it from the right one (or None where it does not apply). With `fatal` unset the
    call may also succeed, where the result is what the reference gives for the same arguments.
    """

    make: Callable[[Any], Any]
    fatal: bool


def _wrong_dtype(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return None
    return value.to(torch.int32 if value.is_floating_point() else torch.float32)


def _cut(dimension: int) -> Callable[[Any], Any]:
    """One entry fewer along a dimension."""

    def cut(value: Any) -> Any:
        if not isinstance(value, Tensor) or value.ndim <= dimension or value.shape[dimension] < 2:
            return None
        return value.narrow(dimension, 0, value.shape[dimension] - 1)

    return cut


def _of_tensor(change: Callable[[Tensor], Any]) -> Callable[[Any], Any]:
    return lambda value: change(value) if isinstance(value, Tensor) else None


MISTAKES: dict[str, Mistake] = {
    "a_string": Mistake(lambda _: "wrong", fatal=True),
    "a_list": Mistake(_of_tensor(lambda value: value.tolist()), fatal=True),
    "not_a_number": Mistake(lambda value: float("nan") if isinstance(value, float) else None, fatal=True),
    "another_dtype": Mistake(_wrong_dtype, fatal=True),
    "float64": Mistake(_of_tensor(lambda value: value.double()), fatal=True),
    "another_device": Mistake(_of_tensor(lambda value: value.to("meta")), fatal=True),
    "one_dimension_more": Mistake(_of_tensor(lambda value: value[None]), fatal=False),
    "one_dimension_less": Mistake(_of_tensor(lambda value: value[0] if value.ndim else None), fatal=False),
    **{f"dimension_{i}_cut": Mistake(_cut(i), fatal=False) for i in range(4)},
}
