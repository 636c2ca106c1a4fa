"""loss = mean over rows of KL(p || q), p = softmax(t / T), q = softmax(s / T), without the logits s and t in memory.

s = hidden @ weight^T is the student's, t = teacher_hidden @ teacher_weight^T the teacher's, T the temperature. hidden
(rows, K), weight (V, K), teacher_hidden (rows, L), teacher_weight (V, L), loss a number. With d the gradient of loss
the slopes are q - p, and dhidden = (d / (rows T)) slopes @ weight, dweight = (d / (rows T)) slopes^T @ hidden; the
teacher is not taught.

Forward: one program owns BLOCK_M rows and SPLIT columns of the vocabulary, over which it walks with both products and
an online softmax of each. KL(p || q) = sum p (t - s) / T - lse(t / T) + lse(s / T), so that one walk is enough: beside
the two sums there is one of 2^(t - top) (t - s), faded with them whenever top rises. It leaves 20 bytes for each row;
a second launch joins them. Backward: `kernels._chunked` has the slopes made anew, a chunk of the vocabulary at a time.
In all 4 V (K + L) + 4 V K operations a row. Memory: 20 bytes a row for each SPLIT columns; in the backward one chunk of
slopes, and what it rounds away of dhidden.
Source: Hinton et al. 2015, arXiv:1503.02531, without its factor T^2; Wijmans et al. 2024, arXiv:2411.09009 (splits).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels._chunked import NARROW, SLIM, launch_tiles, place, rise, row_of, scores, tuned
from kernels._distil import JOINED, SPLIT, Pair, check, distilled, even, joined, strides_of
from kernels._launch import device_of
from kernels._logprob import LOG2E, LOWEST


@triton.jit
def _forward_kernel(
    hidden_ptr, weight_ptr, teacher_ptrs, parts_ptr, strides, sizes, cooling, tuned_for,  # noqa: ARG001
    SPLIT: tl.constexpr, EVEN_K: tl.constexpr, EVEN_L: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    rows, cols, K, L = sizes
    split, group = place(tl.cdiv(cols, SPLIT), tl.cdiv(rows, BLOCK_M), GROUP)
    at = group * BLOCK_M + tl.arange(0, BLOCK_M)
    row = row_of(None, at, rows)
    student, teacher = (hidden_ptr, weight_ptr, strides[0]), (teacher_ptrs[0], teacher_ptrs[1], strides[1])
    # Begun at a finite number: behind a first -inf, -inf - peak would be NaN.
    s_peak = tl.full((BLOCK_M,), LOWEST, tl.float32)
    t_peak = tl.full((BLOCK_M,), LOWEST, tl.float32)
    s_total = tl.zeros((BLOCK_M,), tl.float32)
    t_total = tl.zeros((BLOCK_M,), tl.float32)
    cross = tl.zeros((BLOCK_M,), tl.float32)
    first = split * SPLIT
    for start in range(first, tl.minimum(first + SPLIT, cols), BLOCK_N):
        col = start + tl.arange(0, BLOCK_N)
        inside = (col < cols)[None, :]
        s = scores(student, row, col, cols, K, BLOCK_K, EVEN_K) * cooling
        t = scores(teacher, row, col, cols, L, BLOCK_K, EVEN_L) * cooling
        # Where s is infinite its sum is NaN, and so is the divergence.
        gap = tl.where(inside & (s < float("inf")), t - s, 0.0)
        s_peak, fade, powers = rise(tl.where(inside, s, -float("inf")), s_peak)
        s_total = s_total * fade + tl.sum(powers, 1)
        t_peak, fade, powers = rise(tl.where(inside, t, -float("inf")), t_peak)
        t_total = t_total * fade + tl.sum(powers, 1)
        cross = cross * fade + tl.sum(powers * gap, 1)
    parts_ptr += split.to(tl.int64) * 5 * rows + at
    tl.store(parts_ptr, s_peak, mask=at < rows)
    tl.store(parts_ptr + rows, s_total, mask=at < rows)
    tl.store(parts_ptr + 2 * rows, t_peak, mask=at < rows)
    tl.store(parts_ptr + 3 * rows, t_total, mask=at < rows)
    tl.store(parts_ptr + 4 * rows, cross, mask=at < rows)


@triton.jit
def _join_kernel(
    parts_ptr, divergence_ptr, stats_ptr, rows, splits, BLOCK_SPLITS: tl.constexpr, BLOCK_ROWS: tl.constexpr
):
    at = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    split = tl.arange(0, BLOCK_SPLITS)[:, None]
    inside = (split < splits) & (at < rows)[None, :]
    parts_ptr += split.to(tl.int64) * 5 * rows + at[None, :]
    s_top, _, s_total = joined(parts_ptr, rows, inside)
    t_top, fade, t_total = joined(parts_ptr + 2 * rows, rows, inside)
    cross = tl.sum(tl.load(parts_ptr + 4 * rows, mask=inside, other=0.0) * fade, 0)
    divergence = (cross / t_total - (t_top - s_top)) - (tl.log(t_total) - tl.log(s_total))
    tl.store(divergence_ptr + at, divergence, mask=at < rows)
    if stats_ptr is not None:
        tl.store(stats_ptr + at, s_top, mask=at < rows)
        tl.store(stats_ptr + rows + at, s_total, mask=at < rows)
        tl.store(stats_ptr + 2 * rows + at, t_top, mask=at < rows)
        tl.store(stats_ptr + 3 * rows + at, t_total, mask=at < rows)


@triton.jit
def _probabilities(x, stats_ptr, at, rows):
    top = tl.load(stats_ptr + at, mask=at < rows, other=0.0)
    total = tl.load(stats_ptr + rows + at, mask=at < rows, other=1.0)
    return tl.exp2((x - top[:, None]) * LOG2E) * (1 / total)[:, None]


@triton.jit
def _slopes_kernel(
    hidden_ptr, weight_ptr, teacher_ptrs, stats_ptr, slopes_ptr, strides, sizes, cooling, tuned_for,  # noqa: ARG001
    EVEN_K: tl.constexpr, EVEN_L: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    rows, first, width, K, L = sizes
    tile, group = place(tl.cdiv(width, BLOCK_N), tl.cdiv(rows, BLOCK_M), GROUP)
    at = group * BLOCK_M + tl.arange(0, BLOCK_M)
    row = row_of(None, at, rows)
    place_of = tile * BLOCK_N + tl.arange(0, BLOCK_N)
    t = scores((teacher_ptrs[0], teacher_ptrs[1], strides[1]), row, first + place_of, first + width, L, BLOCK_K, EVEN_L)
    slopes = -_probabilities(t * cooling, stats_ptr + 2 * rows, at, rows)
    s = scores((hidden_ptr, weight_ptr, strides[0]), row, first + place_of, first + width, K, BLOCK_K, EVEN_K)
    slopes += _probabilities(s * cooling, stats_ptr, at, rows)
    slopes_ptr += at[:, None] * strides[2] + place_of[None, :]
    tl.store(
        slopes_ptr, slopes.to(slopes_ptr.dtype.element_ty), mask=(at < rows)[:, None] & (place_of < width)[None, :]
    )


# The forward has two tiles of products in registers: of NARROW ones it spills on sm_80 and sm_100.
FORWARD, SLOPES = tuned(_forward_kernel, SLIM, NARROW), tuned(_slopes_kernel, NARROW)


def _launch_forward(student: Pair, teacher: Pair, temperature: float, keep: bool) -> tuple[Tensor, Tensor | None]:
    """The loss, and the sums that the backward needs."""
    hidden, weight = student
    (rows, depth), cols, splits = hidden.shape, len(weight), triton.cdiv(len(weight), SPLIT)
    divergence, parts, stats = (
        torch.empty(*shape, dtype=torch.float32, device=hidden.device)
        for shape in ((rows,), (splits, 5, rows), (4, rows if keep else 0))
    )
    if rows:
        launch_tiles(
            FORWARD, rows, cols, hidden, weight, teacher, parts, strides_of(student, teacher),
            (rows, cols, depth, teacher[0].shape[1]), 1 / temperature,
            across=SPLIT, SPLIT=SPLIT, **even(student, teacher),
        )  # fmt: skip
        with device_of(hidden):
            _join_kernel[(triton.cdiv(rows, JOINED),)](
                parts, divergence, stats if keep else None, rows, splits,
                BLOCK_SPLITS=triton.next_power_of_2(splits), BLOCK_ROWS=JOINED,
            )  # fmt: skip
    return divergence.mean().to(hidden.dtype), stats if keep else None


def _fill(
    student: Pair, teacher: Pair, stats: Tensor, temperature: float, slopes: Tensor, first: int, width: int
) -> None:
    """The slopes of a chunk of the vocabulary."""
    rows, depth = student[0].shape
    strides = *strides_of(student, teacher), slopes.stride(0)
    sizes = rows, first, width, depth, teacher[0].shape[1]
    launch_tiles(
        SLOPES, rows, width, *student, teacher, stats, slopes, strides, sizes, 1 / temperature,
        **even(student, teacher),
    )  # fmt: skip


def distill_kl(hidden: Tensor, weight: Tensor, teacher: Pair, temperature: float = 1.0) -> Tensor:
    """Return the mean over rows of KL(softmax(teacher logits / temperature) || softmax(student logits / temperature)).

    hidden: (rows, K) fp32, fp16 or bf16, weight: (V, K): the student's; teacher: its (rows, L) and (V, L), of the same
    dtype and device. Any strides. Logits are hidden @ weight^T, fp32, and never in memory; the loss is cast to the
    dtype of hidden. Differentiable in hidden and weight; deterministic. A teacher that asks for a gradient is refused.
    Source: arXiv:1503.02531.

    Raises:
        TypeError, ValueError: an argument is not as described, or temperature is not positive and finite.
    """
    check(hidden, weight, teacher, temperature)
    return distilled(_launch_forward, _fill, hidden, weight, teacher, (float(temperature),), 1 / temperature)
