"""The functions that elementwise kernels share, each in few instructions that keep its last bits.

An element of bf16 that is read once and written once leaves an H200 28 instructions (132 multiprocessors, 128 lanes,
1.98 GHz against 4.8 TB/s), three of them special functions; one of fp32 leaves twice as many. Of these SiLU's kernel
takes 20 with tl.sigmoid and 14 with what stands here, GELU's 39 with tl.erf and 22 (SASS of Triton 3.7.1 for sm_90):

    e^-|x|     by exp2, which flushes what is below 2^-126 and so needs no scaling around it; it cannot overflow
    1 / d      by rsqrt(d d): a division guards against denominators beyond 2^126, which these are not
    Phi(-|x|)  = e^(-x^2/2) p(t), t = 1 / (1 + P |x|), in 16 bits: the polynomial p is fitted to erfcx, to 1e-6 of Phi
               near 0 and to 6e-5 of it at -13, where fp16 resolves 5e-4. Unlike 1 + erf it does not cancel, and the
               derivative needs the same e^(-x^2/2). fp32, which has the room, asks erf.

Sources: Hendrycks & Gimpel 2016, arXiv:1606.08415 (GELU and its tanh form); Ramachandran et al. 2017, arXiv:1710.05941
(swish); Abramowitz & Stegun 1964, 7.1.26 (the form of p).
"""

from __future__ import annotations

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
SQRT_HALF = tl.constexpr(0.7071067811865476)
NORMAL = tl.constexpr(0.3989422804014327)  # 1 / sqrt(2 pi), the density of the normal distribution at 0
# (1 + tanh(u)) / 2 = sigma(2 u): GELU's tanh form is x sigma(x (LINEAR + CUBIC x^2)).
LINEAR, CUBIC = tl.constexpr(1.5957691216057308), tl.constexpr(0.07135481627260025)
P = tl.constexpr(0.296)


@triton.jit
def _reciprocal(d):
    """1 / d of d >= 1; 0 from 2^64 on."""
    return tl.rsqrt(d * d)


@triton.jit
def logistic(x):
    """sigma(x) = 1 / (1 + e^-x) and 1 - sigma(x), neither of them by cancellation."""
    e = tl.exp2(tl.abs(x) * -LOG2E)
    larger = _reciprocal(1 + e)
    smaller = e * larger
    return tl.where(x < 0, smaller, larger), tl.where(x < 0, larger, smaller)


@triton.jit
def tanh(x):
    """(1 - e^-2|x|) / (1 + e^-2|x|) by sign; near 0, where that cancels, an odd polynomial fitted to 2e-8 of tanh."""
    e = tl.exp2(tl.abs(x) * (-2 * LOG2E))
    inverse = _reciprocal(1 + e)
    far = inverse - e * inverse
    square = x * x
    series = 1 + square * (-0.33333144 + square * (0.13325879 + square * (-0.05304548 + square * 0.01724146)))
    return tl.where(square < 0.25, x * series, tl.where(x < 0, -far, far))


@triton.jit
def _bell(x):
    """e^(-x^2 / 2)."""
    return tl.exp2(x * x * (-0.5 * LOG2E))


@triton.jit
def _tailed(x, bell):
    """Phi(x) from the smaller of its tails, to the precision of 16 bits."""
    t = _reciprocal(tl.abs(x) * P + 1)
    p = 0.16168230 + t * (-0.05388397 + t * (0.24985244 + t * -0.084209329))
    tail = bell * (t * (0.11887902 + t * (0.10767968 + t * p)))
    return tl.where(x < 0, tail, 1 - tail)


@triton.jit
def gelu_gate(x, TANH: tl.constexpr, FP32: tl.constexpr):
    """What x is multiplied by in GELU: Phi(x), or its tanh form. FP32: to the precision of fp32, not of 16 bits."""
    if TANH:
        gate, _ = logistic(x * (x * x * CUBIC + LINEAR))
    elif FP32:
        gate = 0.5 * (1 + tl.erf(x * SQRT_HALF))
    else:
        gate = _tailed(x, _bell(x))
    return gate


@triton.jit
def gelu_gate_and_density(x, TANH: tl.constexpr, FP32: tl.constexpr):
    """The gate and its derivative: gelu'(x) = gate + x density."""
    if TANH:
        square = x * x
        gate, rest = logistic(x * (square * CUBIC + LINEAR))
        density = gate * rest * (square * (3 * CUBIC) + LINEAR)
    else:
        bell = _bell(x)
        gate = 0.5 * (1 + tl.erf(x * SQRT_HALF)) if FP32 else _tailed(x, bell)
        density = bell * NORMAL
    return gate, density
