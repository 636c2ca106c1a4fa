"""Batch normalisation where a program holds its channels whole: each kernel reads once. The essay: batch_norm.py."""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from kernels._channels import CHANNELS, TILE, keep, offset

# Elements that 16 warps (the most that gfx942 allows) hold in registers: of x, and in the backward of dy as well.
FORWARD, BACKWARD = 32768, 16384
SECTOR = 32  # bytes, the least that memory moves


@triton.jit
def _places(size, LAST: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr):
    """The rows and columns of a tile, its channels and what there is: a row is a channel, or a picture of the one."""
    row, col = tl.arange(0, BLOCK_ROWS)[:, None], tl.arange(0, BLOCK_COLS)[None, :]
    if LAST:
        row += tl.program_id(0) * BLOCK_ROWS
        channel, inside = row, (row < size[2]) & (col < size[0])
    else:
        channel, inside = tl.program_id(0) + tl.arange(0, 1)[:, None], (row < size[0] // size[1]) & (col < size[1])
    return row, col, channel, inside


@triton.jit
def _at(row, col, channel, stride, size, LAST: tl.constexpr):
    """Where they lie. The stride is the tensor's own: offsets known to be equal would be kept, and take registers."""
    if LAST:
        at = col * stride + row
    else:
        at = row * stride + (channel * size[1] + col)
    return at


@triton.jit
def _total(x, LAST: tl.constexpr):
    """The sum over all positions, for each channel of a tile."""
    if LAST:
        total = tl.sum(x, axis=1, keep_dims=True)
    else:
        total = tl.sum(x, keep_dims=True)
    return total


@triton.jit
def forward(
    x_ptr, affine_ptrs, running_ptrs, moved_ptrs, stats_ptr, y_ptr, strides, size, momentum, eps,
    LAST: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr,
):  # fmt: skip
    row, col, channel, inside = _places(size, LAST, BLOCK_ROWS, BLOCK_COLS)
    there = col < size[0] if LAST else inside
    positions, kept = size[0], channel < size[2]
    at = _at(row, col, channel, strides[0], size, LAST)
    x = tl.load(x_ptr + at, mask=inside, other=0.0).to(tl.float32)
    mean = _total(x, LAST) / positions
    x = tl.where(there, x - mean, 0.0)
    # What the sum of a large mean rounded away is still in the differences, unless they are not finite.
    rest = _total(x, LAST) / positions
    rest = tl.where(tl.abs(rest) < float("inf"), rest, 0.0)
    x = tl.where(there, x - rest, 0.0)
    squares = _total(x * x, LAST)
    keep(stats_ptr, running_ptrs, moved_ptrs, channel, mean + rest, squares, size, momentum)
    slope = tl.rsqrt(squares / positions + eps) * tl.load(affine_ptrs[0] + channel, mask=kept, other=0.0).to(tl.float32)
    bias = tl.load(affine_ptrs[1] + channel, mask=kept, other=0.0).to(tl.float32)
    at = _at(row, col, channel, strides[1], size, LAST)
    tl.store(y_ptr + at, (x * slope + bias).to(y_ptr.dtype.element_ty), mask=inside)


@triton.jit
def backward(
    dy_ptr, x_ptr, stats_ptr, weight_ptr, sums_ptr, dx_ptr, strides, size, eps,
    LAST: tl.constexpr, DY_LAST: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr,
):  # fmt: skip
    row, col, channel, inside = _places(size, LAST, BLOCK_ROWS, BLOCK_COLS)
    positions, channels = size[0], size[2]
    kept = channel < channels
    if DY_LAST == LAST:
        at = _at(row, col, channel, strides[0], size, LAST)
    else:
        at = offset((col if LAST else row * size[1] + col).to(tl.int64), channel, size, DY_LAST)
    dy = tl.load(dy_ptr + at, mask=inside, other=0.0).to(tl.float32)
    at = _at(row, col, channel, strides[1], size, LAST)
    x = tl.load(x_ptr + at, mask=inside, other=0.0).to(tl.float32)
    mean = tl.load(stats_ptr + channel, mask=kept, other=0.0)
    rstd = tl.rsqrt(tl.load(stats_ptr + channels + channel, mask=kept, other=1.0) + eps)
    x = (x - mean) * rstd
    dbias, dweight = _total(dy, LAST), _total(dy * x, LAST)
    tl.store(sums_ptr + channel, dbias, mask=kept)
    tl.store(sums_ptr + channels + channel, dweight, mask=kept)
    if dx_ptr is not None:
        weight = tl.load(weight_ptr + channel, mask=kept, other=0.0).to(tl.float32)
        dx = (dy - dbias / positions - x * (dweight / positions)) * (rstd * weight)
        at = _at(row, col, channel, strides[2], size, LAST)
        tl.store(dx_ptr + at, dx.to(dx_ptr.dtype.element_ty), mask=inside)


def whole(x: Tensor, last: bool, size: tuple[int, int, int], limit: int) -> tuple[int, int, dict[str, Any]] | None:
    """The programs, the stride (of a position or picture), the options of a launch; None where channels are too large.

    A tile has all positions of a channel (channels innermost: of as many as a sector holds, or more where positions
    are few) and at most `limit` elements, borders among them; offsets have 32 bits, so that x has less than 2^31.
    """
    positions, plane, channels = size
    if last:
        cols = triton.next_power_of_2(positions)
        several = max(SECTOR // x.itemsize, min(CHANNELS, TILE // cols))
        rows = min(several, triton.next_power_of_2(channels))
    else:
        rows, cols = triton.next_power_of_2(positions // plane), triton.next_power_of_2(plane)
    if rows * cols > limit or x.numel() >= 2**31:
        return None
    options = {"LAST": last, "BLOCK_ROWS": rows, "BLOCK_COLS": cols, "num_warps": min(16, max(1, rows * cols // 1024))}
    return triton.cdiv(channels, rows if last else 1), channels if last else channels * plane, options
