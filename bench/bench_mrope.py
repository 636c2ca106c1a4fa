"""Multimodal rotary position embeddings of queries and keys: checks, sweep, cost and providers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch import dtype as Dtype  # noqa: N812 - `dtype` is an axis

import kernels.mrope
import reference.mrope
from bench import bench_rope
from bench.bench_rope import Pair
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

Section = tuple[int, int, int]


def merged(position_embeddings: Pair, mrope_section: Section) -> Pair:
    """cos and sin with the axis of every pair chosen: with them M-RoPE is RoPE."""
    cos, sin = (
        torch.cat([part[axis] for axis, part in enumerate(table.split(mrope_section, dim=-1))], dim=-1)
        for table in position_embeddings
    )
    return cos, sin


class MRope(Operator):
    """Bound by memory as RoPE is, and reads no more: of the three tables each pair needs one."""

    entry = staticmethod(kernels.mrope.mrope)
    reference = staticmethod(reference.mrope.mrope)
    # Sections that begin anywhere, empty ones, one that is all; narrower than the head; a table for each sequence.
    checks = (
        grid(heads=[(9, 2)], tokens=[5], head_dim=[64], section=[(8, 12, 12), (32, 0, 0)], dtype=[fp32, fp16, bf16])
        + grid(heads=[(4, 2)], tokens=[7], head_dim=[40], section=[(1, 5, 3), (0, 0, 20), (0, 7, 0)], dtype=[fp32])
        + grid(batch=[2], heads=[(3, 1)], tokens=[9], head_dim=[80], section=[(16, 11, 13)], each=[True], dtype=[fp32])
        + grid(heads=[(2, 1)], tokens=[3], head_dim=[128], section=[(16, 24, 24)], table_dtype=[fp32], dtype=[bf16])
        + grid(batch=[0, 2], heads=[(2, 1)], tokens=[0, 1], head_dim=[16], section=[(2, 3, 3)], dtype=[fp32])
    )
    sweep = grid(model=models("qwen2-vl-7b", "qwen2.5-vl-72b"), seq_len=SEQ_LENS, dtype=[bf16])
    hostile = {
        "batch": 2, "heads": (3, 2), "tokens": 5, "head_dim": 24, "section": (2, 3, 5), "layout": "heads_first",
        "dtype": fp32,
    }  # fmt: skip
    vast = {**bench_rope.Rope.vast, "section": (16, 24, 24)}
    grad = True
    prepared = ("position_embeddings",)

    def sizes(self, model: Model, seq_len: int, dtype: Dtype) -> dict[str, Any]:
        heads, section = (model.num_heads, model.num_kv_heads), model.mrope_section
        return {"heads": heads, "tokens": seq_len, "head_dim": model.head_dim, "section": section, "dtype": dtype}

    def inputs(
        self, make: Make, heads: tuple[int, int], tokens: int, head_dim: int, section: Section, dtype: Dtype,
        batch: int = 1, layout: str = "tokens_first", each: bool = False, table_dtype: Dtype | None = None,
    ) -> Inputs:  # fmt: skip
        q, k = bench_rope.heads_of(make, batch, tokens, heads, head_dim, layout, dtype)
        positions = make.integers(0, 4096, 3, *((batch,) if each else ()), tokens, dtype=torch.int64)
        table = bench_rope.table_of(positions, 2 * sum(section), table_dtype or dtype, theta=1e6)
        return {"q": q, "k": k, "position_embeddings": table, "mrope_section": section}

    def samples(self, inputs: Inputs, seed: int = 0) -> list[Sample]:
        return bench_rope.some_heads(inputs["q"], inputs["k"], seed)

    def traffic(self, mode: str, section: Section, **sizes: Any) -> int:
        """As RoPE's: a third of three tables is one."""
        return bench_rope.Rope().traffic(mode, rotary_dim=2 * sum(section), **sizes)

    def flops(self, mode: str, section: Section, **sizes: Any) -> int:
        """As RoPE's."""
        return bench_rope.Rope().flops(mode, rotary_dim=2 * sum(section), **sizes)

    @kernel
    def triton(self, **inputs: Any) -> Callable[[], Pair]:
        return lambda: kernels.mrope.mrope(**inputs)

    @peer()
    def eager(self, q: Tensor, k: Tensor, position_embeddings: Pair, mrope_section: Section) -> Callable[[], Pair]:
        tables = merged(position_embeddings, mrope_section)
        cos, sin = (bench_rope.whole(table, False).to(q.dtype).unsqueeze(-3) for table in tables)
        turned = bench_rope.as_transformers_does
        return lambda: (turned(q, cos, sin, False), turned(k, cos, sin, False))

    @peer(install="pip install liger-kernel")
    def liger(self, q: Tensor, k: Tensor, position_embeddings: Pair, mrope_section: Section) -> Callable[[], Pair]:
        needs_cuda(q)
        if 2 * sum(mrope_section) != q.shape[3]:
            raise Unsupported("turns whole heads only")
        if not q.requires_grad:
            raise Unsupported(bench_rope.IN_PLACE)
        from liger_kernel.ops import LigerQwen2VLMRopeFunction

        wide = (bench_rope.whole(table, False) for table in position_embeddings)
        cos, sin = (
            (table if table.ndim == 4 else table[:, None]).expand(3, len(q), *table.shape[-2:]).contiguous()
            for table in wide
        )
        # What its forward writes over are copies, which only the backward's time has no part in.
        return lambda: LigerQwen2VLMRopeFunction.apply(q.clone(), k.clone(), cos, sin, mrope_section)

    @peer(install="pip install flashinfer-python")
    def flashinfer(self, q: Tensor, k: Tensor, position_embeddings: Pair, mrope_section: Section) -> Callable[[], Pair]:
        needs_cuda(q)
        if q.requires_grad:
            raise Unsupported("has no backward")
        if q.dtype == fp32:
            raise Unsupported("needs fp16 or bf16")
        run = bench_rope.flashinfer_rope(q, merged(position_embeddings, mrope_section), False)
        return lambda: run(q, k)

    @peer()
    def vllm(self, q: Tensor, **_: Any) -> Callable[[], Pair]:
        raise Unsupported("has no backward" if q.requires_grad else f"triton_mrope {bench_rope.IN_PLACE}")
