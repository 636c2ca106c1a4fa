"""Scores with noise added: h = logits + noise * softplus(spread), as the router and its backward load them."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def softplus(x):
    # log1p, which the language of tiles lacks: what 1 + small rounds away, the quotient gives back.
    small = tl.exp(-tl.abs(x))
    above = 1.0 + small
    tail = tl.where(above == 1.0, small, tl.log(above) * (small / tl.where(above == 1.0, 1.0, above - 1.0)))
    return tl.where(x > 0, x, 0.0) + tail


@triton.jit
def noisy(tensors, strides, row, col, inside, E):
    """h, with -inf behind the last expert."""
    logits_ptr, noise_ptr, spread_ptr = tensors
    h = tl.load(logits_ptr + row * strides[0] + col, mask=inside, other=0.0).to(tl.float32)
    if noise_ptr is not None:
        noise = tl.load(noise_ptr + row * strides[1] + col, mask=inside, other=0.0).to(tl.float32)
        if spread_ptr is not None:
            spread = tl.load(spread_ptr + row * strides[2] + col, mask=inside, other=0.0).to(tl.float32)
            noise *= softplus(spread)
        h += noise
    return tl.where(col < E, h, -float("inf"))
