"""Rotary position embeddings of queries and keys: checks, sweep, cost and providers."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch import dtype as Dtype  # noqa: N812 - `dtype` is an axis

import kernels.rope
import reference.rope
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

Pair = tuple[Tensor, Tensor]
PROVABLE_ENTRIES = 1 << 21
IN_PLACE = "writes over q and k: no second call would see the same inputs"


def heads_of(
    make: Make, batch: int, tokens: int, heads: tuple[int, int], head_dim: int, layout: str, dtype: Dtype
) -> Pair:
    """q and k (batch, heads, tokens, head_dim): two projections' outputs, the parts of one, or each head by itself."""
    num_heads, num_kv_heads = heads
    if layout == "heads_first":
        q, k = (make.normal(batch, each, tokens, head_dim, dtype=dtype) for each in heads)
        return q, k
    qkv = make.normal(batch, tokens, num_heads + 2 * num_kv_heads, head_dim, dtype=dtype)
    q, k, _ = qkv.split([num_heads, num_kv_heads, num_kv_heads], dim=2)
    if layout == "tokens_first":
        q, k = q.contiguous(), k.contiguous()
    return q.transpose(1, 2), k.transpose(1, 2)


def table_of(positions: Tensor, rotary_dim: int, dtype: Dtype, theta: float = 1e4) -> Pair:
    """cos and sin of positions times theta^(-2 i / rotary_dim), one more dimension than positions."""
    powers = torch.arange(0, rotary_dim, 2, device=positions.device, dtype=torch.float64) / rotary_dim
    angles = positions.to(torch.float64).unsqueeze(-1) * theta**-powers
    return angles.cos().to(dtype), angles.sin().to(dtype)


def some_heads(q: Tensor, k: Tensor, seed: int) -> list[Sample]:
    """The first head, one by lot and the last, of q and of k, each in one sequence; nothing if all can be looked at."""
    if q.numel() + k.numel() <= PROVABLE_ENTRIES:
        return []
    lot, samples = random.Random(seed), []
    fewest = min(q.shape[1], k.shape[1])
    for batch, head in ((0, 0), (lot.randrange(len(q)), lot.randrange(fewest)), (len(q) - 1, -1)):
        at = (slice(batch, batch + 1), slice(head, head + 1 or None))
        samples.append(Sample({"q": at, "k": at}, at))
    return samples


def half_turned(x: Tensor, interleaved: bool) -> Tensor:
    """i times the pairs of x."""
    if interleaved:
        return torch.stack((-x[..., 1::2], x[..., ::2]), dim=-1).flatten(-2)
    first, second = x.chunk(2, dim=-1)
    return torch.cat((-second, first), dim=-1)


def whole(table: Tensor, interleaved: bool) -> Tensor:
    """A table with a value for every entry instead of every pair."""
    return table.repeat_interleave(2, dim=-1) if interleaved else torch.cat((table, table), dim=-1)


