"""Multi-head latent attention in prefill and training: checks, sweep, cost and providers."""

from __future__ import annotations

import random
from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch import dtype as Dtype  # noqa: N812 - `dtype` is an axis
from torch.nn.attention import SDPBackend

import kernels.mla_attention
import reference.mla_attention
from bench.attention_peers import Function, Run, flash, flash_peer, forced, sdpa, visible_pairs
from bench.core.operator import (
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

PROVABLE_SCORES = 1 << 22
SAMPLED_QUERIES = 64
SAMPLED_HEADS = 2


def shapes(
    num_heads: int, q_len: int, k_len: int, head_dim: int, rope_dim: int, v_head_dim: int = 0, batch: int = 1, **_: Any
) -> list[tuple[int, ...]]:
    """The shapes of q_nope, q_rope, k_nope, k_rope, v and o."""
    queries, keys, width = (batch, num_heads, q_len), (batch, num_heads, k_len), v_head_dim or head_dim
    of_keys = (*keys, head_dim), (batch, k_len, rope_dim), (*keys, width)
    return [(*queries, head_dim), (*queries, rope_dim), *of_keys, (*queries, width)]


def joined(q_nope: Tensor, q_rope: Tensor, k_nope: Tensor, k_rope: Tensor) -> tuple[Tensor, Tensor]:
    """Queries and keys of whole heads, in new memory: k_rope comes once for all, and gradients go to each part."""
    k_rope = k_rope[:, None].expand(-1, k_nope.shape[1], -1, -1)
    return torch.cat([q_nope, q_rope], -1), torch.cat([k_nope, k_rope], -1)


def concatenated(
    attend: Callable[..., Run], q_nope: Tensor, q_rope: Tensor, k_nope: Tensor, k_rope: Tensor, **rest: Any
) -> Run:
    """A peer that takes whole heads. It joins them in its timed part: a model has to, at every step.

    Refusals come at once, from a first attempt on the shapes.
    """
    attend(*joined(q_nope, q_rope, k_nope, k_rope), **rest)

    def run() -> Tensor:
        return attend(*joined(q_nope, q_rope, k_nope, k_rope), **rest)()

    return run


def through(backend: SDPBackend, **inputs: Any) -> Run:
    """Torch's own through one backend, on joined heads."""
    return concatenated(lambda *heads, **rest: forced(backend, *heads, **rest), **inputs, window=None)


def through_flash(function: Function, **inputs: Any) -> Run:
    """One of the flash-attn family, on joined heads."""
    return concatenated(lambda *heads, **rest: flash(function, *heads, **rest), **inputs, window=None)


class MlaAttention(Operator):
    """Bound by arithmetic like attention; what is peculiar are keys of which a third is shared by all heads."""

    entry = staticmethod(kernels.mla_attention.mla_attention)
    reference = staticmethod(reference.mla_attention.mla_attention)
    # Borders of tiles; more heads than a program takes in turn; rows that see nothing; nothing at all.
    checks = [
        {"causal": causal, **axes}
        for causal in (False, True)
        for axes in grid(num_heads=[2], q_len=[33], k_len=[40], head_dim=[32], rope_dim=[16], dtype=[fp32])
        + grid(num_heads=[3], q_len=[20], k_len=[7], head_dim=[24], rope_dim=[8], v_head_dim=[40], dtype=[fp32])
        + grid(num_heads=[1], q_len=[70], k_len=[70], head_dim=[128], rope_dim=[64], dtype=[bf16])
        + grid(num_heads=[1], q_len=[0, 3], k_len=[0, 5], head_dim=[5], rope_dim=[3], dtype=[fp32], batch=[0, 2])
    ] + grid(num_heads=[2], q_len=[9], k_len=[9], head_dim=[16], rope_dim=[8], dtype=[fp16], scale=[-0.3, 0.0])
    # DeepSeek-V3 differs from its small sister in heads alone, so what is interpreted to be counted is the latter.
    sweep = grid(model=models("deepseek-v2-lite"), seq_len=SEQ_LENS, dtype=[bf16])
    sweep += grid(model=models("deepseek-v3", "minicpm3-4b"), seq_len=SEQ_LENS[1:], dtype=[bf16])
    hostile = {"batch": 2, "num_heads": 3, "q_len": 5, "k_len": 9, "head_dim": 16, "rope_dim": 8, "dtype": fp32}
    vast = {**hostile, "batch": 16385, "num_heads": 32, "q_len": 64, "k_len": 64, "head_dim": 64}
    grad = True

    def sizes(self, model: Model, seq_len: int, dtype: Dtype) -> dict[str, Any]:
        widths = {"head_dim": model.head_dim - model.rotary_dim, "rope_dim": model.rotary_dim}
        sizes = {"num_heads": model.num_heads, "q_len": seq_len, "k_len": seq_len, "v_head_dim": model.v_head_dim}
        return {**sizes, **widths, "causal": model.causal, "dtype": dtype}

    def inputs(self, make: Make, dtype: Dtype, causal: bool = False, **sizes: Any) -> Inputs:
        names = "q_nope", "q_rope", "k_nope", "k_rope", "v"
        drawn = (make.normal(*shape, dtype=dtype) for shape in shapes(**sizes))
        return dict(zip(names, drawn, strict=False)) | {"causal": causal, "scale": sizes.get("scale")}

    def samples(self, inputs: Inputs, seed: int = 0) -> list[Sample]:
        """The first queries, some by lot and the last, of some heads, and the keys that the last of them sees."""
        (batch, heads, q_len, _), k_len = inputs["q_nope"].shape, inputs["k_nope"].shape[2]
        if batch * heads * q_len * k_len <= PROVABLE_SCORES:
            return []
        samples, rows, lot = [], min(q_len, SAMPLED_QUERIES), random.Random(seed)
        most = (batch - 1, heads - SAMPLED_HEADS, q_len - rows)
        for b, h, start in ((0, 0, 0), tuple(lot.randint(0, each) for each in most), most):
            stop = max(0, start + rows + k_len - q_len) if inputs["causal"] else k_len
            some, of_heads = slice(b, b + 1), slice(h, h + SAMPLED_HEADS)
            at, keys = (some, of_heads, slice(start, start + rows)), (some, of_heads, slice(stop))
            views = {"q_nope": at, "q_rope": at, "k_nope": keys, "k_rope": (some, slice(stop)), "v": keys}
            samples.append(Sample(views, at))
        return samples

    def traffic(self, mode: str, dtype: Dtype, **sizes: Any) -> int:
        """fwd: the inputs; o. bwd: do, the inputs; their gradients."""
        *inputs, o = (prod(shape) for shape in shapes(**sizes))
        return ({"fwd": 1, "bwd": 2}[mode] * sum(inputs) + o) * dtype.itemsize

    def flops(self, mode: str, dtype: Dtype, causal: bool = False, **sizes: Any) -> int:
        """The matrix products of visible pairs: scores and values; backward scores anew, do v^T and four gradients."""
        (batch, heads, q_len, dim), (*_, rope), (*_, k_len, _), _, (*_, width), _ = shapes(**sizes)
        pairs = visible_pairs(q_len, k_len, causal, None)
        return 2 * batch * heads * pairs * {"fwd": dim + rope + width, "bwd": 3 * (dim + rope) + 2 * width}[mode]

    @kernel
    def triton(self, **inputs: Any) -> Run:
        return lambda: kernels.mla_attention.mla_attention(**inputs)

    @peer()
    def eager(self, **inputs: Any) -> Run:
        return concatenated(sdpa, **inputs, window=None)

    @peer()
    def sdpa_flash(self, **inputs: Any) -> Run:
        return through(SDPBackend.FLASH_ATTENTION, **inputs)

    @peer()
    def sdpa_efficient(self, **inputs: Any) -> Run:
        return through(SDPBackend.EFFICIENT_ATTENTION, **inputs)

    @peer()
    def sdpa_cudnn(self, **inputs: Any) -> Run:
        return through(SDPBackend.CUDNN_ATTENTION, **inputs)

    flash_attn_3 = flash_peer("flash_attn_interface", through_flash)
    flash_attn_4 = flash_peer("flash_attn.cute", through_flash)

    @peer(install="pip install flashinfer-python")
    def flashinfer(self, **inputs: Any) -> Run:
        """Its prefill of one request, which has no backward."""
        needs_cuda(inputs["v"])
        from flashinfer import single_prefill_with_kv_cache

        batch, _, _, width = inputs["v"].shape
        if batch != 1 or (inputs["q_nope"].shape[3] + inputs["q_rope"].shape[3], width) != (192, 128):
            raise Unsupported("needs one request, heads of 192 columns and values of 128")
        if inputs["v"].requires_grad:
            raise Unsupported("has no backward")

        def attend(q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float | None) -> Run:
            queries, options = q[0].transpose(0, 1), {"causal": causal, "sm_scale": scale, "kv_layout": "HND"}
            return lambda: single_prefill_with_kv_cache(queries, k[0], v[0], **options).transpose(0, 1)[None]

        return concatenated(attend, **inputs)
