"""What quantisations to int8 share whose scale is known before they begin."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def rounded(x, scale):
    """clamp(round(x / scale), -127, 127) as int8; 0 where that is NaN, and where scale is 0 or not finite.

    scale: a number, or a block that broadcasts to x.
    """
    ordinary = (scale > 0.0) & (scale < float("inf"))
    ratio = tl.div_rn(x, tl.zeros(x.shape, tl.float32) + tl.where(ordinary, scale, 1.0))
    # Comparisons: a minimum would turn NaN, which may stand beside an ordinary scale, into a limit.
    ratio = tl.where(ratio > 127.0, 127.0, tl.where(ratio < -127.0, -127.0, tl.where(ratio == ratio, ratio, 0.0)))
    # At 1.5 * 2^23 one ulp is 1: the sum is rounded to even, and its low byte is the rounded ratio.
    return (tl.where(ordinary, ratio, 0.0) + 12582912.0).to(tl.int32, bitcast=True).to(tl.int8)
