"""Decoding with multi-head latent attention as the textbook writes it."""

from __future__ import annotations

import torch
from torch import Tensor


def mla_decode(
    q: Tensor,
    kv_cache: Tensor,
    seq_lens: Tensor,
    *,
    scale: float,
    kv_lora_rank: int = 512,
    block_table: Tensor | None = None,
) -> Tensor:
    """softmax(q c^T * scale) c[:kv_lora_rank]: one cached row c per token is the key and the value of all heads.

    q (B, Nq, H, R + P), kv_cache (B, T, R + P), seq_lens (B) -> (B, Nq, H, R) with R = kv_lora_rank; with block_table
    (B, M) the cache is (N, page size, R + P). Query i sees the tokens j <= seq_len - Nq + i; one that sees none gives
    zeros. The softmax is taken in at least float32.
    DeepSeek-AI, DeepSeek-V2 (arXiv:2405.04434, section 2.1.2): W^UK absorbed into W^UQ, and W^UV into W^O.
    """
    c = kv_cache if block_table is None else kv_cache[block_table].flatten(1, 2)
    token = torch.arange(c.shape[1], device=q.device)
    c = c.where((token < seq_lens[:, None])[:, :, None], 0)[:, None]
    scores = q.transpose(1, 2) @ c.mT * scale
    last = seq_lens.clamp(max=len(token))[:, None] - q.shape[1] + torch.arange(q.shape[1], device=q.device)
    visible = (token <= last[:, :, None])[:, None]
    scores = scores.to(torch.promote_types(q.dtype, torch.float32)).masked_fill(~visible, float("-inf"))
    return (scores.softmax(-1).masked_fill(~visible, 0).to(q.dtype) @ c[..., :kv_lora_rank]).transpose(1, 2)
