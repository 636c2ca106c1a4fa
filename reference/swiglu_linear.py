"""The gated half of a feed-forward layer as the textbook writes it: Shazeer 2020, arXiv:2002.05202, equation 6."""

import torch
from torch import Tensor


def swiglu_linear(x: Tensor, gate_weight: Tensor, up_weight: Tensor) -> Tensor:
    """silu(x gate_weight^T) * (x up_weight^T), in at least fp32 with one cast at the end.

    x (..., K), both weights (N, K) -> (..., N); silu(z) = z / (1 + exp(-z)).
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    gate, up = x.to(wide) @ gate_weight.to(wide).T, x.to(wide) @ up_weight.to(wide).T
    return (torch.nn.functional.silu(gate) * up).to(x.dtype)
