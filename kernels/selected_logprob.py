"""logprob = log softmax(x)_t for each row x of logits and its token t: what DPO, PPO and GRPO compare policies by.

logits, dlogits (rows, V), tokens, logprob, dlogprob (rows,); dlogits_j = dlogprob ([j = t] - softmax(x)_j). A row
whose token is ignore_index (a prompt, padding) has logprob 0 and gradient 0, and its logits are not read.

`kernels._logprob` does all of it: one program owns a row, reads it once and leaves 4 bytes, 12 where a gradient will be
asked for; the backward reads the logits once more and writes dlogits. No log-softmax of the size of the logits is
stored. logprob is fp32 whatever the logits are: the ratio of two policies is the exponential of a difference of these,
and at -10 bf16 would leave 3 % of it to chance.
Source: Rafailov et al. 2023, arXiv:2305.18290; Milakov and Gimelshein 2018, arXiv:1805.02867 (one pass over a row).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels import _logprob


class _SelectedLogprob(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, tokens: Tensor, ignore_index: int) -> Tensor:
        logprob, stats = _logprob.forward(logits, tokens, ignore_index, 0.0, keep=True)
        ctx.save_for_backward(logits, tokens, stats)
        ctx.ignore_index = ignore_index
        return logprob

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dlogprob: Tensor) -> tuple[Tensor | None, ...]:
        logits, tokens, stats = ctx.saved_tensors
        return _logprob.backward(dlogprob, None, logits, tokens, stats, ctx.ignore_index, 0.0), None, None


def selected_logprob(logits: Tensor, tokens: Tensor, ignore_index: int = -100) -> Tensor:
    """Return log softmax(logits)[token] of each row in fp32, 0 where the token is ignore_index.

    logits: (rows, V) fp32, fp16 or bf16, any strides; tokens: (rows,) int64 or int32. A token outside of [0, V) that is
    not ignore_index makes its row, and its row of the gradient, NaN. Differentiable in the logits, which are left as
    they are. Source: arXiv:2305.18290, arXiv:1805.02867.

    Raises:
        TypeError, ValueError: an argument is not as described.
    """
    _logprob.check(logits, "tokens", tokens, ignore_index)
    if torch.is_grad_enabled() and logits.requires_grad:
        logprob: Tensor = _SelectedLogprob.apply(logits, tokens, ignore_index)
        return logprob
    return _logprob.forward(logits, tokens, ignore_index, 0.0, keep=False)[0]
