"""The backward of attention: dq, dk and dv from q, k, v, do and the rows' lse. The equations stand in attention.py."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels._attention_tiles import (
    LOG2E,
    Seen,
    dot,
    head_at,
    launch,
    limit_of,
    load_tile,
    place,
    room,
    rows_of,
    sees,
    stand,
    store_tile,
    stretch,
    tuned,
    walk,
)
from kernels._launch import device_of


@triton.jit
def _delta_kernel(o_ptr, do_ptr, delta_ptr, strides, sizes, V_HEAD_DIM: tl.constexpr, BLOCK_M: tl.constexpr):
    heads, num_heads, q_len = sizes
    tile, head = place(tl.cdiv(q_len, BLOCK_M), heads, 1)
    start = tile * BLOCK_M
    row = start + tl.arange(0, BLOCK_M)
    o_head = head_at(o_ptr, strides[0], head // num_heads, head % num_heads, 0)
    do_head = head_at(do_ptr, strides[1], head // num_heads, head % num_heads, 0)
    do = load_tile(do_head, strides[1], start, q_len, V_HEAD_DIM, BLOCK_M, True).to(tl.float32)
    o = load_tile(o_head, strides[0], start, q_len, V_HEAD_DIM, BLOCK_M, True).to(tl.float32)
    tl.store(delta_ptr + head * q_len + row, tl.sum(o * do, 1), row < q_len)


@triton.jit
def _collect(
    dk, dv, k, v, queries, seen, spans,
    HEAD_DIM: tl.constexpr, V_HEAD_DIM: tl.constexpr, WINDOWED: tl.constexpr, BLOCK_M: tl.constexpr,
    MASKED: tl.constexpr,
):  # fmt: skip
    """dk and dv from the query tiles that all keys are seen by, or from those around them, of each head."""
    q_ptr, do_ptr, lse_ptr, delta_ptr, q_strides, do_strides, of_rows = queries
    group, q_len, total, slope = of_rows
    first, edge, whole, stop = spans
    span = edge - first + stop - whole if MASKED else whole - edge
    for i in tl.range(0, group * span):  # one loop, not two: registers, and a pipeline that runs on from head to head
        head = tl.cast(i // span, tl.int64)
        tile = (first if MASKED else edge) + i % span
        if MASKED:
            tile = tl.where(tile < edge, tile, tile - edge + whole)
        start = tile * BLOCK_M
        row = start + tl.arange(0, BLOCK_M)
        q = load_tile(q_ptr + head * q_strides[1], q_strides, start, q_len, HEAD_DIM, BLOCK_M, MASKED)
        do = load_tile(do_ptr + head * do_strides[1], do_strides, start, q_len, V_HEAD_DIM, BLOCK_M, MASKED)
        lse = tl.load(lse_ptr + head * total + row, row < q_len, other=float("inf"))
        delta = tl.load(delta_ptr + head * total + row, row < q_len, other=0.0)
        p = tl.exp2(dot(k, q.T, None) * slope - lse[None, :])
        if MASKED:
            col = tl.arange(0, BLOCK_M)[None, :]
            nearest = (seen[0] - start + tl.arange(0, k.shape[0]))[:, None]
            inside = col >= nearest
            if WINDOWED:
                inside &= col <= nearest + seen[1]
            p = tl.where(inside, p, 0.0)
        dv = dot(p.to(do.dtype), do, dv)
        ds = p * (dot(v, do.T, None) - delta[None, :])
        dk = dot(ds.to(q.dtype), q, dk)
    return dk, dv


@triton.jit
def query_spans(start, q_len, high, low, WINDOWED: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """The query tiles that see some key of a tile, `first` to `stop`; those that see all of them, `edge` to `whole`."""
    first = tl.maximum(start - high, 0) // BLOCK_M
    stop, whole = tl.cdiv(q_len, BLOCK_M), q_len // BLOCK_M
    edge = tl.minimum(tl.cdiv(tl.maximum(start + BLOCK_N - 1 - high, 0), BLOCK_M), stop)
    if WINDOWED:
        whole = tl.minimum(whole, tl.maximum(start - low + 1, 0) // BLOCK_M)
        stop = tl.minimum(stop, tl.cdiv(tl.maximum(start + BLOCK_N - low, 0), BLOCK_M))
    return first, edge, tl.maximum(whole, edge), stop


@triton.jit
def _key_kernel(
    q_ptr, k_ptr, v_ptr, do_ptr, lse_ptr, delta_ptr, grad_ptrs, strides, sizes, scale,
    HEAD_DIM: tl.constexpr, V_HEAD_DIM: tl.constexpr, WINDOWED: tl.constexpr, PACKED: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    kv_heads, group, q_total, ahead, behind = sizes[1], sizes[2], sizes[3], sizes[5], sizes[6]
    q_strides, k_strides, v_strides, do_strides = strides
    at = stand(sizes, kv_heads, True, PACKED, BLOCK_N)
    start, batch, h, q_first, k_first, q_len, k_len = at
    k_head, v_head = head_at(k_ptr, k_strides, batch, h, k_first), head_at(v_ptr, v_strides, batch, h, k_first)
    k = load_tile(k_head, k_strides, start, k_len, HEAD_DIM, BLOCK_N, True)
    v = load_tile(v_head, v_strides, start, k_len, V_HEAD_DIM, BLOCK_N, True)
    q_head = head_at(q_ptr, q_strides, batch, h * group, q_first)
    do_head = head_at(do_ptr, do_strides, batch, h * group, q_first)
    rows = ((batch * kv_heads + h) * group).to(tl.int64) * q_total + q_first
    of_rows = (group, q_len, q_total, scale * LOG2E)
    queries = (q_head, do_head, lse_ptr + rows, delta_ptr + rows, q_strides, do_strides, of_rows)

    high, low = k_len - q_len + ahead, k_len - q_len - behind
    spans = query_spans(start, q_len, high, low, WINDOWED, BLOCK_M, BLOCK_N)
    seen = (start - high, ahead + behind)  # the first query that sees the first key, and how many more do
    dk, dv = tl.zeros(k.shape, tl.float32), tl.zeros(v.shape, tl.float32)
    dk, dv = _collect(dk, dv, k, v, queries, seen, spans, HEAD_DIM, V_HEAD_DIM, WINDOWED, BLOCK_M, False)
    dk, dv = _collect(dk, dv, k, v, queries, seen, spans, HEAD_DIM, V_HEAD_DIM, WINDOWED, BLOCK_M, True)
    row, step, _ = rows_of(at, k_len, k_first, kv_heads, k_len, PACKED)
    # The only key of a row has weight 1 whatever its score: the rounding error that is left of ds is no gradient.
    store_tile(grad_ptrs[0] + row * HEAD_DIM, dk * tl.where(k_len > 1, scale, 0.0), start, k_len, step, HEAD_DIM)
    store_tile(grad_ptrs[1] + row * V_HEAD_DIM, dv, start, k_len, step, V_HEAD_DIM)


@triton.jit
def _descend(
    dq, q, do, lse, delta, keys, seen, spans, slope,
    HEAD_DIM: tl.constexpr, V_HEAD_DIM: tl.constexpr, WINDOWED: tl.constexpr, BLOCK_N: tl.constexpr,
    MASKED: tl.constexpr,
):  # fmt: skip
    """dq from the keys of one stretch."""
    k_ptr, v_ptr, k_strides, v_strides, k_len = keys
    first, stop, whole, gap = stretch(spans, WINDOWED, MASKED)
    for at in tl.range(first, stop, BLOCK_N):
        start = tl.where(at < whole, at - gap, at) if WINDOWED and MASKED else at
        k = load_tile(k_ptr, k_strides, start, k_len, HEAD_DIM, BLOCK_N, MASKED)
        v = load_tile(v_ptr, v_strides, start, k_len, V_HEAD_DIM, BLOCK_N, MASKED)
        p = tl.exp2(dot(q, k.T, None) * slope - lse[:, None])
        if MASKED:
            p = tl.where(sees(start, seen, WINDOWED, q.shape[0], BLOCK_N), p, 0.0)
        ds = p * (dot(do, v.T, None) - delta[:, None])
        dq = dot(ds.to(k.dtype), k, dq)
    return dq


@triton.jit
def _query_kernel(
    q_ptr, k_ptr, v_ptr, do_ptr, lse_ptr, delta_ptr, dq_ptr, strides, sizes, scale,
    HEAD_DIM: tl.constexpr, V_HEAD_DIM: tl.constexpr, WINDOWED: tl.constexpr, PACKED: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    at, keys, seen, spans = walk(k_ptr, v_ptr, strides, sizes, WINDOWED, PACKED, BLOCK_M, BLOCK_N)
    start, batch, h, first, _, q_len, _ = at
    line, step, place_of = rows_of(at, q_len, first, sizes[1] * sizes[2], sizes[3], PACKED)
    q_head, do_head = head_at(q_ptr, strides[0], batch, h, first), head_at(do_ptr, strides[3], batch, h, first)
    q = load_tile(q_head, strides[0], start, q_len, HEAD_DIM, BLOCK_M, True)
    do = load_tile(do_head, strides[3], start, q_len, V_HEAD_DIM, BLOCK_M, True)
    row = start + tl.arange(0, BLOCK_M)
    lse = tl.load(lse_ptr + place_of + row, row < q_len, other=float("inf"))
    delta = tl.load(delta_ptr + place_of + row, row < q_len, other=0.0)
    dq = tl.zeros(q.shape, tl.float32)
    slope = scale * LOG2E
    dq = _descend(dq, q, do, lse, delta, keys, seen, spans, slope, HEAD_DIM, V_HEAD_DIM, WINDOWED, BLOCK_N, False)
    dq = _descend(dq, q, do, lse, delta, keys, seen, spans, slope, HEAD_DIM, V_HEAD_DIM, WINDOWED, BLOCK_N, True)
    several = limit_of(seen, BLOCK_M) > 0
    store_tile(dq_ptr + line * HEAD_DIM, dq * tl.where(several, scale, 0.0)[:, None], start, q_len, step, HEAD_DIM)


KEY = tuned(
    _key_kernel,
    {
        (2, 64): (32, 128, 8, 2), (2, 128): (32, 64, 8, 2), (2, 256): (16, 64, 8, 2),
        (4, 64): (16, 32, 8, 1), (4, 128): (16, 32, 8, 1), (4, 256): (16, 32, 8, 1),
    },
)  # fmt: skip
QUERY = tuned(
    _query_kernel,
    {
        (2, 64): (128, 64, 8, 2), (2, 128): (128, 32, 8, 2), (2, 256): (64, 32, 8, 2),
        (4, 64): (64, 32, 8, 2), (4, 128): (32, 16, 4, 1), (4, 256): (32, 16, 4, 1),
    },
)  # fmt: skip


def deltas(o: Tensor, do: Tensor) -> Tensor:
    """rowsum(do * o), one number per row (batch, heads, rows)."""
    batch, num_heads, q_len, v_dim = o.shape
    delta = torch.empty((batch, num_heads, q_len), dtype=torch.float32, device=o.device)
    heads, strides = batch * num_heads, (o.stride(), do.stride())
    with device_of(o):
        _delta_kernel[(heads * triton.cdiv(q_len, 32),)](
            o, do, delta, strides, (heads, num_heads, q_len), V_HEAD_DIM=v_dim, BLOCK_M=32
        )
    return delta


def backward(
    saved: tuple[Tensor, ...], do: Tensor, seen: Seen, scale: float, needs: tuple[bool, ...]
) -> tuple[Tensor | None, ...]:
    """The gradients of q, k and v that are needed, from what the forward saved: q, k, v, o, lse."""
    q, k, v, o, lse = saved
    packed = len(seen.documents) > 0
    dq = dk = dv = None
    inputs = (q, k, v, do, lse, deltas(o, do))
    strides = (q.stride(), k.stride(), v.stride(), do.stride())
    if needs[1] or needs[2]:
        dk, dv = room(k.shape, k, packed), room(v.shape, v, packed)
        launch(KEY, (*inputs, (dk, dv)), strides, seen, scale, over_keys=True)
    if needs[0]:
        dq = room(q.shape, q, packed)
        launch(QUERY, (*inputs, dq), strides, seen, scale)
    return dq, dk if needs[1] else None, dv if needs[2] else None
