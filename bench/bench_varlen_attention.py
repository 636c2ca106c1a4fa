"""Attention within packed documents, as models are trained on them and as padding is left out: checks, sweep, peers."""

from __future__ import annotations

import math
import random
from itertools import accumulate, pairwise
from typing import Any, cast

import torch
from torch import Tensor
from torch import dtype as Dtype  # noqa: N812 - `dtype` is an axis
from torch.nn import functional
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

import kernels.varlen_attention
import reference.varlen_attention
from bench import attention_peers
from bench.attention_peers import Run, flash_peer, flash_varlen, narrow, sdpa, visible_pairs, window_size
from bench.core.operator import (
    Inputs,
    Make,
    Operator,
    Sample,
    Unsupported,
    bf16,
    fp32,
    grid,
    kernel,
    needs_cpp_compiler,
    needs_cuda,
    peer,
)
from bench.models import SEQ_LENS, Model, models

Lengths = tuple[int, ...]
SHORTEST, LONGEST = 16, 4096  # tokens of a document
PROVABLE_SCORES = 1 << 22
MODELS = ("bert-base", "llama3-8b", "modernbert-large", "mistral-7b", "llama3-70b")


def document_lengths(tokens: int, longest: int) -> Lengths:
    """Lengths that add up to `tokens`, their logarithms uniform from 16 to the longest; the last one is cut.

    Seeded by the sizes alone. Texts of the web and batches of sentences are spread like that, over orders of magnitude.
    """
    lot, found = random.Random(tokens * LONGEST + longest), list[int]()
    while (left := tokens - sum(found)) > 0:
        found.append(min(left, round(math.exp(lot.uniform(math.log(SHORTEST), math.log(longest))))))
    return tuple(found)


