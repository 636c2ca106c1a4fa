"""Tokens sorted by the experts that they chose: checks, sweep, cost and providers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch import dtype as Dtype  # noqa: N812 - `dtype` is an axis

import kernels.moe_dispatch
import reference.moe_dispatch
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

Dispatched = tuple[Tensor, Tensor, Tensor]

# Every row is a copy: the first columns of all of them prove its place, and with one for each expert ends are whole.
SAMPLED_COLS = 256


class MoeDispatch(Operator):
    """Bound by memory: every token is read once and written once for each of its experts.

    `capacity`: the most rows of an expert; tokens over it are dropped, as in GShard and Switch. `priority`: whether
    places are taken token by token or, as in GShard, choice by choice.
    """

    entry = staticmethod(kernels.moe_dispatch.moe_dispatch)
    reference = staticmethod(reference.moe_dispatch.moe_dispatch)
    # One of everything, one expert, more columns than a program owns; experts over capacity, and of none; nothing.
    checks = (
        grid(tokens=[1], cols=[1], num_experts=[1], top_k=[1], dtype=[fp32])
        + grid(tokens=[23], cols=[70], num_experts=[4], top_k=[3], capacity=[None, 7, 0], dtype=[fp32])
        + grid(tokens=[23], cols=[70], num_experts=[4], top_k=[3], capacity=[7], dtype=[fp16, bf16])
        + grid(tokens=[23], cols=[5], num_experts=[4], top_k=[3], capacity=[None, 7], priority=["choice"], dtype=[fp32])
        + grid(tokens=[2], cols=[2049], num_experts=[9], top_k=[8], dtype=[bf16])
        + grid(tokens=[0, 3], cols=[0, 5], num_experts=[2], top_k=[2], dtype=[fp32])
    )
    sweep = grid(
        model=models("switch-base-8", "v-moe-s32", "qwen3-30b-a3b", "mixtral-8x7b", "gshard-600b", "deepseek-v3"),
        seq_len=SEQ_LENS,
        dtype=[bf16],
    )
    hostile = {"tokens": 6, "cols": 20, "num_experts": 4, "top_k": 2, "capacity": 2, "dtype": fp32}
    vast = {"tokens": 2**17 + 1, "cols": 8192, "num_experts": 8, "top_k": 3, "dtype": bf16}
    grad = True

    def sizes(self, model: Model, seq_len: int, dtype: Dtype) -> dict[str, Any]:
        """GShard's capacity is that of section 2.2 for one group of tokens: 2 N / E of N tokens, and at least one."""
        sizes = {"tokens": seq_len, "cols": model.hidden_size, "dtype": dtype}
        sizes |= {"num_experts": model.num_experts, "top_k": model.experts_per_token}
        if model.name == "gshard-600b":
            sizes |= {"capacity": -(-2 * seq_len // model.num_experts), "priority": "choice"}
        return sizes

    def inputs(
        self, make: Make, tokens: int, cols: int, num_experts: int, top_k: int, dtype: Dtype, **options: Any
    ) -> Inputs:
        """Every token chooses different experts, at random."""
        x = make.normal(tokens, cols, dtype=dtype)
        experts = make.uniform(0, 1, tokens, num_experts, dtype=fp32).argsort(-1)[:, :top_k].int().contiguous()
        return {"x": x, "experts": experts, "num_experts": num_experts} | options

    def traffic(self, mode: str, tokens: int, cols: int, num_experts: int, top_k: int, dtype: Dtype, **_: Any) -> int:
        """fwd: x, experts; rows, ends, slots. bwd: drows, slots; dx."""
        indices = {"fwd": 8 * tokens * top_k + 4 * num_experts, "bwd": 4 * tokens * top_k}[mode]
        return tokens * (1 + top_k) * cols * dtype.itemsize + indices

    def flops(self, mode: str, tokens: int, cols: int, top_k: int, **_: Any) -> int:
        """fwd: none. bwd: the sum of a token's rows."""
        return {"fwd": 0, "bwd": top_k - 1}[mode] * tokens * cols

    def samples(self, inputs: Inputs, seed: int = 0) -> list[Sample]:
        """The first columns of all rows."""
        if len(inputs["x"]) <= SAMPLED_ROWS:
            return []
        cols = slice(max(SAMPLED_COLS, inputs["num_experts"]))
        return [Sample({"x": (slice(None), cols)}, (..., cols))]

    @kernel
    def triton(self, **inputs: Any) -> Callable[[], Dispatched]:
        return lambda: kernels.moe_dispatch.moe_dispatch(**inputs)

    @peer()
    def eager(
        self, x: Tensor, experts: Tensor, num_experts: int, capacity: int | None = None, priority: str = "token"
    ) -> Callable[[], Dispatched]:
        if capacity is not None or priority != "token":
            raise Unsupported("drops no tokens, and goes token by token")
        top_k = experts.shape[1]
        each = torch.arange(num_experts, dtype=torch.int32, device=x.device)
        places = torch.arange(experts.numel(), dtype=torch.int32, device=x.device)

        def dispatch() -> Dispatched:
            chosen, order = experts.flatten().sort(stable=True)
            ends = torch.searchsorted(chosen, each, right=True, out_int32=True)
            slots = torch.empty_like(places).scatter_(0, order, places).view(experts.shape)
            return x.index_select(0, order // top_k), ends, slots

        return dispatch

    @peer(install="pip install vllm")
    def vllm(
        self, x: Tensor, experts: Tensor, num_experts: int, capacity: int | None = None, priority: str = "token"
    ) -> Callable[[], Dispatched]:
        needs_cuda(x)
        if capacity is not None or priority != "token" or x.requires_grad:
            raise Unsupported("drops no tokens, goes token by token, and has no gradients")
        if x.shape[1] * x.element_size() % 16:
            raise Unsupported("wants rows of whole vectors of 16 bytes")
        from vllm.model_executor.layers.fused_moe.moe_permute_unpermute import moe_permute

        def dispatch() -> Dispatched:
            rows, _, starts, slots, *_ = moe_permute(
                hidden_states=x, a1q_scale=None, topk_ids=experts, n_expert=num_experts
            )
            return rows, starts[1:].int(), slots.view(experts.shape)

        return dispatch

    @peer()
    def transformer_engine(self, **inputs: Any) -> Callable[[], Dispatched]:
        raise Unsupported("its moe_permute returns neither where experts end nor slots in the order of tokens")
