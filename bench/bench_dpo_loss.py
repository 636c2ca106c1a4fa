"""Direct Preference Optimization on the log-probabilities of tokens: checks, sweep, cost and providers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch import dtype as Dtype  # noqa: N812 - `dtype` is an axis
from torch.nn import functional

import kernels.dpo_loss
import reference.dpo_loss
from bench.core.operator import Inputs, Make, Operator, bf16, fp16, fp32, grid, kernel, peer
from bench.models import SEQ_LENS

PROMPT = 4  # one part in so many of a sequence is its prompt


class DpoLoss(Operator):
    """Bound by memory, and small by the logits' side: 9 bytes a token. What is before it is `selected_logprob`.

    Liger's loss of this name begins at hidden states: its formula behind them is torch's own operations, as `eager`.
    """

    entry = staticmethod(kernels.dpo_loss.dpo_loss)
    reference = staticmethod(reference.dpo_loss.dpo_loss)
    # Borders of tiles, of blocks of pairs and of parts; labels that are smoothed and swapped; no pairs, and no tokens.
    checks = (
        grid(pairs=[1, 5], cols=[1, 127], dtype=[fp32, fp16, bf16])
        + grid(pairs=[3], cols=[2048, 2049], label_smoothing=[0.1, 1.0], dtype=[fp32])
        + grid(pairs=[65], cols=[7], dtype=[fp32])
        + grid(pairs=[1], cols=[33000], dtype=[fp32, bf16])
        + grid(pairs=[0, 2], cols=[0, 9], dtype=[fp32])
    )
    sweep = grid(pairs=[64, 8], seq_len=SEQ_LENS, dtype=[fp32])
    hostile = {"pairs": 3, "cols": 40, "dtype": fp32}
    vast = {"pairs": 2**14 + 1, "cols": 2**16, "dtype": bf16}
    grad = True

    def sizes(self, pairs: int, seq_len: int, dtype: Dtype) -> dict[str, Any]:
        return {"pairs": pairs, "cols": seq_len, "dtype": dtype}

    def inputs(self, make: Make, pairs: int, cols: int, dtype: Dtype, label_smoothing: float = 0.0) -> Inputs:
        """Log-probabilities of which the policy's differ little from the reference's; prompts do not count."""
        reference_logprob = make.uniform(-4.0, 0.0, 2 * pairs, cols, dtype=dtype)
        logprob = reference_logprob + make.normal(2 * pairs, cols, dtype=dtype, scale=0.2)
        mask = torch.ones(2 * pairs, cols, dtype=torch.bool, device=logprob.device)
        mask[:, : cols // PROMPT] = False
        named = {"logprob": logprob, "reference_logprob": reference_logprob, "mask": mask}
        return named | {"beta": 0.1, "label_smoothing": label_smoothing}

    def traffic(self, mode: str, pairs: int, cols: int, dtype: Dtype, **_: Any) -> int:
        """fwd: mask, both log-probabilities where tokens count; loss. bwd: dloss, mask; both gradients."""
        tokens, counted = 2 * pairs * cols, 2 * pairs * (cols - cols // PROMPT)
        return tokens + 2 * {"fwd": counted, "bwd": tokens}[mode] * dtype.itemsize + 4

    def flops(self, mode: str, pairs: int, cols: int, dtype: Dtype, **_: Any) -> int:
        """fwd: a difference and a sum for each token that counts. bwd: a choice for each token."""
        return 2 * pairs * {"fwd": 2 * (cols - cols // PROMPT), "bwd": cols}[mode]

    @kernel
    def triton(self, **inputs: Any) -> Callable[[], Tensor]:
        return lambda: kernels.dpo_loss.dpo_loss(**inputs)

    @peer()
    def eager(
        self, logprob: Tensor, reference_logprob: Tensor, mask: Tensor, beta: float, label_smoothing: float
    ) -> Callable[[], Tensor]:
        """As trainers write it, but for one thing: they sum each policy's tokens alone, which rounds too much here."""

        def loss() -> Tensor:
            chosen, rejected = ((logprob.float() - reference_logprob.float()) * mask).sum(-1).chunk(2)
            h = beta * (chosen - rejected)
            losses = -functional.logsigmoid(h) * (1 - label_smoothing)
            return (losses - functional.logsigmoid(-h) * label_smoothing).mean()

        return loss
