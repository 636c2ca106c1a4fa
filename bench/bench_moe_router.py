"""The router of a mixture of experts: checks, sweep, cost and providers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch import dtype as Dtype  # noqa: N812 - `dtype` is an axis
from torch.nn import functional

import kernels.moe_router
import reference.moe_router
from bench.core.operator import (
    Inputs,
    Make,
    Operator,
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

Routed = tuple[Tensor, Tensor]

# How each model routes: Switch by equation 2 of arXiv:2101.03961; V-MoE with noise and no renormalisation by section
# 2.2 of arXiv:2106.05974; the others as their config.json and reference code say.
ROUTERS: dict[str, dict[str, Any]] = {
    "switch-base-8": {"renormalize": False},
    "v-moe-s32": {"renormalize": False, "noisy": True},
    "qwen3-30b-a3b": {},
    "mixtral-8x7b": {},
    "gshard-600b": {},
    "deepseek-v3": {"scoring": "sigmoid", "biased": True, "groups": 8, "top_groups": 4, "scale": 2.5},
}


def apart(make: Make, tokens: int, experts: int, dtype: Dtype) -> Routed:
    """Logits whose sigmoids, and a bias whose sums with them, differ by more than fp32 rounds off.

    Scores are multiples of 1 / (E + 1), and so is the bias but for a part of its own for every expert: which of two
    that are closer than rounding is chosen could not be proven.
    """
    place = make.uniform(0, 1, tokens, experts, dtype=fp32).argsort(-1) + 1
    own = torch.arange(experts, device=place.device) / (2 * experts)
    bias = (make.integers(0, max(1, experts // 8), experts, dtype=torch.int32) + own) / (experts + 1)
    return (place / (experts + 1)).logit().to(dtype), bias


class MoeRouter(Operator):
    """Bound by memory, and at few tokens by the launch: logits are read once, and written once as their gradient.

    `noisy`: noise is added, as wide as it is; `widened`: as softplus of an input says; `biased`: the choice has a bias.
    """

    entry = staticmethod(kernels.moe_router.moe_router)
    reference = staticmethod(reference.moe_router.moe_router)
    # One expert, all experts, experts of no power of two; every option alone and all together; no tokens.
    checks = (
        grid(tokens=[1, 37], experts=[1], top_k=[1], dtype=[fp32])
        + grid(tokens=[70], experts=[40], top_k=[3], dtype=[fp32, fp16, bf16])
        + grid(tokens=[37], experts=[12], top_k=[2, 12], renormalize=[False], scale=[2.5], dtype=[fp32, bf16])
        + grid(tokens=[21], experts=[9], top_k=[2], noisy=[True], widened=[False, True], dtype=[fp32, bf16])
        + grid(tokens=[21], experts=[9], top_k=[2], widened=[True], renormalize=[False], noisy=[True], dtype=[fp32])
        + grid(tokens=[19], experts=[24], top_k=[4], groups=[6], top_groups=[2], biased=[False], dtype=[fp32])
        + grid(
            tokens=[19],
            experts=[24],
            top_k=[4],
            scoring=["sigmoid"],
            groups=[1, 6],
            biased=[False, True],
            renormalize=[False, True],
            dtype=[fp32],
        )
        + grid(tokens=[5], experts=[40], top_k=[2], scoring=["softmax", "sigmoid"], biased=[True], dtype=[fp32, bf16])
        + grid(tokens=[0], experts=[4], top_k=[2], dtype=[fp32])
    )
    sweep = grid(model=[*models(*ROUTERS)], seq_len=SEQ_LENS, dtype=[fp32])
    hostile = {"tokens": 5, "experts": 12, "top_k": 3, "noisy": True, "widened": True, "dtype": fp32}
    vast = {"tokens": 2**24 + 1, "experts": 128, "top_k": 8, "dtype": bf16}
    grad = True
    rows_of = ("logits", "noise", "spread")

    def sizes(self, model: Model, seq_len: int, dtype: Dtype) -> dict[str, Any]:
        sizes = {"tokens": seq_len, "experts": model.num_experts, "top_k": model.experts_per_token, "dtype": dtype}
        return sizes | ROUTERS[model.name]

    def inputs(self, make: Make, tokens: int, experts: int, top_k: int, dtype: Dtype, **options: Any) -> Inputs:
        noisy, widened, biased = (options.pop(name, False) for name in ("noisy", "widened", "biased"))
        inputs: Inputs = {"logits": make.normal(tokens, experts, dtype=dtype), "top_k": top_k}
        if noisy:
            inputs["noise"] = make.normal(tokens, experts, dtype=dtype, scale=1 if widened else 1 / experts)
        if widened:
            inputs["spread"] = make.normal(tokens, experts, dtype=dtype)
        if biased:
            inputs["logits"], inputs["bias"] = apart(make, tokens, experts, dtype)
        groups = options.get("groups", 1)
        return inputs | {"groups": groups, "top_groups": -(-groups // 2)} | options

    def traffic(self, mode: str, tokens: int, experts: int, top_k: int, dtype: Dtype, **options: Any) -> int:
        """fwd: all inputs; weights, experts. bwd: dweights, weights, experts; gradients and what these take."""
        noisy, widened, biased = (bool(options.get(name)) for name in ("noisy", "widened", "biased"))
        inputs = 1 + noisy + widened
        if mode == "fwd":
            return tokens * (inputs * experts * dtype.itemsize + 8 * top_k) + 4 * biased * experts
        whole = options.get("scoring", "softmax") == "softmax" and not options.get("renormalize", True)
        read = inputs if whole else 2 * widened
        return tokens * ((read + inputs) * experts * dtype.itemsize + 12 * top_k)

    def flops(self, mode: str, tokens: int, experts: int, top_k: int, **_: Any) -> int:
        """fwd: maximum, difference, exp, sum of scores; quotients. bwd: two products and a sum for each weight."""
        return tokens * {"fwd": 4 * experts + top_k, "bwd": 5 * top_k}[mode]

    @kernel
    def triton(self, logits: Tensor, top_k: int, **options: Any) -> Callable[[], Routed]:
        return lambda: kernels.moe_router.moe_router(logits, top_k, **options)

    @peer()
    def eager(self, logits: Tensor, top_k: int, groups: int, top_groups: int, **options: Any) -> Callable[[], Routed]:
        noise, spread, bias = (options.get(name) for name in ("noise", "spread", "bias"))
        softmax, scale = options.get("scoring") != "sigmoid", options.get("scale", 1.0)

        def routed() -> Routed:
            h = logits.float()
            if noise is not None:
                h = h + noise * (1 if spread is None else functional.softplus(spread))
            scores = h.softmax(-1) if softmax else h.sigmoid()
            choice = h if bias is None else scores + bias
            if groups > 1:
                members = choice.unflatten(-1, (groups, -1))
                best = members.amax(-1) if bias is None else members.topk(2, -1).values.sum(-1)
                closed = torch.ones_like(best, dtype=torch.bool).scatter_(1, best.topk(top_groups).indices, False)
                choice = members.masked_fill(closed[..., None], -torch.inf).flatten(-2)
            experts = choice.detach().topk(top_k).indices
            weights = scores.gather(1, experts)
            if options.get("renormalize", True):
                weights = weights / weights.sum(-1, keepdim=True)
            return weights * scale if scale != 1 else weights, experts.int()

        return routed

    @peer(install="pip install vllm")
    def vllm(self, logits: Tensor, top_k: int, groups: int, top_groups: int, **options: Any) -> Callable[[], Routed]:
        needs_inference(logits, options)
        scale, renormalize = options.get("scale", 1.0), options.get("renormalize", True)
        bias, sigmoid = options.get("bias"), options.get("scoring") == "sigmoid"
        if sigmoid != (bias is not None) or (groups > 1 and not sigmoid) or (scale != 1 and not sigmoid):
            raise Unsupported("has kernels for softmax alone, and for sigmoid with a bias and groups")
        from vllm import _custom_ops

        if sigmoid:
            return lambda: _custom_ops.grouped_topk(
                logits, groups, top_groups, top_k, renormalize, scale, bias, scoring_func=1
            )

        def routed() -> Routed:
            weights, experts, rows = outputs_for(logits, top_k, 3)
            _custom_ops.topk_softmax(weights, experts, rows, logits, renormalize)
            return weights, experts

        return routed

    @peer(install="pip install sglang-kernel")
    def sglang(self, logits: Tensor, top_k: int, groups: int, top_groups: int, **options: Any) -> Callable[[], Routed]:
        needs_inference(logits, options)
        if groups > 1 or options.get("scale", 1.0) != 1:
            raise Unsupported("has neither groups nor a scale")
        from sgl_kernel import topk_sigmoid, topk_softmax

        choose = topk_sigmoid if options.get("scoring") == "sigmoid" else topk_softmax

        def routed() -> Routed:
            weights, experts = outputs_for(logits, top_k, 2)
            choose(weights, experts, logits, options.get("renormalize", True), correction_bias=options.get("bias"))
            return weights, experts

        return routed

    @peer(install="pip install flashinfer-python")
    def flashinfer(
        self, logits: Tensor, top_k: int, groups: int, top_groups: int, **options: Any
    ) -> Callable[[], Routed]:
        needs_inference(logits, options)
        if options.get("scoring") != "sigmoid" or "bias" not in options or not options.get("renormalize", True):
            raise Unsupported("its fused_topk_deepseek is for renormalised sigmoids with a bias")
        from flashinfer.fused_moe import fused_topk_deepseek

        bias, scale = options["bias"], options.get("scale", 1.0)

        def routed() -> Routed:
            weights, experts = outputs_for(logits, top_k, 2)
            fused_topk_deepseek(logits, bias, groups, top_groups, top_k, scale, weights, experts)
            return weights, experts

        return routed


def needs_inference(logits: Tensor, options: dict[str, Any]) -> None:
    """Raise `Unsupported` unless `logits` are fp32 on a GPU, without gradients and without noise."""
    needs_cuda(logits)
    if logits.requires_grad:
        raise Unsupported("is for inference: it has no gradients")
    if logits.dtype != fp32 or "noise" in options:
        raise Unsupported("takes fp32 without noise here")


def outputs_for(logits: Tensor, top_k: int, count: int) -> list[Tensor]:
    """Weights, and as many int32 tensors of their shape as make `count`."""
    shape = len(logits), top_k
    return [torch.empty(shape, dtype=fp32 if i == 0 else torch.int32, device=logits.device) for i in range(count)]
