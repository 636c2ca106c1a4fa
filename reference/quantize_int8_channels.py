"""Quantisation to int8 by channels as the textbook writes it."""

from __future__ import annotations

import torch
from torch import Tensor


def quantize_int8_channels(x: Tensor, axis: int = -1) -> tuple[Tensor, Tensor]:
    """Slices along `axis` by their absolute maximum: scale = max |x| / 127, q = clamp(round(x / scale), -127, 127).

    Returns q of x's shape in int8 and scale (channels,) in fp32. Quantisation to int8 is defined in fp32, whatever the
    dtype of x, with ties to even; q is 0 where x / scale is NaN and in channels whose scale is 0. Krishnamoorthi 2018,
    arXiv:1806.08342, section 2.3, symmetric.
    """
    slices = x.float().movedim(axis, -1)
    flat = slices.reshape(slices.shape[:-1].numel(), slices.shape[-1])
    absmax = flat.abs().amax(0) if len(flat) else flat.new_zeros(flat.shape[1])
    # By a number torch multiplies with the reciprocal on a GPU, an ulp off at times; by a tensor it divides.
    scale = absmax / torch.full_like(absmax, 127)
    ratio = (slices / scale).masked_fill(scale == 0, 0)
    return ratio.round().clamp(-127, 127).nan_to_num(0).to(torch.int8).movedim(-1, axis), scale
