"""Queries and keys as Qwen3 prepares them: each head normalised by its root mean square, then turned by its position.

Qwen Team 2025, "Qwen3 Technical Report", arXiv:2505.09388 (QK-Norm); Zhang & Sennrich 2019, arXiv:1910.07467; Su et al.
2021, arXiv:2104.09864. Computed in at least fp32, with one cast at the end.
"""

import torch
from torch import Tensor

from reference.rms_norm import rms_norm
from reference.rope import rotate


def qk_norm_rope(
    q: Tensor,
    k: Tensor,
    q_weight: Tensor,
    k_weight: Tensor,
    position_embeddings: tuple[Tensor, Tensor],
    eps: float = 1e-6,
    interleaved: bool = False,
) -> tuple[Tensor, Tensor]:
    """rope(rms_norm(q, q_weight), rms_norm(k, k_weight)), the mean over a head; both weights (head_dim,)."""
    cos, sin = position_embeddings
    wide = torch.promote_types(q.dtype, torch.float32)
    q_out = rotate(rms_norm(q.to(wide), q_weight, eps), cos, sin, interleaved)
    k_out = rotate(rms_norm(k.to(wide), k_weight, eps), cos, sin, interleaved)
    return q_out.to(q.dtype), k_out.to(k.dtype)
