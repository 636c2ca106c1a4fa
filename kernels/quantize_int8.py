"""Row-wise quantisation by the absolute maximum, and the outlier columns that LLM.int8() leaves out of it.

    scale = max |x| / 127,  q = clamp(round(x / scale), -127, 127),  so that x ~ q * scale

Shapes: x, q (..., cols), scale (...), seen as (rows, cols). All in fp32, with IEEE divisions and ties to even: the
integers are a definition, not an estimate. q is 0 where x / scale is NaN (NaN in the row, or x infinite) and in rows
whose scale is 0.

Rows up to 32768 wide: a program owns whole rows, several if they are short, and keeps them in registers, so that x is
read once and q written once. Wider rows are walked twice in chunks; the second walk finds the row in L2. Outlier
columns (any |x| >= threshold) take one more read of x, by tiles, and one program that gathers their indices: the host
never waits.

Source: Dettmers et al. 2022, arXiv:2208.07339, sections 2 and 3.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels._launch import FLOATS, device_of, expect, expect_inference, expect_tensor

WIDEST = 32768  # columns that 16 warps hold in registers without spilling
CHUNK_COLS = 8192
SHORT_TILE = 2048  # elements that short rows are gathered to
MARK_TILE = 64, 128  # 128 columns of fp16 are two full cache lines of every row
GATHER_COLS = 4096


@triton.jit
def _load(x_ptr, x_strides, outlier_ptr, row, col, size):
    inside = (row < size[0])[:, None] & (col < size[1])[None, :]
    x = tl.load(x_ptr + row[:, None] * x_strides[0] + col[None, :] * x_strides[1], mask=inside, other=0.0)
    x = x.to(tl.float32)
    if outlier_ptr is not None:
        outlier = tl.load(outlier_ptr + col, mask=col < size[1], other=0)
        x = tl.where((outlier != 0)[None, :], 0.0, x)
    return x


@triton.jit
def _absmax_bits(x):
    # As integers the bits of |x| order like |x|, with NaN above infinity; a maximum of floats would drop NaN.
    return tl.max(x.to(tl.int32, bitcast=True) & 0x7FFFFFFF, axis=1)


@triton.jit
def _store(q_ptr, x, scale, row, col, size):
    # In all other rows q is 0 throughout: they hold zeros, NaN, or Inf (behind which finite entries vanish).
    ordinary = ((scale > 0.0) & (scale < float("inf")))[:, None]
    ratio = tl.div_rn(x, tl.broadcast_to(tl.where(ordinary, scale[:, None], 1.0), x.shape))
    ratio = tl.where(ordinary, tl.minimum(tl.maximum(ratio, -127.0), 127.0), 0.0)
    # At 1.5 * 2^23 one ulp is 1: the sum is rounded to even, and its low byte is the rounded ratio.
    q = (ratio + 12582912.0).to(tl.int32, bitcast=True).to(tl.int8)
    inside = (row < size[0])[:, None] & (col < size[1])[None, :]
    tl.store(q_ptr + row[:, None] * size[1] + col[None, :], q, mask=inside)


@triton.jit
def _quantize(
    x_ptr, x_strides, outlier_ptr, q_ptr, scale_ptr, size,
    WIDE: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    col = tl.arange(0, BLOCK_COLS).to(tl.int64)
    x = _load(x_ptr, x_strides, outlier_ptr, row, col, size)
    bits = _absmax_bits(x)
    if WIDE:
        for start in range(BLOCK_COLS, size[1], BLOCK_COLS):
            chunk = _load(x_ptr, x_strides, outlier_ptr, row, start + col, size)
            bits = tl.maximum(bits, _absmax_bits(chunk))
    scale = tl.div_rn(bits.to(tl.float32, bitcast=True), tl.full((BLOCK_ROWS,), 127.0, tl.float32))
    tl.store(scale_ptr + row, scale, mask=row < size[0])
    _store(q_ptr, x, scale, row, col, size)
    if WIDE:
        for start in range(BLOCK_COLS, size[1], BLOCK_COLS):
            chunk = _load(x_ptr, x_strides, outlier_ptr, row, start + col, size)
            _store(q_ptr, chunk, scale, row, start + col, size)


@triton.jit
def _mark(x_ptr, x_strides, outlier_ptr, threshold, size, BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr):
    across = tl.cdiv(size[1], BLOCK_COLS)
    row = (tl.program_id(0) // across).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    col = (tl.program_id(0) % across).to(tl.int64) * BLOCK_COLS + tl.arange(0, BLOCK_COLS)
    x = _load(x_ptr, x_strides, None, row, col, size)
    found = tl.max(((tl.abs(x) >= threshold) & (row < size[0])[:, None]).to(tl.int32), axis=0)
    # Whoever writes a mark writes 1: which program comes last changes nothing.
    tl.store(outlier_ptr + col, 1, mask=(found == 1) & (col < size[1]))


@triton.jit
def _gather(outlier_ptr, index_ptr, cols, BLOCK_COLS: tl.constexpr):
    count = tl.full((), 0, tl.int32)
    for start in range(0, cols, BLOCK_COLS):
        col = start + tl.arange(0, BLOCK_COLS)
        outlier = tl.load(outlier_ptr + col, mask=col < cols, other=0).to(tl.int32)
        tl.store(index_ptr + count + tl.cumsum(outlier, 0) - 1, col, mask=outlier != 0)
        count += tl.sum(outlier, 0)
    tl.store(index_ptr + cols, count)


def quantize_rows(x: Tensor, outlier: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Quantise x (rows, cols); columns marked in `outlier` (cols,) int8 count as zeros. Arguments are not checked."""
    rows, cols = x.shape
    q = torch.empty(rows, cols, dtype=torch.int8, device=x.device)
    scale = torch.empty(rows, dtype=torch.float32, device=x.device)
    block_cols = triton.next_power_of_2(max(1, cols)) if cols <= WIDEST else CHUNK_COLS
    block_rows = max(1, SHORT_TILE // block_cols)
    warps = min(16, max(4, block_rows * block_cols // 1024))
    if rows:
        with device_of(x):
            _quantize[(triton.cdiv(rows, block_rows),)](
                x, x.stride(), outlier, q, scale, (rows, cols),
                WIDE=cols > block_cols, BLOCK_ROWS=block_rows, BLOCK_COLS=block_cols, num_warps=warps,
            )  # fmt: skip
    return q, scale


def outlier_columns(x: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """The columns of x (rows, cols) in which any |x| >= threshold: marks (cols,) int8, and indices (cols + 1,) int32.

    The indices rise from the first entry on; the last entry is their number. Arguments are not checked.
    """
    rows, cols = x.shape
    outlier = torch.zeros(cols, dtype=torch.int8, device=x.device)
    index = torch.empty(cols + 1, dtype=torch.int32, device=x.device)
    block_rows, block_cols = MARK_TILE
    tiles = triton.cdiv(rows, block_rows) * triton.cdiv(cols, block_cols)
    with device_of(x):
        if tiles:
            limit = _at_least(threshold)
            _mark[(tiles,)](x, x.stride(), outlier, limit, (rows, cols), BLOCK_ROWS=block_rows, BLOCK_COLS=block_cols)
        _gather[(1,)](outlier, index, cols, BLOCK_COLS=GATHER_COLS)
    return outlier, index


def _at_least(threshold: float) -> float:
    """The smallest fp32 number not below `threshold`: comparing with it in fp32 decides as exact comparison does."""
    if math.isinf(threshold):
        return threshold
    unit = max(math.frexp(threshold)[1] - 24, -149)
    rounded = math.ldexp(math.ceil(math.ldexp(threshold, -unit)), unit)
    return rounded if rounded <= torch.finfo(torch.float32).max else math.inf


def quantize_int8(x: Tensor) -> tuple[Tensor, Tensor]:
    """(int8, scale) with x ~ int8 * scale, by rows (last dimension): scale = absmax / 127, int8 = round(x / scale).

    x: (..., cols) fp32, fp16 or bf16, any strides (leading dimensions that no view can join are copied). Returns int8
    of x's shape, within -127 ... 127, and scale (...) in fp32. A row of zeros has scale 0, a row that holds NaN (Inf)
    has scale NaN (Inf); int8 is 0 where x / scale is NaN and in rows whose scale is 0. For inference: an x that asks
    for a gradient is refused. Source: Dettmers et al. 2022, arXiv:2208.07339.

    Raises:
        TypeError: x is not a tensor of these dtypes.
        ValueError: x has no dimension, lies where no kernel reaches it, or asks for a gradient.
    """
    expect_tensor("x", x, dtypes=FLOATS)
    expect(x.ndim >= 1, "x", "at least 1 dimension", f"shape {tuple(x.shape)}")
    expect_inference("x", x)
    q, scale = quantize_rows(x.reshape(math.prod(x.shape[:-1]), x.shape[-1]))
    return q.view(x.shape), scale.view(x.shape[:-1])
