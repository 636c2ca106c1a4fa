"""Fake quantisation of activations and weights: checks, sweep, cost and providers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch import dtype as Dtype  # noqa: N812 - `dtype` is an axis

import kernels.fake_quantize
import reference.fake_quantize
from bench.core.operator import Inputs, Make, Operator, Sample, Unsupported, bf16, fp16, fp32, grid, kernel, peer
from bench.core.proof import differentiable, widened
from bench.models import SEQ_LENS, Model, models

STEP = 2.0**-6  # of Gaussian values, whose tails beyond two are then clipped


class FakeQuantize(Operator):
    """Fake quantisation is bound by memory: one read and one write per element, and the gradient's in the backward.

    Scales of the sweep are powers of two, and its zero points even: a division is then a multiplication with the
    reciprocal, a tie goes the same way before a zero point is added as after, and the integers of libraries, which do
    the one or the other, are those of the definition. Scales and zero points of the checks are any.
    """

    entry = staticmethod(kernels.fake_quantize.fake_quantize)
    reference = staticmethod(reference.fake_quantize.fake_quantize)
    # One scale, one a row, one a column, one in the middle; less than a tile, one, more; no elements.
    checks = (
        grid(shape=[(37, 129)], axis=[None, 0, 1], dtype=[fp32, fp16, bf16])
        + grid(shape=[(3, 5, 70)], axis=[-1, 1], dtype=[fp32])
        + grid(shape=[(4, 3, 2100)], axis=[1], limits=[(0, 15)], dtype=[fp32])
        + grid(shape=[(1,)], axis=[None, 0], dtype=[fp32])
        + grid(shape=[(0, 3)], axis=[None, 1], dtype=[fp32])
    )
    sweep = (
        grid(model=models("bert-base", "bert-large", "llama3-8b"), seq_len=SEQ_LENS, axis=[None], dtype=[bf16])
        + grid(model=models("llama3-8b"), seq_len=SEQ_LENS[::2], axis=[1], dtype=[bf16])
        + grid(model=models("llama3-8b"), axis=[0], dtype=[bf16])
    )
    hostile = {"shape": (5, 40), "axis": 0, "dtype": fp32}
    vast = {"shape": (2**19 + 1, 4096), "axis": None, "exact": True, "dtype": bf16}
    grad = True
    rows_of = ("x",)

    def sizes(self, model: Model, axis: int | None, dtype: Dtype, seq_len: int | None = None) -> dict[str, Any]:
        """Activations as they enter a layer; without a length, the weight that leads into the feed-forward layer."""
        rows = model.intermediate_size if seq_len is None else seq_len
        return {"shape": (rows, model.hidden_size), "axis": axis, "exact": True, "dtype": dtype}

    def inputs(
        self, make: Make, shape: tuple[int, ...], axis: int | None, dtype: Dtype, exact: bool = False,
        limits: tuple[int, int] = (-128, 127),
    ) -> Inputs:  # fmt: skip
        scales = () if axis is None else (shape[axis],)
        steps = make.uniform(0.5, 2, *scales, dtype=fp32)
        zero = make.integers(max(-3, limits[0]), 4, *scales, dtype=torch.int32)
        return {
            "x": make.normal(*shape, dtype=dtype),
            "scale": STEP * (torch.exp2(torch.floor(torch.log2(steps))) if exact else steps) * 256 / _levels(limits),
            "zero_point": zero // 2 * 2 if exact else zero,
            "axis": axis,
            "quant_min": limits[0],
            "quant_max": limits[1],
        }

    def samples(self, inputs: Inputs, seed: int = 0) -> list[Sample]:
        """Rows, and their scales where each has its own."""
        found = super().samples(inputs, seed)
        if inputs["axis"] != 0:
            return found
        each = ("x", "scale", "zero_point")
        return [Sample(dict.fromkeys(each, sample.outputs), sample.outputs) for sample in found]

    def test_differentiates(self) -> None:
        """The reference's gradients are those of finite differences where what rounding adds is held fast.

        Straight through is just that: the steps themselves have no gradient.
        """
        inputs = differentiable(widened(self.inputs(Make("cpu"), **self.hostile)))
        x, scale, zero = inputs["x"], inputs["scale"], inputs["zero_point"][:, None]
        level = (x.float() / scale.float()[:, None]).round().detach() + zero
        inside = (level >= inputs["quant_min"]) & (level <= inputs["quant_max"])
        assert 0 < int(inside.sum()) < inside.numel()
        clipped = level.clamp(inputs["quant_min"], inputs["quant_max"]) - zero
        added = torch.where(inside, clipped - x / scale[:, None], clipped).detach()

        def held(x: Tensor, scale: Tensor) -> Tensor:
            return (torch.where(inside, x / scale[:, None], 0) + added) * scale[:, None]

        assert torch.autograd.gradcheck(held, (x, scale), fast_mode=True)
        ours, theirs = (
            torch.autograd.grad(y.sum(), (x, scale)) for y in (type(self).reference(**inputs), held(x, scale))
        )
        torch.testing.assert_close(ours, theirs)

    def traffic(self, mode: str, shape: tuple[int, ...], axis: int | None, dtype: Dtype, **_: Any) -> int:
        """Forward: x and y. Backward: x, dy and dx, the gradient of the scale. The scale and zero point in both."""
        tensors, numbers = (2, 2) if mode == "fwd" else (3, 3)
        return tensors * math.prod(shape) * dtype.itemsize + numbers * 4 * (1 if axis is None else shape[axis])

    def flops(self, mode: str, shape: tuple[int, ...], **_: Any) -> int:
        """Quotient, rounding and zero point, and back; or those, the difference that rounding made, and its sum."""
        return (5 if mode == "fwd" else 7) * math.prod(shape)

    @kernel
    def triton(self, **inputs: Any) -> Callable[[], Tensor]:
        return lambda: kernels.fake_quantize.fake_quantize(**inputs)

    @peer()
    def eager(
        self, x: Tensor, scale: Tensor, zero_point: Tensor, axis: int | None, quant_min: int, quant_max: int
    ) -> Callable[[], Tensor]:
        """torch's fused operation; in the backward the one with a learned step size."""
        if x.requires_grad:
            return _learnable(x, scale, zero_point, axis, (quant_min, quant_max))
        if axis is None:
            return lambda: torch.fake_quantize_per_tensor_affine(x, scale, zero_point, quant_min, quant_max)
        return lambda: torch.fake_quantize_per_channel_affine(x, scale, zero_point, axis, quant_min, quant_max)

    @peer(install="pip install torchao")
    def torchao(self, **inputs: Any) -> Callable[[], Tensor]:
        raise Unsupported("its affine fake quantisation has a zero point for each group and no gradient of the scale")


def _levels(limits: tuple[int, int]) -> int:
    return limits[1] - limits[0] + 1


def _learnable(
    x: Tensor, scale: Tensor, zero_point: Tensor, axis: int | None, limits: tuple[int, int]
) -> Callable[[], Tensor]:
    """torch's fake quantisation with gradients of scale and zero point, both of them floating and one-dimensional."""

    def call() -> Tensor:
        zero = zero_point.float().view(-1)
        if axis is None:
            return torch._fake_quantize_learnable_per_tensor_affine(x, scale.view(-1), zero, *limits, 1.0)
        return torch._fake_quantize_learnable_per_channel_affine(x, scale, zero, axis, *limits, 1.0)

    return call
