"""y = silu(x Wg^T) * (x Wu^T): both projections of a gated MLP and its gate in one product, silu(z) = z * sigmoid(z).

Shapes: x (M, K), gate_weight and up_weight (N, K), y (M, N). A program owns one BLOCK_M x BLOCK_N tile of y,
walks along K with two accumulators that share every tile of x, and multiplies them where they are, in fp32: the two
projections cross memory only where a backward will need them, and then once, in the dtype of x. Tiles run in groups of
GROUP_M rows (kernels/_matmul.py), so that x and the weights come from memory about once and otherwise from L2.

Backward, with gate = x Wg^T, up = x Wu^T, s = sigmoid(gate), in one pass over dy, gate and up (the kernel of SwiGLU):
    dgate = dy * up * s * (1 + gate * (1 - s)),  dup = dy * gate * s
then dx = dgate Wg + dup Wu,  dWg = dgate^T x,  dWu = dup^T x: plain products, left to torch.

gate and up are kept rather than computed anew. They cost 4 N bytes a row in 16 bits; to write and read them takes a
tenth of the time of the two products that would give them again (K = 4096, data sheet of an H200), and those would make
a step of six products a third slower. Who lacks the memory checkpoints the layer, which costs just that, where needed.
Source: Shazeer 2020, arXiv:2002.05202.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels._gates import logistic
from kernels._launch import FLOATS, device_of, expect, expect_like, expect_tensor, tune
from kernels._matmul import load_tile, near, place, store_tile
from kernels.swiglu import gradients

EVEN = 64  # what every BLOCK_K of TILES divides

TILES = [
    triton.Config({"BLOCK_M": m, "BLOCK_N": n, "BLOCK_K": 64}, num_warps=warps, num_stages=stages)
    for m, n, warps, stages in ((128, 128, 8, 4), (128, 64, 4, 3))
]
# fp32 is multiplied by fp32 units, and other K are read entry by entry: addresses and sums fill the registers.
ODD_TILES = [triton.Config({"BLOCK_M": 32, "BLOCK_N": 32, "BLOCK_K": 16}, num_warps=4, num_stages=2)]


@triton.jit
def _forward(
    x_ptr, gate_weight_ptr, up_weight_ptr, gate_ptr, up_ptr, y_ptr, strides, sizes,
    tuned_for,  # noqa: ARG001 - the key of tuning: the power of two that M reaches up to, N and K
    EVEN_K: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr = 8,
):  # fmt: skip
    M, N, K = sizes
    x_strides, gate_strides, up_strides = strides
    row, col = place(M, N, BLOCK_M, BLOCK_N, GROUP_M)
    gate = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    up = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in range(0, K, BLOCK_K):
        x = load_tile(x_ptr, x_strides, row, M, start, K, BLOCK_M, BLOCK_K, EVEN_K)
        gate_weight = load_tile(gate_weight_ptr, gate_strides, col, N, start, K, BLOCK_N, BLOCK_K, EVEN_K)
        up_weight = load_tile(up_weight_ptr, up_strides, col, N, start, K, BLOCK_N, BLOCK_K, EVEN_K)
        gate = tl.dot(x, gate_weight.T, gate, input_precision="ieee")
        up = tl.dot(x, up_weight.T, up, input_precision="ieee")
    if gate_ptr is not None:
        store_tile(gate_ptr, gate, row, M, col, N)
        store_tile(up_ptr, up, row, M, col, N)
    share, _ = logistic(gate)
    store_tile(y_ptr, gate * share * up, row, M, col, N)


FORWARD = {fast: tune(tiles, key=["tuned_for"])(_forward) for fast, tiles in ((True, TILES), (False, ODD_TILES))}


def _launch_forward(x: Tensor, gate_weight: Tensor, up_weight: Tensor, keep: bool) -> tuple[Tensor, ...]:
    """(y,), or if the projections are to be kept (y, gate, up)."""
    (m, k), n = x.shape, len(gate_weight)
    outputs = [torch.empty(m, n, dtype=x.dtype, device=x.device) for _ in range(3 if keep else 1)]
    y, gate, up = outputs if keep else (outputs[0], None, None)
    fast = k % EVEN == 0 and x.element_size() == 2

    def grid(meta: dict[str, Any]) -> tuple[int]:
        return (triton.cdiv(m, meta["BLOCK_M"]) * triton.cdiv(n, meta["BLOCK_N"]),)

    if y.numel():
        strides = (x.stride(), gate_weight.stride(), up_weight.stride())
        with device_of(x):
            FORWARD[fast][grid](
                x, gate_weight, up_weight, gate, up, y, strides, (m, n, k), (triton.next_power_of_2(m), n, k),
                EVEN_K=fast,
            )  # fmt: skip
    return tuple(outputs)


class _SwiGluLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gate_weight: Tensor, up_weight: Tensor) -> Tensor:
        y, gate, up = _launch_forward(x, gate_weight, up_weight, keep=True)
        ctx.save_for_backward(x, gate_weight, up_weight, gate, up)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, gate_weight, up_weight, gate, up = ctx.saved_tensors
        needs_dx, *needed = ctx.needs_input_grad
        products: tuple[Any, ...] = gradients(dy, gate, up, (needs_dx or needed[0], needs_dx or needed[1]))
        dgate, dup = products
        dx = torch.addmm(dgate @ gate_weight, dup, up_weight) if needs_dx else None
        dweights = (d.T @ x if need else None for d, need in zip((dgate, dup), needed, strict=True))
        return dx, *dweights


def swiglu_linear(x: Tensor, gate_weight: Tensor, up_weight: Tensor) -> Tensor:
    """Return silu(x gate_weight^T) * (x up_weight^T): sums and gate in fp32, one cast at the end.

    x: (..., K) fp32, fp16 or bf16; gate_weight, up_weight: (N, K), of the dtype and device of x. Any strides (fastest
    where K is contiguous; leading dimensions that no view can join are copied), any size may be 0. Returns (..., N),
    contiguous; differentiable in all three. fp32 is multiplied in fp32, never in TF32.
    Source: Shazeer 2020, arXiv:2002.05202.

    Raises:
        TypeError, ValueError: an argument is not as described.
    """
    expect_tensor("x", x, dtypes=FLOATS)
    expect(x.ndim >= 1, "x", "at least 1 dimension", f"shape {tuple(x.shape)}")
    for name, weight in (("gate_weight", gate_weight), ("up_weight", up_weight)):
        expect_tensor(name, weight, dtypes=FLOATS, rank=2)
        expect_like(name, weight, "x", x)
        k, got = x.shape[-1], f"shape {tuple(weight.shape)}"
        expect(weight.shape[1] == k, name, f"{k} columns, as x has", got)
    n = len(gate_weight)
    expect(len(up_weight) == n, "up_weight", f"{n} rows, as gate_weight has", len(up_weight))
    rows = near("x", x.reshape(math.prod(x.shape[:-1]), x.shape[-1]))
    gate_weight, up_weight = near("gate_weight", gate_weight), near("up_weight", up_weight)
    if torch.is_grad_enabled() and (x.requires_grad or gate_weight.requires_grad or up_weight.requires_grad):
        y: Tensor = _SwiGluLinear.apply(rows, gate_weight, up_weight)
    else:
        (y,) = _launch_forward(rows, gate_weight, up_weight, keep=False)
    return y.view(*x.shape[:-1], n)
