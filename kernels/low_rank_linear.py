"""y = (x A^T) B^T + bias: a linear layer of rank R, both products in one launch, what lies between them on chip.

Shapes: x (M, K), a (R, K), b (N, R), bias (N,), y (M, N), R at most 256. A program owns BLOCK_M rows: it walks along K
for their h = x A^T, which it holds as BLOCK_M x R, then along columns of y, BLOCK_N at a time. Where there are fewer
tiles of rows than multiprocessors, several programs share the columns of a tile of rows and each of them computes h,
side by side, so that x comes from memory once and h costs time that would have been idle. h is rounded to the dtype of
x before the second product, as tensor cores want it, and leaves the chip only for a backward.

Backward: dx = (dy B) A is the same function of dy, B^T and A^T, and its inner factor is dh = dy B. With it and h
    dA = dh^T x,  dB = dy^T h,  dbias = sum of dy over rows
are plain products and a sum, left to torch: each reads its large factor once.
Sources: Sainath et al. 2013, ICASSP (the layer); Denton et al. 2014, arXiv:1404.0736 (by truncated SVD).
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels._launch import FLOATS, device_of, expect, expect_like, expect_tensor, processors, tune
from kernels._matmul import load_tile, near, store_tile

MOST = 256  # the rank up to which a tile of h stays in registers beside a tile of y
EVEN = 64  # what BLOCK_K of TILES divides

TILES = [triton.Config({"BLOCK_M": 128, "BLOCK_N": 64, "BLOCK_K": 64}, num_warps=8, num_stages=3)]
# fp32 is multiplied by fp32 units, and other K are read entry by entry: addresses and sums fill the registers.
ODD_TILES = [triton.Config({"BLOCK_M": 32, "BLOCK_N": 32, "BLOCK_K": 32}, num_warps=4, num_stages=2)]


@triton.jit
def _low_rank(
    x_ptr, a_ptr, b_ptr, bias_ptr, h_ptr, y_ptr, strides, sizes,
    tuned_for,  # noqa: ARG001 - the key of tuning: the power of two that M reaches up to, N and K
    EVEN_K: tl.constexpr, RANK: tl.constexpr, BLOCK_R: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    M, N, K = sizes
    x_strides, a_strides, b_strides, bias_stride = strides
    sharing = tl.num_programs(0) // tl.cdiv(M, BLOCK_M)
    share = tl.program_id(0) % sharing
    row = (tl.program_id(0) // sharing).to(tl.int64) * BLOCK_M
    h = tl.zeros((BLOCK_M, BLOCK_R), tl.float32)
    for start in range(0, K, BLOCK_K):
        x = load_tile(x_ptr, x_strides, row, M, start, K, BLOCK_M, BLOCK_K, EVEN_K)
        a = load_tile(a_ptr, (a_strides[1], a_strides[0]), start, K, 0, RANK, BLOCK_K, BLOCK_R, RANK == BLOCK_R)
        h = tl.dot(x, a, h, input_precision="ieee")
    h = h.to(x_ptr.dtype.element_ty)
    if h_ptr is not None:
        store_tile(h_ptr, h, row, tl.where(share == 0, M, 0), 0, RANK)
    for tile in range(share, tl.cdiv(N, BLOCK_N), sharing):
        col = tl.cast(tile, tl.int64) * BLOCK_N
        b = load_tile(b_ptr, (b_strides[1], b_strides[0]), 0, RANK, col, N, BLOCK_R, BLOCK_N, False)
        y = tl.dot(h, b, input_precision="ieee")
        if bias_ptr is not None:
            j = col + tl.arange(0, BLOCK_N)
            y += tl.load(bias_ptr + j * bias_stride, mask=j < N, other=0.0).to(tl.float32)[None, :]
        store_tile(y_ptr, y, row, M, col, N)


BY_SPEED = {fast: tune(tiles, key=["tuned_for"])(_low_rank) for fast, tiles in ((True, TILES), (False, ODD_TILES))}


def _launch(x: Tensor, a: Tensor, b: Tensor, bias: Tensor | None, keep: bool) -> tuple[Tensor, Tensor | None]:
    """(y, h), or (y, None) where h is not to be kept."""
    (m, k), (n, rank) = x.shape, b.shape
    y = torch.empty(m, n, dtype=x.dtype, device=x.device)
    h = torch.empty(m, rank, dtype=x.dtype, device=x.device) if keep else None
    fast = k % EVEN == 0 and x.element_size() == 2
    x, a, b = near("x", x), near("a", a), near("b", b)
    strides = (x.stride(), a.stride(), b.stride(), 0 if bias is None else bias.stride(0))
    if y.numel() == 0:
        return y, None if h is None else h.zero_()

    def grid(meta: dict[str, Any]) -> tuple[int]:
        tiles = triton.cdiv(m, meta["BLOCK_M"])
        return (tiles * max(1, min(processors(x) // tiles, triton.cdiv(n, meta["BLOCK_N"]))),)

    with device_of(x):
        BY_SPEED[fast][grid](
            x, a, b, bias, h, y, strides, (m, n, k), (triton.next_power_of_2(m), n, k),
            EVEN_K=fast, RANK=rank, BLOCK_R=max(16, triton.next_power_of_2(rank)),
        )  # fmt: skip
    return y, h


class _LowRankLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
        y, h = _launch(x, a, b, bias, keep=ctx.needs_input_grad[2])
        ctx.save_for_backward(x, a, b, h)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, a, b, h = ctx.saved_tensors
        needs_dx, needs_da, needs_db, needs_dbias = ctx.needs_input_grad
        dx = dh = None
        if needs_dx:
            dx, dh = _launch(dy, b.T, a.T, None, keep=needs_da)
        elif needs_da:
            dh = dy @ b
        da = dh.T @ x if needs_da and dh is not None else None
        db = dy.T @ h if needs_db else None
        return dx, da, db, dy.sum(0) if needs_dbias else None


def low_rank_linear(x: Tensor, a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return (x a^T) b^T + bias: sums in fp32, x a^T rounded to the dtype of x between them, one cast at the end.

    x: (..., K) fp32, fp16 or bf16; a: (R, K), b: (N, R), bias: (N,), of the dtype and device of x; R from 1 to 256. Any
    strides (fastest where K and R are contiguous; leading dimensions that no view can join are copied), other sizes may
    be 0. Returns (..., N), contiguous; differentiable in all. fp32 is multiplied in fp32, never in TF32.
    Sources: Sainath et al. 2013, ICASSP; Denton et al. 2014, arXiv:1404.0736.

    Raises:
        TypeError, ValueError: an argument is not as described.
    """
    expect_tensor("x", x, dtypes=FLOATS)
    expect(x.ndim >= 1, "x", "at least 1 dimension", f"shape {tuple(x.shape)}")
    for name, factor in (("a", a), ("b", b)):
        expect_tensor(name, factor, dtypes=FLOATS, rank=2)
        expect_like(name, factor, "x", x)
    expect(a.shape[1] == x.shape[-1], "a", f"{x.shape[-1]} columns, as x has", f"shape {tuple(a.shape)}")
    expect(1 <= len(a) <= MOST, "a", f"1 to {MOST} rows, the rank", f"shape {tuple(a.shape)}")
    expect(b.shape[1] == len(a), "b", f"{len(a)} columns, one for each row of a", f"shape {tuple(b.shape)}")
    if bias is not None:
        expect_tensor("bias", bias, dtypes=FLOATS, rank=1)
        expect_like("bias", bias, "x", x)
        expect(len(bias) == len(b), "bias", f"{len(b)} entries, one for each row of b", len(bias))
    rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
    y: Tensor
    if torch.is_grad_enabled() and any(value is not None and value.requires_grad for value in (x, a, b, bias)):
        y = _LowRankLinear.apply(rows, a, b, bias)
    else:
        y, _ = _launch(rows, a, b, bias, keep=False)
    return y.view(*x.shape[:-1], len(b))
