"""The router of a mixture of experts as the papers write it: which experts a token goes to, and with what weights."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def moe_router(
    logits: Tensor,
    top_k: int,
    *,
    scoring: str = "softmax",
    noise: Tensor | None = None,
    spread: Tensor | None = None,
    bias: Tensor | None = None,
    groups: int = 1,
    top_groups: int = 1,
    renormalize: bool = True,
    scale: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """(weights, experts), each (tokens, top_k): the experts of highest score, and their scores.

    logits (tokens, E). h = logits + noise * softplus(spread), KeepTopK's H(x): Shazeer et al. 2017 (arXiv:1701.06538),
    equations 3 to 5, whose noise is drawn beforehand. scores = softmax(h), Switch (arXiv:2101.03961), equation 1,
    or sigmoid(h), DeepSeek-V3 (arXiv:2412.19437), equations 12 to 16, whose bias takes part in the choice alone. Of
    `groups` of experts only the best `top_groups` are open, by their highest score or, with a bias, the sum of their
    two highest. Of equals the one with the smallest index is first; NaN is above all. Renormalised, the weights of a
    token sum to one, as in Mixtral (arXiv:2401.04088), section 2.1; then all are multiplied by scale.
    """
    h = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if noise is not None:
        width = 1.0 if spread is None else functional.softplus(spread.to(h.dtype))
        h = h + noise.to(h.dtype) * width
    scores = h.softmax(-1) if scoring == "softmax" else h.sigmoid()
    choice = (h if bias is None else scores + bias).detach()
    if groups > 1:
        members = choice.unflatten(-1, (groups, -1))
        best = members.sort(-1, descending=True).values[..., : 1 if bias is None else 2].sum(-1)
        open_groups = best.sort(dim=-1, descending=True, stable=True).indices[:, :top_groups]
        is_open = torch.zeros_like(best, dtype=torch.bool).scatter(1, open_groups, True)
        choice = members.masked_fill(~is_open[..., None], -torch.inf).flatten(-2)
    experts = choice.sort(dim=-1, descending=True, stable=True).indices[:, :top_k]
    weights = scores.gather(1, experts)
    if renormalize:
        weights = weights / weights.sum(-1, keepdim=True)
    return weights * scale, experts.int()
