"""The backward of multi-head latent attention, and how its kernels launch. The equations stand in mla_attention.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels._attention_backward import deltas, query_spans
from kernels._attention_tiles import (
    L2_BYTES,
    LOG2E,
    UNMASKED,
    dot,
    head_at,
    limit_of,
    load_tile,
    place,
    rows_of,
    sees,
    store_tile,
    stretch,
    walk,
)
from kernels._launch import device_of, processors, tune

Tuned = dict[int, Any]  # by bytes of an element
Inputs = tuple[Tensor, ...]  # q_nope, q_rope, k_nope, k_rope, v
KEYS_PER_TILE = 64  # about as many as a program owns
MOST_HEADS = 16  # that it takes in turn: the sums of dk_rope are then a small part of dk_nope


@triton.jit
def _collect(
    grads, tiles, queries, seen, spans,
    HEAD_DIM: tl.constexpr, ROPE_DIM: tl.constexpr, V_HEAD_DIM: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    """dk_nope, dk_rope and dv from the query tiles of one head that see some of the keys.

    One loop for all of them: the mask of so narrow a tile costs less than a second loop, of which every head would
    fill and drain the pipeline, and the registers that a compiler needs for both.
    """
    dk, dk_rope, dv = grads
    k, k_rope, v = tiles
    q_ptr, q_rope_ptr, do_ptr, lse_ptr, delta_ptr, strides, q_len, slope = queries
    first, _, _, stop = spans
    start_key, high = seen
    for tile in tl.range(first, stop):
        start = tile * BLOCK_M
        row = start + tl.arange(0, BLOCK_M)
        q = load_tile(q_ptr, strides[0], start, q_len, HEAD_DIM, BLOCK_M, True)
        q_rope = load_tile(q_rope_ptr, strides[3], start, q_len, ROPE_DIM, BLOCK_M, True)
        do = load_tile(do_ptr, strides[5], start, q_len, V_HEAD_DIM, BLOCK_M, True)
        lse = tl.load(lse_ptr + row, row < q_len, other=float("inf"))
        delta = tl.load(delta_ptr + row, row < q_len, other=0.0)
        s = dot(k_rope, q_rope.T, dot(k, q.T, None))
        p = tl.exp2(s * slope - lse[None, :])
        p = tl.where((start_key - high + tl.arange(0, k.shape[0]))[:, None] <= row[None, :], p, 0.0)
        dv = dot(p.to(do.dtype), do, dv)
        ds = p * (dot(v, do.T, None) - delta[None, :])
        # The only key of a row has weight 1 whatever its score: what is left of ds is no gradient but rounding.
        ds = tl.where((row + high > 0)[None, :], ds, 0.0)
        ds = ds.to(q.dtype)
        dk = dot(ds, q, dk)
        dk_rope = dot(ds, q_rope, dk_rope)
    return dk, dk_rope, dv


@triton.jit
def _key_kernel(
    q_ptrs, k_ptr, k_rope_ptr, v_ptr, do_ptr, number_ptrs, grad_ptrs, strides, sizes, scale,
    HEAD_DIM: tl.constexpr, ROPE_DIM: tl.constexpr, V_HEAD_DIM: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    batches, heads, _, q_len, k_len, ahead, each, together = sizes
    groups = tl.cdiv(heads, each)
    tile, owner = place(tl.cdiv(k_len, BLOCK_N), batches * groups, together)
    start, batch, group = tile * BLOCK_N, owner // groups, owner % groups
    k_rope = load_tile(head_at(k_rope_ptr, strides[4], batch, 0, 0), strides[4], start, k_len, ROPE_DIM, BLOCK_N, True)
    high = k_len - q_len + ahead
    spans = query_spans(start, q_len, high, high, False, BLOCK_M, BLOCK_N)
    seen = (start, high)
    factor = tl.where(k_len > 1, scale, 0.0)
    dk_rope = tl.zeros(k_rope.shape, tl.float32)
    for h in tl.range(group * each, tl.minimum(group * each + each, heads)):
        k = load_tile(head_at(k_ptr, strides[1], batch, h, 0), strides[1], start, k_len, HEAD_DIM, BLOCK_N, True)
        v = load_tile(head_at(v_ptr, strides[2], batch, h, 0), strides[2], start, k_len, V_HEAD_DIM, BLOCK_N, True)
        q, q_rope = head_at(q_ptrs[0], strides[0], batch, h, 0), head_at(q_ptrs[1], strides[3], batch, h, 0)
        do, row = head_at(do_ptr, strides[5], batch, h, 0), (batch * heads + h) * q_len
        queries = (q, q_rope, do, number_ptrs[0] + row, number_ptrs[1] + row, strides, q_len, scale * LOG2E)
        tiles = (k, k_rope, v)
        grads = (tl.zeros(k.shape, tl.float32), dk_rope, tl.zeros(v.shape, tl.float32))
        dk, dk_rope, dv = _collect(grads, tiles, queries, seen, spans, HEAD_DIM, ROPE_DIM, V_HEAD_DIM, BLOCK_M)
        row = (batch * heads + h) * k_len
        store_tile(grad_ptrs[0] + row * HEAD_DIM, dk * factor, start, k_len, 1, HEAD_DIM)
        store_tile(grad_ptrs[2] + row * V_HEAD_DIM, dv, start, k_len, 1, V_HEAD_DIM)
    row = (group * batches + batch) * k_len
    store_tile(grad_ptrs[1] + row * ROPE_DIM, dk_rope * factor, start, k_len, 1, ROPE_DIM)


@triton.jit
def _descend(
    grads, q, do, numbers, keys, seen, spans, slope,
    HEAD_DIM: tl.constexpr, ROPE_DIM: tl.constexpr, V_HEAD_DIM: tl.constexpr, BLOCK_N: tl.constexpr,
    MASKED: tl.constexpr,
):  # fmt: skip
    """dq_nope and dq_rope from the keys of one stretch."""
    dq, dq_rope = grads
    near, rope_ptr, rope_strides = keys
    k_ptr, v_ptr, k_strides, v_strides, k_len = near
    first, stop, _, _ = stretch(spans, False, MASKED)
    for start in tl.range(first, stop, BLOCK_N):
        k = load_tile(k_ptr, k_strides, start, k_len, HEAD_DIM, BLOCK_N, MASKED)
        rope = load_tile(rope_ptr, rope_strides, start, k_len, ROPE_DIM, BLOCK_N, MASKED)
        v = load_tile(v_ptr, v_strides, start, k_len, V_HEAD_DIM, BLOCK_N, MASKED)
        s = dot(q[1], rope.T, dot(q[0], k.T, None))
        p = tl.exp2(s * slope - numbers[0][:, None])
        if MASKED:
            p = tl.where(sees(start, seen, False, do.shape[0], BLOCK_N), p, 0.0)
        ds = (p * (dot(do, v.T, None) - numbers[1][:, None])).to(k.dtype)
        dq = dot(ds, k, dq)
        dq_rope = dot(ds, rope, dq_rope)
    return dq, dq_rope


@triton.jit
def _query_kernel(
    q_ptrs, k_ptr, k_rope_ptr, v_ptr, do_ptr, number_ptrs, grad_ptrs, strides, sizes, scale,
    HEAD_DIM: tl.constexpr, ROPE_DIM: tl.constexpr, V_HEAD_DIM: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    at, near, seen, spans = walk(k_ptr, v_ptr, strides, sizes, False, False, BLOCK_M, BLOCK_N)
    start, batch, h, _, _, q_len, _ = at
    keys = (near, head_at(k_rope_ptr, strides[4], batch, 0, 0), strides[4])
    q_head, rope_head = head_at(q_ptrs[0], strides[0], batch, h, 0), head_at(q_ptrs[1], strides[3], batch, h, 0)
    q = load_tile(q_head, strides[0], start, q_len, HEAD_DIM, BLOCK_M, True)
    q_rope = load_tile(rope_head, strides[3], start, q_len, ROPE_DIM, BLOCK_M, True)
    do_head = head_at(do_ptr, strides[5], batch, h, 0)
    do = load_tile(do_head, strides[5], start, q_len, V_HEAD_DIM, BLOCK_M, True)
    first, step, _ = rows_of(at, q_len, 0, sizes[1], q_len, False)
    row = start + tl.arange(0, BLOCK_M)
    lse = tl.load(number_ptrs[0] + first + row, row < q_len, other=float("inf"))
    delta = tl.load(number_ptrs[1] + first + row, row < q_len, other=0.0)
    tiles, numbers, slope = (q, q_rope), (lse, delta), scale * LOG2E
    grads = (tl.zeros(q.shape, tl.float32), tl.zeros(q_rope.shape, tl.float32))
    grads = _descend(
        grads, tiles, do, numbers, keys, seen, spans, slope, HEAD_DIM, ROPE_DIM, V_HEAD_DIM, BLOCK_N, False
    )
    dq, dq_rope = _descend(
        grads, tiles, do, numbers, keys, seen, spans, slope, HEAD_DIM, ROPE_DIM, V_HEAD_DIM, BLOCK_N, True
    )
    factor = tl.where(limit_of(seen, BLOCK_M) > 0, scale, 0.0)[:, None]
    store_tile(grad_ptrs[0] + first * HEAD_DIM, dq * factor, start, q_len, step, HEAD_DIM)
    store_tile(grad_ptrs[1] + first * ROPE_DIM, dq_rope * factor, start, q_len, step, ROPE_DIM)


def tuned(kernel: Any, points: dict[int, list[tuple[int, int, int, int]]]) -> Tuned:
    """The kernel by bytes of an element, tuned over these BLOCK_M, BLOCK_N, num_warps, num_stages."""
    return {
        size: tune(
            [
                triton.Config({"BLOCK_M": m, "BLOCK_N": n}, num_warps=warps, num_stages=stages)
                for m, n, warps, stages in each
            ],
            key=["HEAD_DIM", "ROPE_DIM", "V_HEAD_DIM"],
        )(kernel)
        for size, each in points.items()
    }


KEY = tuned(_key_kernel, {2: [(16, 64, 8, 2), (32, 64, 8, 2)], 4: [(16, 32, 8, 1)]})
QUERY = tuned(_query_kernel, {2: [(128, 16, 8, 2), (128, 32, 8, 2), (64, 32, 8, 2)], 4: [(32, 16, 4, 1)]})


def launch(
    kernels: Tuned,
    inputs: Inputs,
    tensors: Sequence[Any],
    do: Sequence[Tensor],
    causal: bool,
    scale: float,
    each: int = 0,
) -> None:
    """Launch a tuned kernel over the tiles of the queries or, `each` so many heads in turn, over those of the keys."""
    q_nope, q_rope, k_nope, k_rope, v = inputs
    (batch, heads, q_len, dim), k_len = q_nope.shape, k_nope.shape[2]
    rope, width = q_rope.shape[3], v.shape[3]
    owners, rows, block, streamed = heads, q_len, "BLOCK_M", k_len
    if each:
        owners, rows, block, streamed = triton.cdiv(heads, each), k_len, "BLOCK_N", q_len
    together = max(1, L2_BYTES // (streamed * (dim + width) * v.element_size()))
    ahead = 0 if causal else UNMASKED
    sizes = (batch, heads, 1, q_len, k_len, ahead, each, together)
    strides = tuple(x.stride() for x in (q_nope, k_nope, v, q_rope, k_rope[:, None], *do))
    with device_of(v):
        kernels[v.element_size()][lambda meta: (batch * owners * triton.cdiv(rows, meta[block]),)](
            *tensors, strides, sizes, scale, HEAD_DIM=dim, ROPE_DIM=rope, V_HEAD_DIM=width
        )


def backward(
    inputs: Inputs, o: Tensor, lse: Tensor, do: Tensor, causal: bool, scale: float, needs: Sequence[bool]
) -> tuple[Tensor, ...]:
    """The gradients of the inputs; of those that are not needed, what costs nothing."""
    q_nope, q_rope, k_nope, k_rope, v = inputs
    (batch, heads), length = q_nope.shape[:2], k_nope.shape[2]
    numbers = lse, deltas(o, do)
    tensors = ((q_nope, q_rope), k_nope, k_rope, v, do, numbers)
    dq, dq_rope, dk, dv = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q_nope, q_rope, k_nope, v))
    dk_rope = k_rope
    if any(needs[2:]):
        programs = batch * heads * triton.cdiv(length, KEYS_PER_TILE)
        each = min(MOST_HEADS, max(1, programs // processors(v)))
        shape = triton.cdiv(heads, each), batch, length, k_rope.shape[2]
        sums = torch.empty(shape, dtype=torch.float32, device=v.device)
        launch(KEY, inputs, (*tensors, (dk, sums, dv)), (do,), causal, scale, each)
        dk_rope = sums.sum(0).to(k_rope.dtype)
    if any(needs[:2]):
        launch(QUERY, inputs, (*tensors, (dq, dq_rope)), (do,), causal, scale)
    return dq, dq_rope, dk, dk_rope, dv
