"""Decoding with multi-head latent attention: checks, sweep, cost and providers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch import dtype as Dtype  # noqa: N812 - `dtype` is an axis
from torch.nn import functional

import kernels.mla_decode
import reference.mla_decode
from bench.bench_decode_attention import (
    PROVABLE_CACHE,
    WORKSPACE,
    csr,
    lengths,
    needs_half,
    of_sequences,
    paged,
    some_sequences,
)
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
    peer,
)
from bench.core.proof import Yardstick
from bench.models import SEQ_LENS, Model, models

Run = Callable[[], Tensor]
KV_LORA_RANK, ROPE_DIM = 512, 64  # of DeepSeek-V2, V3 and R1: kv_lora_rank and qk_rope_head_dim of their config.json
PAGE_SIZE = 64  # what FlashMLA has


class MlaDecode(Operator):
    """Between reading the cache, of which all heads share a row, and computing: 242 operations a byte for 128 heads.

    `seq_len` is the length of the cache; `tensor_parallel`: over how many GPUs the heads are spread. Where a short
    cache is split to give all multiprocessors work, the parts of o are larger than it: they stay in L2.
    """

    entry = staticmethod(kernels.mla_decode.mla_decode)
    reference = staticmethod(reference.mla_decode.mla_decode)
    # Tiles, splits, pages and widths that end anywhere; lengths of zero, and shorter than the queries.
    checks = (
        grid(batch=[2], heads=[3], seq_len=[70], dims=[(20, 8)], ragged=[True], page_size=[0, 16, 128], dtype=[fp32])
        + grid(batch=[1], heads=[33], q_len=[2], seq_len=[1, 260], dims=[(16, 5)], page_size=[0], dtype=[fp32])
        + grid(batch=[1], heads=[2], seq_len=[70], dims=[(512, 64)], page_size=[64], dtype=[fp32, fp16, bf16])
        + grid(batch=[0, 2], heads=[2], seq_len=[0, 1], dims=[(16, 16)], page_size=[0, 16], dtype=[fp32])
        + grid(batch=[1], heads=[2], seq_len=[9], dims=[(16, 4)], page_size=[4], scale=[-0.3, 0.0], dtype=[fp32])
    )
    sweep = grid(
        model=models("deepseek-v3"), seq_len=SEQ_LENS, batch=[1, 32, 128], tensor_parallel=[1, 8], dtype=[bf16]
    )
    hostile = {
        "batch": 2, "heads": 3, "q_len": 2, "seq_len": 20, "dims": (16, 8), "ragged": True, "page_size": 8,
        "dtype": fp32,
    }  # fmt: skip
    vast = {**hostile, "batch": 33, "seq_len": 2**17, "dims": (KV_LORA_RANK, ROPE_DIM), "page_size": 0, "dtype": bf16}
    prepared = ("seq_lens", "block_table")  # planned once per step, for all layers

    def sizes(self, model: Model, seq_len: int, batch: int, tensor_parallel: int, dtype: Dtype) -> dict[str, Any]:
        own = {"batch": batch, "heads": model.num_heads // tensor_parallel, "seq_len": seq_len, "dtype": dtype}
        return {**own, "dims": (KV_LORA_RANK, ROPE_DIM), "page_size": PAGE_SIZE, "scale": model.head_dim**-0.5}

    def inputs(
        self, make: Make, batch: int, heads: int, seq_len: int, dims: tuple[int, int], dtype: Dtype, page_size: int,
        q_len: int = 1, ragged: bool = False, scale: float = 0.2,
    ) -> Inputs:  # fmt: skip
        pages, table = paged(make, batch, seq_len, page_size)
        q = make.normal(batch, q_len, heads, sum(dims), dtype=dtype)
        kv_cache = make.normal(pages, page_size or seq_len, sum(dims), dtype=dtype)
        seq_lens = torch.tensor(lengths(batch, seq_len, ragged), dtype=torch.int32, device=q.device)
        inputs = {"q": q, "kv_cache": kv_cache, "seq_lens": seq_lens, "block_table": table}
        return {**inputs, "scale": scale, "kv_lora_rank": dims[0]}

    def samples(self, inputs: Inputs, seed: int = 0) -> list[Sample]:
        return some_sequences(inputs, seed) if inputs["kv_cache"].numel() > PROVABLE_CACHE else []

    def yardsticks(self, inputs: Inputs, mode: str, samples: Sequence[Sample] = ()) -> list[Yardstick]:
        if not samples:
            return super().yardsticks(inputs, mode)
        return of_sequences(type(self).reference, inputs, mode, samples, ("kv_cache",))

    def traffic(
        self, mode: str, batch: int, heads: int, seq_len: int, dims: tuple[int, int], dtype: Dtype, page_size: int,
        **_: Any,
    ) -> int:  # fmt: skip
        """q, the rows of all tokens, lengths, pages; o."""
        entries = batch * (heads * (sum(dims) + dims[0]) + seq_len * sum(dims))
        return entries * dtype.itemsize + 4 * batch * (1 + -(-seq_len // page_size))

    def flops(self, mode: str, batch: int, heads: int, seq_len: int, dims: tuple[int, int], **_: Any) -> int:
        """q c^T and p c; the softmax is not counted."""
        return 2 * batch * heads * seq_len * (sum(dims) + dims[0])

    @kernel
    def triton(self, **inputs: Any) -> Run:
        return lambda: kernels.mla_decode.mla_decode(**inputs)

    @peer()
    def eager(
        self, q: Tensor, kv_cache: Tensor, seq_lens: Tensor, block_table: Tensor | None, scale: float, kv_lora_rank: int
    ) -> Run:
        """Torch's own attention, which first gathers a sequence's pages."""
        q_len, tokens = q.shape[1], kv_cache.shape[1] * (1 if block_table is None else block_table.shape[1])
        last, mask = seq_lens[:, None] - q_len + torch.arange(q_len, device=q.device), None
        if bool((last < tokens - 1).any()):
            mask = (torch.arange(tokens, device=q.device) <= last[..., None])[:, None]

        def attend() -> Tensor:
            c = (kv_cache if block_table is None else kv_cache[block_table].flatten(1, 2))[:, None]
            o = functional.scaled_dot_product_attention(
                q.transpose(1, 2), c, c[..., :kv_lora_rank], mask, scale=scale, enable_gqa=True
            )
            return o.transpose(1, 2)

        return attend

    @peer(install="git clone --recursive https://github.com/deepseek-ai/FlashMLA && pip install -v ./FlashMLA")
    def flash_mla(
        self, q: Tensor, kv_cache: Tensor, seq_lens: Tensor, block_table: Tensor | None, scale: float, kv_lora_rank: int
    ) -> Run:
        needs_half(q)
        if torch.cuda.get_device_capability(q.device)[0] != 9:
            raise Unsupported("needs sm_90")
        if block_table is None or kv_cache.shape[1] != PAGE_SIZE:
            raise Unsupported(f"takes pages of {PAGE_SIZE} tokens only")
        from flash_mla import flash_mla_with_kvcache, get_mla_metadata

        plan = get_mla_metadata(seq_lens, q.shape[1] * q.shape[2], 1)
        pool, options = kv_cache[:, :, None], {"softmax_scale": scale, "causal": True}
        return lambda: flash_mla_with_kvcache(q, pool, block_table, seq_lens, kv_lora_rank, *plan, **options)[0]

    @peer(install="git clone https://github.com/Dao-AILab/flash-attention && pip install ./flash-attention/hopper")
    def flash_attn_3(
        self, q: Tensor, kv_cache: Tensor, seq_lens: Tensor, block_table: Tensor | None, scale: float, kv_lora_rank: int
    ) -> Run:
        """Rotary columns as queries and keys, the others as a second query beside the values."""
        needs_half(q)
        from flash_attn_interface import flash_attn_with_kvcache

        (q_latent, q_rope), (latent, rope) = (
            x.split([kv_lora_rank, x.shape[-1] - kv_lora_rank], -1) for x in (q, kv_cache[:, :, None])
        )
        options = {"cache_seqlens": seq_lens, "page_table": block_table, "softmax_scale": scale, "causal": True}
        return lambda: flash_attn_with_kvcache(q_rope, rope, latent, qv=q_latent, **options)

    @peer(install="pip install flashinfer-python")
    def flashinfer(
        self, q: Tensor, kv_cache: Tensor, seq_lens: Tensor, block_table: Tensor | None, scale: float, kv_lora_rank: int
    ) -> Run:
        needs_half(q)
        if block_table is None:
            raise Unsupported("takes pages only")
        from flashinfer.mla import BatchMLAPagedAttentionWrapper, MLAPlanMetadata

        (batch, q_len, heads, width), page_size = q.shape, kv_cache.shape[1]
        wrapper = BatchMLAPagedAttentionWrapper(torch.zeros(WORKSPACE, dtype=torch.uint8, device=q.device))
        first, pages, _ = csr(seq_lens, block_table, page_size)
        queries = torch.arange(0, (batch + 1) * q_len, q_len, dtype=torch.int32, device=q.device)
        wrapper.plan(
            metadata=MLAPlanMetadata.csr(queries, first, pages, seq_lens), num_heads=heads, head_dim_ckv=kv_lora_rank,
            head_dim_kpe=width - kv_lora_rank, page_size=page_size, causal=q_len > 1, sm_scale=scale,
            q_data_type=q.dtype, kv_data_type=q.dtype,
        )  # fmt: skip
        return lambda: wrapper.run(query=q.flatten(0, 1), kv_cache=kv_cache).unflatten(0, (batch, q_len))
