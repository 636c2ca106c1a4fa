"""y = silu(gate) * up, silu(z) = z * sigmoid(z), elementwise: what stands between the two projections of a gated MLP.

Shapes: gate, up, y (rows, cols), or all elements as one row where every tensor is contiguous. With s = sigmoid(gate):
dgate = dy * up * s * (1 + gate * (1 - s)),  dup = dy * gate * s.

A program owns a tile of 2048 elements: a stretch of one row, or several short rows. The forward reads gate and up and
writes y; the backward reads dy, gate and up, recomputes s and writes both gradients: each element once. Rows may stand
apart, as the halves of one fused projection x[..., :n] and x[..., n:] do; other strides are copied first.
Source: Shazeer 2020, arXiv:2002.05202.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels._elementwise import launch, tile
from kernels._launch import FLOATS, expect, expect_like, expect_tensor


@triton.jit
def _forward(gate_ptr, up_ptr, y_ptr, row_strides, size, BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr):
    row, col, inside = tile(size, BLOCK_ROWS, BLOCK_COLS)
    gate = tl.load(gate_ptr + row * row_strides[0] + col, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(up_ptr + row * row_strides[1] + col, mask=inside, other=0.0).to(tl.float32)
    y = gate * tl.sigmoid(gate) * up
    tl.store(y_ptr + row * size[1] + col, y.to(y_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _backward(
    dy_ptr, gate_ptr, up_ptr, dgate_ptr, dup_ptr, row_strides, size,
    BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr,
):  # fmt: skip
    row, col, inside = tile(size, BLOCK_ROWS, BLOCK_COLS)
    dy = tl.load(dy_ptr + row * row_strides[0] + col, mask=inside, other=0.0).to(tl.float32)
    gate = tl.load(gate_ptr + row * row_strides[1] + col, mask=inside, other=0.0).to(tl.float32)
    sigmoid = tl.sigmoid(gate)
    if dgate_ptr is not None:
        up = tl.load(up_ptr + row * row_strides[2] + col, mask=inside, other=0.0).to(tl.float32)
        dgate = dy * up * (sigmoid * (1 + gate * (1 - sigmoid)))
        tl.store(dgate_ptr + row * size[1] + col, dgate.to(dgate_ptr.dtype.element_ty), mask=inside)
    if dup_ptr is not None:
        dup = dy * (gate * sigmoid)
        tl.store(dup_ptr + row * size[1] + col, dup.to(dup_ptr.dtype.element_ty), mask=inside)


def gradients(dy: Tensor, gate: Tensor, up: Tensor, needed: tuple[bool, ...]) -> tuple[Tensor | None, ...]:
    """dgate and dup behind dy, contiguous; None for one that is not needed."""
    grads = tuple(torch.empty(dy.shape, dtype=dy.dtype, device=dy.device) if need else None for need in needed)
    launch(_backward, (dy, gate, up), grads)
    return grads


def _launch_forward(gate: Tensor, up: Tensor) -> Tensor:
    y = torch.empty(gate.shape, dtype=gate.dtype, device=gate.device)
    launch(_forward, (gate, up), (y,))
    return y


class _SwiGlu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return _launch_forward(gate, up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        gate, up = ctx.saved_tensors
        return gradients(dy, gate, up, ctx.needs_input_grad)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """Return silu(gate) * up elementwise, in fp32 with one cast at the end.

    gate, up: one shape (any, 0-d too), dtype (fp32, fp16 or bf16) and device, any strides; rows whose columns lie
    side by side are read where they are. Returns a contiguous tensor of that shape and dtype; differentiable in both.
    Source: Shazeer 2020, arXiv:2002.05202.

    Raises:
        TypeError, ValueError: an argument is not as described.
    """
    expect_tensor("gate", gate, dtypes=FLOATS)
    expect_tensor("up", up, dtypes=FLOATS)
    expect_like("up", up, "gate", gate)
    expect(up.shape == gate.shape, "up", f"the shape of gate, {tuple(gate.shape)}", f"shape {tuple(up.shape)}")
    if torch.is_grad_enabled() and (gate.requires_grad or up.requires_grad):
        y: Tensor = _SwiGlu.apply(gate, up)
        return y
    return _launch_forward(gate, up)
