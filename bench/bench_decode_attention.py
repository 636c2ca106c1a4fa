"""Attention of new queries to a cache of keys and values, dense or in pages: checks, sweep, cost and providers."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch import dtype as Dtype  # noqa: N812 - `dtype` is an axis
from torch.nn import functional

import kernels.decode_attention
import reference.decode_attention
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
from bench.core.proof import Yardstick, yardsticks
from bench.models import SEQ_LENS, Model, models

Run = Callable[[], Tensor]
PROVABLE_CACHE = 1 << 20  # entries of keys
MODELS = ("qwen2.5-7b", "llama3-8b", "llama3-70b", "llama-7b")
WORKSPACE = 128 << 20
SPARE_PAGES = 2  # at the end of the pool, that belong to no sequence


def lengths(batch: int, seq_len: int, ragged: bool) -> list[int]:
    """The lengths of a batch: all as long as the longest, or evenly spread between a half of that and that."""
    return [seq_len - (seq_len * i // (2 * batch) if ragged else 0) for i in range(batch)]


def paged(make: Make, batch: int, seq_len: int, page_size: int) -> tuple[int, Tensor | None]:
    """How many pages (or sequences) a cache has, of which length, and which pages are whose, scattered."""
    if not page_size:
        return batch, None
    each = -(-seq_len // page_size)
    return batch * each + SPARE_PAGES, make.permutation(batch * each).view(batch, each).to(torch.int32)


def some_sequences(inputs: Inputs, seed: int) -> list[Sample]:
    """The first sequence, one by lot and the last."""
    batch = len(inputs["q"])
    chosen = sorted({0, random.Random(seed).randint(0, batch - 1), batch - 1})
    return [Sample({}, slice(b, b + 1)) for b in chosen]


def of_sequences(
    reference: Callable[..., Tensor], inputs: Inputs, mode: str, samples: Sequence[Sample], caches: Sequence[str]
) -> list[Yardstick]:
    """The yardsticks of sequences, each with its own pages only: a pool in float64 would be too large."""
    found = []
    for sample in samples:
        table = inputs.get("block_table")
        own = {name: inputs[name][sample.outputs] for name in ("q", "seq_lens")}
        for name in caches:
            cache = inputs[name]
            own[name] = cache[sample.outputs] if table is None else cache[table[sample.outputs].long()].flatten(1, 2)
        (yardstick,) = yardsticks(reference, inputs | own | {"block_table": None}, mode)
        found.append(replace(yardstick, sample=sample, rows=f"{inputs['q'][0, ..., 0].numel()} sampled"))
    return found


def needs_half(x: Tensor) -> None:
    """Raise `Unsupported` unless x is on a CUDA device, in fp16 or bf16."""
    needs_cuda(x)
    if x.dtype == fp32:
        raise Unsupported("needs fp16 or bf16")


def csr(seq_lens: Tensor, block_table: Tensor, page_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """FlashInfer's form of a block table: where each sequence's pages begin, pages in a row, tokens on the last."""
    counts = (seq_lens + page_size - 1) // page_size
    first = functional.pad(counts.cumsum(0, dtype=torch.int32), (1, 0))
    used = torch.arange(block_table.shape[1], device=block_table.device) < counts[:, None]
    return first, block_table[used], seq_lens - (counts - 1) * page_size


def flash(function: Callable[..., Tensor], seq_lens: Tensor, scale: float | None, **inputs: Any) -> Run:
    """One of the flash-attn family, which chooses the number of splits itself."""
    return lambda: function(cache_seqlens=seq_lens, softmax_scale=scale, causal=True, **inputs)


class DecodeAttention(Operator):
    """Bound by reading the cache, whose longest sequence `seq_len` is: Hq / Hkv operations a byte, in 16 bits.

    Parts of o add 2 * (4 D + 8) bytes a head and split to what moves: a tenth at 512 tokens, nothing to speak of later.
    """

    entry = staticmethod(kernels.decode_attention.decode_attention)
    reference = staticmethod(reference.decode_attention.decode_attention)
    # Tiles, splits and pages that end anywhere; lengths of zero, and shorter than the queries; rows beyond a tile.
    checks = (
        grid(batch=[3], heads=[(4, 2)], seq_len=[70], head_dim=[16], ragged=[True], page_size=[0, 16, 7], dtype=[fp32])
        + grid(batch=[2], heads=[(3, 1)], seq_len=[260], head_dim=[8], v_head_dim=[20], page_size=[0, 64], dtype=[fp32])
        + grid(batch=[2], heads=[(4, 1)], q_len=[3], seq_len=[2, 140], head_dim=[16], page_size=[0, 128], dtype=[fp32])
        + grid(batch=[1], heads=[(34, 1)], seq_len=[33], head_dim=[16], scale=[-0.3, 0.0], dtype=[fp32])
        + grid(batch=[2], heads=[(7, 1)], seq_len=[140], head_dim=[128], page_size=[0, 16], dtype=[fp16, bf16])
        + grid(batch=[1], heads=[(2, 1)], seq_len=[70], head_dim=[256], dtype=[fp32, bf16])
        + grid(batch=[0, 2], heads=[(2, 1)], seq_len=[0, 1], head_dim=[5], page_size=[0, 16], dtype=[fp32])
    )
    # To this operator Qwen3-8B and Mixtral-8x7B are LLaMA-3 8B, and Qwen3-32B is LLaMA-3 70B.
    sweep = [
        *grid(model=models(*MODELS), seq_len=SEQ_LENS, batch=[4, 1, 32], dtype=[bf16]),
        *grid(model=models(*MODELS), seq_len=SEQ_LENS, batch=[4, 32], page_size=[16], dtype=[bf16]),
    ]
    hostile = {
        "batch": 2, "heads": (4, 2), "q_len": 2, "seq_len": 20, "head_dim": 16, "ragged": True, "page_size": 8,
        "dtype": fp32,
    }  # fmt: skip
    vast = {**hostile, "batch": 9, "heads": (16, 8), "seq_len": 2**17, "head_dim": 256, "page_size": 0, "dtype": bf16}
    prepared = ("seq_lens", "block_table")  # planned once per step, for all layers

    def sizes(self, model: Model, seq_len: int, batch: int, dtype: Dtype, page_size: int = 0) -> dict[str, Any]:
        """Pages hold sequences of different lengths: that is what they are for."""
        heads = (model.num_heads, model.num_kv_heads)
        own = {"batch": batch, "heads": heads, "seq_len": seq_len, "head_dim": model.head_dim}
        return {**own, "page_size": page_size, "ragged": page_size > 0, "dtype": dtype}

    def inputs(
        self, make: Make, batch: int, heads: tuple[int, int], seq_len: int, head_dim: int, dtype: Dtype,
        v_head_dim: int = 0, q_len: int = 1, ragged: bool = False, page_size: int = 0, scale: float | None = None,
    ) -> Inputs:  # fmt: skip
        pages, table = paged(make, batch, seq_len, page_size)
        q = make.normal(batch, q_len, heads[0], head_dim, dtype=dtype)
        k_cache, v_cache = (
            make.normal(pages, page_size or seq_len, heads[1], width, dtype=dtype)
            for width in (head_dim, v_head_dim or head_dim)
        )
        seq_lens = torch.tensor(lengths(batch, seq_len, ragged), dtype=torch.int32, device=q.device)
        inputs = {"q": q, "k_cache": k_cache, "v_cache": v_cache, "seq_lens": seq_lens, "block_table": table}
        return {**inputs, "scale": scale}

    def samples(self, inputs: Inputs, seed: int = 0) -> list[Sample]:
        return some_sequences(inputs, seed) if inputs["k_cache"].numel() > PROVABLE_CACHE else []

    def yardsticks(self, inputs: Inputs, mode: str, samples: Sequence[Sample] = ()) -> list[Yardstick]:
        if not samples:
            return super().yardsticks(inputs, mode)
        return of_sequences(type(self).reference, inputs, mode, samples, ("k_cache", "v_cache"))

    def traffic(self, mode: str, batch: int, heads: tuple[int, int], page_size: int, dtype: Dtype, **sizes: Any) -> int:
        """q, the keys and values of all tokens, lengths, the pages that they need; o."""
        tokens = lengths(batch, sizes["seq_len"], sizes["ragged"])
        widths: int = 2 * sizes["head_dim"]
        pages = sum(-(-each // page_size) for each in tokens) if page_size else 0
        return (heads[0] * batch + heads[1] * sum(tokens)) * widths * dtype.itemsize + 4 * (batch + pages)

    def flops(self, mode: str, batch: int, heads: tuple[int, int], seq_len: int, head_dim: int, **sizes: Any) -> int:
        """q k^T and p v; the softmax is not counted."""
        return 4 * heads[0] * sum(lengths(batch, seq_len, sizes["ragged"])) * head_dim

    @kernel
    def triton(self, **inputs: Any) -> Run:
        return lambda: kernels.decode_attention.decode_attention(**inputs)

    @peer()
    def eager(self, q: Tensor, k_cache: Tensor, v_cache: Tensor, seq_lens: Tensor, block_table: Any, scale: Any) -> Run:
        """Torch's own, with a mask where a query sees less than the whole cache."""
        if block_table is not None:
            raise Unsupported("has no block table")
        q_len, tokens, grouped = q.shape[1], k_cache.shape[1], q.shape[2] != k_cache.shape[2]
        last, mask = seq_lens[:, None] - q_len + torch.arange(q_len, device=q.device), None
        if bool((last < tokens - 1).any()):
            mask = (torch.arange(tokens, device=q.device) <= last[..., None])[:, None]
        q, k, v = (x.transpose(1, 2) for x in (q, k_cache, v_cache))
        attend = functional.scaled_dot_product_attention
        return lambda: attend(q, k, v, mask, scale=scale, enable_gqa=grouped).transpose(1, 2)

    @peer(install="pip install flash-attn --no-build-isolation")
    def flash_attn(self, block_table: Tensor | None, **inputs: Any) -> Run:
        needs_half(inputs["q"])
        if block_table is not None and inputs["k_cache"].shape[1] % 256:
            raise Unsupported("needs pages of a multiple of 256 tokens")
        from flash_attn import flash_attn_with_kvcache

        return flash(flash_attn_with_kvcache, **inputs, block_table=block_table)

    @peer(install="git clone https://github.com/Dao-AILab/flash-attention && pip install ./flash-attention/hopper")
    def flash_attn_3(self, block_table: Tensor | None, **inputs: Any) -> Run:
        needs_half(inputs["q"])
        from flash_attn_interface import flash_attn_with_kvcache

        return flash(flash_attn_with_kvcache, **inputs, page_table=block_table)

    @peer(install="pip install flashinfer-python")
    def flashinfer(
        self, q: Tensor, k_cache: Tensor, v_cache: Tensor, seq_lens: Any, block_table: Any, scale: Any
    ) -> Run:
        """Planned for these lengths; on tensor cores where heads share keys, as its documentation advises."""
        needs_half(q)
        if block_table is None:
            raise Unsupported("takes pages only")
        from flashinfer import BatchDecodeWithPagedKVCacheWrapper

        (_, q_len, num_heads, dim), (page_size, kv_heads) = q.shape, k_cache.shape[1:3]
        workspace = torch.zeros(WORKSPACE, dtype=torch.uint8, device=q.device)
        wrapper = BatchDecodeWithPagedKVCacheWrapper(workspace, "NHD", use_tensor_cores=num_heads > kv_heads)
        table = csr(seq_lens, block_table, page_size)
        options = {"q_data_type": q.dtype, "sm_scale": scale, "q_len_per_req": q_len}
        wrapper.plan(*table, num_heads, kv_heads, dim, page_size, **options)
        return lambda: wrapper.run(q.flatten(0, 1), (k_cache, v_cache)).view(q.shape)

    @peer(install="pip install flashinfer-python")
    def xqa(self, q: Tensor, k_cache: Any, v_cache: Any, seq_lens: Any, block_table: Any, scale: Any) -> Run:
        """TensorRT-LLM's kernel, of which FlashInfer carries the source."""
        needs_half(q)
        if torch.cuda.get_device_capability(q.device)[0] not in (9, 10, 12):
            raise Unsupported("needs sm_90, sm_100 or sm_120")
        if block_table is None or k_cache.shape[1] > 128:
            raise Unsupported("takes pages of 16 to 128 tokens only")
        from flashinfer.decode import xqa_batch_decode_with_kv_cache as run

        workspace, caches = torch.zeros(WORKSPACE, dtype=torch.uint8, device=q.device), (k_cache, v_cache)
        longest, scale = int(seq_lens.max()), q.shape[3] ** -0.5 if scale is None else scale
        return lambda: run(q.squeeze(1), caches, workspace, block_table, seq_lens, longest, scale).view(q.shape)
