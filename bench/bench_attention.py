"""Attention, of any length, grouping of heads and head dimension: checks, sweep, cost and providers."""

from __future__ import annotations

import random
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch import dtype as Dtype  # noqa: N812 - `dtype` is an axis
from torch.nn.attention import SDPBackend
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

import kernels.attention
import reference.attention
from bench import attention_peers
from bench.attention_peers import Run, flash, flash_peer, forced, sdpa, visible_pairs
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
    needs_cpp_compiler,
    peer,
)
from bench.models import SEQ_LENS, Model, models

MODELS = ("bert-base", "llama3-8b", "llama-7b", "llama3-70b", "qwen2.5-7b", "gpt2-xl", "vit-h", "deepseek-v3")
CROSS = ("blip2-qformer",)
WINDOWED = ("mistral-7b", "gemma2-9b", "modernbert-large")
PROVABLE_SCORES = 1 << 22
SAMPLED_QUERIES = 64


def shapes(
    num_heads: int,
    num_kv_heads: int,
    q_len: int,
    k_len: int,
    head_dim: int,
    v_head_dim: int = 0,
    batch: int = 1,
    **_: Any,
) -> list[tuple[int, int, int, int]]:
    """The shapes of q, k, v and o."""
    dims = head_dim, v_head_dim or head_dim
    of_queries, of_keys = (
        [(batch, *each, dim) for dim in dims] for each in ((num_heads, q_len), (num_kv_heads, k_len))
    )
    return [of_queries[0], *of_keys, of_queries[1]]


