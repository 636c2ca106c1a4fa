"""Window attention as the paper writes it: Liu et al. 2021, "Swin Transformer", arXiv:2103.14030, section 3.2."""

from __future__ import annotations

import torch
from torch import Tensor


def _windows(x: Tensor, window: int) -> Tensor:
    """(B, H, W, ...) as (windows, tokens of a window, ...)."""
    batch, height, width = x.shape[:3]
    x = x.reshape(batch, height // window, window, width // window, window, *x.shape[3:])
    return x.transpose(2, 3).flatten(3, 4).flatten(0, 2)


def window_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias_table: Tensor | None = None,
    *,
    window: int,
    shift: int = 0,
    scale: float | None = None,
) -> Tensor:
    """softmax(q k^T * scale + bias) v within windows of window x window tokens, moved by `shift` down and to the right.

    q, k, v, o (B, H, W, heads, D), H and W multiples of window; bias_table ((2 window - 1)^2, heads) holds a bias for
    every difference of two positions, its rows first by height, then by width; scale defaults to D^-0.5. The picture is
    rolled by -shift; tokens that only the roll has brought together do not see each other. The softmax is taken in at
    least float32. Equation 4 (the bias) and figure 4 (the cyclic shift and its mask).
    """
    batch, height, width = q.shape[:3]
    q, k, v = (_windows(x.roll((-shift, -shift), (1, 2)), window).transpose(1, 2) for x in (q, k, v))
    scores = q @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale)
    place = torch.arange(window * window, device=q.device)
    down, right = (x[:, None] - x[None, :] + window - 1 for x in (place // window, place % window))
    if bias_table is not None:
        scores = scores + bias_table[down * (2 * window - 1) + right].permute(2, 0, 1)
    row, col = torch.arange(height, device=q.device), torch.arange(width, device=q.device)
    region = 2 * (row >= height - shift)[:, None] + (col >= width - shift)[None, :].long()
    region = _windows(region.expand(batch, -1, -1), window)
    apart = (region[:, :, None] != region[:, None, :])[:, None]
    scores = scores.to(torch.promote_types(q.dtype, torch.float32)).masked_fill(apart, float("-inf"))
    o: Tensor = (scores.softmax(-1).to(v.dtype) @ v).transpose(1, 2)
    o = o.unflatten(1, (window, window)).unflatten(0, (batch, height // window, width // window))
    return o.transpose(2, 3).flatten(3, 4).flatten(1, 2).roll((shift, shift), (1, 2))
