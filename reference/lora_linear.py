"""A linear layer with an adapter of low rank beside its frozen weight: Hu et al. 2021, arXiv:2106.09685, equation 3."""

import torch
from torch import Tensor


def lora_linear(
    x: Tensor, weight: Tensor, a: Tensor, b: Tensor, *, alpha: float = 16.0, bias: Tensor | None = None
) -> Tensor:
    """x weight^T + (alpha / R) x (b a)^T + bias, in at least fp32 with one cast at the end; weight has no gradient.

    x (..., K), weight (N, K), a (R, K), b (N, R), bias (N,) -> (..., N).
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    y = x.to(wide) @ weight.detach().to(wide).T + alpha / len(a) * (x.to(wide) @ a.to(wide).T @ b.to(wide).T)
    return (y if bias is None else y + bias.to(wide)).to(x.dtype)
