"""What the experts of a token returned, summed by the router's weights, as the textbook writes it."""

from __future__ import annotations

import torch
from torch import Tensor


def moe_combine(rows: Tensor, slots: Tensor, weights: Tensor) -> Tensor:
    """y[t] = sum over j of weights[t, j] * rows[slots[t, j]], in at least fp32 and with one cast at the end.

    rows (tokens * k, cols), slots and weights (tokens, k) -> y (tokens, cols); every row belongs to one choice.
    Shazeer et al. 2017 (arXiv:1701.06538), equation 1.
    """
    wide = torch.promote_types(rows.dtype, torch.float32)
    chosen = rows[slots.long()].to(wide)
    return (weights.to(wide)[..., None] * chosen).sum(1).to(rows.dtype)
