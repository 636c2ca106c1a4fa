"""loss = -mean((1 - s) log sigma(h) + s log sigma(-h)), h = beta (margin of the chosen - margin of the rejected).

The margin of an answer is the sum of logprob - reference_logprob over its tokens that count; s is the share of labels
taken for wrong. logprob, reference_logprob, mask (2 n, L): n chosen answers, then the n rejected ones; loss a number.
With d the gradient of loss, a token of pair i that counts has +- (d beta / n) (s sigma(h_i) - (1 - s) sigma(-h_i)).

It follows `kernels.selected_logprob`, or whatever gives a log-probability for each token: no logits are in memory. One
program owns BLOCK tokens of an answer and reads each once, where it counts; it leaves 4 bytes. One more goes over the
pairs in a fixed order, and leaves a slope for each. Backward: one program owns BLOCK tokens again; it reads their mask
and writes their gradient.
Source: Rafailov et al. 2023, arXiv:2305.18290, equation 7; smoothed: Mitchell 2023, A note on DPO with noisy
preferences (cDPO), as in TRL.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels._launch import FLOATS, device_of, expect, expect_device, expect_like, expect_tensor
from kernels._logprob import LOG2E
from kernels._rows import as_rows

MASKS = (torch.bool, torch.int64, torch.int32)
BLOCK = 2048  # tokens of a program: four 128-bit accesses of fp32 for each thread of 4 warps
BLOCK_PAIRS, BLOCK_PARTS = 64, 16


@triton.jit
def _margins(logprob_ptr, reference_ptr, mask_ptr, parts_ptr, row_strides, cols, BLOCK: tl.constexpr):
    row, col = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    counts = tl.load(mask_ptr + row * row_strides[2] + col, mask=col < cols, other=0) != 0
    logprob = tl.load(logprob_ptr + row * row_strides[0] + col, mask=counts, other=0.0).to(tl.float32)
    reference = tl.load(reference_ptr + row * row_strides[1] + col, mask=counts, other=0.0).to(tl.float32)
    tl.store(parts_ptr + row * tl.num_programs(1) + tl.program_id(1), tl.sum(logprob - reference))


@triton.jit
def _pairs(
    parts_ptr, loss_ptr, slopes_ptr, pairs, parts, beta, label_smoothing,
    BLOCK_PAIRS: tl.constexpr, BLOCK_PARTS: tl.constexpr,
):  # fmt: skip
    total = tl.zeros((BLOCK_PAIRS,), tl.float32)
    for start in range(0, pairs, BLOCK_PAIRS):
        pair = start + tl.arange(0, BLOCK_PAIRS)
        h = tl.zeros((BLOCK_PAIRS,), tl.float32)
        for first in range(0, parts, BLOCK_PARTS):
            part = first + tl.arange(0, BLOCK_PARTS)
            at = pair.to(tl.int64)[:, None] * parts + part[None, :]
            inside = (pair < pairs)[:, None] & (part < parts)[None, :]
            chosen = tl.load(parts_ptr + at, mask=inside, other=0.0)
            rejected = tl.load(parts_ptr + tl.cast(pairs, tl.int64) * parts + at, mask=inside, other=0.0)
            h += tl.sum(chosen, 1) - tl.sum(rejected, 1)
        h *= beta
        power = tl.exp2(-tl.abs(h) * LOG2E)
        # log(1 + power), which rounds where power is small.
        soft = tl.where(power < 1e-3, power * (1 - power * (0.5 - power / 3)), tl.log(1 + power))
        loss = soft - (1 - label_smoothing) * tl.minimum(h, 0.0) + label_smoothing * tl.maximum(h, 0.0)
        total += tl.where(pair < pairs, loss, 0.0)
        above, below = tl.where(h > 0, 1.0, power) / (1 + power), tl.where(h > 0, power, 1.0) / (1 + power)
        slope = (label_smoothing * above - (1 - label_smoothing) * below) * beta / pairs
        tl.store(slopes_ptr + pair, slope, mask=pair < pairs)
    tl.store(loss_ptr, tl.sum(total) / pairs)


@triton.jit
def _backward(
    slopes_ptr, dloss_ptr, mask_ptr, dlogprob_ptr, dreference_ptr, mask_stride, pairs, cols, BLOCK: tl.constexpr
):
    row, col = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    slope = tl.load(slopes_ptr + row % pairs) * tl.load(dloss_ptr) * tl.where(row < pairs, 1.0, -1.0)
    counts = tl.load(mask_ptr + row * mask_stride + col, mask=col < cols, other=0) != 0
    gradient = tl.where(counts, slope, 0.0)
    if dlogprob_ptr is not None:
        tl.store(dlogprob_ptr + row * cols + col, gradient.to(dlogprob_ptr.dtype.element_ty), mask=col < cols)
    if dreference_ptr is not None:
        tl.store(dreference_ptr + row * cols + col, (-gradient).to(dreference_ptr.dtype.element_ty), mask=col < cols)


def _launch_forward(
    logprob: Tensor, reference_logprob: Tensor, mask: Tensor, beta: float, label_smoothing: float
) -> tuple[Tensor, Tensor]:
    """The loss, and the slope of each pair."""
    rows, cols = logprob.shape
    parts = triton.cdiv(cols, BLOCK)
    margins, slopes, loss = (
        torch.empty(shape, dtype=torch.float32, device=logprob.device) for shape in ((rows, parts), (rows // 2,), ())
    )
    with device_of(logprob):
        if rows and cols:
            flat, strides = as_rows(logprob, reference_logprob, mask)
            _margins[(rows, parts)](*flat, margins, strides, cols, BLOCK=BLOCK)
        _pairs[(1,)](
            margins, loss, slopes, rows // 2, parts, beta, label_smoothing,
            BLOCK_PAIRS=BLOCK_PAIRS, BLOCK_PARTS=BLOCK_PARTS,
        )  # fmt: skip
    return loss, slopes


class _DpoLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logprob: Tensor, reference_logprob: Tensor, mask: Tensor, beta: float, label_smoothing: float
    ) -> Tensor:
        loss, slopes = _launch_forward(logprob, reference_logprob, mask, beta, label_smoothing)
        ctx.save_for_backward(slopes, mask)
        ctx.dtype = logprob.dtype
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dloss: Tensor) -> tuple[Tensor | None, ...]:
        slopes, mask = ctx.saved_tensors
        rows, cols = mask.shape
        gradients = [
            torch.empty(rows, cols, dtype=ctx.dtype, device=mask.device) if need else None
            for need in ctx.needs_input_grad[:2]
        ]
        if mask.numel():
            (mask,), (stride,) = as_rows(mask)
            with device_of(dloss):
                grid = rows, triton.cdiv(cols, BLOCK)
                _backward[grid](slopes, dloss, mask, *gradients, stride, rows // 2, cols, BLOCK=BLOCK)
        return *gradients, None, None, None


def dpo_loss(
    logprob: Tensor, reference_logprob: Tensor, mask: Tensor, beta: float = 0.1, label_smoothing: float = 0.0
) -> Tensor:
    """Return the mean loss of Direct Preference Optimization over pairs of a chosen and a rejected answer.

    logprob, reference_logprob: (2 n, L) fp32, fp16 or bf16, any strides: the log-probability of each token, of n chosen
    answers and then of the n rejected ones, from the policy and from the reference; mask: (2 n, L) bool, int64 or
    int32, not 0 where a token counts. Other tokens are not read. Returns a number in fp32, NaN where there is no pair.
    Differentiable in both log-probabilities; deterministic. Source: arXiv:2305.18290.

    Raises:
        TypeError, ValueError: an argument is not as described, beta is not finite, or label_smoothing not in [0, 1].
    """
    expect_tensor("logprob", logprob, dtypes=FLOATS, rank=2)
    expect(len(logprob) % 2 == 0, "logprob", "an even number of rows, chosen and rejected", len(logprob))
    shape = tuple(logprob.shape)
    expect_tensor("reference_logprob", reference_logprob, dtypes=FLOATS, rank=2)
    expect_like("reference_logprob", reference_logprob, "logprob", logprob)
    expect_tensor("mask", mask, dtypes=MASKS, rank=2)
    expect_device("mask", mask, "logprob", logprob)
    for name, value in (("reference_logprob", reference_logprob), ("mask", mask)):
        expect(tuple(value.shape) == shape, name, f"the shape of logprob, {shape}", tuple(value.shape))
    for name, number in (("beta", beta), ("label_smoothing", label_smoothing)):
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise TypeError(f"{name}: expected a number, got {type(number).__name__}")
    expect(abs(beta) < float("inf"), "beta", "a finite number", beta)
    expect(0 <= label_smoothing <= 1, "label_smoothing", "a number within [0, 1]", label_smoothing)
    arguments = logprob, reference_logprob, mask, float(beta), float(label_smoothing)
    if torch.is_grad_enabled() and (logprob.requires_grad or reference_logprob.requires_grad):
        loss: Tensor = _DpoLoss.apply(*arguments)
        return loss
    return _launch_forward(*arguments)[0]
