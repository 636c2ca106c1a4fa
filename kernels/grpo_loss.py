"""loss = sum over tokens of w (-min(r A, clip(r, 1 - e_low, 1 + e_high) A) + beta (exp(k) - k - 1)), k = ref - logprob.

r = exp(logprob - old) is the ratio of the policies, A the advantage of the token's answer, w its weight: with n answers
of which answer i has c_i tokens that count, 1 / (n c_i) (`sequence`, GRPO), 1 / sum of c (`token`, DAPO), or 1 / (n L)
(`constant`, Dr. GRPO). logprob, old, ref, mask (n, L), A (n,), loss a number. With d the gradient of loss
dlogprob = d w (-A r where the minimum is not the clipped ratio, beyond its bounds; else 0, + beta (1 - exp(k))).

It follows `kernels.selected_logprob`, or whatever gives a log-probability for each token: no logits are in memory. One
program owns BLOCK tokens of an answer, reads each once, where it counts, and leaves their sum and number; one more goes
over the answers in a fixed order, and leaves the weight of each. Backward: one program owns BLOCK tokens again, reads
them once and writes their gradient.
Source: Shao et al. 2024, arXiv:2402.03300, equations 3 and 4; Yu et al. 2025 (DAPO), arXiv:2503.14476; Liu et al. 2025
(Dr. GRPO), arXiv:2503.20783.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels._launch import FLOATS, device_of, expect, expect_device, expect_inference, expect_like, expect_tensor
from kernels._logprob import LOG2E
from kernels._rows import as_rows
from kernels.dpo_loss import MASKS

WEIGHTS = ("sequence", "token", "constant")
BLOCK = 1024  # tokens of a program: two 128-bit accesses of fp32 for each thread of 4 warps, and three such tensors
BLOCK_ROWS, BLOCK_PARTS = 64, 16

Rollout = tuple[Tensor, Tensor, Tensor]


@triton.jit
def _near(k):
    """exp(k) - k - 1 where |k| < 0.5, by its series: the difference would be all rounding."""
    series = 1 / 120 + k * (1 / 720 + k * (1 / 5040 + k / 40320))
    return k * k * (0.5 + k * (1 / 6 + k * (1 / 24 + k * series)))


@triton.jit
def _rise(k):
    """exp(k) - 1."""
    return tl.where(tl.abs(k) < 0.5, k + _near(k), tl.exp2(k * LOG2E) - 1)


@triton.jit
def _beyond(k):
    """exp(k) - k - 1."""
    return tl.where(tl.abs(k) < 0.5, _near(k), tl.exp2(k * LOG2E) - k - 1)


@triton.jit
def _tokens(pointers, row_strides, cols, BLOCK: tl.constexpr):
    """Where this program's tokens stand, which count, by how much their ratio is above 1, k and advantage."""
    logprob_ptr, old_ptr, reference_ptr, mask_ptr, advantages_ptr = pointers
    row, col = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    counts = tl.load(mask_ptr + row * row_strides[3] + col, mask=col < cols, other=0) != 0
    logprob = tl.load(logprob_ptr + row * row_strides[0] + col, mask=counts, other=0.0).to(tl.float32)
    old = tl.load(old_ptr + row * row_strides[1] + col, mask=counts, other=0.0).to(tl.float32)
    reference = tl.load(reference_ptr + row * row_strides[2] + col, mask=counts, other=0.0).to(tl.float32)
    advantage = tl.load(advantages_ptr + row).to(tl.float32)
    return row, col, counts, _rise(logprob - old), reference - logprob, advantage


@triton.jit
def _sums(pointers, parts_ptr, row_strides, cols, bounds, beta, BLOCK: tl.constexpr):
    row, _, counts, rise, k, advantage = _tokens(pointers, row_strides, cols, BLOCK)
    clipped = tl.where(rise < bounds[0], bounds[0], tl.where(rise > bounds[1], bounds[1], rise))
    # What a ratio of 1 gains is left to the end, where it is exact.
    a, b = rise * advantage, clipped * advantage
    loss = tl.where(a > b, -b, -a) + beta * _beyond(k)
    # Both sums at once: one after the other they take five barriers in place of two, and registers that sm_80 spills.
    both = tl.sum(tl.join(tl.where(counts, loss, 0.0), counts.to(tl.float32)), 0)
    tl.store(parts_ptr + (row * tl.num_programs(1) + tl.program_id(1)) * 2 + tl.arange(0, 2), both)


