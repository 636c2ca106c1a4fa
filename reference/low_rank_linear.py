"""A linear layer whose weight is a product of two thin matrices, as the textbook writes it.

Sainath et al. 2013, "Low-rank matrix factorization for deep neural network training", ICASSP, section 3; by truncated
singular value decomposition: Denton et al. 2014, arXiv:1404.0736, section 3.2.
"""

import torch
from torch import Tensor


def low_rank_linear(x: Tensor, a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (b a)^T + bias, in at least fp32 with one cast at the end.

    x (..., K), a (R, K), b (N, R), bias (N,) -> (..., N).
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    y = x.to(wide) @ a.to(wide).T @ b.to(wide).T
    return (y if bias is None else y + bias.to(wide)).to(x.dtype)