def documents(cu_seqlens: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """Of every row its document and its place in it."""
    row = torch.arange(rows, device=cu_seqlens.device)
    document = torch.searchsorted(cu_seqlens, row, right=True) - 1
    return document, row - cu_seqlens[document]


def shapes(num_heads: int, num_kv_heads: int, q_lens: Lengths, head_dim: int, **sizes: Any) -> list[tuple[int, ...]]:
    """The shapes of q, k, v and o; `rest` rows stand behind the last document."""
    rest, width = sizes.get("rest", 0), sizes.get("v_head_dim", head_dim)
    queries, keys = (sum(q_lens) + rest, num_heads), (sum(sizes.get("k_lens", q_lens)) + rest, num_kv_heads)
    return [(*queries, head_dim), (*keys, head_dim), (*keys, width), (*queries, width)]


class VarlenAttention(Operator):
    """Bound by arithmetic like attention; short documents move it towards memory, and unequal ones try the schedule."""

    entry = staticmethod(kernels.varlen_attention.varlen_attention)
    reference = staticmethod(reference.varlen_attention.varlen_attention)
    # Documents of none, one and several tiles, of more queries than keys and the reverse; none at all; rows of nobody.
    checks = [
        {"num_heads": 2, "num_kv_heads": 1, **axes}
        for axes in grid(q_lens=[(33, 0, 1, 20)], head_dim=[16], dtype=[fp32], causal=[False, True])
        + grid(q_lens=[(18, 0, 3)], k_lens=[(5, 2, 30)], head_dim=[136], dtype=[fp32], causal=[True], window=[None, 7])
        + grid(q_lens=[(0,), (3,)], head_dim=[8], dtype=[fp32], rest=[0, 2])
        + grid(q_lens=[(40, 9)], head_dim=[64], v_head_dim=[32], dtype=[bf16], causal=[False], window=[5], rest=[7])
    ]
    sweep = [
        point
        for point in grid(model=models(*MODELS), seq_len=SEQ_LENS, dtype=[bf16])
        if point["model"].window is None or point["seq_len"] <= point["model"].max_seq_len
    ]
    hostile = {
        "num_heads": 2, "num_kv_heads": 1, "q_lens": (5, 0, 3), "k_lens": (6, 4, 2), "head_dim": 16, "dtype": fp32,
        "causal": True, "window": 4,
    }  # fmt: skip
    vast = {"num_heads": 32, "num_kv_heads": 32, "q_lens": (64,) * 16385, "head_dim": 64, "dtype": fp32, "causal": True}
    grad = True
    prepared = ("cu_seqlens_q", "cu_seqlens_k")  # made once for all layers, and their lengths are known to the host

    def sizes(self, model: Model, seq_len: int, dtype: Dtype) -> dict[str, Any]:
        """`seq_len` tokens in all; no document is longer than half of them, than 4096 or than the model reads."""
        lengths = document_lengths(seq_len, min(LONGEST, model.max_seq_len, seq_len // 2))
        heads = {"num_heads": model.num_heads, "num_kv_heads": model.num_kv_heads, "head_dim": model.head_dim}
        return {**heads, "q_lens": lengths, "causal": model.causal, "window": model.window, "dtype": dtype}

    def inputs(self, make: Make, dtype: Dtype, causal: bool = False, window: int | None = None, **sizes: Any) -> Inputs:
        q, k, v = (make.normal(*shape, dtype=dtype) for shape in shapes(**sizes)[:3])
        q_lens = sizes["q_lens"]
        bounds = [torch.tensor([0, *accumulate(lens)]) for lens in (q_lens, sizes.get("k_lens", q_lens))]
        cu_seqlens_q, cu_seqlens_k = (each.to(make.device, torch.int32) for each in bounds)
        masks = {"causal": causal, "window": window, "scale": sizes.get("scale")}
        return {"q": q, "k": k, "v": v, "cu_seqlens_q": cu_seqlens_q, "cu_seqlens_k": cu_seqlens_k, **masks}

    def samples(self, inputs: Inputs, seed: int = 0) -> list[Sample]:
        """All documents, of the first key head, one by lot and the last."""
        heads, kv_heads = inputs["q"].shape[1], inputs["k"].shape[1]
        if heads * int(inputs["cu_seqlens_q"].diff().long().square().sum()) <= PROVABLE_SCORES:
            return []
        samples, group = [], heads // kv_heads
        for h in {0, random.Random(seed).randrange(kv_heads), kv_heads - 1}:
            at, keys = (slice(None), slice(h * group, (h + 1) * group)), (slice(None), slice(h, h + 1))
            samples.append(Sample({"q": at, "k": keys, "v": keys}, at))
        return samples

    def traffic(self, mode: str, dtype: Dtype, **sizes: Any) -> int:
        """fwd: q, k, v; o. bwd: do, q, k, v; dq, dk, dv. And the bounds of documents."""
        *qkv, o = (math.prod(shape) for shape in shapes(**sizes))
        return ({"fwd": 1, "bwd": 2}[mode] * sum(qkv) + o) * dtype.itemsize + 8 * (len(sizes["q_lens"]) + 1)

    def flops(self, mode: str, dtype: Dtype, causal: bool = False, window: int | None = None, **sizes: Any) -> int:
        """The matrix products of visible pairs, as in attention: 2 of them forward, 5 backward."""
        (_, heads, dim), (_, _, width) = shapes(**sizes)[0], shapes(**sizes)[2]
        lengths = zip(sizes["q_lens"], sizes.get("k_lens", sizes["q_lens"]), strict=True)
        pairs = sum(visible_pairs(q_len, k_len, causal, window) for q_len, k_len in lengths)
        return 2 * heads * pairs * {"fwd": dim + width, "bwd": 3 * dim + 2 * width}[mode]

    @kernel
    def triton(self, **inputs: Any) -> Run:
        return lambda: kernels.varlen_attention.varlen_attention(**inputs)

    @peer()
    def eager(self, q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor, **options: Any) -> Run:
        """Torch's own, one document after another."""
        bounds = zip(pairwise(cu_seqlens_q.tolist()), pairwise(cu_seqlens_k.tolist()), strict=True)
        q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
        runs = [sdpa(q[:, :, i:j], k[:, :, m:n], v[:, :, m:n], **options) for (i, j), (m, n) in bounds]
        return lambda: torch.cat([run() for run in runs], 2)[0].transpose(0, 1)

    @peer()
    def nested(
        self, q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor, **options: Any
    ) -> Run:
        """Torch's own over jagged tensors."""
        needs_cuda(q)
        if q.shape[1] != k.shape[1]:
            raise Unsupported("its key heads are not shared")
        longest = [int(cu.diff().max()) for cu in (cu_seqlens_q, cu_seqlens_k)]
        if narrow(options["window"], *longest) is not None:
            raise Unsupported("takes no mask, and has no window")
        of_q = cu_seqlens_q.long()
        of_k = of_q if torch.equal(cu_seqlens_q, cu_seqlens_k) else cu_seqlens_k.long()

        causal, scale = options["causal"], options["scale"]

        def jagged(x: Tensor, offsets: Tensor) -> Tensor:
            rows: Tensor = torch.nested.nested_tensor_from_jagged(x, offsets)
            return rows.transpose(1, 2)

        def run() -> Tensor:
            heads_first = jagged(q, of_q), jagged(k, of_k), jagged(v, of_k)
            o = functional.scaled_dot_product_attention(*heads_first, is_causal=causal, scale=scale)
            return o.transpose(1, 2).values()

        return run

    @peer()
    def torch_varlen(
        self, q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor, **options: Any
    ) -> Run:
        """Torch's packing of flash-attn, new in 2.10."""
        needs_cuda(q)
        from torch.nn.attention.varlen import varlen_attn

        sight = {
            "window_size": (-1, 0 if options["causal"] else -1),
            **window_size(options["causal"], options["window"]),
        }
        longest = [int(cu.diff().max()) for cu in (cu_seqlens_q, cu_seqlens_k)]
        rest = {**sight, "scale": options["scale"], "enable_gqa": q.shape[1] != k.shape[1]}
        return lambda: cast(Tensor, varlen_attn(q, k, v, cu_seqlens_q, cu_seqlens_k, *longest, **rest))

    @peer()
    def flex(self, q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor, **options: Any) -> Run:
        """FlexAttention with a mask of documents."""
        if not q.is_cuda:
            needs_cpp_compiler()
            if q.requires_grad:
                raise Unsupported("has no backward on a CPU")
        (of_q, at_q), (of_k, at_k) = documents(cu_seqlens_q, len(q)), documents(cu_seqlens_k, len(k))
        at_q = at_q + (cu_seqlens_k.diff() - cu_seqlens_q.diff())[of_q]
        behind = (options["window"] or len(q) + len(k)) - 1
        ahead = 0 if options["causal"] else behind

        def seen(_batch: Tensor, _head: Tensor, i: Tensor, j: Tensor) -> Tensor:
            return (of_q[i] == of_k[j]) & (at_k[j] <= at_q[i] + ahead) & (at_k[j] >= at_q[i] - behind)

        make_mask = torch.compile(create_block_mask) if q.is_cuda else create_block_mask
        mask, grouped = make_mask(seen, None, None, len(q), len(k), q.device), q.shape[1] != k.shape[1]
        compiled = torch.compile(flex_attention, dynamic=False, fullgraph=True)
        q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
        return lambda: compiled(q, k, v, block_mask=mask, scale=options["scale"], enable_gqa=grouped)[0].transpose(0, 1)

    @peer(install="pip install xformers")
    def xformers(self, **inputs: Any) -> Run:
        return attention_peers.xformers_varlen(**inputs)

    flash_attn = flash_peer("flash_attn", flash_varlen, "flash_attn_varlen_func")
    flash_attn_3 = flash_peer("flash_attn_interface", flash_varlen, "flash_attn_varlen_func")
    flash_attn_4 = flash_peer("flash_attn.cute", flash_varlen, "flash_attn_varlen_func")