def as_transformers_does(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
    """In the working dtype, operation by operation; cos and sin with a value for every entry."""
    turned, rest = x[..., : cos.shape[-1]], x[..., cos.shape[-1] :]
    turned = turned * cos + half_turned(turned, interleaved) * sin
    return torch.cat((turned, rest), dim=-1) if rest.shape[-1] else turned


def flashinfer_rope(q: Tensor, position_embeddings: Pair, interleaved: bool) -> Callable[[Tensor, Tensor], Pair]:
    """flashinfer's rotation, ready for tensors shaped as q, and as k beside it."""
    from flashinfer import apply_rope_with_cos_sin_cache

    cache = torch.cat(position_embeddings, dim=-1).float()
    (batch, _, tokens, head_dim), shared = q.shape, cache.ndim == 2
    positions = torch.arange(tokens if shared else batch * tokens, device=q.device, dtype=torch.int32)
    positions, cache = positions.repeat(batch if shared else 1), cache.flatten(0, -2)

    def run(q: Tensor, k: Tensor) -> Pair:
        rows = (x.transpose(1, 2).reshape(batch * tokens, -1) for x in (q, k))
        turned = apply_rope_with_cos_sin_cache(positions, *rows, head_dim, cache, is_neox=not interleaved)
        q, k = (x.view(batch, tokens, -1, head_dim).transpose(1, 2) for x in turned)
        return q, k

    return run


class Rope(Operator):
    """RoPE is bound by memory: one read and one write per entry, and a table that all heads share."""

    entry = staticmethod(kernels.rope.rope)
    reference = staticmethod(reference.rope.rope)
    # Chunks of heads that are full, begun and empty; tiles of tokens likewise; what is turned narrower than the head,
    # and of a width that is no power of two; tables for all sequences and for each; no tokens, no batch.
    checks = (
        grid(heads=[(3, 1), (9, 8)], tokens=[1, 5], head_dim=[64], interleaved=[False, True], dtype=[fp32, fp16, bf16])
        + grid(heads=[(4, 2)], tokens=[7], head_dim=[2, 5, 80, 128], interleaved=[False, True], dtype=[fp32])
        + grid(
            batch=[2], heads=[(4, 2)], tokens=[9], head_dim=[40], rotary_dim=[12], interleaved=[False, True],
            layout=["heads_first", "fused"], each=[False, True], dtype=[fp32],
        )
        + grid(heads=[(2, 1)], tokens=[3], head_dim=[256, 1024], table_dtype=[fp32], dtype=[bf16])
        + grid(batch=[0, 2], heads=[(2, 1)], tokens=[0, 1], head_dim=[16], dtype=[fp32])
    )  # fmt: skip
    sweep = grid(
        model=models("llama3-8b", "qwen2.5-7b", "llama3-70b"), seq_len=SEQ_LENS, interleaved=[False, True], dtype=[bf16]
    ) + grid(model=models("gpt-j-6b"), seq_len=SEQ_LENS[:3], interleaved=[True], dtype=[bf16])
    hostile = {
        "batch": 2, "heads": (3, 2), "tokens": 5, "head_dim": 24, "rotary_dim": 16, "layout": "heads_first",
        "dtype": fp32,
    }  # fmt: skip
    vast = {"heads": (128, 8), "tokens": 2**17 + 1, "head_dim": 128, "dtype": bf16}
    grad = True
    prepared = ("position_embeddings",)

    def sizes(self, model: Model, seq_len: int, interleaved: bool, dtype: Dtype) -> dict[str, Any]:
        heads, widths = (model.num_heads, model.num_kv_heads), {"head_dim": model.head_dim}
        if model.rotary_dim:
            widths["rotary_dim"] = model.rotary_dim
        return {"heads": heads, "tokens": seq_len, **widths, "interleaved": interleaved, "dtype": dtype}

    def inputs(
        self, make: Make, heads: tuple[int, int], tokens: int, head_dim: int, dtype: Dtype, rotary_dim: int = 0,
        batch: int = 1, layout: str = "tokens_first", each: bool = False, table_dtype: Dtype | None = None,
        interleaved: bool = False,
    ) -> Inputs:  # fmt: skip
        q, k = heads_of(make, batch, tokens, heads, head_dim, layout, dtype)
        positions = torch.arange(tokens, device=make.device)
        if each:
            positions = positions + make.integers(0, 4096, batch, 1, dtype=torch.int64)
        table = table_of(positions, rotary_dim or head_dim // 2 * 2, table_dtype or dtype)
        return {"q": q, "k": k, "position_embeddings": table, "interleaved": interleaved}

    def samples(self, inputs: Inputs, seed: int = 0) -> list[Sample]:
        return some_heads(inputs["q"], inputs["k"], seed)

    def traffic(
        self, mode: str, heads: tuple[int, int], tokens: int, head_dim: int, dtype: Dtype, rotary_dim: int = 0,
        batch: int = 1, each: bool = False, table_dtype: Dtype | None = None, **_: Any,
    ) -> int:  # fmt: skip
        """q, k, cos, sin; both results. Their gradients likewise."""
        entries = batch * tokens * sum(heads) * head_dim
        table = (batch if each else 1) * tokens * (rotary_dim or head_dim // 2 * 2)
        return 2 * entries * dtype.itemsize + table * (table_dtype or dtype).itemsize

    def flops(
        self,
        mode: str,
        heads: tuple[int, int],
        tokens: int,
        head_dim: int,
        rotary_dim: int = 0,
        batch: int = 1,
        **_: Any,
    ) -> int:
        """Four products and two sums for every pair."""
        return 3 * batch * tokens * sum(heads) * (rotary_dim or head_dim // 2 * 2)

    @kernel
    def triton(self, **inputs: Any) -> Callable[[], Pair]:
        return lambda: kernels.rope.rope(**inputs)

    @peer()
    def eager(self, q: Tensor, k: Tensor, position_embeddings: Pair, interleaved: bool) -> Callable[[], Pair]:
        cos, sin = (whole(table, interleaved).to(q.dtype).unsqueeze(-3) for table in position_embeddings)
        return lambda: (as_transformers_does(q, cos, sin, interleaved), as_transformers_does(k, cos, sin, interleaved))

    @peer(install="pip install liger-kernel")
    def liger(self, q: Tensor, k: Tensor, position_embeddings: Pair, interleaved: bool) -> Callable[[], Pair]:
        needs_cuda(q)
        if interleaved:
            raise Unsupported("pairs entries across halves only")
        if not q.requires_grad:
            raise Unsupported(IN_PLACE)
        from liger_kernel.ops import LigerRopeFunction

        cos, sin = (whole(table, interleaved) for table in position_embeddings)
        # What its forward writes over are copies, which only the backward's time has no part in.
        return lambda: LigerRopeFunction.apply(q.clone(), k.clone(), cos, sin)

    @peer(install="pip install flash-attn --no-build-isolation")
    def flash_attn(self, q: Tensor, k: Tensor, position_embeddings: Pair, interleaved: bool) -> Callable[[], Pair]:
        needs_cuda(q)
        if position_embeddings[0].ndim > 2:
            raise Unsupported("takes one table for all sequences")
        from flash_attn.layers.rotary import apply_rotary_emb

        cos, sin = (table.to(q.dtype) for table in position_embeddings)

        def run() -> Pair:
            turned = (apply_rotary_emb(x.transpose(1, 2), cos, sin, interleaved=interleaved) for x in (q, k))
            q_out, k_out = (x.transpose(1, 2) for x in turned)
            return q_out, k_out

        return run

    @peer(install="pip install flashinfer-python")
    def flashinfer(self, q: Tensor, k: Tensor, position_embeddings: Pair, interleaved: bool) -> Callable[[], Pair]:
        needs_cuda(q)
        if q.requires_grad:
            raise Unsupported("has no backward")
        if q.dtype == fp32:
            raise Unsupported("needs fp16 or bf16")
        run = flashinfer_rope(q, position_embeddings, interleaved)
        return lambda: run(q, k)

    @peer()
    def vllm(self, q: Tensor, **_: Any) -> Callable[[], Pair]:
        raise Unsupported("has no backward" if q.requires_grad else f"rotary_embedding {IN_PLACE}")
