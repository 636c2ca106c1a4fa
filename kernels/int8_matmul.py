"""Products of int8 matrices, exact in int32 and dequantised in registers in fp32, alone and inside LLM.int8().

    int8_matmul:  out = (a @ b^T) * a_scale[:, None] * b_scale[None, :] + bias
    int8_linear:  the same of x without its outlier columns, quantised, plus x_outlier @ (w * w_scale)_outlier^T

Shapes: a, x (M, K), b, w (N, K), out (M, N); 8-bit tensor-core instructions want both operands contiguous along K. A
program owns one BLOCK_M x BLOCK_N tile of out and walks along K. Tiles run in groups of GROUP_M rows, column by
column, so that what a group reads of a and b comes from memory about once and otherwise from L2. int8_linear never
waits for the device: outlier columns are marked (x is read) and gathered, the rows quantised (x is read again, q
written), and the program above, its sums dequantised, goes on to add the outlier columns, whose number it reads from
memory.

Source: Dettmers et al. 2022, arXiv:2208.07339, sections 2 and 3.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels._launch import FLOATS, device_of, expect, expect_device, expect_inference, expect_tensor, tune
from kernels._matmul import place
from kernels.quantize_int8 import outlier_columns, quantize_rows

DEEPEST = 131071  # at K = 131072 a sum of (-128) * (-128) no longer fits int32
EVEN = 128  # what every BLOCK_K divides; other K are read byte by byte, in small tiles, for addresses take registers

# Outliers of fp32 are added one by one: a dot of fp32 with what was int8 compiles to TF32 for sm_100, whatever
# precision it states.
ONE_BY_ONE = torch.float32

# The first fits 99 KiB of shared memory, and on gfx942 its 64 KiB; the last ones are for a handful of rows.
TILES = [
    triton.Config({"BLOCK_M": m, "BLOCK_N": n, "BLOCK_K": k}, num_warps=warps, num_stages=stages)
    for m, n, k, warps, depths in (
        (128, 128, 128, 8, (3, 4)), (128, 256, 128, 8, (3, 4)), (256, 128, 128, 8, (3, 4)), (128, 256, 64, 8, (4,)),
        (128, 128, 128, 4, (3,)), (128, 128, 64, 4, (4,)), (64, 256, 128, 4, (3,)), (64, 128, 128, 4, (4,)),
        (32, 128, 128, 4, (5,)), (16, 128, 128, 4, (5,)), (16, 64, 128, 4, (5,)),
    )
    for stages in depths
]  # fmt: skip
ODD_TILES = [
    triton.Config({"BLOCK_M": m, "BLOCK_N": n, "BLOCK_K": k}, num_warps=warps, num_stages=3)
    for m, n, k, warps in ((64, 64, 32, 4), (64, 64, 64, 8), (64, 32, 32, 4), (32, 64, 64, 4))
]


@triton.jit
def _product(a_ptr, b_ptr, strides, row, col, sizes, BLOCK_K: tl.constexpr, EVEN_K: tl.constexpr):
    M, N, K = sizes
    k = tl.arange(0, BLOCK_K).to(tl.int64)
    a_ptr += row[:, None] * strides[0] + k[None, :] * strides[1]
    b_ptr += col[None, :] * strides[2] + k[:, None] * strides[3]
    total = tl.zeros((row.shape[0], col.shape[0]), tl.int32)
    for start in range(0, K, BLOCK_K):
        a_inside, b_inside = (row < M)[:, None], (col < N)[None, :]
        if not EVEN_K:
            a_inside &= (k < K - start)[None, :]
            b_inside &= (k < K - start)[:, None]
        a = tl.load(a_ptr, mask=a_inside, other=0)
        b = tl.load(b_ptr, mask=b_inside, other=0)
        total = tl.dot(a, b, total, input_precision="ieee", out_dtype=tl.int32)
        a_ptr += BLOCK_K * tl.cast(strides[1], tl.int64)
        b_ptr += BLOCK_K * tl.cast(strides[3], tl.int64)
    return total


@triton.jit
def _add_outliers(out, outliers, b_ptr, b_scale, strides, row, col, sizes, BLOCK: tl.constexpr):
    x_ptr, index_ptr = outliers
    M, N, K = sizes
    x_ptr += row[:, None] * strides[4]
    b_ptr += col[None, :] * strides[2]
    count = tl.load(index_ptr + K)
    for start in tl.range(0, count, BLOCK, num_stages=1):
        place = start + tl.arange(0, BLOCK)
        k = tl.load(index_ptr + place, mask=place < count, other=0).to(tl.int64)
        inside = (col < N)[None, :] & (place < count)[:, None]
        x = tl.load(x_ptr + k[None, :] * strides[5], mask=(row < M)[:, None] & (place < count)[None, :], other=0.0)
        b = tl.load(b_ptr + k[:, None] * strides[3], mask=inside, other=0)
        # Masked again behind the scale: infinity times the zero of a column that is not there would be NaN.
        weight = tl.where(inside, b.to(tl.float32) * b_scale[None, :], 0.0).to(x.dtype)
        if BLOCK == 1:
            out += x.to(tl.float32) * weight.to(tl.float32)
        else:
            out = tl.dot(x, weight, out, input_precision="ieee")
    return out


@triton.jit
def _matmul(
    a_ptr, b_ptr, a_scale_ptr, b_scale_ptr, bias_ptr, outliers, out_ptr, strides, sizes,
    tuned_for,  # noqa: ARG001 - the key of tuning: the power of two that M reaches up to, N and K
    EVEN_K: tl.constexpr, OUTLIER_BLOCK: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr = 8,
):  # fmt: skip
    M, N = sizes[0], sizes[1]
    row, col = place(M, N, BLOCK_M, BLOCK_N, GROUP_M)
    row, col = row + tl.arange(0, BLOCK_M), col + tl.arange(0, BLOCK_N)
    total = _product(a_ptr, b_ptr, strides, row, col, sizes, BLOCK_K, EVEN_K)
    a_scale = tl.load(a_scale_ptr + row * strides[6], mask=row < M, other=0.0)
    b_scale = tl.load(b_scale_ptr + col * strides[7], mask=col < N, other=0.0)
    out = total.to(tl.float32) * a_scale[:, None] * b_scale[None, :]
    if outliers is not None:
        out = _add_outliers(out, outliers, b_ptr, b_scale, strides, row, col, sizes, OUTLIER_BLOCK)
    if bias_ptr is not None:
        out += tl.load(bias_ptr + col * strides[8], mask=col < N, other=0.0).to(tl.float32)[None, :]
    inside = (row < M)[:, None] & (col < N)[None, :]
    tl.store(out_ptr + row[:, None] * N + col[None, :], out.to(out_ptr.dtype.element_ty), mask=inside)


BY_EVEN_K = {even: tune(tiles, key=["tuned_for"])(_matmul) for even, tiles in ((True, TILES), (False, ODD_TILES))}


def _launch(
    a: Tensor, b: Tensor, a_scale: Tensor, b_scale: Tensor, bias: Tensor | None, out_dtype: torch.dtype,
    outliers: tuple[Tensor, Tensor] | None = None,
) -> Tensor:  # fmt: skip
    """(M, N) of int8_matmul, and added to it the products of the outlier columns, given as (x, their indices)."""
    (m, k), n = a.shape, len(b)
    out = torch.empty(m, n, dtype=out_dtype, device=a.device)
    if out.numel() == 0:
        return out
    x_strides = (0, 0) if outliers is None else outliers[0].stride()
    bias_stride = () if bias is None else bias.stride()
    strides = (*a.stride(), *b.stride(), *x_strides, *a_scale.stride(), *b_scale.stride(), *bias_stride)
    one_by_one = outliers is not None and outliers[0].dtype == ONE_BY_ONE

    def grid(meta: dict[str, Any]) -> tuple[int]:
        return (triton.cdiv(m, meta["BLOCK_M"]) * triton.cdiv(n, meta["BLOCK_N"]),)

    with device_of(a):
        BY_EVEN_K[k % EVEN == 0][grid](
            a, b, a_scale, b_scale, bias, outliers, out, strides, (m, n, k), (triton.next_power_of_2(m), n, k),
            EVEN_K=k % EVEN == 0, OUTLIER_BLOCK=1 if one_by_one else 32,
        )  # fmt: skip
    return out


def _expect_matrix(argument: str, value: Tensor, like: str, other: Tensor) -> None:
    """Raise unless `value` is an int8 matrix beside `other`, the argument named `like`, and has as many columns."""
    expect_tensor(argument, value, dtypes=(torch.int8,), rank=2)
    expect_device(argument, value, like, other)
    k, got = other.shape[-1], f"shape {tuple(value.shape)}"
    expect(value.shape[1] == k, argument, f"{k} columns, as {like} has", got)
    expect(k <= DEEPEST, argument, f"at most {DEEPEST} columns, whose products cannot overflow int32", got)


def _expect_vector(argument: str, value: Tensor, dtypes: tuple[torch.dtype, ...], like: str, matrix: Tensor) -> None:
    """Raise unless `value` is of one of `dtypes` and has an entry for every row of `matrix`, the argument `like`."""
    expect_tensor(argument, value, dtypes=dtypes, rank=1)
    expect_device(argument, value, like, matrix)
    expect(len(value) == len(matrix), argument, f"{len(matrix)} entries, one per row of {like}", len(value))
    expect_inference(argument, value)


def int8_matmul(
    a: Tensor,
    b: Tensor,
    a_scale: Tensor,
    b_scale: Tensor,
    *,
    bias: Tensor | None = None,
    out_dtype: torch.dtype = torch.bfloat16,
) -> Tensor:
    """(a @ b^T) * a_scale[:, None] * b_scale[None, :] + bias: an exact integer product, then fp32 and one cast.

    a: (M, K) int8; b: (N, K) int8; a_scale: (M,) fp32; b_scale: (N,) fp32; bias: (N,) fp32, fp16 or bf16; out_dtype:
    fp32, fp16 or bf16. Any strides (contiguous along K is fastest), any size may be 0, K at most 131071. Returns (M,
    N). For inference: an argument that asks for a gradient is refused.

    Raises:
        TypeError: an argument is not a tensor of these dtypes, or out_dtype none of them.
        ValueError: a shape or device does not fit, or an argument asks for a gradient.
    """
    expect_tensor("a", a, dtypes=(torch.int8,), rank=2)
    _expect_matrix("b", b, "a", a)
    _expect_vector("a_scale", a_scale, (torch.float32,), "a", a)
    _expect_vector("b_scale", b_scale, (torch.float32,), "b", b)
    if bias is not None:
        _expect_vector("bias", bias, FLOATS, "b", b)
    if out_dtype not in FLOATS:
        raise TypeError(f"out_dtype: expected {' or '.join(map(str, FLOATS))}, got {out_dtype}")
    return _launch(a, b, a_scale, b_scale, bias, out_dtype)


def int8_linear(
    x: Tensor, weight_int8: Tensor, weight_scale: Tensor, *, threshold: float = 6.0, bias: Tensor | None = None
) -> Tensor:
    """LLM.int8()'s x @ (weight_int8 * weight_scale[:, None])^T + bias: outlier columns in x's dtype, the rest in int8.

    A column of x is an outlier if any |x| in it reaches threshold: 0 makes all columns outliers, infinity those that
    hold infinity. Rows of the rest are quantised as by `quantize_int8`; an entry of NaN or Inf reaches its own row
    alone.

    x: (..., K) fp32, fp16 or bf16, any strides (leading dimensions that no view can join are copied); weight_int8:
    (N, K) int8, any strides; weight_scale: (N,) fp32; bias: (N,) fp32, fp16 or bf16. Returns (..., N) in x's dtype.
    For inference: an argument that asks for a gradient is refused, not silently detached. Source: Dettmers et al.
    2022, arXiv:2208.07339.

    Raises:
        TypeError: an argument is not a tensor of these dtypes, or threshold not a number.
        ValueError: a shape or device does not fit, threshold is negative or NaN, or an argument asks for a gradient.
    """
    expect_tensor("x", x, dtypes=FLOATS)
    expect(x.ndim >= 1, "x", "at least 1 dimension", f"shape {tuple(x.shape)}")
    expect_inference("x", x)
    _expect_matrix("weight_int8", weight_int8, "x", x)
    _expect_vector("weight_scale", weight_scale, (torch.float32,), "weight_int8", weight_int8)
    if isinstance(threshold, bool) or not isinstance(threshold, int | float):
        raise TypeError(f"threshold: expected a number, got {type(threshold).__name__}")
    expect(threshold >= 0, "threshold", "a number that is not negative", threshold)
    if bias is not None:
        _expect_vector("bias", bias, FLOATS, "weight_int8", weight_int8)
    rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
    outlier, index = outlier_columns(rows, float(threshold))
    q, scale = quantize_rows(rows, outlier)
    out = _launch(q, weight_int8, scale, weight_scale, bias, x.dtype, (rows, index))
    return out.view(*x.shape[:-1], len(weight_int8))
