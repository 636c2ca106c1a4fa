"""y = (x - mean) rstd weight + bias over the last dimension, rstd = 1 / sqrt(mean((x - mean)^2) + eps).

Shapes: x, y (..., cols), weight, bias (cols,), seen as (rows, cols); stats (2, rows) in fp32 are mean and rstd.
Backward, with g = dy weight and n = (x - mean) rstd:  dx = (g - mean(g) - n mean(g n)) rstd,
dweight = sum over rows of dy n,  dbias = sum over rows of dy.

A program owns whole rows, several if they are short, and keeps them in registers: x, y and dy, x, dx are each touched
once, and the variance is that of centred values, which no large mean can cancel. A row too wide for that is walked
twice in chunks, the second time from its end, where L2 (and L1) hold it still; every lane of a chunk has its own
running mean and squares, merged when the row ends. In the backward a fixed number of programs strides over the rows,
each sums its parts of dweight and dbias in fp32 (in registers, or for wide rows in its own rows of `partials`), then
one sum goes over the programs: its order is that of the device and sizes. These sums are all that moves beyond the
floor: 16 bytes per program and column, written and read while L2 holds them.
Source: Ba, Kiros & Hinton 2016, arXiv:1607.06450; running moments: Welford 1962, merged as in Chan et al. 1979.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels._launch import FLOATS, device_of, expect, expect_device, expect_tensor, processors
from kernels._rows import WIDE_TILE, as_rows, tile_of

WIDEST = 131072
# What 16 warps (the most that gfx942 allows) hold in registers: the bytes of a row; in the backward, beside two sums in
# fp32, its columns.
FORWARD_BYTES, BACKWARD_COLS = 65536, 8192
# A program of the backward writes as many bytes of partial sums as it moves for some three rows in bf16.
LEAST_ROWS = 4


@triton.jit
def _forward(
    x_ptr, weight_ptr, bias_ptr, y_ptr, stats_ptr, row_stride, rows, cols, eps,
    BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)[:, None]
    col = tl.arange(0, BLOCK_COLS)[None, :]
    inside = (row < rows) & (col < cols)
    x = tl.load(x_ptr + row * row_stride + col, mask=inside, other=0.0).to(tl.float32)
    mean = tl.sum(x, axis=1, keep_dims=True) / cols
    x = tl.where(col < cols, x - mean, 0.0)
    rstd = tl.rsqrt(tl.sum(x * x, axis=1, keep_dims=True) / cols + eps)
    if stats_ptr is not None:
        tl.store(stats_ptr + row, mean, mask=row < rows)
        tl.store(stats_ptr + rows + row, rstd, mask=row < rows)
    weight = tl.load(weight_ptr + col, mask=col < cols, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + col, mask=col < cols, other=0.0).to(tl.float32)
    tl.store(y_ptr + row * cols + col, (x * rstd * weight + bias).to(y_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _forward_wide(x_ptr, weight_ptr, bias_ptr, y_ptr, stats_ptr, row_stride, rows, cols, eps, BLOCK_COLS: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, BLOCK_COLS)
    means, squares = tl.zeros((BLOCK_COLS,), tl.float32), tl.zeros((BLOCK_COLS,), tl.float32)
    chunks = tl.cdiv(cols, BLOCK_COLS)
    for chunk in range(chunks):
        inside = chunk * BLOCK_COLS + lane < cols
        x = tl.load(x_ptr + row * row_stride + chunk * BLOCK_COLS + lane, mask=inside, other=0.0).to(tl.float32)
        step = tl.where(inside, x - means, 0.0)
        means += step * (1.0 / (chunk + 1))
        squares += step * (x - means)
    count = tl.cdiv(cols - lane, BLOCK_COLS).to(tl.float32)
    mean = tl.sum(means * count, axis=0) / cols
    means -= mean
    rstd = tl.rsqrt(tl.sum(squares + means * means * count, axis=0) / cols + eps)
    if stats_ptr is not None:
        tl.store(stats_ptr + row, mean)
        tl.store(stats_ptr + rows + row, rstd)
    for back in range(chunks):
        col = (chunks - 1 - back) * BLOCK_COLS + lane
        x = tl.load(x_ptr + row * row_stride + col, mask=col < cols, other=0.0).to(tl.float32)
        weight = tl.load(weight_ptr + col, mask=col < cols, other=0.0).to(tl.float32)
        bias = tl.load(bias_ptr + col, mask=col < cols, other=0.0).to(tl.float32)
        y = (x - mean) * rstd * weight + bias
        tl.store(y_ptr + row * cols + col, y.to(y_ptr.dtype.element_ty), mask=col < cols)


@triton.jit
def _backward(
    dy_ptr, x_ptr, weight_ptr, stats_ptr, dx_ptr, partials_ptr, row_strides, rows, cols,
    BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr,
):  # fmt: skip
    # A mask takes registers, so that statistics are loaded without one. The weight stays in registers if it fits.
    HELD: tl.constexpr = BLOCK_ROWS * BLOCK_COLS <= 4096 and x_ptr.dtype.element_ty.primitive_bitwidth == 16
    col = tl.arange(0, BLOCK_COLS)[None, :]
    weight = tl.load(weight_ptr + col, mask=col < cols, other=0.0) if HELD else None
    dweight = tl.zeros((BLOCK_ROWS, BLOCK_COLS), tl.float32)
    dbias = tl.zeros((BLOCK_ROWS, BLOCK_COLS), tl.float32)
    for block in range(tl.program_id(0), tl.cdiv(rows, BLOCK_ROWS), tl.num_programs(0)):
        lane = block * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS).to(tl.int64)
        mean = tl.load(stats_ptr + tl.minimum(lane, rows - 1))[:, None]
        rstd = tl.load(stats_ptr + rows + tl.minimum(lane, rows - 1))[:, None]
        row = lane[:, None]
        inside = (row < rows) & (col < cols)
        dy = tl.load(dy_ptr + row * row_strides[0] + col, mask=inside, other=0.0).to(tl.float32)
        x = tl.load(x_ptr + row * row_strides[1] + col, mask=inside, other=0.0).to(tl.float32)
        x = (x - mean) * rstd
        dweight += dy * x
        dbias += dy
        if dx_ptr is not None:
            dy *= (weight if HELD else tl.load(weight_ptr + col, mask=col < cols, other=0.0)).to(tl.float32)
            slope = tl.sum(dy * x, axis=1, keep_dims=True) / cols
            dx = (dy - tl.sum(dy, axis=1, keep_dims=True) / cols - x * slope) * rstd
            tl.store(dx_ptr + row * cols + col, dx.to(dx_ptr.dtype.element_ty), mask=inside)
    if partials_ptr is not None:
        partial_ptr = partials_ptr + tl.program_id(0).to(tl.int64) * cols + col
        tl.store(partial_ptr, tl.sum(dweight, axis=0, keep_dims=True), mask=col < cols)
        partial_ptr += tl.num_programs(0).to(tl.int64) * cols
        tl.store(partial_ptr, tl.sum(dbias, axis=0, keep_dims=True), mask=col < cols)


@triton.jit
def _backward_wide(
    dy_ptr, x_ptr, weight_ptr, stats_ptr, dx_ptr, partials_ptr, row_strides, rows, cols, BLOCK_COLS: tl.constexpr
):
    first = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, BLOCK_COLS)
    chunks = tl.cdiv(cols, BLOCK_COLS)
    for row in range(first, rows, tl.num_programs(0)):
        mean, rstd = tl.load(stats_ptr + row), tl.load(stats_ptr + rows + row)
        sums, dots = tl.zeros((BLOCK_COLS,), tl.float32), tl.zeros((BLOCK_COLS,), tl.float32)
        if dx_ptr is not None:
            for chunk in range(chunks):
                col = chunk * BLOCK_COLS + lane
                dy = tl.load(dy_ptr + row * row_strides[0] + col, mask=col < cols, other=0.0).to(tl.float32)
                x = tl.load(x_ptr + row * row_strides[1] + col, mask=col < cols, other=0.0).to(tl.float32)
                dy *= tl.load(weight_ptr + col, mask=col < cols, other=0.0).to(tl.float32)
                sums += dy
                dots += dy * ((x - mean) * rstd)
        shift, slope = tl.sum(sums, axis=0) / cols, tl.sum(dots, axis=0) / cols
        # Between two rows a partial may pass from one thread of the program to another.
        tl.debug_barrier()
        for back in range(chunks):
            col = (chunks - 1 - back) * BLOCK_COLS + lane
            dy = tl.load(dy_ptr + row * row_strides[0] + col, mask=col < cols, other=0.0).to(tl.float32)
            x = tl.load(x_ptr + row * row_strides[1] + col, mask=col < cols, other=0.0).to(tl.float32)
            x = (x - mean) * rstd
            if partials_ptr is not None:
                begun = col < tl.where(row == first, 0, cols)
                dweight_ptr = partials_ptr + first * cols + col
                dbias_ptr = dweight_ptr + tl.num_programs(0).to(tl.int64) * cols
                dweight = tl.load(dweight_ptr, mask=begun, other=0.0) + dy * x
                dbias = tl.load(dbias_ptr, mask=begun, other=0.0) + dy
                tl.store(dweight_ptr, dweight, mask=col < cols)
                tl.store(dbias_ptr, dbias, mask=col < cols)
            if dx_ptr is not None:
                dy *= tl.load(weight_ptr + col, mask=col < cols, other=0.0).to(tl.float32)
                dx = (dy - shift - x * slope) * rstd
                tl.store(dx_ptr + row * cols + col, dx.to(dx_ptr.dtype.element_ty), mask=col < cols)


def _launch_forward(x: Tensor, weight: Tensor, bias: Tensor, eps: float, keep: bool) -> tuple[Tensor, Tensor | None]:
    """y, and the statistics of the rows (None unless they are to be kept for a backward)."""
    cols, rows = x.shape[-1], x.numel() // x.shape[-1]
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    stats = torch.empty(2, rows, dtype=torch.float32, device=x.device) if keep else None
    flat, (row_stride,) = as_rows(x)
    arguments = (*flat, weight.contiguous(), bias.contiguous(), y, stats, row_stride, rows, cols, eps)
    block_rows, tile = tile_of(cols)
    with device_of(x):
        if triton.next_power_of_2(cols) * x.element_size() > FORWARD_BYTES and rows:
            _forward_wide[(rows,)](*arguments, **WIDE_TILE)
        elif rows:
            _forward[(triton.cdiv(rows, block_rows),)](*arguments, **tile)
    return y, stats


class _LayerNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        y, stats = _launch_forward(x, weight, bias, eps, keep=True)
        ctx.save_for_backward(x, weight, stats)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, stats = ctx.saved_tensors
        needs_x, needs_weight, needs_bias, _ = ctx.needs_input_grad
        rows, cols = stats.shape[1], x.shape[-1]
        wide = cols > BACKWARD_COLS
        kernel, block_rows, tile = (_backward_wide, 1, WIDE_TILE) if wide else (_backward, *tile_of(cols))
        # A multiprocessor holds 16 warps whatever registers they take, so that no program waits for another to end.
        programs = min(triton.cdiv(rows, max(block_rows, LEAST_ROWS)), processors(x) * 16 // tile["num_warps"])
        dx = torch.empty(x.shape, dtype=x.dtype, device=x.device) if needs_x else None
        partials = None
        if needs_weight or needs_bias:
            partials = torch.empty(2, programs, cols, dtype=torch.float32, device=x.device)
        if rows:
            flat, strides = as_rows(dy, x)
            with device_of(x):
                kernel[(programs,)](*flat, weight.contiguous(), stats, dx, partials, strides, rows, cols, **tile)
        dweight, dbias = (None, None) if partials is None else partials.sum(1).to(weight.dtype)
        return dx, dweight if needs_weight else None, dbias if needs_bias else None, None


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    """(x - mean) / sqrt(variance + eps) * weight + bias over the last dimension, in fp32 with one cast at the end.

    x: (..., cols), 1 to 131072 columns, fp32, fp16 or bf16, any strides. weight, bias: (cols,), both in x's dtype, or
    both in fp32 for weights kept in full precision. Returns x's shape and dtype; differentiable in all three.
    Source: Ba, Kiros & Hinton 2016, arXiv:1607.06450.

    Raises:
        TypeError, ValueError: an argument is not as described, or eps is negative or not finite.
    """
    expect_tensor("x", x, dtypes=FLOATS)
    expect(x.ndim >= 1 and 1 <= x.shape[-1] <= WIDEST, "x", f"rows of 1 to {WIDEST} columns", f"shape {tuple(x.shape)}")
    expect_tensor("weight", weight, dtypes=tuple({x.dtype: 0, torch.float32: 0}), rank=1)
    expect_tensor("bias", bias, dtypes=(weight.dtype,), rank=1)
    for name, value in (("weight", weight), ("bias", bias)):
        expect_device(name, value, "x", x)
        expect(len(value) == x.shape[-1], name, f"shape ({x.shape[-1]},), like a row of x", tuple(value.shape))
    if isinstance(eps, bool) or not isinstance(eps, int | float):
        raise TypeError(f"eps: expected a number, got {type(eps).__name__}")
    expect(0 <= eps < float("inf"), "eps", "a finite number that is not negative", eps)
    if torch.is_grad_enabled() and any(value.requires_grad for value in (x, weight, bias)):
        y: Tensor = _LayerNorm.apply(x, weight, bias, float(eps))
        return y
    return _launch_forward(x, weight, bias, float(eps), keep=False)[0]
