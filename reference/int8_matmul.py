"""Products of int8 matrices with scales, alone and inside LLM.int8(), as the textbook writes them."""

from __future__ import annotations

import torch
from torch import Tensor

from reference.quantize_int8 import quantize_int8


def int8_matmul(
    a: Tensor,
    b: Tensor,
    a_scale: Tensor,
    b_scale: Tensor,
    *,
    bias: Tensor | None = None,
    out_dtype: torch.dtype = torch.bfloat16,
) -> Tensor:
    """(a @ b^T) * a_scale[:, None] * b_scale[None, :] + bias, the integer product exact.

    a: (M, K) int8; b: (N, K) int8; a_scale: (M,); b_scale: (N,); bias: (N,) or none. Returns (M, N) in out_dtype.
    Source: Dettmers et al. 2022, arXiv:2208.07339, equation 3.
    """
    # No matrix product of integers runs on every device; float64 holds these integers (K * 2^14 < 2^53) and is exact.
    product = a.double() @ b.double().T
    out = product.to(torch.promote_types(a_scale.dtype, torch.float32)) * a_scale[:, None] * b_scale[None, :]
    return (out if bias is None else out + bias).to(out_dtype)


def int8_linear(
    x: Tensor, weight_int8: Tensor, weight_scale: Tensor, *, threshold: float = 6.0, bias: Tensor | None = None
) -> Tensor:
    """LLM.int8()'s x @ w^T + bias with w = weight_int8 * weight_scale[:, None].

    Columns of x with any |x| >= threshold are multiplied in x's dtype, the rest, quantised by rows, in int8.
    x: (..., K); weight_int8: (N, K) int8; weight_scale: (N,); bias: (N,) or none. Returns (..., N) in x's dtype.
    Source: Dettmers et al. 2022, arXiv:2208.07339, section 3 (mixed-precision decomposition).
    """
    rows = x.flatten(0, -2) if x.ndim > 1 else x[None]
    wide = torch.promote_types(x.dtype, torch.float32)
    # In float64 every x and every threshold is what it is: torch would round the threshold to the dtype of x first.
    outlier = (rows.double().abs() >= threshold).any(0)
    q, scale = quantize_int8(rows.masked_fill(outlier, 0))
    regular = int8_matmul(q, weight_int8, scale.to(wide), weight_scale, out_dtype=wide)
    weight = (weight_int8[:, outlier] * weight_scale[:, None]).to(x.dtype)
    out = regular + rows[:, outlier].to(wide) @ weight.to(wide).T
    return (out if bias is None else out + bias).to(x.dtype).reshape(*x.shape[:-1], len(weight_int8))
