"""Attention: o = softmax(q k^T * scale + mask) v, forward and backward, without ever storing a row of scores.

q (B, Hq, Nq, D), k (B, Hkv, Nk, D), v (B, Hkv, Nk, Dv) -> o (B, Hq, Nq, Dv); Hq / Hkv query heads share a key head. The
causal mask is aligned to the bottom right: query i sees the keys j <= i + Nk - Nq; a row that sees no key is zero.

Forward: one program owns BLOCK_M queries of one head and walks over the keys with an online softmax; q and o move once, k
and v once per query tile (from L2 where they fit). It leaves lse, the base-2 logarithm of each row's sum of exponentials.
Backward: with p = 2^(q k^T * scale * log2 e - lse) computed anew, delta = rowsum(do * o) and ds = p * (do v^T - delta),
one program owns BLOCK_N keys of a key head and walks over the queries of all its query heads, in a fixed order and hence
without atomics: dv = p^T do, dk = scale * ds^T q; another owns BLOCK_M queries and walks over the keys: dq = scale * ds k.
Tiles that the mask hides are never visited; of the others only those on the diagonal and at the edge are masked.

Dao, FlashAttention-2 (arXiv:2307.08691); Milakov and Gimelshein, Online normalizer calculation for softmax (arXiv:1805.02867).
"""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import torch
import triton
import triton.language as tl
from torch.autograd.function import once_differentiable

from kernels._launch import FLOATS, device_of, expect, expect_like, expect_tensor, tune

INTERPRETED = tl.constexpr(bool(triton.knobs.runtime.interpret))
LOG2E = tl.constexpr(1.4426950408889634)
MAX_HEAD_DIM = 256
L2_BYTES = 16 << 20  # the share of L2, there even on small GPUs, in which heads that run side by side keep what they stream


@triton.jit
def _dot(a, b, acc):
    """a @ b + acc in fp32. The interpreter would multiply the bit patterns of bf16."""
    if INTERPRETED:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, acc, input_precision="ieee")


