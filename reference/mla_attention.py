"""Multi-head latent attention with its keys as they are, as the paper writes it."""

from __future__ import annotations

import torch
from torch import Tensor

from reference.attention import attention


def mla_attention(
    q_nope: Tensor,
    q_rope: Tensor,
    k_nope: Tensor,
    k_rope: Tensor,
    v: Tensor,
    *,
    causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """Attention with queries [q_nope; q_rope] and keys [k_nope; k_rope], the latter the same for all heads.

    q_nope (B, H, Nq, D), q_rope (B, H, Nq, R), k_nope (B, H, Nk, D), k_rope (B, Nk, R), v (B, H, Nk, Dv) ->
    (B, H, Nq, Dv); scale defaults to (D + R)^-0.5. DeepSeek-V2 (arXiv:2405.04434), section 2.1, equations 16 to 18.
    """
    q = torch.cat([q_nope, q_rope], -1)
    k = torch.cat([k_nope, k_rope[:, None].expand(-1, k_nope.shape[1], -1, -1)], -1)
    return attention(q, k, v, causal=causal, scale=scale)
