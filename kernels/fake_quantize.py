"""y = (clip(round(x / scale) + zero) - zero) scale: the integers that x will be, as numbers that training goes on with.

Shapes: x, y any; scale (and zero, an integer) for the whole of x, or one for each of its slices along `axis`. With
level = round(x / scale) + zero, all in fp32 with an IEEE division and ties to even: the integers are a definition.
Backward, where rounding is taken for the identity (straight through) and level lies within the limits:
dx = dy,  dscale = sum dy (level - zero - x / scale);  outside:  dx = 0,  dscale = sum dy (clip(level) - zero).

x is seen as (rows, cols): all of it one row for one scale, a row for each scale along `axis`, or, along the last axis,
a column for each. A program owns a tile of elements, reads x (and dy) once and writes y (or dx) once; what lies between
is worked out anew in the backward, so that nothing is saved but x. Each tile's part of dscale goes to a slot of its
own; then one sum goes over the slots. Scales are read again by every tile that they reach into, from the caches.

Source: Jacob et al. 2017, arXiv:1712.05877, section 3; straight through: Bengio et al. 2013, arXiv:1308.3432; the
gradient of the scale: Esser et al. 2019, arXiv:1902.08153, equation 3.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels._elementwise import TILE, tile
from kernels._launch import FLOATS, device_of, expect, expect_device, expect_tensor

COLUMN_TILE = 64, 128  # rows enough that a column's slots are few; 128 columns of bf16 are two full cache lines a row
LARGEST = 1 << 16  # limits and zero points: their levels are exact in fp32, and rounding by addition holds far beyond


@triton.jit
def _scales(scale_ptr, zero_ptr, row, col, size, PER_COLUMN: tl.constexpr):
    """The scale and zero of each column or row of a tile, or of its only row."""
    if PER_COLUMN:
        channel = col
    elif row.shape[0] > 1:
        channel = row % size[2]
    else:
        # One number: a block of one entry would be loaded by every thread for every entry of x that it holds.
        channel = tl.sum(tl.sum(row % size[2], 0), 0)
    scale = tl.load(scale_ptr + channel, mask=channel < size[2], other=1.0)
    zero = tl.full((), 0.0, tl.float32)
    if zero_ptr is not None:
        zero = tl.load(zero_ptr + channel, mask=channel < size[2], other=0).to(tl.float32)
    return scale, zero


@triton.jit
def _levels(x, scale, zero):
    """x / scale, and the level before clipping."""
    ratio = tl.div_rn(x, tl.zeros(x.shape, tl.float32) + scale)
    # Comparisons, since minima of floats drop NaN. Beyond LARGEST all is clipped, wherever exactly it lies.
    near = tl.where(ratio > 1e6, 1e6, tl.where(ratio < -1e6, -1e6, ratio))
    # At 1.5 * 2^23 one ulp is 1: the sum is rounded to even.
    return ratio, (near + 12582912.0) - 12582912.0 + zero


@triton.jit
def _forward(
    x_ptr, scale_ptr, zero_ptr, y_ptr, size, limits,
    PER_COLUMN: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr,
):  # fmt: skip
    row, col, inside = tile(size, BLOCK_ROWS, BLOCK_COLS)
    x = tl.load(x_ptr + row * size[1] + col, mask=inside, other=0.0).to(tl.float32)
    scale, zero = _scales(scale_ptr, zero_ptr, row, col, size, PER_COLUMN)
    _, level = _levels(x, scale, zero)
    level = tl.where(level < limits[0], limits[0], tl.where(level > limits[1], limits[1], level))
    y = (level - zero) * scale
    tl.store(y_ptr + row * size[1] + col, y.to(y_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _backward(
    dy_ptr, x_ptr, scale_ptr, zero_ptr, dx_ptr, partials_ptr, size, limits,
    PER_COLUMN: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr,
):  # fmt: skip
    row, col, inside = tile(size, BLOCK_ROWS, BLOCK_COLS)
    x = tl.load(x_ptr + row * size[1] + col, mask=inside, other=0.0).to(tl.float32)
    dy = tl.load(dy_ptr + row * size[1] + col, mask=inside, other=0.0).to(tl.float32)
    scale, zero = _scales(scale_ptr, zero_ptr, row, col, size, PER_COLUMN)
    ratio, level = _levels(x, scale, zero)
    low, high = level < limits[0], level > limits[1]
    if dx_ptr is not None:
        dx = tl.where(low | high, 0.0, dy)
        tl.store(dx_ptr + row * size[1] + col, dx.to(dx_ptr.dtype.element_ty), mask=inside)
    if partials_ptr is not None:
        slope = tl.where(low, limits[0] - zero, tl.where(high, limits[1] - zero, level - zero - ratio))
        dscale = tl.where(inside, dy * slope, 0.0)
        block = tl.program_id(0).to(tl.int64)
        blocks_per_row = tl.cdiv(size[1], BLOCK_COLS)
        if PER_COLUMN:
            slot_ptr = partials_ptr + block // blocks_per_row * size[1] + col
            tl.store(slot_ptr, tl.sum(dscale, axis=0, keep_dims=True), mask=col < size[1])
        else:
            slot_ptr = partials_ptr + row * blocks_per_row + block % blocks_per_row
            tl.store(slot_ptr, tl.sum(dscale, axis=1, keep_dims=True), mask=row < size[0])


def _plan(x: Tensor, axis: int | None) -> tuple[tuple[int, int, int], dict[str, Any]]:
    """x as (rows, cols) with so many scales, and the tile of a program."""
    if axis is None:
        rows, cols, channels = 1, x.numel(), 1
    else:
        inner, channels = math.prod(x.shape[axis + 1 :]), x.shape[axis]
        if axis == x.ndim - 1:
            block_cols = min(COLUMN_TILE[1], triton.next_power_of_2(max(1, channels)))
            block = {"BLOCK_ROWS": COLUMN_TILE[0], "BLOCK_COLS": block_cols, "num_warps": 8}
            return (math.prod(x.shape[:-1]), channels, channels), {"PER_COLUMN": True} | block
        rows, cols = math.prod(x.shape[: axis + 1]), inner
    block_cols = min(TILE, triton.next_power_of_2(max(1, cols)))
    block = {"BLOCK_ROWS": TILE // block_cols, "BLOCK_COLS": block_cols, "num_warps": 4}
    return (rows, cols, channels), {"PER_COLUMN": False} | block


def _blocks(size: tuple[int, int, int], tile: dict[str, Any]) -> tuple[int, int]:
    return triton.cdiv(size[0], tile["BLOCK_ROWS"]), triton.cdiv(size[1], tile["BLOCK_COLS"])


def _launch_forward(x: Tensor, scale: Tensor, zero: Tensor | None, axis: int | None, limits: Any) -> Tensor:
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    size, tile = _plan(x, axis)
    if y.numel():
        with device_of(x):
            _forward[(math.prod(_blocks(size, tile)),)](x.contiguous(), scale, zero, y, size, limits, **tile)
    return y


def _launch_backward(dy: Tensor, saved: Any, how: Any, needs: tuple[bool, bool]) -> tuple[Tensor | None, ...]:
    """The gradients of x and of scale; None for what is not needed."""
    (x, scale, zero), (axis, limits) = saved, how
    size, tile = _plan(x, axis)
    down, across = _blocks(size, tile)
    dx = torch.empty(x.shape, dtype=x.dtype, device=x.device) if needs[0] else None
    slots = (down, size[1]) if tile["PER_COLUMN"] else (size[0], across)
    partials = torch.empty(slots, dtype=torch.float32, device=x.device) if needs[1] else None
    if x.numel():
        arguments = dy.contiguous(), x.contiguous(), scale, zero, dx, partials
        with device_of(x):
            _backward[(down * across,)](*arguments, size, limits, **tile)
    if partials is None:
        return dx, None
    if tile["PER_COLUMN"]:
        return dx, partials.sum(0).view(scale.shape)
    return dx, partials.view(size[0] // max(1, size[2]), size[2], across).sum((0, 2)).view(scale.shape)


class _FakeQuantize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, zero: Tensor | None, axis: int | None, limits: Any) -> Tensor:
        ctx.save_for_backward(x, scale, zero)
        ctx.how = axis, limits
        return _launch_forward(x, scale, zero, axis, limits)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        dx, dscale = _launch_backward(dy, ctx.saved_tensors, ctx.how, ctx.needs_input_grad[:2])
        return dx, dscale, None, None, None


def _channels(x: Tensor, axis: object) -> tuple[int | None, tuple[int, ...]]:
    """The axis, counted from the front, and the shape of its scales."""
    if axis is None:
        return None, ()
    if type(axis) is not int:
        raise TypeError(f"axis: expected an integer or None, got {type(axis).__name__}")
    expect(-x.ndim <= axis < x.ndim, "axis", f"a dimension of x, {tuple(x.shape)}, or None", axis)
    return axis % x.ndim, (x.shape[axis],)


def _limits(quant_min: object, quant_max: object) -> tuple[float, float]:
    for name, value in (("quant_min", quant_min), ("quant_max", quant_max)):
        if type(value) is not int:
            raise TypeError(f"{name}: expected an integer, got {type(value).__name__}")
        expect(abs(value) <= LARGEST, name, f"a level within {LARGEST} of 0", value)
    expect(quant_min <= quant_max, "quant_min", f"at most quant_max, {quant_max}", quant_min)  # type: ignore[operator]
    return float(quant_min), float(quant_max)  # type: ignore[arg-type]


def fake_quantize(
    x: Tensor, scale: Tensor, zero_point: Tensor | None = None, axis: int | None = None, quant_min: int = -128,
    quant_max: int = 127,
) -> Tensor:  # fmt: skip
    """Return x quantised to the integers quant_min ... quant_max and back, in fp32 with one cast at the end.

    x: fp32, fp16 or bf16, any shape, other strides than contiguous ones are copied. scale: () fp32, or (n,) for the n
    slices of x along `axis`; zero_point: int32, shaped as scale, within the limits (default: 0). Returns x's shape and
    dtype; differentiable in x, straight through within the limits, and in scale, the learned step size. NaN stays NaN.
    Source: arXiv:1712.05877.

    Raises:
        TypeError, ValueError: an argument is not as described.
    """
    expect_tensor("x", x, dtypes=FLOATS)
    axis, shape = _channels(x, axis)
    for name, value, dtype in (("scale", scale, torch.float32), ("zero_point", zero_point, torch.int32)):
        if value is not None or name == "scale":
            expect_tensor(name, value, dtypes=(dtype,))
            assert value is not None
            expect_device(name, value, "x", x)
            expect(value.shape == shape, name, f"shape {shape}", f"shape {tuple(value.shape)}")
    limits = _limits(quant_min, quant_max)
    zero = None if zero_point is None else zero_point.contiguous()
    if torch.is_grad_enabled() and (x.requires_grad or scale.requires_grad):
        y: Tensor = _FakeQuantize.apply(x, scale.contiguous(), zero, axis, limits)
        return y
    return _launch_forward(x, scale.contiguous(), zero, axis, limits)
