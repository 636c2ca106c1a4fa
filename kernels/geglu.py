"""y = gelu(gate) * up, elementwise: what stands between the two projections of a gated MLP, GELU exact or by tanh.

gelu(z) = z G(z), where G is Phi, the distribution function of the normal distribution, or its approximation by tanh:
(1 + tanh(sqrt(2 / pi) (z + 0.044715 z^3))) / 2. Shapes: gate, up, y (rows, cols), or all elements as one row where
every tensor is contiguous. dgate = dy * up * (G(gate) + gate * G'(gate)),  dup = dy * gate * G(gate).

A program owns a tile of 2048 elements: a stretch of one row, or several short rows. The forward reads gate and up and
writes y; the backward reads dy, gate and up, recomputes G and writes both gradients: each element once. Rows may stand
apart, as the halves of one fused projection x[..., :n] and x[..., n:] do; other strides are copied first. How G is
computed so that it hides behind that: kernels/_gates.py. There is nothing to tune, as in SwiGLU, whose tiles these are.
Sources: Shazeer 2020, arXiv:2002.05202; Hendrycks & Gimpel 2016, arXiv:1606.08415.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels._elementwise import launch, tile
from kernels._gates import gelu_gate, gelu_gate_and_density
from kernels._launch import FLOATS, expect, expect_like, expect_tensor


@triton.jit
def _forward(
    gate_ptr, up_ptr, y_ptr, row_strides, size,
    TANH: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr,
):  # fmt: skip
    row, col, inside = tile(size, BLOCK_ROWS, BLOCK_COLS)
    gate = tl.load(gate_ptr + row * row_strides[0] + col, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(up_ptr + row * row_strides[1] + col, mask=inside, other=0.0).to(tl.float32)
    y = gate * gelu_gate(gate, TANH, gate_ptr.dtype.element_ty == tl.float32) * up
    tl.store(y_ptr + row * size[1] + col, y.to(y_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _backward(
    dy_ptr, gate_ptr, up_ptr, dgate_ptr, dup_ptr, row_strides, size,
    TANH: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr,
):  # fmt: skip
    row, col, inside = tile(size, BLOCK_ROWS, BLOCK_COLS)
    dy = tl.load(dy_ptr + row * row_strides[0] + col, mask=inside, other=0.0).to(tl.float32)
    gate = tl.load(gate_ptr + row * row_strides[1] + col, mask=inside, other=0.0).to(tl.float32)
    share, density = gelu_gate_and_density(gate, TANH, gate_ptr.dtype.element_ty == tl.float32)
    if dgate_ptr is not None:
        up = tl.load(up_ptr + row * row_strides[2] + col, mask=inside, other=0.0).to(tl.float32)
        dgate = dy * up * (share + gate * density)
        tl.store(dgate_ptr + row * size[1] + col, dgate.to(dgate_ptr.dtype.element_ty), mask=inside)
    if dup_ptr is not None:
        dup = dy * (gate * share)
        tl.store(dup_ptr + row * size[1] + col, dup.to(dup_ptr.dtype.element_ty), mask=inside)


def _launch_forward(gate: Tensor, up: Tensor, tanh: bool) -> Tensor:
    y = torch.empty(gate.shape, dtype=gate.dtype, device=gate.device)
    launch(_forward, (gate, up), (y,), TANH=tanh)
    return y


class _GeGlu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, tanh: bool) -> Tensor:
        ctx.save_for_backward(gate, up)
        ctx.tanh = tanh
        return _launch_forward(gate, up, tanh)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        gate, up = ctx.saved_tensors
        grads = tuple(
            torch.empty(dy.shape, dtype=dy.dtype, device=dy.device) if needed else None
            for needed in ctx.needs_input_grad[:2]
        )
        launch(_backward, (dy, gate, up), grads, TANH=ctx.tanh)
        return *grads, None


def geglu(gate: Tensor, up: Tensor, approximate: str = "none") -> Tensor:
    """Return gelu(gate) * up elementwise, in fp32 with one cast at the end.

    gate, up: one shape (any, 0-d too), dtype (fp32, fp16 or bf16) and device, any strides; rows whose columns lie
    side by side are read where they are. approximate: "none" for the exact GELU, "tanh" for its approximation, as in
    torch. Returns a contiguous tensor of that shape and dtype; differentiable in both.
    Source: Shazeer 2020, arXiv:2002.05202.

    Raises:
        TypeError, ValueError: an argument is not as described.
    """
    expect_tensor("gate", gate, dtypes=FLOATS)
    expect_tensor("up", up, dtypes=FLOATS)
    expect_like("up", up, "gate", gate)
    expect(up.shape == gate.shape, "up", f"the shape of gate, {tuple(gate.shape)}", f"shape {tuple(up.shape)}")
    expect(approximate in ("none", "tanh"), "approximate", "'none' or 'tanh'", repr(approximate))
    if torch.is_grad_enabled() and (gate.requires_grad or up.requires_grad):
        y: Tensor = _GeGlu.apply(gate, up, approximate == "tanh")
        return y
    return _launch_forward(gate, up, approximate == "tanh")
