"""The backward of attention: dq, dk and dv from q, k, v, do and the rows' lse. The equations stand in attention.py."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels._attention_tiles import LOG2E, dot, launch, load_tile, place, store_tile, tuned, walk
from kernels._launch import device_of


@triton.jit
def _delta_kernel(o_ptr, do_ptr, delta_ptr, do_strides, sizes, V_HEAD_DIM: tl.constexpr, BLOCK_M: tl.constexpr):
    heads, num_heads, q_len = sizes
    tile, head = place(tl.cdiv(q_len, BLOCK_M), heads, 1)
    start = tile * BLOCK_M
    row = start + tl.arange(0, BLOCK_M)
    do_head = do_ptr + head // num_heads * do_strides[0] + head % num_heads * do_strides[1]
    do = load_tile(do_head, do_strides, start, q_len, V_HEAD_DIM, BLOCK_M, True).to(tl.float32)
    o = load_tile(o_ptr + head * q_len * V_HEAD_DIM, (0, 0, V_HEAD_DIM, 1), start, q_len, V_HEAD_DIM, BLOCK_M, True)
    tl.store(delta_ptr + head * q_len + row, tl.sum(o.to(tl.float32) * do, 1), row < q_len)


@triton.jit
def _collect(
    dk, dv, k, v, queries, group, first, edge, span, limit, slope,
    HEAD_DIM: tl.constexpr, V_HEAD_DIM: tl.constexpr, BLOCK_M: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """dk and dv from `span` query tiles of each head from `first` on; if masked, any beyond `edge` is the last tile."""
    q_ptr, do_ptr, lse_ptr, delta_ptr, q_strides, do_strides, q_len = queries
    for i in tl.range(0, group * span):  # one loop, not two: registers, and a pipeline that runs on from head to head
        head = tl.cast(i // span, tl.int64)
        start = (first + i % span) * BLOCK_M
        if MASKED:
            start = tl.where(first + i % span < edge, start, (tl.cdiv(q_len, BLOCK_M) - 1) * BLOCK_M)
        row = start + tl.arange(0, BLOCK_M)
        q = load_tile(q_ptr + head * q_strides[1], q_strides, start, q_len, HEAD_DIM, BLOCK_M, MASKED)
        do = load_tile(do_ptr + head * do_strides[1], do_strides, start, q_len, V_HEAD_DIM, BLOCK_M, MASKED)
        lse = tl.load(lse_ptr + head * q_len + row, row < q_len, other=float("inf"))
        delta = tl.load(delta_ptr + head * q_len + row, row < q_len, other=0.0)
        p = tl.exp2(dot(k, q.T, None) * slope - lse[None, :])
        if MASKED:
            p = tl.where(limit[:, None] <= row[None, :], p, 0.0)
        dv = dot(p.to(do.dtype), do, dv)
        ds = p * (dot(v, do.T, None) - delta[None, :])
        dk = dot(ds.to(q.dtype), q, dk)
    return dk, dv


@triton.jit
def _key_kernel(
    q_ptr, k_ptr, v_ptr, do_ptr, lse_ptr, delta_ptr, grad_ptrs, strides, sizes, scale,
    HEAD_DIM: tl.constexpr, V_HEAD_DIM: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    batches, kv_heads, group, q_len, k_len, shift, together = sizes
    q_strides, k_strides, v_strides, do_strides = strides
    tile, kv_head = place(tl.cdiv(k_len, BLOCK_N), batches * kv_heads, together)
    start = tile * BLOCK_N  # under a causal mask the first keys are seen by most: heaviest first
    batch, h = kv_head // kv_heads, kv_head % kv_heads
    k = load_tile(k_ptr + batch * k_strides[0] + h * k_strides[1], k_strides, start, k_len, HEAD_DIM, BLOCK_N, True)
    v = load_tile(v_ptr + batch * v_strides[0] + h * v_strides[1], v_strides, start, k_len, V_HEAD_DIM, BLOCK_N, True)
    q_head = q_ptr + batch * q_strides[0] + h * group * q_strides[1]
    do_head = do_ptr + batch * do_strides[0] + h * group * do_strides[1]
    rows = kv_head * group * q_len
    queries = (q_head, do_head, lse_ptr + rows, delta_ptr + rows, q_strides, do_strides, q_len)

    tiles, whole = tl.cdiv(q_len, BLOCK_M), q_len // BLOCK_M
    limit = start + tl.arange(0, BLOCK_N) - shift  # the first query that sees each key
    first = tl.maximum(start - shift, 0) // BLOCK_M
    edge = tl.minimum(tl.cdiv(tl.maximum(start + BLOCK_N - 1 - shift, 0), BLOCK_M), tiles)
    masked, full = edge - first + tiles - tl.maximum(whole, edge), tl.maximum(whole - edge, 0)
    dk, dv = tl.zeros(k.shape, tl.float32), tl.zeros(v.shape, tl.float32)
    slope = scale * LOG2E
    dk, dv = _collect(
        dk, dv, k, v, queries, group, first, edge, masked, limit, slope, HEAD_DIM, V_HEAD_DIM, BLOCK_M, True
    )
    dk, dv = _collect(
        dk, dv, k, v, queries, group, edge, edge, full, limit, slope, HEAD_DIM, V_HEAD_DIM, BLOCK_M, False
    )
    # The only key of a row has weight 1 whatever its score: the rounding error that is left of ds is no gradient.
    store_tile(grad_ptrs[0] + kv_head * k_len * HEAD_DIM, dk * tl.where(k_len > 1, scale, 0.0), start, k_len, HEAD_DIM)
    store_tile(grad_ptrs[1] + kv_head * k_len * V_HEAD_DIM, dv, start, k_len, V_HEAD_DIM)


@triton.jit
def _descend(
    dq, q, do, lse, delta, keys, first, stop, limit, slope,
    HEAD_DIM: tl.constexpr, V_HEAD_DIM: tl.constexpr, BLOCK_N: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """dq from the keys `first` to `stop`."""
    k_ptr, v_ptr, k_strides, v_strides, k_len = keys
    for start in tl.range(first, stop, BLOCK_N):
        k = load_tile(k_ptr, k_strides, start, k_len, HEAD_DIM, BLOCK_N, MASKED)
        v = load_tile(v_ptr, v_strides, start, k_len, V_HEAD_DIM, BLOCK_N, MASKED)
        p = tl.exp2(dot(q, k.T, None) * slope - lse[:, None])
        if MASKED:
            p = tl.where(start + tl.arange(0, BLOCK_N)[None, :] <= limit[:, None], p, 0.0)
        ds = p * (dot(do, v.T, None) - delta[:, None])
        dq = dot(ds.to(k.dtype), k, dq)
    return dq


@triton.jit
def _query_kernel(
    q_ptr, k_ptr, v_ptr, do_ptr, lse_ptr, delta_ptr, dq_ptr, strides, sizes, scale,
    HEAD_DIM: tl.constexpr, V_HEAD_DIM: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    at, keys, limit, whole, stop = walk(k_ptr, v_ptr, strides, sizes, BLOCK_M, BLOCK_N)
    start, batch, h, head = at
    q_strides, do_strides, q_len = strides[0], strides[3], sizes[3]
    q = load_tile(q_ptr + batch * q_strides[0] + h * q_strides[1], q_strides, start, q_len, HEAD_DIM, BLOCK_M, True)
    do = load_tile(
        do_ptr + batch * do_strides[0] + h * do_strides[1], do_strides, start, q_len, V_HEAD_DIM, BLOCK_M, True
    )
    row = start + tl.arange(0, BLOCK_M)
    lse = tl.load(lse_ptr + head * q_len + row, row < q_len, other=float("inf"))
    delta = tl.load(delta_ptr + head * q_len + row, row < q_len, other=0.0)
    dq = tl.zeros(q.shape, tl.float32)
    slope = scale * LOG2E
    dq = _descend(dq, q, do, lse, delta, keys, 0, whole, limit, slope, HEAD_DIM, V_HEAD_DIM, BLOCK_N, False)
    dq = _descend(dq, q, do, lse, delta, keys, whole, stop, limit, slope, HEAD_DIM, V_HEAD_DIM, BLOCK_N, True)
    store_tile(dq_ptr + head * q_len * HEAD_DIM, dq * tl.where(limit > 0, scale, 0.0)[:, None], start, q_len, HEAD_DIM)


KEY = tuned(
    _key_kernel,
    {
        (2, 64): (32, 128, 8, 2), (2, 128): (32, 64, 8, 2), (2, 256): (16, 64, 8, 2),
        (4, 64): (16, 32, 8, 2), (4, 128): (16, 32, 8, 1), (4, 256): (16, 32, 8, 1),
    },
)  # fmt: skip
QUERY = tuned(
    _query_kernel,
    {
        (2, 64): (128, 64, 8, 2), (2, 128): (128, 32, 8, 2), (2, 256): (64, 32, 8, 2),
        (4, 64): (64, 32, 8, 2), (4, 128): (32, 16, 4, 1), (4, 256): (32, 16, 4, 1),
    },
)  # fmt: skip


def backward(
    saved: tuple[Tensor, ...], do: Tensor, causal: bool, scale: float, needs: tuple[bool, ...]
) -> tuple[Tensor | None, ...]:
    """The gradients of q, k and v that are needed, from what the forward saved: q, k, v, o, lse."""
    q, k, v, o, lse = saved
    batch, num_heads, q_len, v_dim = o.shape
    dq = dk = dv = None
    delta = torch.empty_like(lse)
    with device_of(q):
        _delta_kernel[(batch * num_heads * triton.cdiv(q_len, 32),)](
            o, do, delta, do.stride(), (batch * num_heads, num_heads, q_len), V_HEAD_DIM=v_dim, BLOCK_M=32
        )
    inputs = (q, k, v, do, lse, delta)
    strides = (q.stride(), k.stride(), v.stride(), do.stride())
    if needs[1] or needs[2]:
        dk, dv = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (k, v))
        launch(KEY, (*inputs, (dk, dv)), strides, causal, scale, over_keys=True)
    if needs[0]:
        dq = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        launch(QUERY, (*inputs, dq), strides, causal, scale)
    return dq, dk if needs[1] else None, dv if needs[2] else None
