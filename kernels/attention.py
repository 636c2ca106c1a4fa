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

from itertools import product
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels._launch import FLOATS, device_of, expect, expect_like, expect_tensor, tune

INTERPRETED = tl.constexpr(bool(triton.knobs.runtime.interpret))
LOG2E = tl.constexpr(1.4426950408889634)
MAX_HEAD_DIM = 256
L2_BYTES = 16 << 20  # the share of L2 for what side-by-side heads stream
UNMASKED = 1 << 30


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
    """HEIGHT rows from `start` on of a (rows, WIDTH) matrix, padded with zeros to a power of two that fits a dot."""
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
def _walk(k_ptr, v_ptr, strides, sizes, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """This program's queries, their keys, the last key that each row sees, where whole tiles and all keys end."""
    batches, kv_heads, group, q_len, k_len, shift, together = sizes
    tiles = tl.cdiv(q_len, BLOCK_M)
    tile, head = _place(tiles, batches * kv_heads * group, together)
    start = (tiles - 1 - tile) * BLOCK_M  # under a causal mask the last queries see most: heaviest first
    batch, h = head // (kv_heads * group), head % (kv_heads * group)
    k_head = k_ptr + batch * strides[1][0] + h // group * strides[1][1]
    v_head = v_ptr + batch * strides[2][0] + h // group * strides[2][1]
    limit = tl.minimum(start + tl.arange(0, BLOCK_M) + shift, k_len - 1)
    whole = tl.maximum(tl.minimum(start + shift + 1, k_len), 0) // BLOCK_N * BLOCK_N
    stop = tl.minimum(start + BLOCK_M + shift, k_len)
    return (start, batch, h, head), (k_head, v_head, strides[1], strides[2], k_len), limit, whole, stop


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
        # Subtract, then scale: a fused multiply-add rounds the scaled peak, which at huge scores is off by more than 1.
        p = tl.exp2((s - base[:, None]) * slope)
        fade = tl.exp2((peak_before - base) * slope)
        total = total * fade + tl.sum(p, 1)
        v = _tile(v_ptr, v_strides, start, k_len, V_HEAD_DIM, BLOCK_N, MASKED)
        acc = _dot(p.to(v.dtype), v, acc * fade[:, None])
    return acc, total, peak


@triton.jit
def _forward_kernel(
    q_ptr, k_ptr, v_ptr, o_ptr, lse_ptr, strides, sizes, scale,
    HEAD_DIM: tl.constexpr, V_HEAD_DIM: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    at, keys, limit, whole, stop = _walk(k_ptr, v_ptr, strides, sizes, BLOCK_M, BLOCK_N)
    start, batch, h, head = at
    q_len = sizes[3]
    q = _tile(q_ptr + batch * strides[0][0] + h * strides[0][1], strides[0], start, q_len, HEAD_DIM, BLOCK_M, True)
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
    _put(o_ptr + head * q_len * V_HEAD_DIM, o, start, q_len, V_HEAD_DIM)


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
        q = _tile(q_ptr + head * q_strides[1], q_strides, start, q_len, HEAD_DIM, BLOCK_M, MASKED)
        do = _tile(do_ptr + head * do_strides[1], do_strides, start, q_len, V_HEAD_DIM, BLOCK_M, MASKED)
        lse = tl.load(lse_ptr + head * q_len + row, row < q_len, other=float("inf"))
        delta = tl.load(delta_ptr + head * q_len + row, row < q_len, other=0.0)
        p = tl.exp2(_dot(k, q.T, None) * slope - lse[None, :])
        if MASKED:
            p = tl.where(limit[:, None] <= row[None, :], p, 0.0)
        dv = _dot(p.to(do.dtype), do, dv)
        ds = p * (_dot(v, do.T, None) - delta[None, :])
        dk = _dot(ds.to(q.dtype), q, dk)
    return dk, dv


@triton.jit
def _key_kernel(
    q_ptr, k_ptr, v_ptr, do_ptr, lse_ptr, delta_ptr, grad_ptrs, strides, sizes, scale,
    HEAD_DIM: tl.constexpr, V_HEAD_DIM: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    batches, kv_heads, group, q_len, k_len, shift, together = sizes
    q_strides, k_strides, v_strides, do_strides = strides
    tile, kv_head = _place(tl.cdiv(k_len, BLOCK_N), batches * kv_heads, together)
    start = tile * BLOCK_N  # under a causal mask the first keys are seen by most: heaviest first
    batch, h = kv_head // kv_heads, kv_head % kv_heads
    k = _tile(k_ptr + batch * k_strides[0] + h * k_strides[1], k_strides, start, k_len, HEAD_DIM, BLOCK_N, True)
    v = _tile(v_ptr + batch * v_strides[0] + h * v_strides[1], v_strides, start, k_len, V_HEAD_DIM, BLOCK_N, True)
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
    _put(grad_ptrs[0] + kv_head * k_len * HEAD_DIM, dk * tl.where(k_len > 1, scale, 0.0), start, k_len, HEAD_DIM)
    _put(grad_ptrs[1] + kv_head * k_len * V_HEAD_DIM, dv, start, k_len, V_HEAD_DIM)


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
    q_ptr, k_ptr, v_ptr, do_ptr, lse_ptr, delta_ptr, dq_ptr, strides, sizes, scale,
    HEAD_DIM: tl.constexpr, V_HEAD_DIM: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    at, keys, limit, whole, stop = _walk(k_ptr, v_ptr, strides, sizes, BLOCK_M, BLOCK_N)
    start, batch, h, head = at
    q_strides, do_strides, q_len = strides[0], strides[3], sizes[3]
    q = _tile(q_ptr + batch * q_strides[0] + h * q_strides[1], q_strides, start, q_len, HEAD_DIM, BLOCK_M, True)
    do = _tile(do_ptr + batch * do_strides[0] + h * do_strides[1], do_strides, start, q_len, V_HEAD_DIM, BLOCK_M, True)
    row = start + tl.arange(0, BLOCK_M)
    lse = tl.load(lse_ptr + head * q_len + row, row < q_len, other=float("inf"))
    delta = tl.load(delta_ptr + head * q_len + row, row < q_len, other=0.0)
    dq = tl.zeros(q.shape, tl.float32)
    slope = scale * LOG2E
    dq = _descend(dq, q, do, lse, delta, keys, 0, whole, limit, slope, HEAD_DIM, V_HEAD_DIM, BLOCK_N, False)
    dq = _descend(dq, q, do, lse, delta, keys, whole, stop, limit, slope, HEAD_DIM, V_HEAD_DIM, BLOCK_N, True)
    _put(dq_ptr + head * q_len * HEAD_DIM, dq * tl.where(limit > 0, scale, 0.0)[:, None], start, q_len, HEAD_DIM)


def _tuned(kernel: Any, best: dict[int, tuple[int, int, int, int]]) -> dict[tuple[bool, int], Any]:
    """The kernel by causality and weight, tuned around the `best` known (BLOCK_M, BLOCK_N, num_warps, num_stages)."""
    found = {}
    for causal, (weight, (m, n, warps, stages)) in product((False, True), best.items()):
        rows, cols = ((x, min(128, 2 * x), max(16, x // 2)) for x in (m, n))
        points = dict.fromkeys([(m, n, warps, stages), *product(rows, cols, (4, 8), (stages, stages + 1))])
        grid = [
            triton.Config({"BLOCK_M": x, "BLOCK_N": y}, num_warps=warps, num_stages=stages)
            for x, y, warps, stages in list(points)[:16]
        ]
        found[causal, weight] = tune(grid, key=["HEAD_DIM", "V_HEAD_DIM"])(kernel)
    return found


FORWARD = _tuned(
    _forward_kernel,
    {128: (128, 64, 8, 2), 256: (128, 32, 8, 2), 512: (64, 32, 8, 2), 1024: (32, 16, 8, 1), 2048: (16, 16, 4, 1)},
)
KEY = _tuned(
    _key_kernel,
    {128: (32, 128, 8, 2), 256: (32, 64, 8, 2), 512: (16, 64, 8, 2), 1024: (16, 32, 8, 1), 2048: (16, 32, 8, 1)},
)
QUERY = _tuned(
    _query_kernel,
    {128: (128, 64, 8, 2), 256: (128, 32, 8, 2), 512: (64, 16, 8, 2), 1024: (32, 16, 4, 1), 2048: (32, 16, 4, 1)},
)


def _run(kernels: dict[Any, Any], tensors: tuple[Any, ...], strides: Any, causal: bool, scale: float) -> None:
    """Launch a tuned kernel over the tiles of the keys (KEY) or of the queries."""
    q, k, v = tensors[:3]
    (batch, num_heads, q_len, dim), (kv_heads, k_len), v_dim = q.shape, k.shape[1:3], v.shape[3]
    group, size = num_heads // kv_heads, q.element_size()
    heads, rows, block, streamed = num_heads, q_len, "BLOCK_M", k_len / group
    if kernels is KEY:
        heads, rows, block, streamed = kv_heads, k_len, "BLOCK_N", q_len * group
    together = max(1, int(L2_BYTES / (streamed * (dim + v_dim) * size)))
    sizes = (batch, kv_heads, group, q_len, k_len, k_len - q_len if causal else UNMASKED, together)
    # fp32 weighs twice its bytes: it bypasses the tensor cores, and its operands pass through registers.
    weight = max(128, triton.next_power_of_2(max(dim, v_dim)) * size * size // 2)
    with device_of(q):
        kernels[causal, weight][lambda meta: (batch * heads * triton.cdiv(rows, meta[block]),)](
            *tensors, strides, sizes, scale, HEAD_DIM=dim, V_HEAD_DIM=v_dim
        )


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float) -> Tensor:
        o = torch.empty((*q.shape[:3], v.shape[3]), dtype=q.dtype, device=q.device)
        lse = torch.empty(q.shape[:3], dtype=torch.float32, device=q.device)
        ctx.causal, ctx.scale = causal, scale
        if o.numel() and k.shape[2]:
            _run(FORWARD, (q, k, v, o, lse), (q.stride(), k.stride(), v.stride()), causal, scale)
        else:
            o.zero_()
        ctx.save_for_backward(q, k, v, o, lse)
        return o

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, do: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, o, lse = ctx.saved_tensors
        needs = ctx.needs_input_grad[:3]
        if not o.numel() or not k.shape[2]:
            return (
                *(torch.zeros_like(x) if need else None for x, need in zip((q, k, v), needs, strict=True)),
                None,
                None,
            )
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
            _run(KEY, (*inputs, (dk, dv)), strides, ctx.causal, ctx.scale)
        if needs[0]:
            dq = torch.empty(q.shape, dtype=q.dtype, device=q.device)
            _run(QUERY, (*inputs, dq), strides, ctx.causal, ctx.scale)
        return dq, dk if needs[1] else None, dv if needs[2] else None, None, None


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
