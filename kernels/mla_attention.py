"""Multi-head latent attention, not absorbed: o = softmax((q_nope k_nope^T + q_rope k_rope^T) * scale + mask) v.

q_nope (B, H, Nq, D), q_rope (B, H, Nq, R), k_nope (B, H, Nk, D), v (B, H, Nk, Dv) and, one for all heads, k_rope
(B, Nk, R) -> o (B, H, Nq, Dv), as prefill and training compute it, forward and backward. Only the R columns carry
positions. DeepSeek: D = Dv = 128, R = 64.

The walk is that of attention.py: a program owns BLOCK_M queries of one head, each tensor moves once, keys and values
once per query tile. A score is two products into one accumulator. So nothing is concatenated, k_rope is never expanded
(neighbouring heads find it in L2), and 192 columns cost 192, where one product over a power of two would cost 256.
Backward: as there, and dk_rope is a sum over heads. A program owns BLOCK_N keys and takes several heads in turn: their
dk_nope and dv are stored, dk_rope stays in registers. What groups of heads leave, (groups, B, Nk, R) in fp32, is summed
at last; there are no more groups than it takes to fill the GPU. No atomics: the same inputs give the same bits.

Source: DeepSeek-V2 (arXiv:2405.04434), section 2.1, equations 14 to 18; the walk: FlashAttention-2 (arXiv:2307.08691).
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels._attention_tiles import LOG2E, dot, head_at, load_tile, rows_of, sees, store_tile, stretch, walk
from kernels._launch import FLOATS, expect, expect_like, expect_tensor
from kernels._mla_backward import backward, launch, tuned
from kernels.attention import expect_options, factor_of, settle, soften

MAX_WIDTH = 128


@triton.jit
def _attend(
    state, q, keys, seen, spans, slope,
    HEAD_DIM: tl.constexpr, ROPE_DIM: tl.constexpr, V_HEAD_DIM: tl.constexpr, BLOCK_N: tl.constexpr,
    MASKED: tl.constexpr,
):  # fmt: skip
    """The online softmax over the keys of one stretch."""
    acc, total, peak = state
    near, rope_ptr, rope_strides = keys
    k_ptr, v_ptr, k_strides, v_strides, k_len = near
    first, stop, _, _ = stretch(spans, False, MASKED)
    for start in tl.range(first, stop, BLOCK_N):
        k = load_tile(k_ptr, k_strides, start, k_len, HEAD_DIM, BLOCK_N, MASKED)
        rope = load_tile(rope_ptr, rope_strides, start, k_len, ROPE_DIM, BLOCK_N, MASKED)
        s = dot(q[1], rope.T, dot(q[0], k.T, None))
        if MASKED:
            s = tl.where(sees(start, seen, False, q[0].shape[0], BLOCK_N), s, -float("inf"))
        p, fade, total, peak = soften(s, total, peak, slope)
        v = load_tile(v_ptr, v_strides, start, k_len, V_HEAD_DIM, BLOCK_N, MASKED)
        acc = dot(p.to(v.dtype), v, acc * fade[:, None])
    return acc, total, peak


@triton.jit
def _forward_kernel(
    q_ptr, q_rope_ptr, k_ptr, k_rope_ptr, v_ptr, o_ptr, lse_ptr, strides, sizes, scale,
    HEAD_DIM: tl.constexpr, ROPE_DIM: tl.constexpr, V_HEAD_DIM: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    at, near, seen, spans = walk(k_ptr, v_ptr, strides, sizes, False, False, BLOCK_M, BLOCK_N)
    start, batch, h, _, _, q_len, _ = at
    keys = (near, head_at(k_rope_ptr, strides[4], batch, 0, 0), strides[4])
    q_head, rope_head = head_at(q_ptr, strides[0], batch, h, 0), head_at(q_rope_ptr, strides[3], batch, h, 0)
    q = load_tile(q_head, strides[0], start, q_len, HEAD_DIM, BLOCK_M, True)
    q_rope = load_tile(rope_head, strides[3], start, q_len, ROPE_DIM, BLOCK_M, True)
    # As in attention: a positive slope keeps the peak a maximum, and a sign flip of q is exact.
    sign = tl.where(scale < 0, -1.0, 1.0)
    q = ((q.to(tl.float32) * sign).to(q.dtype), (q_rope.to(tl.float32) * sign).to(q.dtype))
    slope = tl.maximum(tl.abs(scale) * LOG2E, 1.2e-38)
    acc = tl.zeros((BLOCK_M, max(16, triton.next_power_of_2(V_HEAD_DIM))), tl.float32)
    state = (acc, tl.zeros((BLOCK_M,), tl.float32), tl.full((BLOCK_M,), -float("inf"), tl.float32))
    state = _attend(state, q, keys, seen, spans, slope, HEAD_DIM, ROPE_DIM, V_HEAD_DIM, BLOCK_N, False)
    state = _attend(state, q, keys, seen, spans, slope, HEAD_DIM, ROPE_DIM, V_HEAD_DIM, BLOCK_N, True)
    o, lse = settle(state, seen, slope, BLOCK_M)
    first, step, _ = rows_of(at, q_len, 0, sizes[1], q_len, False)
    row = start + tl.arange(0, BLOCK_M)
    tl.store(lse_ptr + first + row, lse, row < q_len)
    store_tile(o_ptr + first * V_HEAD_DIM, o, start, q_len, step, V_HEAD_DIM)


FORWARD = tuned(_forward_kernel, {2: [(128, 32, 8, 2), (128, 64, 8, 2), (64, 64, 8, 2)], 4: [(32, 16, 8, 1)]})


class _MlaAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q_nope: Tensor, q_rope: Tensor, k_nope: Tensor, k_rope: Tensor, v: Tensor, causal: bool, scale: float
    ) -> Tensor:
        inputs = q_nope, q_rope, k_nope, k_rope, v
        o = torch.empty((*q_nope.shape[:3], v.shape[3]), dtype=v.dtype, device=v.device)
        lse = torch.empty(q_nope.shape[:3], dtype=torch.float32, device=v.device)
        ctx.causal, ctx.scale = causal, scale
        if o.numel() and k_nope.shape[2]:
            launch(FORWARD, inputs, (*inputs, o, lse), (), causal, scale)
        else:
            o.zero_()
        ctx.save_for_backward(*inputs, o, lse)
        return o

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, do: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, o, lse = ctx.saved_tensors
        needs = ctx.needs_input_grad[:5]
        if o.numel() and inputs[2].shape[2]:
            grads = backward(tuple(inputs), o, lse, do, ctx.causal, ctx.scale, needs)
        else:
            grads = tuple(torch.zeros_like(x) for x in inputs)
        return *(grad if need else None for grad, need in zip(grads, needs, strict=True)), None, None


def _expect_heads(tensors: dict[str, Tensor]) -> None:
    q_nope, q_rope, k_nope, _, v = tensors.values()
    for name, x in tensors.items():
        expect_tensor(name, x, dtypes=FLOATS, rank=3 if name == "k_rope" else 4)
        expect(1 <= x.shape[-1] <= MAX_WIDTH, name, f"from 1 to {MAX_WIDTH} columns", x.shape[-1])
        expect_like(name, x, "q_nope", q_nope)
    expect(q_nope.shape[1] > 0, "q_nope", "a head at least", f"shape {tuple(q_nope.shape)}")
    batch, heads, _, width = q_nope.shape
    rope, length = q_rope.shape[3], k_nope.shape[2]
    for name, expected in {
        "q_rope": (*q_nope.shape[:3], rope),
        "k_nope": (batch, heads, length, width),
        "k_rope": (batch, length, rope),
        "v": (batch, heads, length, v.shape[3]),
    }.items():
        got = tuple(tensors[name].shape)
        expect(got == expected, name, f"shape {expected}, by those of q_nope, q_rope and k_nope", f"shape {got}")


def mla_attention(
    q_nope: Tensor,
    q_rope: Tensor,
    k_nope: Tensor,
    k_rope: Tensor,
    v: Tensor,
    *,
    causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """softmax((q_nope k_nope^T + q_rope k_rope^T) * scale) v, differentiable; deterministic. arXiv:2405.04434.

    q_nope (B, H, Nq, D), q_rope (B, H, Nq, R), k_nope (B, H, Nk, D), k_rope (B, Nk, R), shared by all heads, v
    (B, H, Nk, Dv) -> (B, H, Nq, Dv), contiguous; float32, float16 or bfloat16, of any strides. D, R and Dv from 1 to
    128; B, Nq and Nk may be 0. With `causal`, query i sees the keys j <= i + Nk - Nq; a row that sees none is zero, and
    so are its gradients. `scale` is any number that is finite in float32, (D + R)^-0.5 by default.

    Raises:
        TypeError: an argument is of the wrong type or dtype.
        ValueError: shapes that do not go together, more than 128 columns, an infinite scale, another device.
    """
    _expect_heads({"q_nope": q_nope, "q_rope": q_rope, "k_nope": k_nope, "k_rope": k_rope, "v": v})
    expect_options(causal, None, scale)
    factor = factor_of(q_nope.shape[3] + q_rope.shape[3], None, scale)
    return _MlaAttention.apply(q_nope, q_rope, k_nope, k_rope, v, causal, factor)
