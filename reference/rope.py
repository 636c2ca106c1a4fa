"""Rotary position embeddings as the paper writes them: pairs of entries as complex numbers, turned by their position.

Su et al. 2021, "RoFormer: Enhanced Transformer with Rotary Position Embedding", arXiv:2104.09864, equation 34; computed
in at least fp32, with one cast at the end.
"""

import torch
from torch import Tensor


def rotate(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
    """Turn the first 2 half entries of each head; x (batch, heads, tokens, head_dim), cos and sin (..., tokens, half).

    A pair is two neighbours where `interleaved` (RoFormer, GPT-J), else an entry of each half (GPT-NeoX, LLaMA).
    """
    wide, width = torch.promote_types(x.dtype, torch.float32), 2 * cos.shape[-1]
    cos, sin = cos.to(wide).unsqueeze(-3), sin.to(wide).unsqueeze(-3)
    turned = x[..., :width].to(wide)
    a, b = (turned[..., ::2], turned[..., 1::2]) if interleaved else turned.chunk(2, dim=-1)
    pairs = (a * cos - b * sin, b * cos + a * sin)
    together = torch.stack(pairs, dim=-1).flatten(-2) if interleaved else torch.cat(pairs, dim=-1)
    return torch.cat((together.to(x.dtype), x[..., width:]), dim=-1)


def rope(
    q: Tensor, k: Tensor, position_embeddings: tuple[Tensor, Tensor], interleaved: bool = False
) -> tuple[Tensor, Tensor]:
    """q and k turned by (cos, sin) of their positions; a table (tokens, half) is that of every sequence."""
    cos, sin = position_embeddings
    return rotate(q, cos, sin, interleaved), rotate(k, cos, sin, interleaved)
