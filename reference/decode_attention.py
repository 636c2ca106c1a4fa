"""Attention to a cache as the textbook writes it."""

from __future__ import annotations

import torch
from torch import Tensor


def decode_attention(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    seq_lens: Tensor,
    *,
    block_table: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """softmax(q k^T * scale) v of the newest Nq queries of each sequence over its cached tokens.

    q (B, Nq, Hq, D), k_cache (B, T, Hkv, D), v_cache (B, T, Hkv, Dv), seq_lens (B) -> (B, Nq, Hq, Dv); with block_table
    (B, M) the caches are (P, page size, Hkv, ...). Query i sees the tokens j <= seq_len - Nq + i; one that sees none
    gives zeros. The softmax is taken in at least float32.
    Vaswani et al., Attention Is All You Need (arXiv:1706.03762); Kwon et al., PagedAttention (arXiv:2309.06180).
    """
    if block_table is not None:
        k_cache, v_cache = (cache[block_table].flatten(1, 2) for cache in (k_cache, v_cache))
    token = torch.arange(k_cache.shape[1], device=q.device)
    written = (token < seq_lens[:, None])[:, :, None, None]
    group = q.shape[2] // k_cache.shape[2]
    k, v = (cache.where(written, 0).repeat_interleave(group, dim=2).transpose(1, 2) for cache in (k_cache, v_cache))
    scores = q.transpose(1, 2) @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale)
    last = seq_lens.clamp(max=len(token))[:, None] - q.shape[1] + torch.arange(q.shape[1], device=q.device)
    visible = (token <= last[:, :, None])[:, None]
    scores = scores.to(torch.promote_types(q.dtype, torch.float32)).masked_fill(~visible, float("-inf"))
    return (scores.softmax(-1).masked_fill(~visible, 0).to(q.dtype) @ v).transpose(1, 2)
