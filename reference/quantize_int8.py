"""Row-wise quantisation to int8 as the textbook writes it."""

from __future__ import annotations

import torch
from torch import Tensor


def quantize_int8(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (last dimension) by their absolute maximum: scale = max |x| / 127, q = clamp(round(x / scale), -127, 127).

    x: (..., cols); returns q (..., cols) int8 and scale (...) fp32. Quantisation to int8 is defined in fp32, whatever
    the dtype of x, with ties to even; q is 0 where x / scale is NaN and in rows whose scale is 0. Source: Dettmers et
    al. 2022, arXiv:2208.07339, section 2.
    """
    x = x.float()
    absmax = x.abs().amax(-1) if x.shape[-1] else x.new_zeros(x.shape[:-1])
    # By a number torch multiplies with the reciprocal on a GPU, an ulp off at times; by a tensor it divides.
    scale = absmax / torch.full_like(absmax, 127)
    ratio = (x / scale.unsqueeze(-1)).masked_fill(scale.unsqueeze(-1) == 0, 0)
    return ratio.round().clamp(-127, 127).nan_to_num(0).to(torch.int8), scale
