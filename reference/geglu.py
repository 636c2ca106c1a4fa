"""GeGLU's gate as the textbook writes it: Shazeer 2020, "GLU Variants Improve Transformer", arXiv:2002.05202."""

import torch
from torch import Tensor


def geglu(gate: Tensor, up: Tensor, approximate: str = "none") -> Tensor:
    """gelu(gate) * up, GELU exact or by tanh, in at least fp32 with one cast at the end; all of one shape."""
    wide = torch.promote_types(gate.dtype, torch.float32)
    return (torch.nn.functional.gelu(gate.to(wide), approximate=approximate) * up.to(wide)).to(gate.dtype)
