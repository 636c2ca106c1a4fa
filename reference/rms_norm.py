"""RMSNorm as the textbook writes it, alone and after a residual.

Zhang & Sennrich 2019, "Root Mean Square Layer Normalization", arXiv:1910.07467; computed as LLaMA's code does, in at
least fp32, with one cast at the end.
"""

import torch
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, eps: float = 1e-6) -> Tensor:
    """Return x / sqrt(mean(x^2) + eps) * weight, the mean over the last dimension; x, y (..., cols), weight (cols,)."""
    wide = torch.promote_types(x.dtype, torch.float32)
    values = x.to(wide)
    mean_square = values.pow(2).mean(dim=-1, keepdim=True)
    return (values * torch.rsqrt(mean_square + eps) * weight.to(wide)).to(x.dtype)


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float = 1e-6) -> tuple[Tensor, Tensor]:
    """(rms_norm(residual_out), residual_out), residual_out = x + residual; x, residual and both outputs (..., cols).

    residual_out has x's dtype: the norm sees what is stored, not the sum before it was rounded.
    """
    residual_out = x + residual
    return rms_norm(residual_out, weight, eps), residual_out
