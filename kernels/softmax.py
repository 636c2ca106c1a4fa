"""y = exp(x - max) / sum(exp(x - max)) over the last dimension. Backward: dx = y (dy - sum(dy y)).

Shapes: x, y (..., cols), any cols, seen as (rows, cols). A row of -inf alone, or that holds +inf or NaN, is NaN.

A program owns whole rows, several if they are short, and keeps them in registers: x, y and dy, y, dx are each touched
once. A row too wide for that is walked twice: in the forward every lane of a chunk keeps its own running maximum and
sum, rescaled when the maximum rises, and lanes are merged when the row ends. The chunk that comes last in the first
walk stays in registers and is the first to be stored; the others are read again from the latest to the earliest, while
L2 still holds them: as few programs as fill the GPU run at a time, and what is stored is the first to be evicted.
Source: Milakov & Gimelshein 2018, arXiv:1805.02867 (online normaliser).
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels._launch import FLOATS, device_of, expect, expect_tensor
from kernels._rows import as_rows, tile_of

WIDEST = 2**30
# The columns of a row that 16 warps (the most that gfx942 allows) hold in registers without spilling.
FORWARD_COLS, BACKWARD_COLS = 32768, 16384
# A chunk of a wider row: 32 KiB in flight, where 128-bit accesses need few addresses; else half of it.
CHUNK_COLS, WIDE_WARPS = 8192, 16


@triton.jit
def _forward(x_ptr, y_ptr, row_strides, rows, cols, BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)[:, None]
    col = tl.arange(0, BLOCK_COLS)[None, :]
    inside = (row < rows) & (col < cols)
    x = tl.load(x_ptr + row * row_strides[0] + col, mask=inside, other=float("-inf")).to(tl.float32)
    # NaN may be no maximum, but it is its own exponential: it reaches the sum, and with it the whole row.
    x = tl.exp(x - tl.max(x, axis=1, keep_dims=True))
    y = x * (1.0 / tl.sum(x, axis=1, keep_dims=True))
    tl.store(y_ptr + row * cols + col, y.to(y_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _online(peak, total, x):
    higher = tl.maximum(peak, x)
    # The higher of the two is scaled by 1: one exponential serves both. Before a lane has seen more than -inf, none.
    scale = tl.exp(tl.where(higher == float("-inf"), float("-inf"), -tl.abs(x - peak)))
    return higher, tl.where(x > peak, total * scale + 1.0, total + scale)


@triton.jit
def _forward_wide(x_ptr, y_ptr, row_strides, cols, BLOCK_COLS: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, BLOCK_COLS)
    last = (tl.cdiv(cols, BLOCK_COLS) - 1) * BLOCK_COLS
    peak, total = tl.full((BLOCK_COLS,), float("-inf"), tl.float32), tl.zeros((BLOCK_COLS,), tl.float32)
    for start in range(0, last, BLOCK_COLS):
        x = tl.load(x_ptr + row * row_strides[0] + start + lane, eviction_policy="evict_last").to(tl.float32)
        peak, total = _online(peak, total, x)
    inside = last + lane < cols
    held = tl.load(x_ptr + row * row_strides[0] + last + lane, mask=inside, other=float("-inf")).to(tl.float32)
    peak, total = _online(peak, total, held)
    # Both are lanes of one row now; a row of -inf stays NaN.
    top = tl.max(peak, axis=0)
    scale = 1.0 / tl.sum(total * tl.exp(peak - top), axis=0)
    y = tl.exp(held - top) * scale
    y_row_ptr = y_ptr + row * cols
    tl.store(y_row_ptr + last + lane, y.to(y_ptr.dtype.element_ty), mask=inside, eviction_policy="evict_first")
    for back in range(0, last, BLOCK_COLS):
        start = last - BLOCK_COLS - back
        x = tl.load(x_ptr + row * row_strides[0] + start + lane, eviction_policy="evict_first").to(tl.float32)
        y = tl.exp(x - top) * scale
        tl.store(y_row_ptr + start + lane, y.to(y_ptr.dtype.element_ty), eviction_policy="evict_first")


@triton.jit
def _backward(dy_ptr, y_ptr, dx_ptr, row_strides, rows, cols, BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)[:, None]
    col = tl.arange(0, BLOCK_COLS)[None, :]
    inside = (row < rows) & (col < cols)
    dy = tl.load(dy_ptr + row * row_strides[0] + col, mask=inside, other=0.0).to(tl.float32)
    y = tl.load(y_ptr + row * row_strides[1] + col, mask=inside, other=0.0).to(tl.float32)
    dx = y * (dy - tl.sum(dy * y, axis=1, keep_dims=True))
    tl.store(dx_ptr + row * cols + col, dx.to(dx_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _backward_wide(dy_ptr, y_ptr, dx_ptr, row_strides, cols, BLOCK_COLS: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    dy_row_ptr, y_row_ptr = dy_ptr + row * row_strides[0], y_ptr + row * row_strides[1]
    lane = tl.arange(0, BLOCK_COLS)
    last = (tl.cdiv(cols, BLOCK_COLS) - 1) * BLOCK_COLS
    dots = tl.zeros((BLOCK_COLS,), tl.float32)
    for start in range(0, last, BLOCK_COLS):
        dy = tl.load(dy_row_ptr + start + lane, eviction_policy="evict_last").to(tl.float32)
        dots += dy * tl.load(y_row_ptr + start + lane, eviction_policy="evict_last").to(tl.float32)
    inside = last + lane < cols
    dy = tl.load(dy_row_ptr + last + lane, mask=inside, other=0.0).to(tl.float32)
    y = tl.load(y_row_ptr + last + lane, mask=inside, other=0.0).to(tl.float32)
    dot = tl.sum(dots + dy * y, axis=0)
    dx_row_ptr = dx_ptr + row * cols
    dx = (y * (dy - dot)).to(dx_ptr.dtype.element_ty)
    tl.store(dx_row_ptr + last + lane, dx, mask=inside, eviction_policy="evict_first")
    for back in range(0, last, BLOCK_COLS):
        start = last - BLOCK_COLS - back
        dy = tl.load(dy_row_ptr + start + lane, eviction_policy="evict_first").to(tl.float32)
        y = tl.load(y_row_ptr + start + lane, eviction_policy="evict_first").to(tl.float32)
        dx = (y * (dy - dot)).to(dx_ptr.dtype.element_ty)
        tl.store(dx_row_ptr + start + lane, dx, eviction_policy="evict_first")


def _launch(kernel: Any, wide_kernel: Any, inputs: tuple[Tensor, ...], wide: bool) -> Tensor:
    """Run one of two kernels over the rows of tensors of one shape; returns its output."""
    shape, cols = inputs[0].shape, inputs[0].shape[-1]
    output = torch.empty(shape, dtype=inputs[0].dtype, device=inputs[0].device)
    if output.numel() == 0:
        return output
    rows = output.numel() // cols
    flat, strides = as_rows(*inputs)
    with device_of(output):
        if wide:
            aligned = output.element_size() == 2 and all(stride % 16 == 0 for stride in (*strides, cols))
            chunk = 2 * CHUNK_COLS if aligned else CHUNK_COLS
            wide_kernel[(rows,)](*flat, output, strides, cols, BLOCK_COLS=chunk, num_warps=WIDE_WARPS)
        else:
            block_rows, tile = tile_of(cols)
            kernel[(triton.cdiv(rows, block_rows),)](*flat, output, strides, rows, cols, **tile)
    return output


def _launch_forward(x: Tensor) -> Tensor:
    return _launch(_forward, _forward_wide, (x,), wide=x.shape[-1] > FORWARD_COLS)


class _Softmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = _launch_forward(x)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return _launch(_backward, _backward_wide, (dy, y), wide=y.shape[-1] > BACKWARD_COLS)


def softmax(x: Tensor) -> Tensor:
    """exp(x) / sum(exp(x)) over the last dimension, in fp32 with one cast at the end.

    x: (..., cols), up to 2^30 columns (none at all: an empty y), fp32, fp16 or bf16, any strides. Returns x's shape and
    dtype; differentiable. A row of -inf alone is NaN, as in torch. Source: arXiv:1805.02867.

    Raises:
        TypeError, ValueError: x is not as described.
    """
    expect_tensor("x", x, dtypes=FLOATS)
    expect(x.ndim >= 1 and x.shape[-1] <= WIDEST, "x", f"rows of up to {WIDEST} columns", f"shape {tuple(x.shape)}")
    if torch.is_grad_enabled() and x.requires_grad:
        y: Tensor = _Softmax.apply(x)
        return y
    return _launch_forward(x)