@triton.jit
def _answers(
    parts_ptr, advantages_ptr, loss_ptr, weights_ptr, rows, parts, cols,
    WEIGHT: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_PARTS: tl.constexpr,
):  # fmt: skip
    # A few numbers in fp64: a group's advantages add up to 0, and what is left of them would be rounding.
    total = tl.zeros((BLOCK_ROWS,), tl.float64)
    counted = tl.zeros((BLOCK_ROWS,), tl.float64)
    for start in range(0, rows, BLOCK_ROWS):
        row = start + tl.arange(0, BLOCK_ROWS)
        loss = tl.zeros((BLOCK_ROWS,), tl.float64)
        count = tl.zeros((BLOCK_ROWS,), tl.float64)
        for first in range(0, parts, BLOCK_PARTS):
            part = first + tl.arange(0, BLOCK_PARTS)
            at = (row.to(tl.int64)[:, None] * parts + part[None, :]) * 2
            inside = (row < rows)[:, None] & (part < parts)[None, :]
            loss += tl.sum(tl.load(parts_ptr + at, mask=inside, other=0.0).to(tl.float64), 1)
            count += tl.sum(tl.load(parts_ptr + at + 1, mask=inside, other=0.0).to(tl.float64), 1)
        advantage = tl.load(advantages_ptr + row, mask=(row < rows) & (count > 0), other=0.0).to(tl.float64)
        if WEIGHT == "sequence":
            weight = 1 / (tl.maximum(count, 1.0) * rows)
            total += loss * weight - advantage / rows
            tl.store(weights_ptr + row, weight.to(tl.float32), mask=row < rows)
        else:
            total += loss - advantage * count
        counted += count
    if WEIGHT == "constant":
        counted = tl.full((BLOCK_ROWS,), 1 / BLOCK_ROWS, tl.float64) * rows * cols
    if WEIGHT != "sequence":
        weight = 1 / tl.maximum(tl.sum(counted), 1.0)
        total *= weight
        tl.store(weights_ptr, weight.to(tl.float32))
    tl.store(loss_ptr, tl.sum(total).to(tl.float32))


@triton.jit
def _backward(
    pointers, weights_ptr, dloss_ptr, dlogprob_ptr, row_strides, cols, bounds, beta,
    WEIGHT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row, col, counts, rise, k, advantage = _tokens(pointers, row_strides, cols, BLOCK)
    weight = tl.load(weights_ptr + (row if WEIGHT == "sequence" else 0)) * tl.load(dloss_ptr)
    held = tl.where(advantage > 0, rise > bounds[1], rise < bounds[0])
    slope = tl.where(held, 0.0, -advantage * (1 + rise)) - beta * _rise(k)
    gradient = tl.where(counts, weight * slope, 0.0).to(dlogprob_ptr.dtype.element_ty)
    tl.store(dlogprob_ptr + row * cols + col, gradient, mask=col < cols)


def _pointers(logprob: Tensor, mask: Tensor, rollout: Rollout) -> tuple[tuple[Any, ...], tuple[int, ...]]:
    """What `_tokens` reads, and the row strides."""
    flat, strides = as_rows(logprob, *rollout[:2], mask)
    return (*flat, rollout[2].contiguous()), strides


def _launch_forward(
    logprob: Tensor, mask: Tensor, rollout: Rollout, bounds: tuple[float, float], beta: float, weight: str
) -> tuple[Tensor, Tensor]:
    """The loss, and the weight of each answer's tokens, or of all."""
    rows, cols = logprob.shape
    parts = triton.cdiv(cols, BLOCK)
    sums, weights, loss = (
        torch.empty(shape, dtype=torch.float32, device=logprob.device)
        for shape in ((rows, parts, 2), (rows if weight == "sequence" else 1,), ())
    )
    with device_of(logprob):
        if rows and cols:
            pointers, strides = _pointers(logprob, mask, rollout)
            _sums[(rows, parts)](pointers, sums, strides, cols, bounds, beta, BLOCK=BLOCK)
        _answers[(1,)](
            sums,
            rollout[2].contiguous(),
            loss,
            weights,
            rows,
            parts,
            cols,
            WEIGHT=weight,
            BLOCK_ROWS=BLOCK_ROWS,
            BLOCK_PARTS=BLOCK_PARTS,
        )
    return loss, weights


class _GrpoLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logprob: Tensor, mask: Tensor, rollout: Rollout, *options: Any) -> Tensor:
        loss, weights = _launch_forward(logprob, mask, rollout, *options)
        ctx.save_for_backward(logprob, mask, *rollout, weights)
        ctx.options = options
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dloss: Tensor) -> tuple[Tensor | None, ...]:
        logprob, mask, *rollout, weights = ctx.saved_tensors
        bounds, beta, weight = ctx.options
        rows, cols = logprob.shape
        dlogprob = torch.empty(rows, cols, dtype=logprob.dtype, device=logprob.device)
        if dlogprob.numel():
            pointers, strides = _pointers(logprob, mask, tuple(rollout))
            with device_of(logprob):
                _backward[(rows, triton.cdiv(cols, BLOCK))](
                    pointers, weights, dloss, dlogprob, strides, cols, bounds, beta, WEIGHT=weight, BLOCK=BLOCK
                )
        return dlogprob, None, None, None, None, None


