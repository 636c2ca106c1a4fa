"""y = f(x), elementwise; dx = dy f'(x). f goes by its name.

    sigmoid    s(x) = 1 / (1 + e^-x)                                  f' = s(x) s(-x)
    tanh       s(2x) - s(-2x)                                         f' = 4 s(2x) s(-2x)
    silu       x s(x), also called swish                              f' = s(x) + x s(x) s(-x)
    gelu       x Phi(x), Phi(x) = (1 + erf(x / sqrt(2))) / 2          f' = Phi(x) + x e^(-x^2/2) / sqrt(2 pi)
    gelu_tanh  x s(u), u = 2 sqrt(2 / pi) (x + 0.044715 x^3)          f' = s(u) + x s(u) s(-u) u'(x)

Shapes: x, y of any, seen as (rows, cols), or all elements as one row where they lie side by side, in whichever order
of the dimensions they do; y has the layout of x. A program owns a tile of 2048 elements. The forward reads x and
writes y, the backward reads dy and x and writes dx: each element once. The input is what is kept for the
backward, in its own dtype: of a y rounded to bf16, 1 - y^2 is mostly rounding where tanh and sigmoid saturate.
What f costs beside the memory that it hides behind, and how it is computed: kernels/_gates.py.

There is nothing to tune: two 128-bit accesses of a thread per tensor are in flight, at three quarters of full occupancy
or more on every target that is counted.
Sources: Hendrycks & Gimpel 2016, arXiv:1606.08415; Ramachandran et al. 2017, arXiv:1710.05941.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels._elementwise import launch, tile
from kernels._gates import gelu_gate, gelu_gate_and_density, logistic, tanh
from kernels._launch import FLOATS, expect, expect_tensor

KINDS = ("sigmoid", "tanh", "silu", "gelu", "gelu_tanh")


@triton.jit
def _forward(x_ptr, y_ptr, row_strides, size, KIND: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr):
    row, col, inside = tile(size, BLOCK_ROWS, BLOCK_COLS)
    x = tl.load(x_ptr + row * row_strides[0] + col, mask=inside, other=0.0).to(tl.float32)
    if KIND == "sigmoid":
        y, _ = logistic(x)
    elif KIND == "tanh":
        y = tanh(x)
    elif KIND == "silu":
        sigma, _ = logistic(x)
        y = x * sigma
    else:
        y = x * gelu_gate(x, KIND == "gelu_tanh", x_ptr.dtype.element_ty == tl.float32)
    tl.store(y_ptr + row * size[1] + col, y.to(y_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _backward(
    dy_ptr, x_ptr, dx_ptr, row_strides, size,
    KIND: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr,
):  # fmt: skip
    row, col, inside = tile(size, BLOCK_ROWS, BLOCK_COLS)
    dy = tl.load(dy_ptr + row * row_strides[0] + col, mask=inside, other=0.0).to(tl.float32)
    x = tl.load(x_ptr + row * row_strides[1] + col, mask=inside, other=0.0).to(tl.float32)
    if KIND == "sigmoid":
        sigma, rest = logistic(x)
        slope = sigma * rest
    elif KIND == "tanh":
        sigma, rest = logistic(2 * x)
        slope = 4 * (sigma * rest)
    elif KIND == "silu":
        sigma, rest = logistic(x)
        slope = sigma + x * (sigma * rest)
    else:
        gate, density = gelu_gate_and_density(x, KIND == "gelu_tanh", x_ptr.dtype.element_ty == tl.float32)
        slope = gate + x * density
    tl.store(dx_ptr + row * size[1] + col, (dy * slope).to(dx_ptr.dtype.element_ty), mask=inside)


def _launch(kernel: Any, inputs: tuple[Tensor, ...], kind: str) -> Tensor:
    """Run over tensors of one shape; the result has the layout of the last one."""
    x = inputs[-1]
    # From the largest stride to the smallest; what is repeated in memory, at stride 0, is farthest apart.
    order = sorted(range(x.ndim), key=lambda dimension: x.stride(dimension) or math.inf, reverse=True)
    inputs = tuple(value.permute(order) for value in inputs)
    out = torch.empty(inputs[-1].shape, dtype=x.dtype, device=x.device)
    launch(kernel, inputs, (out,), KIND=kind)
    return out.permute([order.index(dimension) for dimension in range(x.ndim)])


class _Activation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, kind: str) -> Tensor:
        ctx.save_for_backward(x)
        ctx.kind = kind
        return _launch(_forward, (x,), kind)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        return _launch(_backward, (dy, *ctx.saved_tensors), ctx.kind), None


def activation(x: Tensor, kind: str) -> Tensor:
    """Return f(x) elementwise, in fp32 with one cast at the end; f is the `kind` of the five above.

    x: fp32, fp16 or bf16, any shape (0-d too) and strides; elements that lie side by side, in whatever order of the
    dimensions, are read where they are. Returns x's shape, dtype and layout; differentiable. NaN and Inf propagate as
    in torch. Sources: arXiv:1606.08415, arXiv:1710.05941.

    Raises:
        TypeError, ValueError: an argument is not as described.
    """
    expect_tensor("x", x, dtypes=FLOATS)
    expect(kind in KINDS, "kind", f"one of {', '.join(KINDS)}", repr(kind))
    if torch.is_grad_enabled() and x.requires_grad:
        y: Tensor = _Activation.apply(x, kind)
        return y
    return _launch(_forward, (x,), kind)
