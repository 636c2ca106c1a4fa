"""Quantisation by the absolute maximum of each channel: of each slice of x along one axis.

    scale = max |x| / 127 over the slice,  q = clamp(round(x / scale), -127, 127)

Shapes: x, q any, scale (channels,). Along the first axis a channel is a row: read once, as in kernels/quantize_int8.py.
Elsewhere a channel is spread over memory, and no program sees it whole: x is seen as (rows, cols), a channel a column
(last axis) or every so many rows, and walked twice by tiles. The first walk takes the maximum of each channel: within
a tile in registers, across tiles by atomics on the bits of |x|, which order like |x| as integers, with NaN above
infinity; a maximum of integers comes out the same in any order. The second walk writes q. So x is read twice, once
from L2 if it fits: the least that memory moves for a larger one, since no q is known before the last x is read.

Source: Jacob et al. 2017, arXiv:1712.05877; by channels: Krishnamoorthi 2018, arXiv:1806.08342, section 2.3.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels._elementwise import TILE, tile
from kernels._int8 import rounded
from kernels._launch import FLOATS, device_of, expect, expect_inference, expect_tensor
from kernels.quantize_int8 import quantize_rows

COLUMN_TILE = 64, 128  # 128 columns of bf16 are two full cache lines of every row


@triton.jit
def _absmax(
    x_ptr, bits_ptr, size, PER_COLUMN: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr
):  # fmt: skip
    row, col, inside = tile(size, BLOCK_ROWS, BLOCK_COLS)
    x = tl.load(x_ptr + row * size[1] + col, mask=inside, other=0.0).to(tl.float32)
    bits = x.to(tl.int32, bitcast=True) & 0x7FFFFFFF
    if PER_COLUMN:
        tl.atomic_max(bits_ptr + col, tl.max(bits, axis=0, keep_dims=True), mask=col < size[1], sem="relaxed")
    else:
        most = tl.max(bits, axis=1, keep_dims=True)
        tl.atomic_max(bits_ptr + row % size[2], most, mask=row < size[0], sem="relaxed")


@triton.jit
def _quantize(
    x_ptr, bits_ptr, q_ptr, scale_ptr, size,
    PER_COLUMN: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr,
):  # fmt: skip
    row, col, inside = tile(size, BLOCK_ROWS, BLOCK_COLS)
    x = tl.load(x_ptr + row * size[1] + col, mask=inside, other=0.0).to(tl.float32)
    channel = col if PER_COLUMN else row % size[2]
    bits = tl.load(bits_ptr + channel, mask=channel < size[2], other=0)
    absmax = bits.to(tl.float32, bitcast=True)
    scale = tl.div_rn(absmax, tl.full(absmax.shape, 127.0, tl.float32))
    # The first tile along each channel tells its scale.
    begins = tl.program_id(0) // tl.cdiv(size[1], BLOCK_COLS) == 0
    if PER_COLUMN:
        tl.store(scale_ptr + col, scale, mask=(col < size[1]) & begins)
    else:
        begins = tl.program_id(0) % tl.cdiv(size[1], BLOCK_COLS) == 0
        tl.store(scale_ptr + row, scale, mask=(row < size[2]) & begins)
    tl.store(q_ptr + row * size[1] + col, rounded(x, scale), mask=inside)


def _quantize_spread(x: Tensor, size: tuple[int, int, int], per_column: bool) -> tuple[Tensor, Tensor]:
    """Quantise contiguous x, seen as (rows, cols), whose channels are columns, or rows that repeat."""
    rows, cols, channels = size
    q = torch.empty(x.shape, dtype=torch.int8, device=x.device)
    scale = torch.empty(channels, dtype=torch.float32, device=x.device)
    bits = torch.zeros(channels, dtype=torch.int32, device=x.device)
    block_cols = min(COLUMN_TILE[1] if per_column else TILE, triton.next_power_of_2(cols))
    block_rows = COLUMN_TILE[0] if per_column else TILE // block_cols
    block: dict[str, Any] = {"BLOCK_ROWS": block_rows, "BLOCK_COLS": block_cols}
    options = {"PER_COLUMN": per_column, **block, "num_warps": 8 if per_column else 4}
    programs = triton.cdiv(rows, block_rows) * triton.cdiv(cols, block_cols)
    with device_of(x):
        _absmax[(programs,)](x, bits, size, **options)
        _quantize[(programs,)](x, bits, q, scale, size, **options)
    return q, scale


def quantize_int8_channels(x: Tensor, axis: int = -1) -> tuple[Tensor, Tensor]:
    """(int8, scale) with x ~ int8 * scale, by slices along `axis`: scale = absmax / 127, int8 = round(x / scale).

    x: at least one dimension, fp32, fp16 or bf16, any strides (other than contiguous ones are copied). Returns int8 of
    x's shape, within -127 ... 127, and scale (channels,) in fp32. A channel of zeros has scale 0, one that holds NaN
    (Inf) has scale NaN (Inf); int8 is 0 in all of these. For inference: an x that asks for a gradient is refused.
    Source: arXiv:1806.08342.

    Raises:
        TypeError, ValueError: an argument is not as described.
    """
    expect_tensor("x", x, dtypes=FLOATS)
    expect(x.ndim >= 1, "x", "at least 1 dimension", f"shape {tuple(x.shape)}")
    expect_inference("x", x)
    if type(axis) is not int:
        raise TypeError(f"axis: expected an integer, got {type(axis).__name__}")
    expect(-x.ndim <= axis < x.ndim, "axis", f"a dimension of x, {tuple(x.shape)}", axis)
    axis %= x.ndim
    channels, outer, inner = x.shape[axis], math.prod(x.shape[:axis]), math.prod(x.shape[axis + 1 :])
    if outer == 1 or x.numel() == 0:
        q, scale = quantize_rows(x.reshape(channels, x.numel() // max(1, channels)))
        return q.view(x.shape), scale
    if inner == 1:
        return _quantize_spread(x.contiguous(), (outer, channels, channels), per_column=True)
    return _quantize_spread(x.contiguous(), (outer * channels, inner, channels), per_column=False)
