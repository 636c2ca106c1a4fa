"""Group Relative Policy Optimization on the log-probabilities of tokens: checks, sweep, cost and providers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch import dtype as Dtype  # noqa: N812 - `dtype` is an axis

import kernels.grpo_loss
import reference.grpo_loss
from bench.core.operator import Inputs, Make, Operator, bf16, fp16, fp32, grid, kernel, peer
from bench.models import SEQ_LENS

Rollout = tuple[Tensor, Tensor, Tensor]
GROUP = 8  # answers to one question
PADDED = 4  # one part in so many of an answer is padding


class GrpoLoss(Operator):
    """Bound by memory, and small by the logits' side: 13 bytes a token. What is before it is `selected_logprob`.

    Liger's loss of this name begins at logits: it is a peer of both together.
    """

    entry = staticmethod(kernels.grpo_loss.grpo_loss)
    reference = staticmethod(reference.grpo_loss.grpo_loss)
    # Borders of tiles, of blocks of answers and of parts; every weight, bounds apart; no answers, and no tokens.
    checks = (
        grid(rows=[1, 5], cols=[1, 127], dtype=[fp32, fp16, bf16])
        + grid(rows=[5], cols=[1025], weight=["sequence", "token", "constant"], epsilon=[(0.1, 0.28)], dtype=[fp32])
        + grid(rows=[65], cols=[7], weight=["sequence", "token"], dtype=[fp32])
        + grid(rows=[1], cols=[17000], weight=["token"], dtype=[fp32, bf16])
        + grid(rows=[0, 2], cols=[0, 9], dtype=[fp32])
    )
    sweep = grid(rows=[64, 8], seq_len=SEQ_LENS, dtype=[fp32])
    hostile = {"rows": 5, "cols": 40, "dtype": fp32}
    vast = {"rows": 2**15 + 1, "cols": 2**16, "dtype": bf16}
    grad = True

    def sizes(self, rows: int, seq_len: int, dtype: Dtype) -> dict[str, Any]:
        return {"rows": rows, "cols": seq_len, "dtype": dtype}

    def inputs(
        self,
        make: Make,
        rows: int,
        cols: int,
        dtype: Dtype,
        epsilon: tuple[float, float] = (0.2, 0.2),
        weight: str = "sequence",
    ) -> Inputs:
        """Policies that differ so far that some ratios are clipped; padding does not count; advantages of groups."""
        logprob = make.uniform(-4.0, 0.0, rows, cols, dtype=dtype)
        old, other = (logprob + make.normal(rows, cols, dtype=dtype, scale=0.2) for _ in range(2))
        rewards = make.normal(rows, dtype=fp32)
        grouped = rewards.view(-1, GROUP) if rows % GROUP == 0 else rewards.view(1, -1)
        deviation = grouped.std(-1, correction=0, keepdim=True) if rows else 1.0
        advantages = (grouped - grouped.mean(-1, keepdim=True)) / (deviation + 1e-4)
        mask = torch.ones(rows, cols, dtype=torch.bool, device=logprob.device)
        mask[:, cols - cols // PADDED :] = False
        named = {"logprob": logprob, "mask": mask, "rollout": (old, other, advantages.reshape(-1).to(dtype))}
        return named | {"epsilon": epsilon, "beta": 0.04, "weight": weight}

    def traffic(self, mode: str, rows: int, cols: int, dtype: Dtype, **_: Any) -> int:
        """fwd: mask, three log-probabilities where tokens count, advantages; loss. bwd: dloss and those; dlogprob."""
        counted = rows * (cols - cols // PADDED)
        numbers = 3 * counted + rows + {"fwd": 0, "bwd": rows * cols}[mode]
        return rows * cols + numbers * dtype.itemsize + 4

    def flops(self, mode: str, rows: int, cols: int, dtype: Dtype, **_: Any) -> int:
        """Of a token, fwd: two differences and exp, bounds, two gains, minimum, k3, two sums. bwd: as many."""
        return 14 * rows * (cols - cols // PADDED)

    @kernel
    def triton(self, **inputs: Any) -> Callable[[], Tensor]:
        return lambda: kernels.grpo_loss.grpo_loss(**inputs)

    @peer()
    def eager(
        self,
        logprob: Tensor,
        mask: Tensor,
        rollout: Rollout,
        epsilon: tuple[float, float],
        beta: float,
        weight: str,
    ) -> Callable[[], Tensor]:
        """As TRL writes it: a loss for each token, then a product with the mask."""
        old, other, advantages = rollout

        def loss() -> Tensor:
            policy, counts = logprob.float(), mask.float()
            ratio = torch.exp(policy - old.float())
            gain = ratio * advantages.float()[:, None]
            bounded = ratio.clamp(1 - epsilon[0], 1 + epsilon[1]) * advantages.float()[:, None]
            k = other.float() - policy
            losses = (beta * (torch.exp(k) - k - 1) - torch.minimum(gain, bounded)) * counts
            if weight == "sequence":
                return (losses.sum(-1) / counts.sum(-1).clamp(min=1.0)).mean()
            return losses.sum() / (counts.sum().clamp(min=1.0) if weight == "token" else losses.numel())

        return loss
