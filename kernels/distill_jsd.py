"""loss = mean over rows of JSD_beta(p || q), p the softmax of a teacher, q of a student, without logits in memory.

JSD_beta(p || q) = beta KL(p || m) + (1 - beta) KL(q || m), m = beta p + (1 - beta) q, 0 < beta < 1; p = softmax(t / T),
q = softmax(s / T), t = teacher_hidden @ teacher_weight^T, s = hidden @ weight^T, T the temperature. hidden (rows, K),
weight (V, K), teacher_hidden (rows, L), teacher_weight (V, L), loss a number. With d the gradient of loss the slopes
are q (log(q / m) - KL(q || m)), and with c = d (1 - beta) / (rows T) dhidden = c slopes @ weight, dweight = c slopes^T
@ hidden; the teacher is not taught.

m mixes probabilities: log m = log(beta exp(t / T - lse(t / T)) + (1 - beta) exp(s / T - lse(s / T))) is not to be had
before both log-sum-exps, and a term made with others cannot be mended by a factor. So the vocabulary is walked over
twice, in splits (`kernels._distil`), and the second walk makes the products of the first again: what that costs, 2 V
(K + L) operations a row, is what it takes to keep no logits. First walk: the two log-sum-exps, each by a launch of its
own, whose tiles may be as wide as one product allows. Second walk: both products, and of each row the sums of
p log(p / m) and of q log(q / m). Behind each walk a launch joins the splits. An entry takes two exponentials and a
logarithm: log(p / m) and log(q / m) follow from exp(-|log p - log q|), which cannot overflow, and where p = q both are
0, to the bit. Backward: `kernels._chunked` has the slopes made anew, a chunk of the vocabulary at a time. In all
6 V (K + L) + 4 V K operations a row. Memory: 16 bytes a row for each SPLIT columns and 24 a row; in the backward one
chunk of slopes, and what it rounds away of dhidden.
Source: Agarwal et al. 2024, GKD, arXiv:2306.13649, equation 1; Wijmans et al. 2024, arXiv:2411.09009 (splits).
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels._chunked import EVEN, NARROW, SLIM, WIDE, launch_tiles, place, rise, row_of, scores, tuned
from kernels._distil import JOINED, SPLIT, Pair, check, distilled, even, expect_number, joined, strides_of
from kernels._launch import device_of, expect
from kernels._logprob import LOG2E, LOWEST


@triton.jit
def _sums_kernel(
    hidden_ptr, weight_ptr, parts_ptr, strides, sizes, cooling, tuned_for,  # noqa: ARG001
    SPLIT: tl.constexpr, EVEN_K: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    rows, cols, K = sizes
    split, group = place(tl.cdiv(cols, SPLIT), tl.cdiv(rows, BLOCK_M), GROUP)
    at = group * BLOCK_M + tl.arange(0, BLOCK_M)
    row = row_of(None, at, rows)
    # Begun at a finite number: behind a first -inf, -inf - peak would be NaN.
    peak = tl.full((BLOCK_M,), LOWEST, tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    first = split * SPLIT
    for start in range(first, tl.minimum(first + SPLIT, cols), BLOCK_N):
        col = start + tl.arange(0, BLOCK_N)
        x = scores((hidden_ptr, weight_ptr, strides), row, col, cols, K, BLOCK_K, EVEN_K) * cooling
        peak, fade, powers = rise(tl.where((col < cols)[None, :], x, -float("inf")), peak)
        total = total * fade + tl.sum(powers, 1)
    parts_ptr += split.to(tl.int64) * 2 * rows + at
    tl.store(parts_ptr, peak, mask=at < rows)
    tl.store(parts_ptr + rows, total, mask=at < rows)


@triton.jit
def _join_sums_kernel(
    student_ptr, teacher_ptr, stats_ptr, rows, splits, BLOCK_SPLITS: tl.constexpr, BLOCK_ROWS: tl.constexpr
):
    at = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    split = tl.arange(0, BLOCK_SPLITS)[:, None]
    inside = (split < splits) & (at < rows)[None, :]
    place_of = split.to(tl.int64) * 2 * rows + at[None, :]
    top, _, total = joined(student_ptr + place_of, rows, inside)
    tl.store(stats_ptr + at, top, mask=at < rows)
    tl.store(stats_ptr + rows + at, tl.log(total), mask=at < rows)
    top, _, total = joined(teacher_ptr + place_of, rows, inside)
    tl.store(stats_ptr + 2 * rows + at, top, mask=at < rows)
    tl.store(stats_ptr + 3 * rows + at, tl.log(total), mask=at < rows)


@triton.jit
def _log_softmax(x, stats_ptr, at, rows):
    top = tl.load(stats_ptr + at, mask=at < rows, other=0.0)
    log_total = tl.load(stats_ptr + rows + at, mask=at < rows, other=0.0)
    return (x - top[:, None]) - log_total[:, None]


@triton.jit
def _compared(log_p, log_q, beta, rest):
    """p, log(p / m), q, log(q / m); NaN where both are 0 because both logits are infinite."""
    gap = log_p - log_q
    likelier = gap >= 0
    ratio = tl.exp2(-tl.abs(gap) * LOG2E)
    # m over the likelier of the two, by the lesser weight alone: what beta and 1 - beta are rounded by adds up to no
    # error that all entries share, and where ratio is 1 so is m, whatever beta.
    lesser = tl.minimum(beta, rest)
    log_m = tl.log(tl.where(likelier == (beta <= rest), ratio + lesser * (1 - ratio), 1 - lesser * (1 - ratio)))
    more = tl.exp2(tl.maximum(log_p, log_q) * LOG2E)
    less = more * ratio
    p, q = tl.where(likelier, more, less), tl.where(likelier, less, more)
    return p, tl.minimum(gap, 0.0) - log_m, q, tl.minimum(-gap, 0.0) - log_m


@triton.jit
def _divergences_kernel(
    hidden_ptr, weight_ptr, teacher_ptrs, stats_ptr, parts_ptr, strides, sizes, mix, tuned_for,  # noqa: ARG001
    SPLIT: tl.constexpr, EVEN_K: tl.constexpr, EVEN_L: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    rows, cols, K, L = sizes
    cooling, beta, rest = mix
    split, group = place(tl.cdiv(cols, SPLIT), tl.cdiv(rows, BLOCK_M), GROUP)
    at = group * BLOCK_M + tl.arange(0, BLOCK_M)
    row = row_of(None, at, rows)
    student, teacher = (hidden_ptr, weight_ptr, strides[0]), (teacher_ptrs[0], teacher_ptrs[1], strides[1])
    of_p = tl.zeros((BLOCK_M,), tl.float32)
    of_q = tl.zeros((BLOCK_M,), tl.float32)
    first = split * SPLIT
    for start in range(first, tl.minimum(first + SPLIT, cols), BLOCK_N):
        col = start + tl.arange(0, BLOCK_N)
        t = scores(teacher, row, col, cols, L, BLOCK_K, EVEN_L)
        log_p = _log_softmax(t * cooling, stats_ptr + 2 * rows, at, rows)
        s = scores(student, row, col, cols, K, BLOCK_K, EVEN_K)
        log_q = _log_softmax(s * cooling, stats_ptr, at, rows)
        p, over_p, q, over_q = _compared(log_p, log_q, beta, rest)
        inside = (col < cols)[None, :]
        of_p += tl.sum(tl.where(inside, p * over_p, 0.0), 1)
        of_q += tl.sum(tl.where(inside, q * over_q, 0.0), 1)
    parts_ptr += split.to(tl.int64) * 2 * rows + at
    tl.store(parts_ptr, of_p, mask=at < rows)
    tl.store(parts_ptr + rows, of_q, mask=at < rows)


@triton.jit
def _join_divergences_kernel(
    parts_ptr, divergence_ptr, stats_ptr, mix, rows, splits, BLOCK_SPLITS: tl.constexpr, BLOCK_ROWS: tl.constexpr
):
    at = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    split = tl.arange(0, BLOCK_SPLITS)[:, None]
    inside = (split < splits) & (at < rows)[None, :]
    parts_ptr += split.to(tl.int64) * 2 * rows + at[None, :]
    of_p = tl.sum(tl.load(parts_ptr, mask=inside, other=0.0), 0)
    of_q = tl.sum(tl.load(parts_ptr + rows, mask=inside, other=0.0), 0)
    tl.store(divergence_ptr + at, mix[1] * of_p + mix[2] * of_q, mask=at < rows)
    tl.store(stats_ptr + 4 * rows + at, of_q, mask=at < rows)


@triton.jit
def _slopes_kernel(
    hidden_ptr, weight_ptr, teacher_ptrs, stats_ptr, slopes_ptr, strides, sizes, mix, tuned_for,  # noqa: ARG001
    EVEN_K: tl.constexpr, EVEN_L: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    rows, first, width, K, L = sizes
    cooling, beta, rest = mix
    tile, group = place(tl.cdiv(width, BLOCK_N), tl.cdiv(rows, BLOCK_M), GROUP)
    at = group * BLOCK_M + tl.arange(0, BLOCK_M)
    row = row_of(None, at, rows)
    place_of = tile * BLOCK_N + tl.arange(0, BLOCK_N)
    col, cols = first + place_of, first + width
    t = scores((teacher_ptrs[0], teacher_ptrs[1], strides[1]), row, col, cols, L, BLOCK_K, EVEN_L)
    log_p = _log_softmax(t * cooling, stats_ptr + 2 * rows, at, rows)
    s = scores((hidden_ptr, weight_ptr, strides[0]), row, col, cols, K, BLOCK_K, EVEN_K)
    _, _, q, over_q = _compared(log_p, _log_softmax(s * cooling, stats_ptr, at, rows), beta, rest)
    slopes = q * (over_q - tl.load(stats_ptr + 4 * rows + at, mask=at < rows, other=0.0)[:, None])
    slopes_ptr += at[:, None] * strides[2] + place_of[None, :]
    tl.store(
        slopes_ptr, slopes.to(slopes_ptr.dtype.element_ty), mask=(at < rows)[:, None] & (place_of < width)[None, :]
    )


# The second walk has two tiles of products in registers: of NARROW ones it spills on sm_80 and sm_100, not on sm_90.
SUMS, DIVERGENCES, SLOPES = (
    tuned(_sums_kernel, NARROW, WIDE), tuned(_divergences_kernel, SLIM, NARROW), tuned(_slopes_kernel, NARROW)
)  # fmt: skip


def _launch_forward(
    student: Pair, teacher: Pair, temperature: float, beta: float, keep: bool
) -> tuple[Tensor, Tensor | None]:
    """The loss, and the sums that the backward needs."""
    hidden, mix = student[0], (1 / temperature, beta, 1 - beta)
    (rows, depth), cols, splits = hidden.shape, len(student[1]), triton.cdiv(len(student[1]), SPLIT)
    divergence, stats, *parts = (
        torch.empty(*shape, dtype=torch.float32, device=hidden.device)
        for shape in ((rows,), (5, rows), (splits, 2, rows), (splits, 2, rows))
    )
    join: dict[str, Any] = {"BLOCK_SPLITS": triton.next_power_of_2(splits), "BLOCK_ROWS": JOINED}
    if rows:
        for pair, part, strides in zip((student, teacher), parts, strides_of(student, teacher), strict=True):
            width = pair[0].shape[1]
            launch_tiles(
                SUMS, rows, cols, *pair, part, strides, (rows, cols, width), 1 / temperature,
                across=SPLIT, SPLIT=SPLIT, EVEN_K=width % EVEN == 0,
            )  # fmt: skip
        with device_of(hidden):
            _join_sums_kernel[(triton.cdiv(rows, JOINED),)](*parts, stats, rows, splits, **join)
        launch_tiles(
            DIVERGENCES, rows, cols, *student, teacher, stats, parts[0], strides_of(student, teacher),
            (rows, cols, depth, teacher[0].shape[1]), mix,
            across=SPLIT, SPLIT=SPLIT, **even(student, teacher),
        )  # fmt: skip
        with device_of(hidden):
            _join_divergences_kernel[(triton.cdiv(rows, JOINED),)](
                parts[0], divergence, stats, mix, rows, splits, **join
            )
    return divergence.mean().to(hidden.dtype), stats if keep else None


def _fill(
    student: Pair, teacher: Pair, stats: Tensor, temperature: float, beta: float, slopes: Tensor, first: int, width: int
) -> None:
    """The slopes of a chunk of the vocabulary."""
    rows, depth = student[0].shape
    strides = *strides_of(student, teacher), slopes.stride(0)
    sizes = rows, first, width, depth, teacher[0].shape[1]
    launch_tiles(
        SLOPES, rows, width, *student, teacher, stats, slopes, strides, sizes, (1 / temperature, beta, 1 - beta),
        **even(student, teacher),
    )  # fmt: skip


def distill_jsd(hidden: Tensor, weight: Tensor, teacher: Pair, beta: float = 0.5, temperature: float = 1.0) -> Tensor:
    """Return the mean over rows of JSD_beta(p || q), p and q the softmaxes of teacher and student at the temperature.

    hidden: (rows, K) fp32, fp16 or bf16, weight: (V, K): the student's; teacher: its (rows, L) and (V, L), of the same
    dtype and device. Any strides. Logits are hidden @ weight^T, fp32, and never in memory; the loss is cast to the
    dtype of hidden. beta: the teacher's share of the mixture, between 0 and 1: at either end the divergence is 0, but
    divided by beta it goes to KL(teacher || student), `distill_kl`, as beta goes to 0, and divided by 1 - beta to
    KL(student || teacher) as beta goes to 1. A row with an infinite logit is NaN. Differentiable in hidden and weight;
    deterministic. A teacher that asks for a gradient is refused. Source: arXiv:2306.13649.

    Raises:
        TypeError, ValueError: an argument is not as described, or temperature is not positive and finite.
    """
    check(hidden, weight, teacher, temperature)
    expect_number("beta", beta)
    expect(0 < beta < 1, "beta", "a number between 0 and 1, neither of them", beta)
    options, scale = (float(temperature), float(beta)), (1 - beta) / temperature
    return distilled(_launch_forward, _fill, hidden, weight, teacher, options, scale)
