"""LayerNorm as the textbook writes it: Ba, Kiros & Hinton 2016, "Layer Normalization", arXiv:1607.06450."""

import torch
from torch import Tensor


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    """(x - mean) / sqrt(variance + eps) * weight + bias over the last dimension; x, y (..., cols), the others (cols,).

    The variance is that of the row itself (divided by cols); in at least fp32, with one cast at the end.
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    values = x.to(wide)
    centred = values - values.mean(dim=-1, keepdim=True)
    variance = centred.pow(2).mean(dim=-1, keepdim=True)
    return (centred * torch.rsqrt(variance + eps) * weight.to(wide) + bias.to(wide)).to(x.dtype)
