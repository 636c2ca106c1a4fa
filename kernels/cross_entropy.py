"""loss = -mean((1 - s) log p_t + s mean(log p)) over the rows that count, p = softmax(logits).

t is the target of a row, s the label smoothing; a row does not count if its target is ignore_index.

logits, dlogits (rows, V), targets (rows,), loss a number. With n the rows that count and d the gradient of loss:
dlogits_j = (d / n) (p_j - (1 - s) [j = t] - s / V), and 0 in a row that does not count.

Two launches. `kernels._logprob` walks over each row once and leaves 12 bytes a row; one program sums those in a fixed
order. The backward reads the logits once more and writes dlogits: logits are read twice in all, and nothing of their
size is stored but the gradient. The logits stay as they are: no gradient is written over them, so that a second
backward, or whoever else holds them, sees what the forward saw. The logits of rows that do not count are never read.
Source: Bishop 2006, Pattern Recognition and Machine Learning, section 4.3.4; arXiv:1805.02867 (one pass over a row).
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels import _logprob
from kernels._launch import device_of, expect

BLOCK_ROWS = 4096


@triton.jit
def _mean(logprob_ptr, targets_ptr, loss_ptr, factor_ptr, rows, ignore_index, BLOCK_ROWS: tl.constexpr):
    logprob = tl.zeros((BLOCK_ROWS,), tl.float32)
    counted = tl.zeros((BLOCK_ROWS,), tl.int32)
    for start in range(0, rows, BLOCK_ROWS):
        row = start + tl.arange(0, BLOCK_ROWS)
        logprob += tl.load(logprob_ptr + row, mask=row < rows, other=0.0)
        target = tl.load(targets_ptr + row, mask=row < rows, other=ignore_index)
        counted += (target != ignore_index).to(tl.int32)
    count = tl.sum(counted)
    factor = tl.where(count > 0, -1.0 / tl.maximum(count, 1), float("nan"))
    tl.store(loss_ptr, (tl.sum(logprob) * factor).to(loss_ptr.dtype.element_ty))
    tl.store(factor_ptr, factor)


def mean(logprob: Tensor, targets: Tensor, ignore_index: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Minus the mean of logprob over the rows that count, and minus one over their number."""
    loss = torch.empty((), dtype=dtype, device=logprob.device)
    factor = torch.empty((), dtype=torch.float32, device=logprob.device)
    with device_of(logprob):
        _mean[(1,)](
            logprob, targets.contiguous(), loss, factor, len(logprob), ignore_index, BLOCK_ROWS=BLOCK_ROWS, num_warps=8
        )
    return loss, factor


def _launch_forward(
    logits: Tensor, targets: Tensor, ignore_index: int, label_smoothing: float, keep: bool
) -> tuple[Tensor, Tensor | None, Tensor]:
    """The loss, what the backward needs of each row (if it is to be kept), and minus one over the rows that count."""
    logprob, stats = _logprob.forward(logits, targets, ignore_index, label_smoothing, keep)
    loss, factor = mean(logprob, targets, ignore_index, logits.dtype)
    return loss, stats, factor


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, ignore_index: int, label_smoothing: float) -> Tensor:
        loss, stats, factor = _launch_forward(logits, targets, ignore_index, label_smoothing, keep=True)
        ctx.save_for_backward(logits, targets, stats, factor)
        ctx.options = ignore_index, label_smoothing
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dloss: Tensor) -> tuple[Tensor | None, ...]:
        logits, targets, stats, factor = ctx.saved_tensors
        return _logprob.backward(dloss, factor, logits, targets, stats, *ctx.options), None, None, None


def cross_entropy(logits: Tensor, targets: Tensor, ignore_index: int = -100, label_smoothing: float = 0.0) -> Tensor:
    """Return the mean cross-entropy of rows of logits with the targets, over targets that are not ignore_index.

    logits: (rows, V) fp32, fp16 or bf16, any strides; targets: (rows,) int64 or int32. All in fp32, with one cast to
    the dtype of the logits at the end, as torch's own returns it; NaN where no row counts. A target outside [0, V) that
    is not ignore_index makes the loss and its row of the gradient NaN. Differentiable in the logits, which are left as
    they are. Source: arXiv:1805.02867; label smoothing: arXiv:1512.00567.

    Raises:
        TypeError, ValueError: an argument is not as described, or label_smoothing is not within [0, 1].
    """
    _logprob.check(logits, "targets", targets, ignore_index)
    if isinstance(label_smoothing, bool) or not isinstance(label_smoothing, int | float):
        raise TypeError(f"label_smoothing: expected a number, got {type(label_smoothing).__name__}")
    expect(0 <= label_smoothing <= 1, "label_smoothing", "a number within [0, 1]", label_smoothing)
    if torch.is_grad_enabled() and logits.requires_grad:
        loss: Tensor = _CrossEntropy.apply(logits, targets, ignore_index, float(label_smoothing))
        return loss
    return _launch_forward(logits, targets, ignore_index, float(label_smoothing), keep=False)[0]
