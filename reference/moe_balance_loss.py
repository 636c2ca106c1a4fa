"""The auxiliary loss that keeps the experts of a mixture evenly loaded, as Switch Transformers write it."""

from __future__ import annotations

import torch
from torch import Tensor


def moe_balance_loss(logits: Tensor, experts: Tensor) -> Tensor:
    """E * sum over i of f_i P_i: f_i the share of tokens that chose expert i, P_i the mean of its probability.

    logits (tokens, E), experts (tokens, k) -> a number, in at least fp32. f has no gradient.
    Fedus et al. 2021 (arXiv:2101.03961), equations 4 to 6, before alpha. With the first choice alone as experts it is
    E^2 times GShard's (arXiv:2006.16668, Algorithm 1).
    """
    tokens, count = logits.shape
    p = logits.to(torch.promote_types(logits.dtype, torch.float32)).softmax(-1)
    f = (experts[..., None] == torch.arange(count, device=experts.device)).sum((0, 1)).to(p.dtype) / tokens
    return count * (f * p.mean(0)).sum()
