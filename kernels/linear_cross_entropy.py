"""loss = -mean(log p_t) over the rows that count, p = softmax(hidden @ weight^T), without the logits in memory.

t is the target of a row; a row does not count if its target is ignore_index. hidden (rows, K), weight (V, K), targets
(rows,), loss a number. With n the rows that count and d the gradient of loss, the slopes are p - [j = t], and
dhidden = (d / n) slopes @ weight, dweight = (d / n) slopes^T @ hidden.

Forward: rows that count are told apart from the others once, and gathered wherever tiles of them are made: prompts and
padding cost no product. One program owns BLOCK_M of these rows and SPLIT columns of the vocabulary, over which it walks
with an online log-sum-exp in the epilogue of its product, and leaves 8 bytes for each row; a second launch joins them.
Backward: `kernels._chunked` has the slopes made anew, a chunk of the vocabulary at a time. In all 8 V K operations for
each row that counts, 2 more than the gradients of stored logits take. Memory: 8 bytes a row for each SPLIT columns and
28 a row; in the backward one chunk of slopes, and what it rounds away of dhidden.
Source: Wijmans et al. 2024, Cut Your Losses, arXiv:2411.09009; Hsu et al. 2024, Liger, arXiv:2410.10989.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels._chunked import (
    EVEN,
    NARROW,
    WIDE,
    as_matrix,
    counted,
    gradients,
    launch_tiles,
    order_of,
    place,
    rise,
    row_of,
    scores,
    tuned,
)
from kernels._launch import FLOATS, device_of, expect, expect_device, expect_like, expect_tensor
from kernels._logprob import LOG2E, LOWEST
from kernels.cross_entropy import mean

SPLIT = 2048  # columns of a program: 252 programs for 512 rows and 128k columns, and 1/512 of the logits in memory
JOINED = 32  # rows of a program that joins splits


@triton.jit
def _column(target, cols):
    """The column of a target, -1 if it is none: 32 bits, since tiles of 64-bit ones take registers."""
    return tl.where((target >= 0) & (target < cols), target, -1).to(tl.int32)


@triton.jit
def _forward_kernel(
    hidden_ptr, weight_ptr, targets_ptr, order_ptr, chosen_ptr, parts_ptr, strides, sizes, tuned_for,  # noqa: ARG001
    SPLIT: tl.constexpr, EVEN_K: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    rows, cols, K = sizes
    split, group = place(tl.cdiv(cols, SPLIT), tl.cdiv(rows, BLOCK_M), GROUP)
    count = counted(order_ptr, rows)
    if group * BLOCK_M >= count:
        return
    at = group * BLOCK_M + tl.arange(0, BLOCK_M)
    row = row_of(order_ptr, at, count)
    target = _column(tl.load(targets_ptr + row, mask=at < count, other=-1), cols)
    # Begun at a finite number: behind a first -inf, -inf - peak would be NaN.
    peak = tl.full((BLOCK_M,), LOWEST, tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    chosen = tl.zeros((BLOCK_M,), tl.float32)
    first = split * SPLIT
    for start in range(first, tl.minimum(first + SPLIT, cols), BLOCK_N):
        col = start + tl.arange(0, BLOCK_N)
        x = scores((hidden_ptr, weight_ptr, strides), row, col, cols, K, BLOCK_K, EVEN_K)
        x = tl.where((col < cols)[None, :], x, -float("inf"))
        peak, fade, powers = rise(x, peak)
        total = total * fade + tl.sum(powers, 1)
        chosen += tl.sum(tl.where(col[None, :] == target[:, None], x, 0.0), 1)
    parts_ptr += split.to(tl.int64) * 2 * rows + at
    tl.store(parts_ptr, peak, mask=at < count)
    tl.store(parts_ptr + rows, total, mask=at < count)
    tl.store(chosen_ptr + at, chosen, mask=(at < count) & (target >= 0) & (target // SPLIT == split))


@triton.jit
def _join_kernel(
    targets_ptr, order_ptr, chosen_ptr, parts_ptr, logprob_ptr, stats_ptr, sizes,
    SPLIT: tl.constexpr, BLOCK_SPLITS: tl.constexpr, BLOCK_ROWS: tl.constexpr,
):  # fmt: skip
    rows, cols, _ = sizes
    at = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    split = tl.arange(0, BLOCK_SPLITS)[:, None]
    count = counted(order_ptr, rows)
    row = row_of(order_ptr, at, rows)
    target = tl.load(targets_ptr + row, mask=at < count, other=0)
    known = (target >= 0) & (target < cols)
    parts_ptr += split.to(tl.int64) * 2 * rows + at[None, :]
    inside = (split * SPLIT < cols) & (at < count)[None, :]
    peak = tl.load(parts_ptr, mask=inside, other=LOWEST)
    total = tl.load(parts_ptr + rows, mask=inside, other=0.0)
    top = tl.max(peak, 0)
    total = tl.sum(total * tl.exp2((peak - top[None, :]) * LOG2E), 0)
    chosen = tl.load(chosen_ptr + at, mask=(at < count) & known, other=float("nan"))
    tl.store(logprob_ptr + row, tl.where(at < count, (chosen - top) - tl.log(total), 0.0), mask=at < rows)
    if stats_ptr is not None:
        tl.store(stats_ptr + at, tl.where(known, top, float("nan")), mask=at < count)
        tl.store(stats_ptr + rows + at, total, mask=at < count)


@triton.jit
def _slopes_kernel(
    hidden_ptr, weight_ptr, targets_ptr, order_ptr, stats_ptr, slopes_ptr, strides, sizes, tuned_for,  # noqa: ARG001
    EVEN_K: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    rows, K, first, width = sizes
    tile, group = place(tl.cdiv(width, BLOCK_N), tl.cdiv(rows, BLOCK_M), GROUP)
    count = counted(order_ptr, rows)
    if group * BLOCK_M >= count:
        return
    at = group * BLOCK_M + tl.arange(0, BLOCK_M)
    row = row_of(order_ptr, at, count)
    place_of = tile * BLOCK_N + tl.arange(0, BLOCK_N)
    col = first + place_of
    x = scores((hidden_ptr, weight_ptr, strides), row, col, first + width, K, BLOCK_K, EVEN_K)
    top = tl.load(stats_ptr + at, mask=at < count, other=0.0)
    total = tl.load(stats_ptr + rows + at, mask=at < count, other=1.0)
    target = _column(tl.load(targets_ptr + row, mask=at < count, other=-1), first + width)
    slopes = tl.exp2((x - top[:, None]) * LOG2E) * (1 / total)[:, None]
    slopes -= tl.where(col[None, :] == target[:, None], 1.0, 0.0)
    slopes_ptr += at[:, None] * strides[2] + place_of[None, :]
    tl.store(
        slopes_ptr, slopes.to(slopes_ptr.dtype.element_ty), mask=(at < count)[:, None] & (place_of < width)[None, :]
    )


FORWARD, SLOPES = (tuned(kernel, NARROW, WIDE) for kernel in (_forward_kernel, _slopes_kernel))


def _launch_forward(
    hidden: Tensor, weight: Tensor, targets: Tensor, ignore_index: int, keep: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """The loss, minus one over the rows that count, and what the backward needs: their order and sums."""
    (rows, depth), cols = hidden.shape, len(weight)
    sizes, splits = (rows, cols, depth), triton.cdiv(cols, SPLIT)
    logprob, chosen, parts, stats = (
        torch.empty(*shape, dtype=torch.float32, device=hidden.device)
        for shape in ((rows,), (rows,), (splits, 2, rows), (2, rows if keep else 0))
    )
    order = order_of(targets, ignore_index)
    if rows:
        hidden, weight, targets = as_matrix(hidden), as_matrix(weight), targets.contiguous()
        launch_tiles(
            FORWARD, rows, cols, hidden, weight, targets, order, chosen, parts, (hidden.stride(0), weight.stride(0)),
            sizes, across=SPLIT, SPLIT=SPLIT, EVEN_K=depth % EVEN == 0,
        )  # fmt: skip
        with device_of(hidden):
            _join_kernel[(triton.cdiv(rows, JOINED),)](
                targets, order, chosen, parts, logprob, stats if keep else None, sizes,
                SPLIT=SPLIT, BLOCK_SPLITS=triton.next_power_of_2(splits), BLOCK_ROWS=JOINED,
            )  # fmt: skip
    loss, factor = mean(logprob, targets, ignore_index, hidden.dtype)
    return loss, factor, order, stats if keep else None


def _fill(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    order: Tensor,
    stats: Tensor,
    slopes: Tensor,
    first: int,
    width: int,
) -> None:
    """The slopes of a chunk of the vocabulary."""
    rows, depth = hidden.shape
    strides = hidden.stride(0), weight.stride(0), slopes.stride(0)
    launch_tiles(
        SLOPES, rows, width, hidden, weight, targets, order, stats, slopes, strides, (rows, depth, first, width),
        EVEN_K=depth % EVEN == 0,
    )  # fmt: skip


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, ignore_index: int) -> Tensor:
        loss, factor, order, stats = _launch_forward(hidden, weight, targets, ignore_index, keep=True)
        ctx.save_for_backward(hidden, weight, targets, factor, order, stats)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dloss: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, targets, factor, order, stats = ctx.saved_tensors
        if not len(hidden):
            return torch.zeros_like(hidden), torch.zeros_like(weight), None, None
        hidden, weight = as_matrix(hidden), as_matrix(weight)
        fill = partial(_fill, hidden, weight, targets.contiguous(), order, stats)
        needs = ctx.needs_input_grad[:2]
        return *gradients(fill, hidden, weight, order, -factor * dloss.float(), needs), None, None


def linear_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, ignore_index: int = -100) -> Tensor:
    """Return the mean cross-entropy of hidden @ weight^T with the targets, over targets that are not ignore_index.

    hidden: (rows, K) fp32, fp16 or bf16, weight: (V, K) of the same dtype, any strides; targets: (rows,) int64 or
    int32. The logits are fp32 and never in memory; the loss is cast to the dtype of hidden, and is NaN where no row
    counts. A target outside [0, V) that is not ignore_index makes the loss and its row of the gradient NaN. Rows that
    do not count are not read, and cost no arithmetic. Differentiable in hidden and weight; deterministic.
    Source: arXiv:2411.09009.

    Raises:
        TypeError, ValueError: an argument is not as described.
    """
    expect_tensor("hidden", hidden, dtypes=FLOATS, rank=2)
    expect_tensor("weight", weight, dtypes=FLOATS, rank=2)
    expect_like("weight", weight, "hidden", hidden)
    expect(weight.shape[1] == hidden.shape[1], "weight", f"{hidden.shape[1]} columns, as hidden has", weight.shape[1])
    expect(min(weight.shape) >= 1, "weight", "at least 1 row and 1 column", f"shape {tuple(weight.shape)}")
    expect_tensor("targets", targets, dtypes=(torch.int64, torch.int32), rank=1)
    expect_device("targets", targets, "hidden", hidden)
    expect(len(targets) == len(hidden), "targets", f"shape ({len(hidden)},), one for each row", tuple(targets.shape))
    if isinstance(ignore_index, bool) or not isinstance(ignore_index, int):
        raise TypeError(f"ignore_index: expected an int, got {type(ignore_index).__name__}")
    if torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad):
        loss: Tensor = _LinearCrossEntropy.apply(hidden, weight, targets, ignore_index)
        return loss
    return _launch_forward(hidden, weight, targets, ignore_index, keep=False)[0]
