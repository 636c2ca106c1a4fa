"""y = x W^T + (alpha / R) (x A^T) B^T + bias: a linear layer whose weight is frozen, and the adapter that is trained.

Shapes: x (M, K), weight (N, K), a (R, K), b (N, R), bias (N,), y (M, N), R at most 256. Two launches:

h = x A^T, once. A program owns BLOCK_M rows and a share of K, for where tiles of rows are few their sums are split
among as many programs as fill the GPU; partial sums stay apart, in fp32. x is read once more than it must be, a few per
cent of the time of the product. Computed on the way, inside of the product, h would take a tensor-core instruction of
few columns for every one of 256: these wait for x from shared memory and cost an eighth more, for every tile anew.

y. A program owns one BLOCK_M x BLOCK_N tile, adds up the partial sums of h in a fixed order, scales and rounds them to
the dtype of x, multiplies them with b, and goes on from there along K in the same accumulator: the adapter costs y no
second pass over memory. It comes first, for behind the loop its tiles would want the registers that the store needs.

Backward: dx = dy W + (alpha / R) (dy B) A is the same function of dy, W^T, B^T and A^T, and leaves dh = dy B. Then
    dA = (alpha / R) dh^T x,  dB = (alpha / R) dy^T h,  dbias = sum of dy over rows
are plain products and a sum, left to torch. The weight has no gradient, and nothing of the size of y is kept.
Source: Hu et al. 2021, arXiv:2106.09685.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels._launch import FLOATS, device_of, expect, expect_inference, expect_like, expect_tensor, processors, tune
from kernels._matmul import load_tile, near, place, store_tile

MOST = 256  # the rank up to which the sums of a tile of h stay in registers
WIDEST = 64  # columns of h that are multiplied at a time, beside a tile of y
SHARES = 8  # partial sums at most: every tile of y reads all of those of its rows
EVEN = 64  # what every BLOCK_K of 16 bits divides

TILES = [
    triton.Config({"BLOCK_M": 128, "BLOCK_N": n, "BLOCK_K": 64}, num_warps=8, num_stages=stages)
    for n, stages in ((128, 3), (256, 4))
]
THIN_TILES = [triton.Config({"BLOCK_M": 64, "BLOCK_K": 64}, num_warps=4, num_stages=4)]
# fp32 is multiplied by fp32 units, and other K are read entry by entry: addresses and sums fill the registers.
ODD_TILES = [triton.Config({"BLOCK_M": 32, "BLOCK_N": 32, "BLOCK_K": 32}, num_warps=4, num_stages=2)]
ODD_THIN_TILES = [triton.Config({"BLOCK_M": 32, "BLOCK_K": 32}, num_warps=4, num_stages=2)]


@triton.jit
def _project(
    x_ptr, a_ptr, h_ptr, x_strides, a_strides, sizes,
    tuned_for,  # noqa: ARG001 - the key of tuning: the power of two that M reaches up to, and K
    EVEN_K: tl.constexpr, RANK: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    M, K, span = sizes
    row, share = tl.program_id(0).to(tl.int64) * BLOCK_M, tl.program_id(1)
    h = tl.zeros((BLOCK_M, BLOCK_R), tl.float32)
    for start in range(share * span, tl.minimum((share + 1) * span, K), BLOCK_K):
        x = load_tile(x_ptr, x_strides, row, M, start, K, BLOCK_M, BLOCK_K, EVEN_K)
        a = load_tile(a_ptr, (a_strides[1], a_strides[0]), start, K, 0, RANK, BLOCK_K, BLOCK_R, RANK == BLOCK_R)
        h = tl.dot(x, a, h, input_precision="ieee")
    store_tile(h_ptr + share.to(tl.int64) * M * RANK, h, row, M, 0, RANK)


@triton.jit
def _adapted(
    x_ptr, weight_ptr, h_ptr, b_ptr, bias_ptr, y_ptr, strides, sizes, scale,
    tuned_for,  # noqa: ARG001 - the key of tuning: the power of two that M reaches up to, N and K
    EVEN_K: tl.constexpr, RANK: tl.constexpr, BLOCK_R: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr = 8,
):  # fmt: skip
    M, N, K, shares = sizes
    x_strides, weight_strides, b_strides, bias_stride = strides
    row, col = place(M, N, BLOCK_M, BLOCK_N, GROUP_M)
    rest = (N - col).to(tl.int32)
    weight_ptr += col * weight_strides[0]
    y = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for r in tl.static_range(0, RANK, BLOCK_R):
        h = tl.zeros((BLOCK_M, BLOCK_R), tl.float32)
        for share in range(shares):
            part_ptr = h_ptr + tl.cast(share, tl.int64) * M * RANK
            h += load_tile(part_ptr, (RANK, 1), row, M, r, RANK, BLOCK_M, BLOCK_R, RANK % BLOCK_R == 0)
        b_strides_t = (b_strides[1], b_strides[0])
        b = load_tile(b_ptr + col * b_strides[0], b_strides_t, r, RANK, 0, rest, BLOCK_R, BLOCK_N, False)
        y = tl.dot((h * scale).to(b.dtype), b, y, input_precision="ieee")
    for start in range(0, K, BLOCK_K):
        x = load_tile(x_ptr, x_strides, row, M, start, K, BLOCK_M, BLOCK_K, EVEN_K)
        to = (weight_strides[1], weight_strides[0])
        weight = load_tile(weight_ptr, to, start, K, 0, rest, BLOCK_K, BLOCK_N, False)
        y = tl.dot(x, weight, y, input_precision="ieee")
    if bias_ptr is not None:
        j = col + tl.arange(0, BLOCK_N)
        y += tl.load(bias_ptr + j * bias_stride, mask=j < N, other=0.0).to(tl.float32)[None, :]
    store_tile(y_ptr, y, row, M, col, N)


PROJECT = {
    fast: tune(tiles, key=["tuned_for"])(_project) for fast, tiles in ((True, THIN_TILES), (False, ODD_THIN_TILES))
}
ADAPTED = {fast: tune(tiles, key=["tuned_for"])(_adapted) for fast, tiles in ((True, TILES), (False, ODD_TILES))}


def _launch(
    x: Tensor, weight: Tensor, a: Tensor, b: Tensor, bias: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    """(y, the partial sums of h as (shares, M, R) in fp32)."""
    (m, k), n, rank = x.shape, len(weight), len(a)
    x, weight, a, b = near("x", x), near("weight", weight), near("a", a), near("b", b)
    fast = k % EVEN == 0 and x.element_size() == 2
    rows = triton.cdiv(m, THIN_TILES[0].kwargs["BLOCK_M"])
    span = triton.cdiv(k, EVEN * max(1, min(2 * processors(x) // max(1, rows), SHARES))) * EVEN
    shares = triton.cdiv(k, span) if k else 0
    h = torch.empty(shares, m, rank, dtype=torch.float32, device=x.device)
    y = torch.empty(m, n, dtype=x.dtype, device=x.device)
    if y.numel() == 0 and h.numel() == 0:
        return y, h
    width, reach = max(16, triton.next_power_of_2(rank)), triton.next_power_of_2(m)
    strides = (x.stride(), weight.stride(), b.stride(), 0 if bias is None else bias.stride(0))
    with device_of(x):
        if shares:
            PROJECT[fast][lambda meta: (triton.cdiv(m, meta["BLOCK_M"]), shares)](
                x, a, h, x.stride(), a.stride(), (m, k, span), (reach, k), EVEN_K=fast, RANK=rank, BLOCK_R=width
            )
        if n:
            ADAPTED[fast][lambda meta: (triton.cdiv(m, meta["BLOCK_M"]) * triton.cdiv(n, meta["BLOCK_N"]),)](
                x, weight, h, b, bias, y, strides, (m, n, k, shares), scale, (reach, n, k),
                EVEN_K=fast, RANK=rank, BLOCK_R=min(WIDEST, width),
            )  # fmt: skip
    return y, h


class _LoraLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, a: Tensor, b: Tensor, bias: Tensor | None, scale: float
    ) -> Tensor:  # fmt: skip
        y, h = _launch(x, weight, a, b, bias, scale)
        ctx.save_for_backward(x, weight, a, b, h)
        ctx.scale = scale
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, a, b, h = ctx.saved_tensors
        needs_dx, _, needs_da, needs_db, needs_dbias, _ = ctx.needs_input_grad
        dx = da = db = None
        if needs_dx:
            dx, dh = _launch(dy, weight.T, b.T, a.T, None, ctx.scale)
        elif needs_da:
            dh = (dy @ b)[None].float()
        if needs_da:
            da = (dh.sum(0) * ctx.scale).to(x.dtype).T @ x
        if needs_db:
            db = dy.T @ (h.sum(0) * ctx.scale).to(x.dtype)
        return dx, None, da, db, dy.sum(0) if needs_dbias else None, None


def _check(x: Tensor, weight: Tensor, a: Tensor, b: Tensor, alpha: float, bias: Tensor | None) -> None:
    expect_tensor("x", x, dtypes=FLOATS)
    expect(x.ndim >= 1, "x", "at least 1 dimension", f"shape {tuple(x.shape)}")
    for name, matrix in (("weight", weight), ("a", a), ("b", b)):
        expect_tensor(name, matrix, dtypes=FLOATS, rank=2)
        expect_like(name, matrix, "x", x)
    for name, matrix in (("weight", weight), ("a", a)):
        k, got = x.shape[-1], f"shape {tuple(matrix.shape)}"
        expect(matrix.shape[1] == k, name, f"{k} columns, as x has", got)
    expect_inference("weight", weight)
    expect(1 <= len(a) <= MOST, "a", f"1 to {MOST} rows, the rank", f"shape {tuple(a.shape)}")
    shape = (len(weight), len(a))
    expect(b.shape == shape, "b", f"shape {shape}, rows of weight by rows of a", f"shape {tuple(b.shape)}")
    if isinstance(alpha, bool) or not isinstance(alpha, int | float):
        raise TypeError(f"alpha: expected a number, got {type(alpha).__name__}")
    expect(abs(alpha) <= torch.finfo(torch.float32).max, "alpha", "a number that is finite in float32", alpha)
    if bias is not None:
        expect_tensor("bias", bias, dtypes=FLOATS, rank=1)
        expect_like("bias", bias, "x", x)
        expect(len(bias) == len(weight), "bias", f"{len(weight)} entries, one for each row of weight", len(bias))


def lora_linear(
    x: Tensor, weight: Tensor, a: Tensor, b: Tensor, *, alpha: float = 16.0, bias: Tensor | None = None
) -> Tensor:
    """Return x weight^T + (alpha / R) (x a^T) b^T + bias: sums in fp32, one cast at the end.

    x: (..., K) fp32, fp16 or bf16; weight: (N, K), a: (R, K), b: (N, R), bias: (N,), of the dtype and device of x; R
    from 1 to 256. Any strides (fastest where K and R are contiguous; leading dimensions that no view can join are
    copied), other sizes may be 0. Returns (..., N), contiguous; differentiable in all but weight, which is frozen and
    refused where it asks for a gradient. fp32 is multiplied in fp32, never in TF32. Source: Hu et al. 2021,
    arXiv:2106.09685.

    Raises:
        TypeError, ValueError: an argument is not as described.
    """
    _check(x, weight, a, b, alpha, bias)
    rows, scale = x.reshape(math.prod(x.shape[:-1]), x.shape[-1]), alpha / len(a)
    y: Tensor
    if torch.is_grad_enabled() and any(value is not None and value.requires_grad for value in (x, a, b, bias)):
        y = _LoraLinear.apply(rows, weight, a, b, bias, scale)
    else:
        y, _ = _launch(rows, weight, a, b, bias, scale)
    return y.view(*x.shape[:-1], len(weight))
