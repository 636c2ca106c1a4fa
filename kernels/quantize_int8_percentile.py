"""Row-wise quantisation by a percentile of |x|, beyond which values are clipped: few outliers cost all others nothing.

    scale = the k-th smallest |x| of the row / 127,  k = ceil(percentile cols / 100),
    q = clamp(round(x / scale), -127, 127)

Shapes: x, q (..., cols), scale (...), seen as (rows, cols). The k-th smallest is a value of the row, not one between
two, and it is found exactly: as integers the bits of |x| order like |x| (NaN above infinity), and the k-th smallest is
the largest integer below which fewer than k of them lie. That is known a bit at a time, from the highest on: a count
for each of 15 bits in fp16 and bf16, of 31 in fp32. It takes two instructions per entry and bit, less than a histogram
of its digits would; counts of integers come out the same in any order.

Rows up to 32768 wide: a program owns a row and keeps it in registers, so that x is read once and q written once. Wider
rows are walked for every bit, and once more for q, in chunks that L2 holds.

Source: Wu et al. 2020, arXiv:2004.09602 (percentile calibration); selection by bisection: Alabi et al. 2012, "Fast
k-selection algorithms for graphics processing units", of values there, of their bits here.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels._int8 import rounded
from kernels._launch import FLOATS, device_of, expect, expect_inference, expect_tensor
from kernels.quantize_int8 import CHUNK_COLS, WIDEST

NARROWEST = 128  # an entry for each thread of the fewest warps


@triton.jit
def _magnitudes(x_ptr, row_at, col_stride, start, cols, BLOCK_COLS: tl.constexpr):
    """A stretch of a row, the bits of |x| there (beyond the row's end the largest integer), and the columns."""
    col = start + tl.arange(0, BLOCK_COLS).to(tl.int64)
    x = tl.load(x_ptr + row_at + col * col_stride, mask=col < cols, other=0.0)
    if x_ptr.dtype.element_ty.primitive_bitwidth == 16:
        bits = x.to(tl.int16, bitcast=True).to(tl.int32) & 0x7FFF
    else:
        bits = x.to(tl.int32, bitcast=True) & 0x7FFFFFFF
    return x.to(tl.float32), tl.where(col < cols, bits, 0x7FFFFFFF), col


@triton.jit
def _quantize(x_ptr, x_strides, q_ptr, scale_ptr, cols, k, WIDE: tl.constexpr, BLOCK_COLS: tl.constexpr):
    WIDTH: tl.constexpr = x_ptr.dtype.element_ty.primitive_bitwidth
    row = tl.program_id(0).to(tl.int64)
    row_at = row * x_strides[0]
    x, bits, col = _magnitudes(x_ptr, row_at, x_strides[1], 0, cols, BLOCK_COLS)
    found = tl.full((), 0, tl.int32)
    for step in range(WIDTH - 1):
        candidate = found + (tl.full((), 1, tl.int32) << (WIDTH - 2 - step))
        below = tl.sum((bits < candidate).to(tl.int32), 0)
        if WIDE:
            for start in range(BLOCK_COLS, cols, BLOCK_COLS):
                _, more, _ = _magnitudes(x_ptr, row_at, x_strides[1], start, cols, BLOCK_COLS)
                below += tl.sum((more < candidate).to(tl.int32), 0)
        found = tl.where(below < k, candidate, found)
    if WIDTH == 16:
        kth = found.to(tl.int16).to(x_ptr.dtype.element_ty, bitcast=True).to(tl.float32)
    else:
        kth = found.to(tl.float32, bitcast=True)
    scale = tl.div_rn(kth, tl.full((), 127.0, tl.float32))
    tl.store(scale_ptr + row, scale)
    tl.store(q_ptr + row * cols + col, rounded(x, scale), mask=col < cols)
    if WIDE:
        for start in range(BLOCK_COLS, cols, BLOCK_COLS):
            chunk, _, at = _magnitudes(x_ptr, row_at, x_strides[1], start, cols, BLOCK_COLS)
            tl.store(q_ptr + row * cols + at, rounded(chunk, scale), mask=at < cols)


def quantize_int8_percentile(x: Tensor, percentile: float = 99.9) -> tuple[Tensor, Tensor]:
    """(int8, scale) with x ~ int8 * scale, by rows (last dimension): scale is the k-th smallest |x| of a row / 127.

    x: (..., cols) fp32, fp16 or bf16, at least one column, any strides. percentile: in (0, 100]; k = ceil(percentile
    cols / 100), so that 100 is the absolute maximum. Returns int8 of x's shape, within -127 ... 127, and scale (...) in
    fp32. NaN counts as the largest value; int8 is 0 where x / scale is NaN and in rows whose scale is 0. For inference:
    an x that asks for a gradient is refused. Source: arXiv:2004.09602.

    Raises:
        TypeError, ValueError: an argument is not as described.
    """
    expect_tensor("x", x, dtypes=FLOATS)
    expect(x.ndim >= 1 and x.shape[-1] >= 1, "x", "at least 1 dimension and 1 column", f"shape {tuple(x.shape)}")
    expect_inference("x", x)
    if isinstance(percentile, bool) or not isinstance(percentile, int | float):
        raise TypeError(f"percentile: expected a number, got {type(percentile).__name__}")
    expect(0 < percentile <= 100, "percentile", "a number in (0, 100]", percentile)
    flat = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
    rows, cols = flat.shape
    q = torch.empty(rows, cols, dtype=torch.int8, device=x.device)
    scale = torch.empty(rows, dtype=torch.float32, device=x.device)
    block_cols = max(NARROWEST, triton.next_power_of_2(cols)) if cols <= WIDEST else CHUNK_COLS
    if rows:
        with device_of(x):
            _quantize[(rows,)](
                flat, flat.stride(), q, scale, cols, math.ceil(percentile * cols / 100),
                WIDE=cols > block_cols, BLOCK_COLS=block_cols, num_warps=min(16, max(4, block_cols // 1024)),
            )  # fmt: skip
    return q.view(x.shape), scale.view(x.shape[:-1])
