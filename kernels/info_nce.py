"""loss = mean over i of (lse(x_i.) + lse(x_.i)) / 2 - x_ii, x = scale * image @ text^T, without x in memory.

CLIP's loss: the mean of two cross-entropies, of the rows of x and of its columns, whose targets are the diagonal.
image, text (n, K), scale a number in memory, loss a number. With d the gradient of loss, s = image @ text^T and the
slopes softmax of rows + softmax of columns - 2 I

    dimage = (d scale / 2 n) slopes @ text, dtext = (d scale / 2 n) slopes^T @ image, dscale = (d / 2 n) sum(slopes * s)

Forward: one walk serves both axes. A program owns BLOCK_M rows and `split` columns, over which it walks with an online
log-sum-exp of its rows; of each tile it leaves the columns' maxima and sums at once, 8 bytes for each column and
BLOCK_M rows, and at its end 8 bytes for each row. A second launch joins them. The parts are 1/32 of a bf16 x, written
and read once: below a twentieth of the time of a second walk, which would be one more product. Each entry takes two
exponentials, since a row and a column through it may lie further apart than fp32 reaches.
Backward: `kernels._bands` has the slopes made anew, in bands of rows for dimage and of columns for dtext, in memory
that is to hold gradients: slopes of columns are those of rows with image and text, and their sums, in each other's
place. Up to 4096 pairs all slopes are made once. A program that makes a tile of slopes leaves its part of dscale.
Memory: the parts above; in the backward 16 bytes a row, what `_bands` takes, and of 16-bit x 1/8192 for dscale: from
8192 pairs on, and at least 512 deep, less than a tenth of the gradients.
Source: Radford et al. 2021, arXiv:2103.00020, figure 3; Cheng et al. 2024, Inf-CL, arXiv:2410.17243 (x not in memory).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels._attention_tiles import place
from kernels._bands import gradients
from kernels._chunked import EVEN, NARROW, SLIM, as_matrix, launch_tiles, rise, row_of, scores, tuned
from kernels._launch import FLOATS, device_of, expect, expect_device, expect_like, expect_tensor
from kernels._logprob import LOG2E, LOWEST

SPLITS, LEAST_SPLIT = 16, 128  # programs side by side on a row, and columns of each that every BLOCK_N divides
JOINED = 32  # rows, and columns, of a program that joins parts, and how many parts at a time


@triton.jit
def _forward_kernel(
    image_ptr, text_ptr, scale_ptr, diagonal_ptr, row_parts_ptr, col_parts_ptr, strides, sizes, tuned_for,  # noqa: ARG001
    EVEN_K: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    n, K, split = sizes
    part, group = place(tl.cdiv(n, split), tl.cdiv(n, BLOCK_M), GROUP)
    # 32 bits: tiles of 64-bit numbers, which at and col are compared to, take registers.
    at = (group * BLOCK_M).to(tl.int32) + tl.arange(0, BLOCK_M)
    row = row_of(None, at, n)
    scale = tl.load(scale_ptr).to(tl.float32)
    # Begun at a finite number: behind a first -inf, -inf - peak would be NaN.
    peak = tl.full((BLOCK_M,), LOWEST, tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    diagonal = tl.zeros((BLOCK_M,), tl.float32)
    first = part * split
    for start in range(first, tl.minimum(first + split, n), BLOCK_N):
        col = start + tl.arange(0, BLOCK_N)
        x = scores((image_ptr, text_ptr, strides), row, col, n, K, BLOCK_K, EVEN_K) * scale
        diagonal += tl.sum(tl.where(col[None, :] == at[:, None], x, 0.0), 1)
        x = tl.where((at < n)[:, None] & (col < n)[None, :], x, -float("inf"))
        peak, fade, powers = rise(x, peak)
        total = total * fade + tl.sum(powers, 1)
        col_peak = tl.maximum(tl.max(x, 0), LOWEST)
        col_total = tl.sum(tl.exp2((x - col_peak[None, :]) * LOG2E), 0)
        col_ptrs = col_parts_ptr + group * 2 * n + col
        tl.store(col_ptrs, col_peak, mask=col < n)
        tl.store(col_ptrs + n, col_total, mask=col < n)
    row_ptrs = row_parts_ptr + part.to(tl.int64) * 2 * n + at
    tl.store(row_ptrs, peak, mask=at < n)
    tl.store(row_ptrs + n, total, mask=at < n)
    tl.store(diagonal_ptr + at, diagonal, mask=(at < n) & (at // split == part))


@triton.jit
def _joined(parts_ptr, parts, at, n, JOINED: tl.constexpr):
    """The maxima and sums of the parts of these rows, or columns, as one."""
    peak = tl.full((JOINED,), LOWEST, tl.float32)
    total = tl.zeros((JOINED,), tl.float32)
    for start in range(0, parts, JOINED):
        part = start + tl.arange(0, JOINED)
        inside = (part < parts)[:, None] & (at < n)[None, :]
        ptrs = parts_ptr + part.to(tl.int64)[:, None] * 2 * n + at[None, :]
        x = tl.load(ptrs, mask=inside, other=LOWEST)
        top = tl.maximum(peak, tl.max(x, 0))
        sums = tl.load(ptrs + n, mask=inside, other=0.0) * tl.exp2((x - top[None, :]) * LOG2E)
        total = total * tl.exp2((peak - top) * LOG2E) + tl.sum(sums, 0)
        peak = top
    return peak, total


@triton.jit
def _join_kernel(
    diagonal_ptr, row_parts_ptr, col_parts_ptr, losses_ptr, stats_ptr, n, row_parts, col_parts, JOINED: tl.constexpr
):
    at = tl.program_id(0) * JOINED + tl.arange(0, JOINED)
    row_top, row_total = _joined(row_parts_ptr, row_parts, at, n, JOINED)
    col_top, col_total = _joined(col_parts_ptr, col_parts, at, n, JOINED)
    x = tl.load(diagonal_ptr + at, mask=at < n, other=0.0)
    loss = ((row_top - x) + tl.log(row_total)) + ((col_top - x) + tl.log(col_total))
    tl.store(losses_ptr + at, loss / 2, mask=at < n)
    if stats_ptr is not None:
        tl.store(stats_ptr + at, row_top, mask=at < n)
        tl.store(stats_ptr + n + at, row_total, mask=at < n)
        tl.store(stats_ptr + 2 * n + at, col_top, mask=at < n)
        tl.store(stats_ptr + 3 * n + at, col_total, mask=at < n)


@triton.jit
def _stats(stats_ptr, at, n):
    """Of rows or columns the maximum, and one over the sum."""
    return tl.load(stats_ptr + at, mask=at < n, other=0.0), 1 / tl.load(stats_ptr + n + at, mask=at < n, other=1.0)


@triton.jit
def _slopes_kernel(
    left_ptr, right_ptr, scale_ptr, stats_ptrs, slopes_ptr, dscale_ptr, strides, sizes, tuned_for,  # noqa: ARG001
    EVEN_K: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    n, K, first_row, height, first, width = sizes
    tile, group = place(tl.cdiv(width, BLOCK_N), tl.cdiv(height, BLOCK_M), GROUP)
    at = (group * BLOCK_M).to(tl.int32) + tl.arange(0, BLOCK_M)
    row = first_row + at
    place_of = tile * BLOCK_N + tl.arange(0, BLOCK_N)
    col = first + place_of
    s = scores((left_ptr, right_ptr, strides), row_of(None, row, n), col, first + width, K, BLOCK_K, EVEN_K)
    scale = tl.load(scale_ptr).to(tl.float32)
    top, share = _stats(stats_ptrs[0], row, n)
    slopes = tl.exp2((s * scale - top[:, None]) * LOG2E) * share[:, None]
    top, share = _stats(stats_ptrs[1], col, n)
    slopes += tl.exp2((s * scale - top[None, :]) * LOG2E) * share[None, :]
    slopes -= tl.where(col[None, :] == row[:, None], 2.0, 0.0)
    inside = (at < height)[:, None] & (place_of < width)[None, :]
    # Before the slopes are stored, so that s takes no registers then.
    dscale = tl.sum(tl.where(inside, slopes * s, 0.0))
    m, k = first_row // BLOCK_M + group, first // BLOCK_N + tile
    tl.store(dscale_ptr + m * tl.cdiv(n, BLOCK_N) + k, dscale)
    if slopes_ptr is not None:
        slopes_ptrs = slopes_ptr + at.to(tl.int64)[:, None] * strides[2] + place_of[None, :]
        tl.store(slopes_ptrs, slopes.to(slopes_ptr.dtype.element_ty), mask=inside)


# Two programs of SLIM tiles share a multiprocessor of sm_90: one multiplies while the other sums. Slopes of one dtype
# have tiles of one size, so that parts of dscale have their places.
FORWARD, SLOPES = tuned(_forward_kernel, NARROW, SLIM), tuned(_slopes_kernel, NARROW)


def _launch_forward(image: Tensor, text: Tensor, logit_scale: Tensor, keep: bool) -> tuple[Tensor, Tensor | None]:
    """The loss, and the maxima and sums that the backward needs."""
    n, depth = image.shape
    split = max(LEAST_SPLIT, triton.next_power_of_2(n) // SPLITS)
    # All tiles of a dtype are as high, so that columns have as many parts whichever is chosen.
    row_parts, col_parts = (
        triton.cdiv(n, of) for of in (split, FORWARD[image.element_size()].configs[0].kwargs["BLOCK_M"])
    )
    diagonal, losses, of_rows, of_cols, stats = (
        torch.empty(shape, dtype=torch.float32, device=image.device)
        for shape in ((n,), (n,), (row_parts, 2, n), (col_parts, 2, n), (4, n if keep else 0))
    )
    if n:
        launch_tiles(
            FORWARD, n, n, image, text, logit_scale, diagonal, of_rows, of_cols, (image.stride(0), text.stride(0)),
            (n, depth, split), across=split, EVEN_K=depth % EVEN == 0,
        )  # fmt: skip
        with device_of(image):
            _join_kernel[(triton.cdiv(n, JOINED),)](
                diagonal, of_rows, of_cols, losses, stats if keep else None, n, row_parts, col_parts, JOINED=JOINED
            )
    return losses.mean().to(image.dtype), stats if keep else None


def _fill(
    left: Tensor, right: Tensor, logit_scale: Tensor, stats: tuple[Tensor, Tensor], dscale: Tensor,
    slopes: Tensor | None, first_row: int, first: int, width: int,
) -> None:  # fmt: skip
    """The slopes of some rows and columns, and their parts of dscale; these alone, of all rows, if slopes are None."""
    n, depth = left.shape
    height, stride = (n, 0) if slopes is None else (len(slopes), slopes.stride(0))
    launch_tiles(
        SLOPES, height, width, left, right, logit_scale, stats, slopes, dscale,
        (left.stride(0), right.stride(0), stride), (n, depth, first_row, height, first, width),
        EVEN_K=depth % EVEN == 0,
    )  # fmt: skip


class _InfoNce(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, image: Tensor, text: Tensor, logit_scale: Tensor) -> Tensor:
        loss, stats = _launch_forward(as_matrix(image), as_matrix(text), logit_scale, keep=True)
        ctx.save_for_backward(image, text, logit_scale, stats)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dloss: Tensor) -> tuple[Tensor | None, ...]:
        image, text, logit_scale, stats = ctx.saved_tensors
        n = len(image)
        if not n:
            return torch.zeros_like(image), torch.zeros_like(text), torch.zeros_like(logit_scale)
        image, text = as_matrix(image), as_matrix(text)
        tile = SLOPES[image.element_size()].configs[0].kwargs
        parts = triton.cdiv(n, tile["BLOCK_M"]), triton.cdiv(n, tile["BLOCK_N"])
        dscale = torch.empty(parts, dtype=torch.float32, device=image.device)
        share = dloss.float() / (2 * n)
        factor, of_rows, of_cols = share * logit_scale.float(), stats[:2], stats[2:]
        one_way = partial(_fill, image, text, logit_scale, (of_rows, of_cols), dscale)
        other_way = partial(_fill, text, image, logit_scale, (of_cols, of_rows), dscale)
        dimage = dtext = None
        if any(ctx.needs_input_grad[:2]):
            dimage, dtext = gradients(one_way, other_way, image, text, factor, ctx.needs_input_grad[:2])
        else:
            one_way(None, 0, 0, n)
        return dimage, dtext, (share * dscale.sum()).to(logit_scale.dtype)


def info_nce(image: Tensor, text: Tensor, logit_scale: Tensor) -> Tensor:
    """Return the mean of the cross-entropies of the rows and of the columns of logit_scale * image @ text^T.

    The target of each row and of each column is the diagonal. image: (n, K) fp32, fp16 or bf16, text: the same shape
    and dtype, any strides; logit_scale: a 0-d tensor, fp32, fp16 or bf16, on the same device. The logits are fp32 and
    never in memory; the loss is cast to the dtype of image, and is NaN of no pairs. Differentiable in all three;
    deterministic. Source: arXiv:2103.00020.

    Raises:
        TypeError, ValueError: an argument is not as described.
    """
    expect_tensor("image", image, dtypes=FLOATS, rank=2)
    expect(image.shape[1] >= 1, "image", "at least 1 column", f"shape {tuple(image.shape)}")
    expect_tensor("text", text, dtypes=FLOATS, rank=2)
    expect_like("text", text, "image", image)
    expect(text.shape == image.shape, "text", f"shape {tuple(image.shape)}, that of image", tuple(text.shape))
    expect_tensor("logit_scale", logit_scale, dtypes=FLOATS, rank=0)
    expect_device("logit_scale", logit_scale, "image", image)
    if torch.is_grad_enabled() and (image.requires_grad or text.requires_grad or logit_scale.requires_grad):
        loss: Tensor = _InfoNce.apply(image, text, logit_scale)
        return loss
    return _launch_forward(as_matrix(image), as_matrix(text), logit_scale, keep=False)[0]