def _check(logprob: Tensor, mask: Tensor, rollout: Any) -> None:
    expect_tensor("logprob", logprob, dtypes=FLOATS, rank=2)
    expect_tensor("mask", mask, dtypes=MASKS, rank=2)
    expect_device("mask", mask, "logprob", logprob)
    shape = tuple(logprob.shape)
    expect(tuple(mask.shape) == shape, "mask", f"the shape of logprob, {shape}", tuple(mask.shape))
    if not isinstance(rollout, tuple) or len(rollout) != 3:
        raise TypeError(f"rollout: expected a tuple of three tensors, got {type(rollout).__name__}")
    for value, expected in zip(rollout, (shape, shape, shape[:1]), strict=True):
        expect_tensor("rollout", value, dtypes=FLOATS, rank=len(expected))
        expect_like("rollout", value, "logprob", logprob)
        expect(
            tuple(value.shape) == expected, "rollout", f"shapes {shape}, {shape} and {shape[:1]}", tuple(value.shape)
        )
        expect_inference("rollout", value)


def _check_options(epsilon: Any, beta: Any, weight: Any) -> None:
    if (
        not isinstance(epsilon, tuple)
        or len(epsilon) != 2
        or not all(isinstance(each, int | float) for each in epsilon)
    ):
        raise TypeError(f"epsilon: expected a tuple of two numbers, got {epsilon!r}")
    expect(
        all(0 <= each < float("inf") for each in epsilon), "epsilon", "finite numbers that are not negative", epsilon
    )
    if isinstance(beta, bool) or not isinstance(beta, int | float):
        raise TypeError(f"beta: expected a number, got {type(beta).__name__}")
    expect(abs(beta) < float("inf"), "beta", "a finite number", beta)
    expect(weight in WEIGHTS, "weight", " or ".join(WEIGHTS), weight)


def grpo_loss(
    logprob: Tensor,
    mask: Tensor,
    rollout: Rollout,
    epsilon: tuple[float, float] = (0.2, 0.2),
    beta: float = 0.04,
    weight: str = "sequence",
) -> Tensor:
    """Return the loss of Group Relative Policy Optimization: clipped ratios, and a divergence from the reference.

    logprob: (n, L) fp32, fp16 or bf16, any strides: the log-probability of each token; mask: (n, L) bool, int64 or
    int32, not 0 where a token counts; rollout: (old_logprob, reference_logprob, advantages), (n, L) twice and (n,), of
    the dtype of logprob and without gradients. epsilon: how far the ratio may fall and rise; beta: the weight of the
    divergence, by the estimator k3; weight: `sequence` (GRPO), `token` (DAPO) or `constant` (Dr. GRPO, L tokens an
    answer). Other tokens are not read. Returns a number in fp32. Differentiable in logprob; deterministic.
    Source: arXiv:2402.03300.

    Raises:
        TypeError, ValueError: an argument is not as described.
    """
    _check(logprob, mask, rollout)
    _check_options(epsilon, beta, weight)
    options = (-float(epsilon[0]), float(epsilon[1])), float(beta), weight
    if torch.is_grad_enabled() and logprob.requires_grad:
        loss: Tensor = _GrpoLoss.apply(logprob, mask, rollout, *options)
        return loss
    return _launch_forward(logprob, mask, rollout, *options)[0]
