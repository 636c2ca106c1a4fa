"""y_r = x_r @ weight[e]^T for every row r of expert e: the products of all experts in one launch, and their gradients.

Shapes: x (rows, K) sorted by expert, weight (experts, N, K) as linear layers store it, ends (experts,), y (rows, N).
Expert e owns the rows from ends[e - 1] (0 for the first) to ends[e], which may be none; rows behind the last end belong
to no expert, and are zero. Backward: dx_r = dy_r @ weight[e], dweight[e] = sum over the rows of e of dy_r^T x_r.

How many rows an expert has is known on the device alone, and the host does not wait for it. It launches as many
programs as there can be tiles, rows / BLOCK_M and one more for each expert. Each reads all ends, finds by a running sum
over the experts' tiles whose it is, and owns BLOCK_M rows of one expert and BLOCK_N columns of y. Tiles run in groups
of GROUP_M, column by column, so that what a group reads of x and of weights comes from memory about once and otherwise
from L2. dx is the same kernel with the weights transposed, by strides. For dweight a program owns a tile of one
expert's matrix and walks along its rows: no atomics, and the order of a sum is that of rows. dy is read for both.
Source: Gale et al. 2022, MegaBlocks (arXiv:2211.15841), section 5; Fedus et al. 2021 (arXiv:2101.03961), section 2.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels._launch import FLOATS, device_of, expect, expect_device, expect_like, expect_tensor, tune

BLOCK_K = 64
FEWEST_LANES = 256  # experts up to which one compiled kernel serves all models


def _config(m: int, n: int, k: int, warps: int, stages: int) -> triton.Config:
    return triton.Config({"BLOCK_M": m, "BLOCK_N": n, "BLOCK_K": k}, num_warps=warps, num_stages=stages)


# By whether operands have 16 bits and K is whole steps. The first fits 99 KiB of shared memory, and on gfx942 its
# 64 KiB; the last is for experts of few rows. Addresses of other K take registers, and fp32 takes twice as many.
TILES = {
    True: [_config(128, 128, BLOCK_K, 8, 3), _config(128, 256, BLOCK_K, 8, 3), _config(64, 128, BLOCK_K, 4, 4)],
    False: [_config(64, 32, 32, 4, 2)],
}


@triton.jit
def _rows_of(ends_ptr, expert, rows):
    """Where the rows of experts begin and end: as given, but never outside of x."""
    start = tl.load(ends_ptr + expert - 1, mask=expert > 0, other=0)
    stop = tl.load(ends_ptr + expert)
    start, stop = tl.minimum(tl.maximum(start, 0), rows), tl.minimum(tl.maximum(stop, 0), rows)
    return start.to(tl.int32), stop.to(tl.int32)


@triton.jit
def _tile(ends_ptr, sizes, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, EXPERTS: tl.constexpr, GROUP_M: tl.constexpr):
    """This program's expert (as many as there are: none), its first row, where the expert's rows stop, its columns."""
    rows, N, experts = sizes[0], sizes[1], sizes[3]
    across = tl.cdiv(N, BLOCK_N)
    first = tl.program_id(0) // (GROUP_M * across) * GROUP_M
    place = tl.program_id(0) % (GROUP_M * across)
    height = tl.minimum(rows // BLOCK_M + tl.minimum(experts + 1, rows) - first, GROUP_M)
    tile, column = first + place % height, place // height

    lane = tl.arange(0, EXPERTS)
    start, stop = _rows_of(ends_ptr, tl.minimum(lane, experts - 1), rows)
    start, stop = tl.where(lane < experts, start, 0), tl.where(lane < experts, stop, 0)
    tiles = tl.cdiv(tl.maximum(stop - start, 0), BLOCK_M)
    earlier = tl.cumsum(tiles, 0) <= tile
    expert = tl.minimum(tl.sum(earlier.to(tl.int32), 0), experts)
    row = (tile - tl.sum(tl.where(earlier, tiles, 0), 0)) * BLOCK_M
    # Where all experts are earlier, what is left begins where the last one stops.
    begin = tl.sum(tl.where(lane == expert, start, tl.where((lane == experts - 1) & (expert == experts), stop, 0)), 0)
    limit = tl.where(expert == experts, rows, tl.sum(tl.where(lane == expert, stop, 0), 0))
    return expert, begin + row, limit, column.to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)


@triton.jit
def _product(a_ptr, b_ptr, strides, row, col, inside, depth, BLOCK_K: tl.constexpr, EVEN: tl.constexpr):
    """a @ b along `depth`, for rows and columns of which only those inside are read."""
    k = tl.arange(0, BLOCK_K).to(tl.int64)
    a_ptr += row[:, None] * strides[0] + k[None, :] * strides[1]
    b_ptr += k[:, None] * strides[2] + col[None, :] * strides[3]
    total = tl.zeros((row.shape[0], col.shape[0]), tl.float32)
    for start in range(0, depth, BLOCK_K):
        a_inside, b_inside = inside[0][:, None], inside[1][None, :]
        if not EVEN:
            a_inside &= (k < depth - start)[None, :]
            b_inside &= (k < depth - start)[:, None]
        a = tl.load(a_ptr, mask=a_inside, other=0.0)
        b = tl.load(b_ptr, mask=b_inside, other=0.0)
        total = tl.dot(a, b, total, input_precision="ieee")
        a_ptr += BLOCK_K * tl.cast(strides[1], tl.int64)
        b_ptr += BLOCK_K * tl.cast(strides[2], tl.int64)
    return total


@triton.jit
def _rows_times_weights(
    x_ptr, weight_ptr, ends_ptr, y_ptr, strides, sizes,
    tuned_for,  # noqa: ARG001 - the key of tuning: the power of two that rows of an expert reach up to, N and K
    EVEN: tl.constexpr, EXPERTS: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr = 8,
):  # fmt: skip
    N, K, experts = sizes[1], sizes[2], sizes[3]
    expert, start, stop, col = _tile(ends_ptr, sizes, BLOCK_M, BLOCK_N, EXPERTS, GROUP_M)
    if start < stop:
        row = start.to(tl.int64) + tl.arange(0, BLOCK_M)
        inside = (row < stop, col < N)
        matrix_ptr = weight_ptr + expert.to(tl.int64) * strides[4]
        depth = tl.where(expert < experts, K, 0)
        y = _product(x_ptr, matrix_ptr, strides, row, col, inside, depth, BLOCK_K, EVEN)
        at = row[:, None] * N + col[None, :]
        tl.store(y_ptr + at, y.to(y_ptr.dtype.element_ty), mask=inside[0][:, None] & inside[1][None, :])


@triton.jit
def _weight_gradient(
    dy_ptr, x_ptr, ends_ptr, dweight_ptr, strides, sizes,
    tuned_for,  # noqa: ARG001 - the key of tuning, as above
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    rows, N, K = sizes
    down, across = tl.cdiv(N, BLOCK_M), tl.cdiv(K, BLOCK_N)
    expert = tl.program_id(0) // (down * across)
    place = tl.program_id(0) % (down * across)
    row = (place // across).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    col = (place % across).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = (row < N, col < K)
    start, stop = _rows_of(ends_ptr, expert, rows)
    dy_ptr += start.to(tl.int64) * strides[1]
    x_ptr += start.to(tl.int64) * strides[2]
    dweight = _product(dy_ptr, x_ptr, strides, row, col, inside, stop - start, BLOCK_K, False)
    dweight_ptr += expert.to(tl.int64) * strides[4] + row[:, None] * strides[5] + col[None, :] * strides[6]
    tl.store(dweight_ptr, dweight.to(dweight_ptr.dtype.element_ty), mask=inside[0][:, None] & inside[1][None, :])


ROWS_TIMES_WEIGHTS = {even: tune(tiles, key=["tuned_for"])(_rows_times_weights) for even, tiles in TILES.items()}
WEIGHT_GRADIENT = {even: tune(tiles[:2], key=["tuned_for"])(_weight_gradient) for even, tiles in TILES.items()}


def _launch(x: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    """(rows, N): the rows of x, each times the matrix of its expert."""
    (rows, k), (experts, n, _) = x.shape, weight.shape
    y = torch.empty(rows, n, dtype=x.dtype, device=x.device)
    if y.numel() == 0:
        return y
    even = k % BLOCK_K == 0 and x.element_size() == 2
    strides = (*x.stride(), *weight.stride()[::-1])
    tuned_for = triton.next_power_of_2(triton.cdiv(rows, experts)), n, k

    def grid(meta: dict[str, Any]) -> tuple[int]:
        tiles = rows // meta["BLOCK_M"] + min(experts + 1, rows)
        return (tiles * triton.cdiv(n, meta["BLOCK_N"]),)

    with device_of(x):
        ROWS_TIMES_WEIGHTS[even][grid](
            x, weight, ends, y, strides, (rows, n, k, experts), tuned_for,
            EVEN=even, EXPERTS=max(FEWEST_LANES, triton.next_power_of_2(experts)),
        )  # fmt: skip
    return y


def _launch_weight_gradient(x: Tensor, dy: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    """(experts, N, K), laid out as weight is."""
    (rows, k), (experts, n, _) = x.shape, weight.shape
    dweight = torch.empty_like(weight)
    if dweight.numel() == 0:
        return dweight
    even = x.element_size() == 2 and k % BLOCK_K == 0 and n % BLOCK_K == 0
    strides = (*dy.stride()[::-1], *x.stride(), *dweight.stride())
    tuned_for = triton.next_power_of_2(triton.cdiv(rows, experts)), n, k

    def grid(meta: dict[str, Any]) -> tuple[int]:
        return (experts * triton.cdiv(n, meta["BLOCK_M"]) * triton.cdiv(k, meta["BLOCK_N"]),)

    with device_of(x):
        WEIGHT_GRADIENT[even][grid](dy, x, ends, dweight, strides, (rows, n, k), tuned_for)
    return dweight


class _GroupedMatmul(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight, ends)
        return _launch(x, weight, ends)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, ends = ctx.saved_tensors
        dx = _launch(dy, weight.transpose(1, 2), ends) if ctx.needs_input_grad[0] else None
        dweight = _launch_weight_gradient(x, dy, weight, ends) if ctx.needs_input_grad[1] else None
        return dx, dweight, None


def grouped_matmul(x: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    """Return x_r @ weight[e]^T for the rows r of expert e, those from ends[e - 1] (0 for the first) to ends[e].

    x: (rows, K) sorted by expert, fp32, fp16 or bf16; weight: (experts, N, K) of that dtype, at least 1 expert; any
    strides (contiguous along K or N is fastest, and torch's grouped_mm takes the same transposed). ends: (experts,)
    int32 or int64, never falling; what they claim beyond the last row is not there. Returns (rows, N); rows behind the
    last end are zero. Sums are fp32, with one cast at the end. Differentiable in x and weight; deterministic; the host
    never waits for ends. Source: arXiv:2211.15841; arXiv:2101.03961.

    Raises:
        TypeError, ValueError: an argument is not as described.
    """
    expect_tensor("x", x, dtypes=FLOATS, rank=2)
    expect_tensor("weight", weight, dtypes=FLOATS, rank=3)
    expect_like("weight", weight, "x", x)
    expect(weight.shape[2] == x.shape[1], "weight", f"{x.shape[1]} columns, as x has", weight.shape[2])
    expect(len(weight) >= 1, "weight", "at least 1 expert", f"shape {tuple(weight.shape)}")
    expect_tensor("ends", ends, dtypes=(torch.int32, torch.int64), rank=1)
    expect_device("ends", ends, "x", x)
    expect(len(ends) == len(weight), "ends", f"{len(weight)} entries, one for each expert of weight", len(ends))
    ends = ends.contiguous()
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
        y: Tensor = _GroupedMatmul.apply(x, weight, ends)
        return y
    return _launch(x, weight, ends)
