"""BERT's embeddings as the paper writes them: Devlin et al. 2018, arXiv:1810.04805, figure 2, behind a LayerNorm."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def embedding_sum_norm(
    tokens: Tensor,
    token_types: Tensor,
    word: Tensor,
    position: Tensor,
    token_type: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float = 1e-12,
) -> Tensor:
    """LayerNorm(word[tokens] + position[0 .. S - 1] + token_type[token_types]); tokens, token_types (B, S).

    word (V, C), position (P, C), P at least S, token_type (T, C), weight, bias (C,). Returns (B, S, C). In at least
    fp32, with one cast at the end.
    """
    wide = torch.promote_types(word.dtype, torch.float32)
    x = word[tokens].to(wide) + position[: tokens.shape[1]].to(wide) + token_type[token_types].to(wide)
    return functional.layer_norm(x, x.shape[-1:], weight.to(wide), bias.to(wide), eps).to(word.dtype)