class Attention(Operator):
    """Attention is bound by arithmetic: bytes grow with the length, operations with its square."""

    entry = staticmethod(kernels.attention.attention)
    reference = staticmethod(reference.attention.attention)
    # Borders of tiles; rows that see nothing, one key, some and all; nothing at all; dimensions between powers of two.
    checks = (
        [
            {"num_heads": 4, "num_kv_heads": 2, "causal": causal, **axes}
            for causal in (False, True)
            for axes in grid(num_kv_heads=[1], q_len=[65], k_len=[33, 64, 100], head_dim=[64], dtype=[fp32])
            + grid(num_kv_heads=[4], q_len=[40], k_len=[40], head_dim=[16, 80, 96], dtype=[fp32])
            + grid(num_heads=[2], num_kv_heads=[1], q_len=[129], k_len=[130], head_dim=[64], dtype=[fp16, bf16])
            + grid(num_heads=[2], num_kv_heads=[1], q_len=[40], k_len=[70], head_dim=[128], dtype=[fp16, bf16])
            + grid(q_len=[1, 33], k_len=[1, 70], head_dim=[24], v_head_dim=[40], dtype=[fp32])
            + grid(q_len=[0, 3], k_len=[0, 5], head_dim=[5], dtype=[fp32], batch=[0, 2])
            + grid(num_heads=[1], num_kv_heads=[1], q_len=[33], k_len=[40], head_dim=[256], dtype=[fp32, bf16])
            + grid(q_len=[20], k_len=[20], head_dim=[48], v_head_dim=[32], dtype=[bf16], scale=[-0.3, 0.0])
        ]
        + [
            # Windows of one key, within a tile, over several, over all; tiles in and out of sight before and behind.
            {"num_heads": 1, "num_kv_heads": 1, "causal": causal, "window": window, "dtype": fp32, **axes}
            for causal, window in ((True, 1), (False, 40), (True, 40))
            for axes in grid(q_len=[20, 70], k_len=[70], head_dim=[136])
        ]
        + grid(
            num_heads=[1], num_kv_heads=[1], q_len=[200], k_len=[150], head_dim=[64], window=[90], dtype=[fp32, bf16]
        )
    )
    sweep = [
        point
        for point in grid(model=models(*MODELS, *WINDOWED, *CROSS), seq_len=SEQ_LENS, dtype=[bf16])
        if point["model"].window is None or point["seq_len"] <= point["model"].max_seq_len
    ]
    hostile = {"batch": 2, "num_heads": 4, "num_kv_heads": 2, "q_len": 5, "k_len": 9, "head_dim": 16, "dtype": fp32}
    vast = {**hostile, "batch": 16385, "num_heads": 32, "num_kv_heads": 32, "q_len": 64, "k_len": 64, "head_dim": 64}
    grad = True

    def sizes(self, model: Model, seq_len: int, dtype: Dtype) -> dict[str, Any]:
        """Of cross attention as many whole pictures as have so many tokens, each with its own queries."""
        heads = {"num_heads": model.num_heads, "num_kv_heads": model.num_kv_heads}
        lengths = {"q_len": seq_len, "k_len": seq_len}
        if model.num_queries:
            length = model.max_seq_len
            lengths = {"q_len": model.num_queries, "k_len": length, "batch": max(1, seq_len // length)}
        dims = {"head_dim": model.head_dim, "v_head_dim": model.v_head_dim}
        return {**heads, **lengths, **dims, "causal": model.causal, "window": model.window, "dtype": dtype}

    def inputs(self, make: Make, dtype: Dtype, causal: bool = False, window: int | None = None, **sizes: Any) -> Inputs:
        q, k, v = (make.normal(*shape, dtype=dtype) for shape in shapes(**sizes)[:3])
        return {"q": q, "k": k, "v": v, "causal": causal, "window": window, "scale": sizes.get("scale")}

    def samples(self, inputs: Inputs, seed: int = 0) -> list[Sample]:
        """The first queries, some by lot and the last, each with a key head and the keys that the last of them sees.

        Where a window hides keys behind a query, no part of the queries stands where it stood: all of a head.
        """
        (batch, heads, q_len, _), (kv_heads, k_len) = inputs["q"].shape, inputs["k"].shape[1:3]
        if batch * heads * q_len * k_len <= PROVABLE_SCORES:
            return []
        whole = inputs["window"] is not None and not inputs["causal"]
        samples, group, rows = [], heads // kv_heads, q_len if whole else min(q_len, SAMPLED_QUERIES)
        lot = random.Random(seed)
        most = (batch - 1, kv_heads - 1, q_len - rows)
        for b, h, start in ((0, 0, 0), tuple(lot.randint(0, each) for each in most), most):
            stop = max(0, start + rows + k_len - q_len) if inputs["causal"] else k_len
            at = (slice(b, b + 1), slice(h * group, (h + 1) * group), slice(start, start + rows))
            keys = (slice(b, b + 1), slice(h, h + 1), slice(stop))
            samples.append(Sample({"q": at, "k": keys, "v": keys}, at))
        return samples

    def traffic(self, mode: str, dtype: Dtype, **sizes: Any) -> int:
        """fwd: q, k, v; o. bwd: do, q, k, v; dq, dk, dv."""
        *qkv, o = (prod(shape) for shape in shapes(**sizes))
        return ({"fwd": 1, "bwd": 2}[mode] * sum(qkv) + o) * dtype.itemsize

    def flops(self, mode: str, dtype: Dtype, causal: bool = False, window: int | None = None, **sizes: Any) -> int:
        """The matrix products of visible pairs; the softmax is not counted.

        fwd: q k^T, p v. bwd: q k^T anew, do v^T, p^T do, ds k, ds^T q: 2.5 times the forward, where D = Dv.
        """
        (batch, heads, q_len, dim), (_, _, k_len, width) = shapes(**sizes)[0], shapes(**sizes)[2]
        pairs = visible_pairs(q_len, k_len, causal, window)
        return 2 * batch * heads * pairs * {"fwd": dim + width, "bwd": 3 * dim + 2 * width}[mode]

    @kernel
    def triton(self, **inputs: Any) -> Run:
        return lambda: kernels.attention.attention(**inputs)

    @peer()
    def eager(self, **inputs: Any) -> Run:
        return sdpa(**inputs)

    @peer()
    def sdpa_math(self, **inputs: Any) -> Run:
        return forced(SDPBackend.MATH, **inputs)

    @peer()
    def sdpa_flash(self, **inputs: Any) -> Run:
        return forced(SDPBackend.FLASH_ATTENTION, **inputs)

    @peer()
    def sdpa_efficient(self, **inputs: Any) -> Run:
        return forced(SDPBackend.EFFICIENT_ATTENTION, **inputs)

    @peer()
    def sdpa_cudnn(self, **inputs: Any) -> Run:
        return forced(SDPBackend.CUDNN_ATTENTION, **inputs)

    @peer()
    def flex(self, q: Tensor, k: Tensor, v: Tensor, causal: bool, window: int | None, scale: float | None) -> Run:
        if not q.is_cuda:
            needs_cpp_compiler()
            if q.requires_grad:
                raise Unsupported("has no backward on a CPU")
        q_len, k_len, grouped, mask = q.shape[2], k.shape[2], q.shape[1] != k.shape[1], None
        behind = q_len + k_len if window is None else window - 1
        ahead = 0 if causal else behind

        def seen(_batch: Tensor, _head: Tensor, i: Tensor, j: Tensor) -> Tensor:
            at = i + k_len - q_len
            return (j <= at + ahead) & (j >= at - behind)

        if causal or window is not None:
            make_mask = torch.compile(create_block_mask) if q.is_cuda else create_block_mask
            mask = make_mask(seen, None, None, q_len, k_len, q.device)
        # Whole or not at all: beyond Dynamo's limit of recompilations it would run uncompiled, all scores in memory.
        compiled = torch.compile(flex_attention, dynamic=False, fullgraph=True)
        return lambda: compiled(q, k, v, block_mask=mask, scale=scale, enable_gqa=grouped)

    @peer(install="pip install xformers")
    def xformers(self, **inputs: Any) -> Run:
        return attention_peers.xformers(**inputs)

    flash_attn = flash_peer("flash_attn", flash)
    flash_attn_3 = flash_peer("flash_attn_interface", flash)
    flash_attn_4 = flash_peer("flash_attn.cute", flash)
