"""Attention: o = softmax(q k^T * scale + mask) v, forward and backward, without ever storing a row of scores.

q (B, Hq, Nq, D), k (B, Hkv, Nk, D), v (B, Hkv, Nk, Dv) -> o (B, Hq, Nq, Dv); Hq / Hkv query heads share a key head. The
causal mask is aligned to the bottom right: query i sees the keys j <= i + Nk - Nq; a row that sees no key is zero.

Forward: one program owns BLOCK_M queries of one head and walks over the keys with an online softmax; q and o move once,
k and v once per query tile (from L2 where they fit). It leaves lse, the base-2 logarithm of each row's sum of powers.
Backward: with p = 2^(q k^T * scale * log2 e - lse) computed anew, delta = rowsum(do * o) and ds = p * (do v^T - delta),
one program owns BLOCK_N keys of a key head and walks over the queries of all its query heads, in a fixed order and so
without atomics: dv = p^T do, dk = scale * ds^T q; another owns BLOCK_M queries and walks over keys: dq = scale * ds k.
Tiles that the mask hides are never visited; of the others only those on the diagonal and at the edge are masked.

Dao, FlashAttention-2 (arXiv:2307.08691); Milakov and Gimelshein, Online normalizer calculation (arXiv:1805.02867).
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels._attention_backward import backward
from kernels._attention_tiles import LOG2E, dot, launch, load_tile, store_tile, tuned, walk
from kernels._launch import FLOATS, expect, expect_like, expect_tensor

MAX_HEAD_DIM = 256


@triton.jit
def _attend(
    state, q, keys, first, stop, limit, slope,
    HEAD_DIM: tl.constexpr, V_HEAD_DIM: tl.constexpr, BLOCK_N: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """The online softmax over the keys from `first` to `stop`."""
    acc, total, peak = state
    k_ptr, v_ptr, k_strides, v_strides, k_len = keys
    for start in tl.range(first, stop, BLOCK_N):
        k = load_tile(k_ptr, k_strides, start, k_len, HEAD_DIM, BLOCK_N, MASKED)
        s = dot(q, k.T, None)
        if MASKED:
            s = tl.where(start + tl.arange(0, BLOCK_N)[None, :] <= limit[:, None], s, -float("inf"))
        peak_before = peak
        peak = tl.maximum(peak, tl.max(s, 1))
        base = tl.where(peak == -float("inf"), 0.0, peak)
        # Subtract, then scale: a fused multiply-add rounds the scaled peak, which at huge scores is off by more than 1.
        p = tl.exp2((s - base[:, None]) * slope)
        fade = tl.exp2((peak_before - base) * slope)
        total = total * fade + tl.sum(p, 1)
        v = load_tile(v_ptr, v_strides, start, k_len, V_HEAD_DIM, BLOCK_N, MASKED)
        acc = dot(p.to(v.dtype), v, acc * fade[:, None])
    return acc, total, peak


@triton.jit
def _forward_kernel(
    q_ptr, k_ptr, v_ptr, o_ptr, lse_ptr, strides, sizes, scale,
    HEAD_DIM: tl.constexpr, V_HEAD_DIM: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    at, keys, limit, whole, stop = walk(k_ptr, v_ptr, strides, sizes, BLOCK_M, BLOCK_N)
    start, batch, h, head = at
    q_len = sizes[3]
    q = load_tile(q_ptr + batch * strides[0][0] + h * strides[0][1], strides[0], start, q_len, HEAD_DIM, BLOCK_M, True)
    # A positive slope keeps the peak a maximum, and a sign flip of q is exact. Not zero either, for -inf * 0 is NaN.
    q = (q.to(tl.float32) * tl.where(scale < 0, -1.0, 1.0)).to(q.dtype)
    slope = tl.maximum(tl.abs(scale) * LOG2E, 1.2e-38)
    acc = tl.zeros((BLOCK_M, max(16, triton.next_power_of_2(V_HEAD_DIM))), tl.float32)
    state = (acc, tl.zeros((BLOCK_M,), tl.float32), tl.full((BLOCK_M,), -float("inf"), tl.float32))
    state = _attend(state, q, keys, 0, whole, limit, slope, HEAD_DIM, V_HEAD_DIM, BLOCK_N, False)
    acc, total, peak = _attend(state, q, keys, whole, stop, limit, slope, HEAD_DIM, V_HEAD_DIM, BLOCK_N, True)

    # A row that sees nothing is known by its place, not by its value: scores of -inf give NaN, as in the textbook.
    sees = limit >= 0
    total = tl.where(sees, total, 1.0)
    o = tl.where(sees[:, None], acc / total[:, None], 0.0)
    lse = tl.where(sees, peak * slope + tl.log2(total), float("inf"))
    row = start + tl.arange(0, BLOCK_M)
    tl.store(lse_ptr + head * q_len + row, lse, row < q_len)
    store_tile(o_ptr + head * q_len * V_HEAD_DIM, o, start, q_len, V_HEAD_DIM)


FORWARD = tuned(
    _forward_kernel,
    {
        (2, 64): (128, 64, 8, 2), (2, 128): (128, 64, 8, 3), (2, 256): (64, 32, 8, 2),
        (4, 64): (64, 32, 8, 2), (4, 128): (32, 16, 8, 1), (4, 256): (16, 16, 4, 1),
    },
)  # fmt: skip


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float) -> Tensor:
        o = torch.empty((*q.shape[:3], v.shape[3]), dtype=q.dtype, device=q.device)
        lse = torch.empty(q.shape[:3], dtype=torch.float32, device=q.device)
        ctx.causal, ctx.scale = causal, scale
        if o.numel() and k.shape[2]:
            launch(FORWARD, (q, k, v, o, lse), (q.stride(), k.stride(), v.stride()), causal, scale)
        else:
            o.zero_()
        ctx.save_for_backward(q, k, v, o, lse)
        return o

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, do: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, o, _ = ctx.saved_tensors
        needs = ctx.needs_input_grad[:3]
        if o.numel() and k.shape[2]:
            return *backward(ctx.saved_tensors, do, ctx.causal, ctx.scale, needs), None, None
        return *(torch.zeros_like(x) if need else None for x, need in zip((q, k, v), needs, strict=True)), None, None


def _check(q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float | None) -> None:
    for name, x in (("q", q), ("k", k), ("v", v)):
        expect_tensor(name, x, dtypes=FLOATS, rank=4)
        expect(1 <= x.shape[3] <= MAX_HEAD_DIM, name, f"a head dimension from 1 to {MAX_HEAD_DIM}", x.shape[3])
        expect_like(name, x, "q", q)
    expect(k.shape[0] == q.shape[0], "k", f"the batch size of q, {q.shape[0]}", k.shape[0])
    expect(k.shape[3] == q.shape[3], "k", f"the head dimension of q, {q.shape[3]}", k.shape[3])
    like_k = v.shape[:3] == k.shape[:3]
    expect(like_k, "v", f"the batch, heads and length of k, {tuple(k.shape[:3])}", f"shape {tuple(v.shape)}")
    shared = k.shape[1] > 0 and q.shape[1] > 0 and q.shape[1] % k.shape[1] == 0
    expect(shared, "q", f"a positive multiple of the {k.shape[1]} heads of k as number of heads", q.shape[1])
    if not isinstance(causal, bool):
        raise TypeError(f"causal: expected a bool, got {type(causal).__name__}")
    if scale is not None and (isinstance(scale, bool) or not isinstance(scale, int | float)):
        raise TypeError(f"scale: expected a number or None, got {type(scale).__name__}")
    finite = scale is None or abs(scale) <= torch.finfo(torch.float32).max
    expect(finite, "scale", "a number that is finite in float32", scale)


def attention(q: Tensor, k: Tensor, v: Tensor, *, causal: bool = False, scale: float | None = None) -> Tensor:
    """softmax(q k^T * scale) v, differentiable in q, k and v; deterministic. FlashAttention-2 (arXiv:2307.08691).

    q (B, Hq, Nq, D), k (B, Hkv, Nk, D), v (B, Hkv, Nk, Dv) -> (B, Hq, Nq, Dv), contiguous; float32, float16 or
    bfloat16, of any strides. D and Dv from 1 to 256; B, Nq and Nk may be 0; Hq is a multiple of Hkv, and query head h
    attends to key head h // (Hq / Hkv). With `causal`, query i sees the keys j <= i + Nk - Nq; a row that sees none is
    zero, and so are its gradients. `scale` is any number that is finite in float32, D^-0.5 by default.

    Raises:
        TypeError: an argument is of the wrong type or dtype.
        ValueError: shapes that do not go together, a head dimension above 256, an infinite scale, another device.
    """
    _check(q, k, v, causal, scale)
    return _Attention.apply(q, k, v, causal, q.shape[3] ** -0.5 if scale is None else float(scale))
