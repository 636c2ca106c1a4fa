"""Cases: the points of an operator's grid, how they are named, and how their inputs are drawn."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

fp64, fp32, fp16, bf16 = torch.float64, torch.float32, torch.float16, torch.bfloat16

DTYPE_NAMES = {
    torch.float64: "fp64",
    torch.float32: "fp32",
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.float8_e4m3fn: "fp8",
    torch.int8: "int8",
    torch.int32: "int32",
    torch.int64: "int64",
}

Inputs = dict[str, Any]
Axes = dict[str, Any]

SMOKE_LENGTHS = (512, 1024, 2048)
QUICK_LENGTHS = (512, 2048, 8192)


def grid(**axes: Iterable[Any]) -> list[Axes]:
    """Every combination of the axes' values, the last axis running fastest. Grids are lists: add them with `+`."""
    values = [list(axis) for axis in axes.values()]
    return [dict(zip(axes, point, strict=True)) for point in itertools.product(*values)]


def plain(value: Any) -> str | int | float | bool | None:
    """The value of an axis as JSON can hold it: dtypes and models by name, numbers and flags as they are."""
    if value is None or isinstance(value, bool | int | float):
        return value
    return DTYPE_NAMES.get(value) or str(value)


def _slug(axis: str, value: Any) -> str:
    """One axis inside a test id: a model or dtype by its name, a number behind its axis, a flag as its axis."""
    value = plain(value)
    if isinstance(value, bool):
        return axis if value else f"not_{axis}"
    return f"{axis}{value}" if value is None or isinstance(value, int | float) else str(value)


@dataclass(frozen=True)
class Case:
    """One point of an operator's grid in one mode.

    axes: as declared (`model`, `seq_len`, `dtype` ... or the bare sizes of a check); sizes: what `inputs`, `traffic`
    and `flops` take; mode: `fwd` or `bwd`; priority: what a time budget is spent on first (see `priority`).
    """

    axes: Axes
    sizes: Axes
    mode: str
    priority: int = field(default=0, compare=False)

    @property
    def slug(self) -> str:
        """The axes as part of a test id, e.g. `llama3-8b-seq_len512-bf16`."""
        return "-".join(_slug(axis, value) for axis, value in self.axes.items()) or "only"

    @property
    def id(self) -> str:
        """The name of the case within its operator, e.g. `fwd-llama3-8b-seq_len512-bf16`."""
        return f"{self.mode}-{self.slug}"


class Make:
    """Draws the tensors of a case from one seeded generator of their device: the same values in every run."""

    def __init__(self, device: torch.device | str, seed: int = 0) -> None:
        self.device = torch.device(device)
        self._generator = torch.Generator(self.device).manual_seed(seed)

    def normal(self, *shape: int, dtype: torch.dtype, scale: float = 1.0) -> torch.Tensor:
        """N(0, scale^2), drawn in fp32 and rounded to `dtype`."""
        values = torch.randn(shape, generator=self._generator, device=self.device)
        return values.mul_(scale).to(dtype)

    def uniform(self, low: float, high: float, *shape: int, dtype: torch.dtype) -> torch.Tensor:
        """Uniform in [low, high), drawn in fp32 and rounded to `dtype`."""
        values = torch.rand(shape, generator=self._generator, device=self.device)
        return values.mul_(high - low).add_(low).to(dtype)

    def integers(self, low: int, high: int, *shape: int, dtype: torch.dtype) -> torch.Tensor:
        """Uniform integers in [low, high), `high` excluded."""
        return torch.randint(low, high, shape, generator=self._generator, device=self.device, dtype=dtype)

    def permutation(self, n: int) -> torch.Tensor:
        """A random order of 0 ... n - 1, int64."""
        return torch.randperm(n, generator=self._generator, device=self.device)


class Blank(Make):
    """Makes tensors of zeros, which takes no time and, on a CPU, no memory until they are written to."""

    def _zeros(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        # numpy's zeros are pages that the system has yet to give; torch's are written.
        zeros = np.zeros(math.prod(shape) * dtype.itemsize, np.uint8)
        return torch.from_numpy(zeros).view(dtype).view(shape).to(self.device)

    def normal(self, *shape: int, dtype: torch.dtype, scale: float = 1.0) -> torch.Tensor:  # noqa: ARG002
        """Zeros."""
        return self._zeros(shape, dtype)

    def uniform(self, low: float, high: float, *shape: int, dtype: torch.dtype) -> torch.Tensor:  # noqa: ARG002
        """Zeros."""
        return self._zeros(shape, dtype)

    def integers(self, low: int, high: int, *shape: int, dtype: torch.dtype) -> torch.Tensor:  # noqa: ARG002
        """Zeros."""
        return self._zeros(shape, dtype)

    def permutation(self, n: int) -> torch.Tensor:
        """The order in which they are."""
        return torch.arange(n, device=self.device)


def priority(point: Axes, points: Sequence[Axes]) -> int:
    """How late a time budget is spent on a point; 0 comes first.

    One step for every model (and value of any other axis) before its own, in declared order, and for every sequence
    length that says more: the middle one, then the longest, then the others from long to short.
    """
    steps = 0
    for axis, value in point.items():
        values = list(dict.fromkeys(other[axis] for other in points if axis in other))
        if axis == "seq_len":
            values.sort(reverse=True)
            values.insert(0, values.pop(len(values) // 2))
        steps += values.index(value)
    return steps


def select(sweep: Sequence[Axes], profile: str) -> list[Axes]:
    """The part of a sweep that a profile runs, in declared order.

    smoke: the first value of every axis, at sequence lengths up to 2048. quick: the first two values of `model`, the
    first of every other axis, lengths 512, 2048 and 8192. full: everything. short and shortest are what is counted:
    quick at the shortest length there is, and full at the shortest of each model.
    """
    if profile == "full":
        return list(sweep)
    if profile == "shortest":
        shortest: dict[Any, int] = {}
        for point in sweep:
            model, length = point.get("model"), point.get("seq_len", 0)
            shortest[model] = min(length, shortest.get(model, length))
        return [point for point in sweep if point.get("seq_len", 0) == shortest[point.get("model")]]
    least = min((point["seq_len"] for point in sweep if "seq_len" in point), default=0)
    lengths, models = {"smoke": (SMOKE_LENGTHS, 1), "quick": (QUICK_LENGTHS, 2), "short": ((least,), 2)}[profile]
    allowed: dict[str, list[Any]] = {}
    for point in sweep:
        for axis, value in point.items():
            seen = allowed.setdefault(axis, [])
            if value not in seen and len(seen) < (models if axis == "model" else 1):
                seen.append(value)
    allowed["seq_len"] = list(lengths)
    return [point for point in sweep if all(value in allowed[axis] for axis, value in point.items())]
