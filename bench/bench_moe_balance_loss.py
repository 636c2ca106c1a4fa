"""The load-balancing loss of a mixture of experts: checks, sweep, cost and providers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch import dtype as Dtype  # noqa: N812 - `dtype` is an axis

import kernels.moe_balance_loss
import reference.moe_balance_loss
from bench.core.operator import Inputs, Make, Operator, bf16, fp16, fp32, grid, kernel, peer
from bench.models import SEQ_LENS, Model, models


class MoeBalanceLoss(Operator):
    """Bound by memory, and at few tokens by two launches: logits are read once, and once more for their gradient."""

    entry = staticmethod(kernels.moe_balance_loss.moe_balance_loss)
    reference = staticmethod(reference.moe_balance_loss.moe_balance_loss)
    # One of everything, more rows than a program takes at a time, experts of no power of two.
    checks = (
        grid(tokens=[1, 150], experts=[1, 12], top_k=[1], dtype=[fp32])
        + grid(tokens=[37], experts=[40], top_k=[3], dtype=[fp32, fp16, bf16])
        + grid(tokens=[2], experts=[2049], top_k=[2], dtype=[fp32])
    )
    # In the dtype of the model, as transformers hands logits to this loss.
    sweep = grid(
        model=models("switch-base-8", "v-moe-s32", "qwen3-30b-a3b", "mixtral-8x7b", "deepseek-v3"),
        seq_len=SEQ_LENS,
        dtype=[bf16],
    )
    hostile = {"tokens": 5, "experts": 12, "top_k": 2, "dtype": fp32}
    grad = True

    def sizes(self, model: Model, seq_len: int, dtype: Dtype) -> dict[str, Any]:
        return {"tokens": seq_len, "experts": model.num_experts, "top_k": model.experts_per_token, "dtype": dtype}

    def inputs(self, make: Make, tokens: int, experts: int, top_k: int, dtype: Dtype) -> Inputs:
        logits = make.normal(tokens, experts, dtype=dtype)
        return {"logits": logits, "experts": logits.argsort(-1, descending=True)[:, :top_k].int().contiguous()}

    def traffic(self, mode: str, tokens: int, experts: int, top_k: int, dtype: Dtype) -> int:
        """fwd: logits, experts; loss. bwd: dloss, logits, f; dlogits."""
        logits = tokens * experts * dtype.itemsize
        return {"fwd": logits + 4 * tokens * top_k + 4, "bwd": 2 * logits + 4 * experts + 4}[mode]

    def flops(self, mode: str, tokens: int, experts: int, **_: Any) -> int:
        """fwd: softmax (5), a sum. bwd: softmax, a product and a sum, a difference, two products."""
        return {"fwd": 6, "bwd": 10}[mode] * tokens * experts

    @kernel
    def triton(self, logits: Tensor, experts: Tensor) -> Callable[[], Tensor]:
        return lambda: kernels.moe_balance_loss.moe_balance_loss(logits, experts)

    @peer()
    def eager(self, logits: Tensor, experts: Tensor) -> Callable[[], Tensor]:
        """Choices are counted by sorting: adding ones where they fall would have no fixed order."""
        tokens, count = logits.shape
        each = torch.arange(count, dtype=experts.dtype, device=logits.device)

        def loss() -> Tensor:
            ends = torch.searchsorted(experts.flatten().sort().values, each, right=True)
            chosen = ends.diff(prepend=ends.new_zeros(1))
            return logits.float().softmax(-1).sum(0).dot(chosen.float()) * (count / tokens**2)

        return loss
