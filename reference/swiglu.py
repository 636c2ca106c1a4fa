"""SwiGLU's gate as the textbook writes it: Shazeer 2020, "GLU Variants Improve Transformer", arXiv:2002.05202."""

import torch
from torch import Tensor


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up with silu(z) = z / (1 + exp(-z)), in at least fp32 with one cast at the end; all of one shape."""
    wide = torch.promote_types(gate.dtype, torch.float32)
    return (torch.nn.functional.silu(gate.to(wide)) * up.to(wide)).to(gate.dtype)
