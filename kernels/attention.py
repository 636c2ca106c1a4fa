"""Attention: o = softmax(q k^T * scale + mask) v, forward and backward, without ever storing a row of scores.

q (B, Hq, Nq, D), k (B, Hkv, Nk, D), v (B, Hkv, Nk, Dv) -> o (B, Hq, Nq, Dv); Hq / Hkv query heads share a key head. The
masks are aligned to the bottom right: query i stands at key i + Nk - Nq. Under the causal one it sees the keys up to
there; with a window (Mistral, arXiv:2310.06825; Gemma 2) those less than `window` away; a row that sees none is zero.

Forward: one program owns BLOCK_M queries of one head and walks over the keys with an online softmax; q and o move once,
k and v once per query tile (from L2 where they fit). It leaves lse, the base-2 logarithm of each row's sum of powers.
Backward: with p = 2^(q k^T * scale * log2 e - lse) computed anew, delta = rowsum(do * o) and ds = p * (do v^T - delta),
one program owns BLOCK_N keys of a key head and walks over the queries of all its query heads, in a fixed order and so
without atomics: dv = p^T do, dk = scale * ds^T q; another owns BLOCK_M queries and walks over keys: dq = scale * ds k.
Tiles that the masks hide are never visited. Of the others only those on the diagonal, at the far end of the window and
at the edge are masked: one loop goes over the whole tiles, another over those before and behind them.

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
from kernels._attention_tiles import (
    LOG2E,
    UNMASKED,
    Seen,
    dot,
    head_at,
    launch,
    limit_of,
    load_tile,
    room,
    rows_of,
    sees,
    store_tile,
    stretch,
    tuned,
    walk,
)
from kernels._launch import FLOATS, expect, expect_like, expect_tensor

MAX_HEAD_DIM = 256


@triton.jit
def soften(s, total, peak, slope):
    """Powers of scores below the highest so far of their row, and how much what was before them fades."""
    peak_before = peak
    peak = tl.maximum(peak, tl.max(s, 1))
    base = tl.where(peak == -float("inf"), 0.0, peak)
    # Subtract, then scale: a fused multiply-add rounds the scaled peak, which at huge scores is off by more than 1.
    p = tl.exp2((s - base[:, None]) * slope)
    fade = tl.exp2((peak_before - base) * slope)
    return p, fade, total * fade + tl.sum(p, 1), peak


@triton.jit
def settle(state, seen, slope, BLOCK_M: tl.constexpr):
    """The output of each row and the base-2 logarithm of its sum of powers.

    A row that sees nothing is known by its place, not by its value: scores of -inf give NaN, as in the textbook.
    """
    acc, total, peak = state
    visible = limit_of(seen, BLOCK_M) >= 0
    total = tl.where(visible, total, 1.0)
    o = tl.where(visible[:, None], acc / total[:, None], 0.0)
    return o, tl.where(visible, peak * slope + tl.log2(total), float("inf"))


@triton.jit
def _attend(
    state, q, keys, seen, spans, slope,
    HEAD_DIM: tl.constexpr, V_HEAD_DIM: tl.constexpr, WINDOWED: tl.constexpr, BLOCK_N: tl.constexpr,
    MASKED: tl.constexpr,
):  # fmt: skip
    """The online softmax over the keys of one stretch."""
    acc, total, peak = state
    k_ptr, v_ptr, k_strides, v_strides, k_len = keys
    first, stop, whole, gap = stretch(spans, WINDOWED, MASKED)
    for at in tl.range(first, stop, BLOCK_N):
        start = tl.where(at < whole, at - gap, at) if WINDOWED and MASKED else at
        k = load_tile(k_ptr, k_strides, start, k_len, HEAD_DIM, BLOCK_N, MASKED)
        s = dot(q, k.T, None)
        if MASKED:
            s = tl.where(sees(start, seen, WINDOWED, q.shape[0], BLOCK_N), s, -float("inf"))
        p, fade, total, peak = soften(s, total, peak, slope)
        v = load_tile(v_ptr, v_strides, start, k_len, V_HEAD_DIM, BLOCK_N, MASKED)
        acc = dot(p.to(v.dtype), v, acc * fade[:, None])
    return acc, total, peak


@triton.jit
def _forward_kernel(
    q_ptr, k_ptr, v_ptr, o_ptr, lse_ptr, strides, sizes, scale,
    HEAD_DIM: tl.constexpr, V_HEAD_DIM: tl.constexpr, WINDOWED: tl.constexpr, PACKED: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    at, keys, seen, spans = walk(k_ptr, v_ptr, strides, sizes, WINDOWED, PACKED, BLOCK_M, BLOCK_N)
    start, batch, h, first, _, q_len, _ = at
    q_head = head_at(q_ptr, strides[0], batch, h, first)
    q = load_tile(q_head, strides[0], start, q_len, HEAD_DIM, BLOCK_M, True)
    # A positive slope keeps the peak a maximum, and a sign flip of q is exact. Not zero either, for -inf * 0 is NaN.
    q = (q.to(tl.float32) * tl.where(scale < 0, -1.0, 1.0)).to(q.dtype)
    slope = tl.maximum(tl.abs(scale) * LOG2E, 1.2e-38)
    acc = tl.zeros((BLOCK_M, max(16, triton.next_power_of_2(V_HEAD_DIM))), tl.float32)
    state = (acc, tl.zeros((BLOCK_M,), tl.float32), tl.full((BLOCK_M,), -float("inf"), tl.float32))
    state = _attend(state, q, keys, seen, spans, slope, HEAD_DIM, V_HEAD_DIM, WINDOWED, BLOCK_N, False)
    state = _attend(state, q, keys, seen, spans, slope, HEAD_DIM, V_HEAD_DIM, WINDOWED, BLOCK_N, True)
    o, lse = settle(state, seen, slope, BLOCK_M)
    line, step, place = rows_of(at, q_len, first, sizes[1] * sizes[2], sizes[3], PACKED)
    row = start + tl.arange(0, BLOCK_M)
    tl.store(lse_ptr + place + row, lse, row < q_len)
    store_tile(o_ptr + line * V_HEAD_DIM, o, start, q_len, step, V_HEAD_DIM)


FORWARD = tuned(
    _forward_kernel,
    {
        (2, 64): (128, 64, 8, 2), (2, 128): (128, 64, 8, 3), (2, 256): (64, 32, 8, 2),
        (4, 64): (64, 32, 8, 2), (4, 128): (32, 16, 8, 1), (4, 256): (16, 16, 4, 1),
    },
    windowed={(2, 128): (128, 32, 8, 3)},
)  # fmt: skip


class Attention(torch.autograd.Function):
    """softmax(q k^T * scale) v of what is seen; all (batch, heads, rows, width), documents packed into one batch."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, seen: Seen, scale: float) -> Tensor:
        """The output, and for the backward lse."""
        o = room((*q.shape[:3], v.shape[3]), q, len(seen.documents) > 0)
        lse = torch.empty(q.shape[:3], dtype=torch.float32, device=q.device)
        ctx.causal, ctx.window, ctx.scale = seen.causal, seen.window, scale
        if o.numel() and k.shape[2]:
            launch(FORWARD, (q, k, v, o, lse), (q.stride(), k.stride(), v.stride()), seen, scale)
        else:
            o.zero_()
        ctx.save_for_backward(q, k, v, o, lse, *seen.documents)
        return o

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, do: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of q, k and v."""
        q, k, v, o, lse, *documents = ctx.saved_tensors
        needs, seen = ctx.needs_input_grad[:3], Seen(ctx.causal, ctx.window, tuple(documents))
        if o.numel() and k.shape[2]:
            return *backward((q, k, v, o, lse), do, seen, ctx.scale, needs), None, None
        return *(torch.zeros_like(x) if need else None for x, need in zip((q, k, v), needs, strict=True)), None, None


def expect_heads(q: Tensor, k: Tensor, v: Tensor, rank: int) -> None:
    """Raise unless q, k and v are of this rank and go together: heads are dimension 1, their widths the last one."""
    for name, x in (("q", q), ("k", k), ("v", v)):
        expect_tensor(name, x, dtypes=FLOATS, rank=rank)
        expect(1 <= x.shape[-1] <= MAX_HEAD_DIM, name, f"a head dimension from 1 to {MAX_HEAD_DIM}", x.shape[-1])
        expect_like(name, x, "q", q)
    expect(k.shape[-1] == q.shape[-1], "k", f"the head dimension of q, {q.shape[-1]}", k.shape[-1])
    like_k = v.shape[:-1] == k.shape[:-1]
    expect(like_k, "v", f"all dimensions of k but the last, {tuple(k.shape[:-1])}", f"shape {tuple(v.shape)}")
    shared = k.shape[1] > 0 and q.shape[1] > 0 and q.shape[1] % k.shape[1] == 0
    expect(shared, "q", f"a positive multiple of the {k.shape[1]} heads of k as number of heads", q.shape[1])


def expect_options(causal: bool, window: int | None, scale: float | None) -> None:
    """Raise unless these are a flag, a positive number of keys or None, and a finite number or None."""
    if not isinstance(causal, bool):
        raise TypeError(f"causal: expected a bool, got {type(causal).__name__}")
    if window is not None and (isinstance(window, bool) or not isinstance(window, int)):
        raise TypeError(f"window: expected an int or None, got {type(window).__name__}")
    expect(window is None or 1 <= window < UNMASKED, "window", f"from 1 to {UNMASKED - 1} keys", window)
    if scale is not None and (isinstance(scale, bool) or not isinstance(scale, int | float)):
        raise TypeError(f"scale: expected a number or None, got {type(scale).__name__}")
    finite = scale is None or abs(scale) <= torch.finfo(torch.float32).max
    expect(finite, "scale", "a number that is finite in float32", scale)


def factor_of(width: int, window: int | None, scale: float | None) -> float:
    """What scores are scaled by. In a window of one key its weight is 1 whatever its score: by nothing, exactly."""
    if window == 1:
        return 0.0
    return width**-0.5 if scale is None else float(scale)


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool = False,
    window: int | None = None,
    scale: float | None = None,
) -> Tensor:
    """softmax(q k^T * scale) v, differentiable in q, k and v; deterministic. FlashAttention-2 (arXiv:2307.08691).

    q (B, Hq, Nq, D), k (B, Hkv, Nk, D), v (B, Hkv, Nk, Dv) -> (B, Hq, Nq, Dv), contiguous; float32, float16 or
    bfloat16, of any strides. D and Dv from 1 to 256; B, Nq and Nk may be 0; Hq is a multiple of Hkv, and query head h
    attends to key head h // (Hq / Hkv). Query i stands at key i + Nk - Nq. With `causal`, it sees no key behind that
    one; with `window`, none that is `window` or more away from it, to either side (flash-attn's window_size is
    (window - 1, 0) with `causal`, (window - 1, window - 1) without). A row that sees none is zero, and so are its
    gradients. `scale` is any number that is finite in float32, D^-0.5 by default.

    Raises:
        TypeError: an argument is of the wrong type or dtype.
        ValueError: shapes that do not go together, a head dimension above 256, a window of no keys, an infinite scale,
            another device.
    """
    expect_heads(q, k, v, rank=4)
    expect(k.shape[0] == q.shape[0], "k", f"the batch size of q, {q.shape[0]}", k.shape[0])
    expect_options(causal, window, scale)
    return Attention.apply(q, k, v, Seen(causal, window), factor_of(q.shape[3], window, scale))
