"""Activations as the textbook writes them.

GELU, exact and by tanh: Hendrycks & Gimpel 2016, "Gaussian Error Linear Units (GELUs)", arXiv:1606.08415. SiLU stands
there too; as swish: Ramachandran, Zoph & Le 2017, "Searching for Activation Functions", arXiv:1710.05941.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

FORMULAS: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "silu": lambda x: x * torch.sigmoid(x),
    "gelu": lambda x: x * 0.5 * (1 + torch.erf(x / math.sqrt(2))),
    "gelu_tanh": lambda x: 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
}


def activation(x: Tensor, kind: str) -> Tensor:
    """Return f(x), elementwise, f by its name; any shape. In at least fp32, with one cast at the end."""
    wide = torch.promote_types(x.dtype, torch.float32)
    return FORMULAS[kind](x.to(wide)).to(x.dtype)
