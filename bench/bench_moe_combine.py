"""The weighted sum of what a token's experts returned: checks, sweep, cost and providers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch import dtype as Dtype  # noqa: N812 - `dtype` is an axis

import kernels.moe_combine
import reference.moe_combine
from bench.core.operator import (
    SAMPLED_ROWS,
    Inputs,
    Make,
    Operator,
    Sample,
    Unsupported,
    bf16,
    fp16,
    fp32,
    grid,
    kernel,
    needs_cuda,
    peer,
)
from bench.models import SEQ_LENS, Model, models

SAMPLED_COLS = 256  # of all tokens: no column depends on another


class MoeCombine(Operator):
    """Bound by memory: every row is read once, and their sums are written, a k-th of them."""

    entry = staticmethod(kernels.moe_combine.moe_combine)
    reference = staticmethod(reference.moe_combine.moe_combine)
    # One of everything, columns of no whole vectors, more of them than a program holds; one expert and many; nothing.
    checks = (
        grid(tokens=[1, 13], cols=[1, 70], num_experts=[5], top_k=[1], dtype=[fp32])
        + grid(tokens=[13], cols=[70], num_experts=[9], top_k=[8], dtype=[fp32, fp16, bf16])
        + grid(tokens=[2], cols=[4097], num_experts=[5], top_k=[3], dtype=[fp32, bf16])
        + grid(tokens=[0, 3], cols=[0, 5], num_experts=[4], top_k=[2], dtype=[fp32])
    )
    sweep = grid(
        model=models("switch-base-8", "v-moe-s32", "qwen3-30b-a3b", "mixtral-8x7b", "deepseek-v3"),
        seq_len=SEQ_LENS,
        dtype=[bf16],
    )
    # One token, whose slots differ however they are spread: two tokens that share a row are no permutation.
    hostile = {"tokens": 1, "cols": 20, "num_experts": 4, "top_k": 3, "dtype": fp32}
    vast = {"tokens": 2**17 + 1, "cols": 8192, "num_experts": 8, "top_k": 3, "dtype": bf16}
    grad = True

    def sizes(self, model: Model, seq_len: int, dtype: Dtype) -> dict[str, Any]:
        sizes = {"tokens": seq_len, "cols": model.hidden_size, "dtype": dtype}
        return sizes | {"num_experts": model.num_experts, "top_k": model.experts_per_token}

    def inputs(self, make: Make, tokens: int, cols: int, num_experts: int, top_k: int, dtype: Dtype) -> Inputs:
        """Rows as random choices of experts sort them; weights as a router's softmax gives them."""
        rows = make.normal(tokens * top_k, cols, dtype=dtype)
        order = make.integers(0, num_experts, tokens * top_k, dtype=torch.int32).argsort(stable=True)
        weights = make.normal(tokens, top_k, dtype=fp32).softmax(-1)
        return {"rows": rows, "slots": order.argsort().int().view(tokens, top_k), "weights": weights}

    def traffic(self, mode: str, tokens: int, cols: int, top_k: int, dtype: Dtype, **_: Any) -> int:
        """fwd: rows, slots, weights; y. bwd: dy, rows, slots, weights; drows, dweights."""
        rows, numbers = {"fwd": (top_k + 1, 2), "bwd": (2 * top_k + 1, 3)}[mode]
        return tokens * (rows * cols * dtype.itemsize + 4 * numbers * top_k)

    def flops(self, mode: str, tokens: int, cols: int, top_k: int, **_: Any) -> int:
        """fwd: a product and a sum. bwd: a product and a sum for the weights, a product for the rows."""
        return {"fwd": 2, "bwd": 3}[mode] * tokens * top_k * cols

    def samples(self, inputs: Inputs, seed: int = 0) -> list[Sample]:
        """The first columns of all rows: behind cotangents of these alone no gradient depends on others."""
        if len(inputs["slots"]) <= SAMPLED_ROWS:
            return []
        first = (slice(None), slice(SAMPLED_COLS))
        return [Sample({"rows": first}, first)]

    @kernel
    def triton(self, rows: Tensor, slots: Tensor, weights: Tensor) -> Callable[[], Tensor]:
        return lambda: kernels.moe_combine.moe_combine(rows, slots, weights)

    @peer()
    def eager(self, rows: Tensor, slots: Tensor, weights: Tensor) -> Callable[[], Tensor]:
        """One gather, and a batch of products of vectors with matrices, in the dtype of rows."""

        def combine() -> Tensor:
            chosen = rows.index_select(0, slots.flatten()).view(*slots.shape, -1)
            return torch.bmm(weights.to(rows.dtype)[:, None], chosen).squeeze(1)

        return combine

    @peer(install="pip install vllm")
    def vllm(self, rows: Tensor, slots: Tensor, weights: Tensor) -> Callable[[], Tensor]:
        needs_cuda(rows)
        if rows.requires_grad:
            raise Unsupported("is for inference: it has no gradients")
        if rows.shape[1] * rows.element_size() % 16:
            raise Unsupported("wants rows of whole vectors of 16 bytes")
        from vllm.model_executor.layers.fused_moe.moe_permute_unpermute import moe_unpermute

        def combine() -> Tensor:
            y = torch.empty(len(slots), rows.shape[1], dtype=rows.dtype, device=rows.device)
            moe_unpermute(y, rows, weights, slots.flatten())
            return y

        return combine

    @peer(install="pip install --no-build-isolation transformer-engine[pytorch]")
    def transformer_engine(self, rows: Tensor, slots: Tensor, weights: Tensor) -> Callable[[], Tensor]:
        needs_cuda(rows)
        from transformer_engine.pytorch import moe_unpermute

        # Its map runs over the choices, and within each over the tokens.
        return lambda: moe_unpermute(rows, slots.t().reshape(-1), merging_probs=weights, map_type="index")
