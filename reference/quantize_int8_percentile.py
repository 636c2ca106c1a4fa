"""Row-wise quantisation to int8 by a percentile as the textbook writes it."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def quantize_int8_percentile(x: Tensor, percentile: float = 99.9) -> tuple[Tensor, Tensor]:
    """scale = the ceil(percentile cols / 100)-th smallest |x| of a row / 127, q = clamp(round(x / scale), -127, 127).

    x: (..., cols); returns q (..., cols) int8 and scale (...) fp32. Quantisation to int8 is defined in fp32, whatever
    the dtype of x, with ties to even; q is 0 where x / scale is NaN and in rows whose scale is 0. Source: Wu et al.
    2020, arXiv:2004.09602, section 5.2, of absolute values.
    """
    x = x.float()
    kth = x.abs().kthvalue(math.ceil(percentile * x.shape[-1] / 100), dim=-1).values
    # By a number torch multiplies with the reciprocal on a GPU, an ulp off at times; by a tensor it divides.
    scale = kth / torch.full_like(kth, 127)
    unclear = (scale == 0) | ~scale.isfinite()
    ratio = (x / scale.unsqueeze(-1)).masked_fill(unclear.unsqueeze(-1), 0)
    return ratio.round().clamp(-127, 127).nan_to_num(0).to(torch.int8), scale
