"""The backward of window attention: dq, dk, dv and the gradient of the biases. Its equations: window_attention.py."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels._attention_tiles import dot
from kernels._launch import device_of
from kernels._window_tiles import (
    LEAST_BACKWARD,
    divided,
    load_bias,
    load_tokens,
    parts,
    shape_of,
    store_tokens,
    tokens,
    tuned,
    weights,
)


@triton.jit
def _keep(part_ptr, ds, first, begun, TOKENS: tl.constexpr):
    """Store a tile of the sums of ds, its queries from `first` on; if they have begun, on top of what stands there."""
    query, key = first + tl.arange(0, ds.shape[0])[:, None], tl.arange(0, ds.shape[1])[None, :]
    inside = (query < TOKENS) & (key < TOKENS)
    before = tl.load(part_ptr + query * TOKENS + key, mask=inside & begun, other=0.0)
    tl.store(part_ptr + query * TOKENS + key, before + ds, mask=inside)


@triton.jit
def _backward(
    q_ptr, k_ptr, v_ptr, table_ptr, do_ptr, grad_ptrs, strides, size, counts, scale,
    DIM: tl.constexpr, WINDOW: tl.constexpr, SHIFTED: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    dq_ptr, dk_ptr, dv_ptr, partials_ptr = grad_ptrs
    TOKENS: tl.constexpr = WINDOW * WINDOW
    windows, heads = counts
    head, group = tl.program_id(0) % heads, tl.program_id(0) // heads
    bias = load_bias(table_ptr, strides[4], head, 0, 0, WINDOW, BLOCK_M, BLOCK_N)
    part_ptr = partials_ptr if partials_ptr is None else partials_ptr + tl.program_id(0).to(tl.int64) * TOKENS * TOKENS
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    query_part, key_part = parts(0, size[2], WINDOW, BLOCK_M, 0), parts(0, size[2], WINDOW, BLOCK_N, 4)
    for window in tl.range(group, windows, tl.num_programs(0) // heads, disable_licm=TOKENS > BLOCK_M):
        at_keys, there = tokens(window, 0, size, WINDOW, BLOCK_N)
        k = load_tokens(k_ptr, strides[1], head, at_keys, there, DIM)
        v = load_tokens(v_ptr, strides[2], head, at_keys, there, DIM)
        divide = divided(window, size, WINDOW)
        dk, dv = tl.zeros(k.shape, tl.float32), tl.zeros(v.shape, tl.float32)
        # Not unrolled, and in windows of several tiles what stays the same is made anew: addresses of biases and of
        # partial sums would be kept in registers.
        for tile in tl.range(0, triton.cdiv(TOKENS, BLOCK_M), disable_licm=TOKENS > BLOCK_M):
            at, inside = tokens(window, tile * BLOCK_M, size, WINDOW, BLOCK_M)
            q = load_tokens(q_ptr, strides[0], head, at, inside, DIM)
            do = load_tokens(do_ptr, strides[3], head, at, inside, DIM)
            if TOKENS > BLOCK_M:
                query_part = parts(tile * BLOCK_M, size[2], WINDOW, BLOCK_M, 0)
                bias = load_bias(table_ptr, strides[4], head, tile * BLOCK_M, 0, WINDOW, BLOCK_M, BLOCK_N)
            p = weights(q, k, bias, scale, query_part, key_part, divide, SHIFTED, WINDOW)
            ds = dot(do, v.T, None) * p
            ds -= p * tl.sum(ds, 1)[:, None]
            # Summed before the products, which read ds in their own dtype: in fp32 it would hold registers until then.
            if TOKENS <= BLOCK_M:
                total += ds
            elif partials_ptr is not None:
                # Between two windows a partial may pass from one thread of the program to another.
                tl.debug_barrier()
                _keep(part_ptr, ds, tile * BLOCK_M, window != group, TOKENS)
            dk = dot(ds.to(q.dtype).T, q, dk)
            dv = dot(p.to(do.dtype).T, do, dv)
            store_tokens(dq_ptr, dot(ds.to(k.dtype), k, None) * scale, strides[5], head, at, inside, DIM)
        store_tokens(dk_ptr, dk * scale, strides[5], head, at_keys, there, DIM)
        store_tokens(dv_ptr, dv, strides[5], head, at_keys, there, DIM)
    if TOKENS <= BLOCK_M and partials_ptr is not None:
        _keep(part_ptr, total, 0, False, TOKENS)


@triton.jit
def _collect(sums_ptr, dtable_ptr, heads, WINDOW: tl.constexpr, BLOCK: tl.constexpr, BLOCK_PAIRS: tl.constexpr):
    """BLOCK entries of the table for one head: the sum over all pairs of tokens that each belongs to."""
    TOKENS: tl.constexpr = WINDOW * WINDOW
    SIDE: tl.constexpr = 2 * WINDOW - 1
    head = tl.program_id(0) % heads
    entry = tl.program_id(0) // heads * BLOCK + tl.arange(0, BLOCK)[:, None]
    query = tl.arange(0, BLOCK_PAIRS)[None, :]
    y, x = query // WINDOW - entry // SIDE + WINDOW - 1, query % WINDOW - entry % SIDE + WINDOW - 1
    stands = (query < TOKENS) & (entry < SIDE * SIDE) & (y >= 0) & (y < WINDOW) & (x >= 0) & (x < WINDOW)
    pair_ptr = sums_ptr + head.to(tl.int64) * TOKENS * TOKENS + query * TOKENS + y * WINDOW + x
    total = tl.sum(tl.load(pair_ptr, mask=stands, other=0.0), axis=1, keep_dims=True)
    tl.store(dtable_ptr + entry * heads + head, total.to(dtable_ptr.dtype.element_ty), mask=entry < SIDE * SIDE)


BACKWARD = tuned(_backward, (4, 2), (8, 2))


def backward(
    saved: tuple[Any, ...], do: Tensor, window: int, shift: int, scale: float, needs_table: bool
) -> tuple[Tensor | None, ...]:
    """dq, dk, dv and, if it is needed, dtable, from q, k, v and the table (or None)."""
    q, k, v, table = saved
    grads = [torch.empty(q.shape, dtype=q.dtype, device=q.device) for _ in range(3)]
    sizes, constants, wide, _, groups = shape_of(q, window, shift, LEAST_BACKWARD if needs_table else 1)
    heads = q.shape[3]
    if constants["BLOCK_N"] > 64:
        # Beside dk and dv of so many keys, registers (and sm_100's tensor memory) hold the scores of few queries.
        constants["BLOCK_M"] = 16
    dtable: Tensor | None = None
    partials: Tensor | None = None
    if needs_table:
        dtable = torch.empty(table.shape, dtype=table.dtype, device=q.device)
        partials = torch.empty(groups, heads, window**4, dtype=torch.float32, device=q.device)
    if q.numel() == 0:
        return *grads, None if dtable is None else dtable.zero_()
    strides = (q.stride(), k.stride(), v.stride(), do.stride(), () if table is None else table.stride())
    with device_of(q):
        BACKWARD[wide][(heads * groups,)](
            q, k, v, table, do, (*grads, partials), (*strides, grads[0].stride()), *sizes, scale, **constants
        )
        if partials is not None:
            block = max(1, 1024 // constants["BLOCK_N"])
            _collect[(heads * triton.cdiv(len(table), block),)](
                partials.sum(0), dtable, heads, WINDOW=window, BLOCK=block, BLOCK_PAIRS=constants["BLOCK_N"]
            )
    return *grads, dtable
