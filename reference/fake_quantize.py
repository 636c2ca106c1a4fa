"""Quantisation to integers and back, with straight-through gradients, as the papers write it."""

from __future__ import annotations

import torch
from torch import Tensor


def fake_quantize(
    x: Tensor, scale: Tensor, zero_point: Tensor | None = None, axis: int | None = None, quant_min: int = -128,
    quant_max: int = 127,
) -> Tensor:  # fmt: skip
    """(clip(round(x / scale) + zero) - zero) scale; scale and zero () or, along `axis`, one for each slice.

    Jacob et al. 2017, arXiv:1712.05877, equation 12; rounding has the gradient of the identity (Bengio et al. 2013,
    arXiv:1308.3432), clipping its own (Esser et al. 2019, arXiv:1902.08153, equations 3 and 5). The levels are defined
    in fp32, whatever the dtype of x, with ties to even.
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    zero = torch.zeros_like(scale, dtype=torch.int32) if zero_point is None else zero_point
    if axis is not None:
        along = [-1 if each == axis % x.ndim else 1 for each in range(x.ndim)]
        scale, zero = scale.view(along), zero.view(along)
    level = (x.detach().float() / scale.detach().float()).round() + zero
    inside = (level >= quant_min) & (level <= quant_max)
    ratio = x.to(wide) / scale.to(wide)
    passed = torch.where(inside, ratio - ratio.detach(), 0)  # zero, with the gradient of x / scale
    return ((level.clamp(quant_min, quant_max) - zero + passed) * scale.to(wide)).to(x.dtype)