@triton.jit
def _place(tiles, heads, together):
    """The tile and head of this program: tiles in order within every `together` heads, so that those share L2."""
    program = tl.program_id(0).to(tl.int64)
    first = program // (tiles * together) * together
    width = tl.minimum(heads - first, together)
    rest = program - first * tiles
    return (rest // width).to(tl.int32), first + rest % width


@triton.jit
def _tile(x_ptr, strides, start, rows, WIDTH: tl.constexpr, HEIGHT: tl.constexpr, MASKED: tl.constexpr):
    """HEIGHT rows from `start` on of a (rows, WIDTH) matrix, padded with zeros to a power of two that a dot can take."""
    BLOCK: tl.constexpr = max(16, triton.next_power_of_2(WIDTH))
    row = tl.arange(0, HEIGHT).to(tl.int64)
    col = tl.arange(0, BLOCK).to(tl.int64)
    x_ptrs = x_ptr + tl.cast(start, tl.int64) * strides[2] + (row[:, None] * strides[2] + col[None, :] * strides[3])
    if MASKED:
        x = tl.load(x_ptrs, (start + row < rows)[:, None] & (col < WIDTH)[None, :], other=0.0)
    elif WIDTH != BLOCK:
        x = tl.load(x_ptrs, (col < WIDTH)[None, :], other=0.0)
    else:
        x = tl.load(x_ptrs)
    return x


@triton.jit
def _put(x_ptr, x, start, rows, WIDTH: tl.constexpr):
    """Store a tile as rows from `start` on of a contiguous (rows, WIDTH) matrix."""
    row = start.to(tl.int64) + tl.arange(0, x.shape[0])
    col = tl.arange(0, x.shape[1])
    inside = (row < rows)[:, None] & (col < WIDTH)[None, :]
    tl.store(x_ptr + row[:, None] * WIDTH + col[None, :], x.to(x_ptr.dtype.element_ty), inside)


@triton.jit
def _keys_of(start, q_len, k_len, CAUSAL: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """Of the query tile at `start`: the last key that each row sees, where whole tiles of keys end, where all keys end."""
    row = start + tl.arange(0, BLOCK_M)
    if CAUSAL:
        limit = tl.minimum(row + k_len - q_len, k_len - 1)
        whole = tl.maximum(tl.minimum(start + k_len - q_len + 1, k_len), 0)
        stop = tl.minimum(start + BLOCK_M + k_len - q_len, k_len)
    else:
        limit = row * 0 + k_len - 1
        whole = start * 0 + k_len
        stop = whole
    return limit, whole // BLOCK_N * BLOCK_N, stop


@triton.jit
def _attend(
    state, q, keys, first, stop, limit, slope,
    HEAD_DIM: tl.constexpr, V_HEAD_DIM: tl.constexpr, BLOCK_N: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """The online softmax over the keys from `first` to `stop`."""
    acc, total, peak = state
    k_ptr, v_ptr, k_strides, v_strides, k_len = keys
    for start in tl.range(first, stop, BLOCK_N):
        k = _tile(k_ptr, k_strides, start, k_len, HEAD_DIM, BLOCK_N, MASKED)
        s = _dot(q, k.T, None)
        if MASKED:
            s = tl.where(start + tl.arange(0, BLOCK_N)[None, :] <= limit[:, None], s, -float("inf"))
        peak_before = peak
        peak = tl.maximum(peak, tl.max(s, 1))
        base = tl.where(peak == -float("inf"), 0.0, peak)
        # Subtract, then scale: a fused multiply-add would round the scaled peak, which at huge scores is off by more than 1.
        p = tl.exp2((s - base[:, None]) * slope)
        fade = tl.exp2((peak_before - base) * slope)
        total = total * fade + tl.sum(p, 1)
        v = _tile(v_ptr, v_strides, start, k_len, V_HEAD_DIM, BLOCK_N, MASKED)
        acc = _dot(p.to(v.dtype), v, acc * fade[:, None])
    return acc, total, peak


@triton.jit
def _forward_kernel(
    q_ptr, k_ptr, v_ptr, o_ptr, lse_ptr, strides, sizes, scale,
    HEAD_DIM: tl.constexpr, V_HEAD_DIM: tl.constexpr, CAUSAL: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    batches, kv_heads, group, q_len, k_len, together = sizes
    q_strides, k_strides, v_strides = strides
    tiles = tl.cdiv(q_len, BLOCK_M)
    tile, head = _place(tiles, batches * kv_heads * group, together)
    start = (tiles - 1 - tile) * BLOCK_M  # under a causal mask the last queries see most: heaviest first
    batch, h = head // (kv_heads * group), head % (kv_heads * group)
    k_head = k_ptr + batch * k_strides[0] + h // group * k_strides[1]
    v_head = v_ptr + batch * v_strides[0] + h // group * v_strides[1]
    q = _tile(q_ptr + batch * q_strides[0] + h * q_strides[1], q_strides, start, q_len, HEAD_DIM, BLOCK_M, True)
    # A positive slope keeps the peak a maximum, and a sign flip of q is exact. Not zero either, for -inf * 0 is NaN.
    q = (q.to(tl.float32) * tl.where(scale < 0, -1.0, 1.0)).to(q.dtype)
    slope = tl.maximum(tl.abs(scale) * LOG2E, 1.2e-38)

    limit, whole, stop = _keys_of(start, q_len, k_len, CAUSAL, BLOCK_M, BLOCK_N)
    peak = tl.full((BLOCK_M,), -float("inf"), tl.float32)
    acc = tl.zeros((BLOCK_M, max(16, triton.next_power_of_2(V_HEAD_DIM))), tl.float32)
    state = (acc, tl.zeros((BLOCK_M,), tl.float32), peak)
    keys = (k_head, v_head, k_strides, v_strides, k_len)
    state = _attend(state, q, keys, 0, whole, limit, slope, HEAD_DIM, V_HEAD_DIM, BLOCK_N, False)
    acc, total, peak = _attend(state, q, keys, whole, stop, limit, slope, HEAD_DIM, V_HEAD_DIM, BLOCK_N, True)

    # Which rows see nothing is told by their place, not by their value: a row of -inf scores is NaN, as in the textbook.
    sees = limit >= 0
    row = start + tl.arange(0, BLOCK_M)
    total = tl.where(sees, total, 1.0)
    lse = tl.where(sees, peak * slope + tl.log2(total), float("inf"))
    tl.store(lse_ptr + head * q_len + row, lse, row < q_len)
    _put(o_ptr + head * q_len * V_HEAD_DIM, tl.where(sees[:, None], acc / total[:, None], 0.0), start, q_len, V_HEAD_DIM)


@triton.jit
def _delta_kernel(o_ptr, do_ptr, delta_ptr, do_strides, sizes, V_HEAD_DIM: tl.constexpr, BLOCK_M: tl.constexpr):
    heads, num_heads, q_len = sizes
    tile, head = _place(tl.cdiv(q_len, BLOCK_M), heads, 1)
    start = tile * BLOCK_M
    row = start + tl.arange(0, BLOCK_M)
    do_head = do_ptr + head // num_heads * do_strides[0] + head % num_heads * do_strides[1]
    do = _tile(do_head, do_strides, start, q_len, V_HEAD_DIM, BLOCK_M, True).to(tl.float32)
    o = _tile(o_ptr + head * q_len * V_HEAD_DIM, (0, 0, V_HEAD_DIM, 1), start, q_len, V_HEAD_DIM, BLOCK_M, True)
    tl.store(delta_ptr + head * q_len + row, tl.sum(o.to(tl.float32) * do, 1), row < q_len)


@triton.jit
def _collect(
    dk, dv, k, v, queries, strides, group, first, edge, span, limit, q_len, slope,
    HEAD_DIM: tl.constexpr, V_HEAD_DIM: tl.constexpr, CAUSAL: tl.constexpr, BLOCK_M: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """dk and dv from `span` query tiles of each head from `first` on; if masked, any beyond `edge` is the last tile."""
    q_ptr, do_ptr, lse_ptr, delta_ptr = queries
    q_strides, k_strides, v_strides, do_strides = strides
    for i in tl.range(0, group * span):
        head = tl.cast(i // span, tl.int64)
        start = (first + i % span) * BLOCK_M
        if MASKED:
            start = tl.where(first + i % span < edge, start, (tl.cdiv(q_len, BLOCK_M) - 1) * BLOCK_M)
        row = start + tl.arange(0, BLOCK_M)
        q = _tile(q_ptr + head * q_strides[1], q_strides, start, q_len, HEAD_DIM, BLOCK_M, MASKED)
        do = _tile(do_ptr + head * do_strides[1], do_strides, start, q_len, V_HEAD_DIM, BLOCK_M, MASKED)
        lse = tl.load(lse_ptr + head * q_len + row, row < q_len, other=float("inf"))
        delta = tl.load(delta_ptr + head * q_len + row, row < q_len, other=0.0)
        p = tl.exp2(_dot(k, q.T, None) * slope - lse[None, :])
        if MASKED and CAUSAL:
            p = tl.where(limit[:, None] <= row[None, :], p, 0.0)
        dv = _dot(p.to(do.dtype), do, dv)
        ds = p * (_dot(v, do.T, None) - delta[None, :])
        dk = _dot(ds.to(q.dtype), q, dk)
    return dk, dv


@triton.jit
def _key_kernel(
    q_ptr, k_ptr, v_ptr, do_ptr, stats, dk_ptr, dv_ptr, strides, sizes, scale,
    HEAD_DIM: tl.constexpr, V_HEAD_DIM: tl.constexpr, CAUSAL: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    batches, kv_heads, group, q_len, k_len, together = sizes
    q_strides, k_strides, v_strides, do_strides = strides
    tile, kv_head = _place(tl.cdiv(k_len, BLOCK_N), batches * kv_heads, together)
    start = tile * BLOCK_N  # under a causal mask the first keys are seen by most: heaviest first
    batch, h = kv_head // kv_heads, kv_head % kv_heads
    k = _tile(k_ptr + batch * k_strides[0] + h * k_strides[1], k_strides, start, k_len, HEAD_DIM, BLOCK_N, True)
    v = _tile(v_ptr + batch * v_strides[0] + h * v_strides[1], v_strides, start, k_len, V_HEAD_DIM, BLOCK_N, True)

    tiles, whole = tl.cdiv(q_len, BLOCK_M), q_len // BLOCK_M
    limit = start + tl.arange(0, BLOCK_N) - (k_len - q_len)  # the first query that sees each key
    first = start * 0
    edge = first
    if CAUSAL:
        first = tl.maximum(start - (k_len - q_len), 0) // BLOCK_M
        edge = tl.minimum(tl.cdiv(tl.maximum(start + BLOCK_N - 1 - (k_len - q_len), 0), BLOCK_M), tiles)
    masked = edge - first + tiles - tl.maximum(whole, edge)
    head = kv_head * group  # its first query head
    q_head = q_ptr + batch * q_strides[0] + h * group * q_strides[1]
    do_head = do_ptr + batch * do_strides[0] + h * group * do_strides[1]
    queries = (q_head, do_head, stats[0] + head * q_len, stats[1] + head * q_len)
    dk = tl.zeros(k.shape, tl.float32)
    dv = tl.zeros(v.shape, tl.float32)
    dk, dv = _collect(
        dk, dv, k, v, queries, strides, group, first, edge, masked, limit, q_len, scale * LOG2E,
        HEAD_DIM, V_HEAD_DIM, CAUSAL, BLOCK_M, True,
    )  # fmt: skip
    dk, dv = _collect(
        dk, dv, k, v, queries, strides, group, edge, edge, tl.maximum(whole - edge, 0), limit, q_len, scale * LOG2E,
        HEAD_DIM, V_HEAD_DIM, CAUSAL, BLOCK_M, False,
    )  # fmt: skip
    # The only key of a row has weight 1 whatever the scores are: the rounding error that is left of ds is no gradient.
    _put(dk_ptr + kv_head * k_len * HEAD_DIM, dk * tl.where(k_len > 1, scale, 0.0), start, k_len, HEAD_DIM)
    _put(dv_ptr + kv_head * k_len * V_HEAD_DIM, dv, start, k_len, V_HEAD_DIM)


@triton.jit
def _descend(
    dq, q, do, lse, delta, keys, first, stop, limit, slope,
    HEAD_DIM: tl.constexpr, V_HEAD_DIM: tl.constexpr, BLOCK_N: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """dq from the keys `first` to `stop`."""
    k_ptr, v_ptr, k_strides, v_strides, k_len = keys
    for start in tl.range(first, stop, BLOCK_N):
        k = _tile(k_ptr, k_strides, start, k_len, HEAD_DIM, BLOCK_N, MASKED)
        v = _tile(v_ptr, v_strides, start, k_len, V_HEAD_DIM, BLOCK_N, MASKED)
        p = tl.exp2(_dot(q, k.T, None) * slope - lse[:, None])
        if MASKED:
            p = tl.where(start + tl.arange(0, BLOCK_N)[None, :] <= limit[:, None], p, 0.0)
        ds = p * (_dot(do, v.T, None) - delta[:, None])
        dq = _dot(ds.to(k.dtype), k, dq)
    return dq


@triton.jit
def _query_kernel(
    q_ptr, k_ptr, v_ptr, do_ptr, stats, dq_ptr, strides, sizes, scale,
    HEAD_DIM: tl.constexpr, V_HEAD_DIM: tl.constexpr, CAUSAL: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    batches, kv_heads, group, q_len, k_len, together = sizes
    q_strides, k_strides, v_strides, do_strides = strides
    tiles = tl.cdiv(q_len, BLOCK_M)
    tile, head = _place(tiles, batches * kv_heads * group, together)
    start = (tiles - 1 - tile) * BLOCK_M
    batch, h = head // (kv_heads * group), head % (kv_heads * group)
    k_head = k_ptr + batch * k_strides[0] + h // group * k_strides[1]
    v_head = v_ptr + batch * v_strides[0] + h // group * v_strides[1]
    q = _tile(q_ptr + batch * q_strides[0] + h * q_strides[1], q_strides, start, q_len, HEAD_DIM, BLOCK_M, True)
    do = _tile(do_ptr + batch * do_strides[0] + h * do_strides[1], do_strides, start, q_len, V_HEAD_DIM, BLOCK_M, True)
    row = start + tl.arange(0, BLOCK_M)
    lse = tl.load(stats[0] + head * q_len + row, row < q_len, other=float("inf"))
    delta = tl.load(stats[1] + head * q_len + row, row < q_len, other=0.0)

    limit, whole, stop = _keys_of(start, q_len, k_len, CAUSAL, BLOCK_M, BLOCK_N)
    keys = (k_head, v_head, k_strides, v_strides, k_len)
    dq = tl.zeros(q.shape, tl.float32)
    slope = scale * LOG2E
    dq = _descend(dq, q, do, lse, delta, keys, 0, whole, limit, slope, HEAD_DIM, V_HEAD_DIM, BLOCK_N, False)
    dq = _descend(dq, q, do, lse, delta, keys, whole, stop, limit, slope, HEAD_DIM, V_HEAD_DIM, BLOCK_N, True)
    _put(dq_ptr + head * q_len * HEAD_DIM, dq * tl.where(limit > 0, scale, 0.0)[:, None], start, q_len, HEAD_DIM)


def _tuned(kernel: Any, firsts: dict[int, tuple[int, ...]], rows: tuple[int, ...], cols: tuple[int, ...]) -> dict[int, Any]:
    """The kernel by bytes per row of its widest tile, each with a grid led by (BLOCK_M, BLOCK_N, num_warps, num_stages)."""
    others = list(product(rows, cols, (4, 8), (2, 3)))
    return {
        width: tune(
            [
                triton.Config({"BLOCK_M": m, "BLOCK_N": n}, num_warps=warps, num_stages=stages)
                for m, n, warps, stages in dict.fromkeys([first, *others])
            ][:16],
            key=["HEAD_DIM", "V_HEAD_DIM", "CAUSAL"],
        )(kernel)
        for width, first in firsts.items()
    }


_FORWARD = _tuned(
    _forward_kernel,
    {128: (128, 64, 4, 3), 256: (128, 64, 8, 2), 512: (64, 32, 4, 2), 1024: (32, 16, 4, 1)},
    rows=(128, 64), cols=(128, 64),
)  # fmt: skip
_KEY = _tuned(
    _key_kernel,
    {128: (64, 64, 4, 2), 256: (32, 64, 4, 2), 512: (32, 64, 8, 1), 1024: (16, 32, 4, 1)},
    rows=(64, 32), cols=(128, 64),
)  # fmt: skip
_QUERY = _tuned(
    _query_kernel,
    {128: (64, 64, 4, 2), 256: (64, 32, 4, 2), 512: (64, 32, 8, 1), 1024: (32, 16, 4, 1)},
    rows=(128, 64), cols=(64, 32),
)  # fmt: skip


def _width(q: torch.Tensor, v: torch.Tensor) -> int:
    """Bytes per row of the widest tile, the key of the tuned kernels."""
    return max(128, triton.next_power_of_2(max(q.shape[3], v.shape[3])) * q.element_size())


def _sizes(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, streamed: int) -> tuple[int, ...]:
    """Batches, key heads, query heads per key head, lengths, and how many heads of `streamed` entries L2 holds together."""
    together = max(1, L2_BYTES // (streamed * (q.shape[3] + v.shape[3]) * q.element_size()))
    return q.shape[0], k.shape[1], q.shape[1] // k.shape[1], q.shape[2], k.shape[2], together


def _forward(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    o = torch.empty((*q.shape[:3], v.shape[3]), dtype=q.dtype, device=q.device)
    lse = torch.empty(q.shape[:3], dtype=torch.float32, device=q.device)
    if not q.shape[0] * q.shape[2] * k.shape[2]:
        return o.zero_(), lse
    heads, q_len = q.shape[0] * q.shape[1], q.shape[2]
    sizes = _sizes(q, k, v, k.shape[2])
    strides = (q.stride(), k.stride(), v.stride())
    with device_of(q):
        _FORWARD[_width(q, v)][lambda meta: (heads * triton.cdiv(q_len, meta["BLOCK_M"]),)](
            q, k, v, o, lse, strides, sizes, scale, HEAD_DIM=q.shape[3], V_HEAD_DIM=v.shape[3], CAUSAL=causal
        )
    return o, lse


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool, scale: float) -> torch.Tensor:
        o, lse = _forward(q, k, v, causal, scale)
        ctx.save_for_backward(q, k, v, o, lse)
        ctx.causal, ctx.scale = causal, scale
        return o

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, do: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        q, k, v, o, lse = ctx.saved_tensors
        need_q, need_k, need_v = ctx.needs_input_grad[:3]
        dq = torch.empty_like(q, memory_format=torch.contiguous_format) if need_q else None
        dk, dv = (torch.empty_like(x, memory_format=torch.contiguous_format) if need_k or need_v else None for x in (k, v))
        if not o.numel() * k.shape[2]:
            return *(None if x is None else x.zero_() for x in (dq, dk, dv)), None, None
        delta = torch.empty_like(lse)
        heads, q_len, k_len = q.shape[0] * q.shape[1], q.shape[2], k.shape[2]
        strides = (q.stride(), k.stride(), v.stride(), do.stride())
        dims = {"HEAD_DIM": q.shape[3], "V_HEAD_DIM": v.shape[3], "CAUSAL": ctx.causal}
        with device_of(q):
            _delta_kernel[(heads * triton.cdiv(q_len, 32),)](
                o, do, delta, do.stride(), (heads, q.shape[1], q_len), V_HEAD_DIM=v.shape[3], BLOCK_M=32
            )
            if dk is not None:
                sizes = _sizes(q, k, v, q_len * (q.shape[1] // k.shape[1]))
                _KEY[_width(q, v)][lambda meta: (k.shape[0] * k.shape[1] * triton.cdiv(k_len, meta["BLOCK_N"]),)](
                    q, k, v, do, (lse, delta), dk, dv, strides, sizes, ctx.scale, **dims
                )
            if dq is not None:
                sizes = _sizes(q, k, v, k_len)
                _QUERY[_width(q, v)][lambda meta: (heads * triton.cdiv(q_len, meta["BLOCK_M"]),)](
                    q, k, v, do, (lse, delta), dq, strides, sizes, ctx.scale, **dims
                )
        return dq, dk if need_k else None, dv if need_v else None, None, None


def attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool = False, scale: float | None = None
) -> torch.Tensor:
    return _Attention.apply(q, k, v, causal, q.shape[3] ** -0.5 if scale is None else float(scale))
