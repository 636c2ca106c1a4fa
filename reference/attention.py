"""Attention as the textbook writes it."""

from __future__ import annotations

import torch
from torch import Tensor


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool = False,
    window: int | None = None,
    scale: float | None = None,
) -> Tensor:
    """softmax(q k^T * scale) v, each of the Hkv key heads shared by Hq / Hkv query heads.

    q (B, Hq, Nq, D), k (B, Hkv, Nk, D), v (B, Hkv, Nk, Dv) -> (B, Hq, Nq, Dv); scale defaults to D^-0.5. Query i stands
    at key i + Nk - Nq; with `causal`, it sees no key behind that one, with `window` none that is `window` or more away.
    A row that sees no key is zero. The softmax is taken in at least float32. Vaswani et al., Attention Is All You Need
    (arXiv:1706.03762); Ainslie et al., GQA (arXiv:2305.13245); Jiang et al., Mistral 7B (arXiv:2310.06825), section 2.
    """
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
    scores = q @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale)
    visible = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device)
    shift = k.shape[2] - q.shape[2]
    if causal:
        visible = visible.tril(shift)
    if window is not None:
        visible = visible.tril(shift + window - 1).triu(shift - window + 1)
    scores = scores.to(torch.promote_types(q.dtype, torch.float32)).masked_fill(~visible, float("-inf"))
    return scores.softmax(-1).masked_fill(~visible, 0).to(q.dtype) @ v
