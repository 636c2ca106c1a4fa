"""A linear layer with a weight of 4-bit NormalFloats: Dettmers et al. 2023, QLoRA, arXiv:2305.14314."""

import torch
from torch import Tensor

# Appendix E, in the digits of fp32 that bitsandbytes has.
VALUES = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip


def dequantize(packed: Tensor, absmax: Tensor) -> Tensor:
    """The value of every entry, two in a byte and the first in its high half, times the absmax of its block of 64."""
    entries = torch.stack([packed >> 4, packed & 15], -1).flatten(1).long()
    values = torch.tensor(VALUES, dtype=absmax.dtype, device=absmax.device)[entries]
    return values * absmax.repeat_interleave(64, 1)


def nf4_linear(x: Tensor, packed: Tensor, absmax: Tensor, *, bias: Tensor | None = None) -> Tensor:
    """x W^T + bias, in at least fp32 with one cast at the end; W is dequantised to the dtype of x (equation 5).

    x (..., K), packed (N, K / 2), absmax (N, K / 64), bias (N,) -> (..., N). The weight is frozen, absmax with it: only
    x and bias have gradients.
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    y = x.to(wide) @ dequantize(packed, absmax.detach()).to(x.dtype).to(wide).T
    return (y if bias is None else y + bias.to(wide)).to(x.dtype)
