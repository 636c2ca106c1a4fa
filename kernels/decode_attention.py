"""Attention of the newest queries of each sequence to all that is cached of it: o = softmax(q k^T * scale) v.

q (B, Nq, Hq, D), caches of keys and values (B, T, Hkv, D) and (B, T, Hkv, Dv), seq_lens (B) -> o (B, Nq, Hq, Dv).
Tokens come before heads, as models write them. With pages the caches are (P, page size, Hkv, ...), and block_table
(B, M) says which page holds a sequence's tokens from m * page size on; without, a sequence is one page of T tokens.
Query i of Nq sees the tokens j <= seq_len - Nq + i: one sees all, those of speculative decoding each other's past.

Decoding is bound by reading the cache. One program owns a split of a sequence's tokens for one key head, and all of the
Nq * Hq / Hkv rows of queries that attend to it: keys and values come from memory once. Tokens are the tall side of both
products, s^T = k q^T and o^T = v^T p^T: tensor cores want 64 rows, of which there are as many tokens, but few queries,
which are padded to 16. Parts of o, of 4 Dv + 8 bytes a row and split, are written and read once more (_split_kv.py).

Dao et al., Flash-Decoding (https://crfm.stanford.edu/2023/10/12/flashdecoding.html); Kwon et al., PagedAttention
(arXiv:2309.06180); Ainslie et al., GQA (arXiv:2305.13245).
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels import _split_kv as split_kv
from kernels._launch import FLOATS, device_of, expect, expect_inference, expect_like, expect_tensor, processors, tune
from kernels._split_kv import dot, leave, locate, look_up, place, sign, soften, steep

MAX_HEAD_DIM = 256
MOST_ROWS = 32  # more are several programs, which read the same tokens
RESIDENT = 2  # programs at once on a multiprocessor: each takes up to half of its shared memory


@triton.jit
def _attend(
    q_ptr, k_ptr, v_ptr, lens_ptr, table_ptr, out_ptr, state_ptr, strides, sizes, scale,
    HEAD_DIM: tl.constexpr, V_HEAD_DIM: tl.constexpr, PAGE_SIZE: tl.constexpr,
    ROWS: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    q_strides, k_strides, v_strides, table_strides = strides
    batch, head, split, row, first, stop, limit = place(lens_ptr, sizes, ROWS, BLOCK_N)
    group, q_len = sizes[1], sizes[2]
    col = tl.arange(0, max(16, triton.next_power_of_2(HEAD_DIM))).to(tl.int64)
    v_col = tl.arange(0, max(16, triton.next_power_of_2(V_HEAD_DIM))).to(tl.int64)
    q_row = batch * q_strides[0] + row // group * q_strides[1] + (head * group + row % group) * q_strides[2]
    inside = (row < q_len * group)[:, None] & (col < HEAD_DIM)[None, :]
    q = tl.load(q_ptr + q_row[:, None] + col[None, :] * q_strides[3], mask=inside, other=0.0)
    slope = steep(scale)
    k_ptrs = k_ptr + head * k_strides[2] + col[None, :] * k_strides[3]
    v_ptrs = v_ptr + head * v_strides[2] + v_col[None, :] * v_strides[3]
    acc = tl.zeros((v_col.shape[0], ROWS), tl.float32)
    state = (tl.zeros((ROWS,), tl.float32), tl.full((ROWS,), -float("inf"), tl.float32))
    page = look_up(table_ptr, table_strides, batch, first, stop, PAGE_SIZE, BLOCK_N)
    for start in tl.range(first, stop, BLOCK_N):
        next_page = look_up(table_ptr, table_strides, batch, start + BLOCK_N, stop, PAGE_SIZE, BLOCK_N)
        token, k_row = locate(page, k_strides, start, PAGE_SIZE, BLOCK_N)
        cached = (token < stop)[:, None]
        k = tl.load(k_ptrs + k_row[:, None], mask=cached & (col < HEAD_DIM)[None, :], other=0.0)
        s = dot(k, q.T, None) * sign(scale)
        s = tl.where(token[:, None] <= limit[None, :], s, -float("inf"))
        p, fade, state = soften(s, state, slope, 0)
        _, v_row = locate(page, v_strides, start, PAGE_SIZE, BLOCK_N)
        v = tl.load(v_ptrs + v_row[:, None], mask=cached & (v_col < V_HEAD_DIM)[None, :], other=0.0)
        acc = dot(v.T, p.to(v.dtype), acc * fade[None, :])
        page = next_page
    leave(out_ptr, state_ptr, acc, state, (batch, head, split, row, limit), sizes, V_HEAD_DIM, 0)


# By bytes of an element and head dimension: BLOCK_N, num_warps and num_stages, one more where shared memory is small.
TILES = {
    (2, 64): [(128, 4, 3), (128, 4, 2)], (2, 128): [(64, 4, 3), (64, 4, 2)], (2, 256): [(64, 4, 2), (32, 4, 2)],
    (4, 64): [(32, 4, 3)], (4, 128): [(16, 4, 3)], (4, 256): [(16, 8, 2)],
}  # fmt: skip
KERNELS = {
    kind: tune(
        [triton.Config({"BLOCK_N": n}, num_warps=warps, num_stages=stages) for n, warps, stages in points],
        key=["HEAD_DIM", "V_HEAD_DIM", "ROWS"],
    )(_attend)
    for kind, points in TILES.items()
}


def _check(q: Tensor, k_cache: Tensor, v_cache: Tensor) -> None:
    for name, x in (("q", q), ("k_cache", k_cache), ("v_cache", v_cache)):
        expect_tensor(name, x, dtypes=FLOATS, rank=4)
        expect(1 <= x.shape[3] <= MAX_HEAD_DIM, name, f"a head dimension from 1 to {MAX_HEAD_DIM}", x.shape[3])
        expect_like(name, x, "q", q)
        expect_inference(name, x)
    kv_heads, width = k_cache.shape[2:]
    expect(width == q.shape[3], "k_cache", f"the head dimension of q, {q.shape[3]}", width)
    like_k = v_cache.shape[:3] == k_cache.shape[:3]
    expected = f"the pages, tokens and heads of k_cache, {tuple(k_cache.shape[:3])}"
    expect(like_k, "v_cache", expected, f"shape {tuple(v_cache.shape)}")
    shared = kv_heads > 0 and q.shape[2] > 0 and q.shape[2] % kv_heads == 0
    expect(shared, "q", f"a positive multiple of the {kv_heads} heads of k_cache as number of heads", q.shape[2])


def decode_attention(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    seq_lens: Tensor,
    *,
    block_table: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """softmax(q k^T * scale) v over the cached tokens of each sequence; deterministic. For inference: no gradients.

    q (B, Nq, Hq, D), k_cache (B, T, Hkv, D), v_cache (B, T, Hkv, Dv) -> (B, Nq, Hq, Dv), contiguous; float32, float16
    or bfloat16, of any strides. With block_table (B, M), caches are pools of pages (P, page size, Hkv, ...), and entry
    m of a sequence is the page of its tokens from m * page size on. Entries that no token needs may be anything; the
    others are not checked, for they lie on the device. seq_lens (B) and block_table are int32 or int64. A length counts
    the new tokens too, whose keys and values are in the cache already, and ends at what the cache can hold. Query i
    sees the tokens j <= seq_len - Nq + i; one that sees none gives zeros. D and Dv from 1 to 256; Hq is a multiple of
    Hkv; `scale` is any number that is finite in float32, D^-0.5 by default. PagedAttention (arXiv:2309.06180).

    Raises:
        TypeError: an argument is of the wrong type or dtype.
        ValueError: shapes that do not go together, a head dimension above 256, an infinite scale, another device, or an
            argument that asks for a gradient.
    """
    _check(q, k_cache, v_cache)
    split_kv.expect_lengths(seq_lens, block_table, q)
    split_kv.expect_scale(scale)
    (batch, q_len, num_heads, dim), (page_size, kv_heads, v_dim) = q.shape, v_cache.shape[1:]
    if block_table is None:
        expect(len(k_cache) == batch, "k_cache", f"the batch size of q, {batch}", len(k_cache))
    o = torch.empty(batch, q_len, num_heads, v_dim, dtype=q.dtype, device=q.device)
    if o.numel() == 0:
        return o
    capacity = page_size if block_table is None else page_size * block_table.shape[1]
    rows = q_len * (num_heads // kv_heads)
    height = min(MOST_ROWS, max(16, triton.next_power_of_2(rows)))
    programs = batch * kv_heads * triton.cdiv(rows, height)
    splits = split_kv.split_count(programs, capacity, RESIDENT * processors(q))
    acc, state = split_kv.parts(o, splits)
    scale = dim**-0.5 if scale is None else float(scale)
    table_strides = () if block_table is None else block_table.stride()
    strides: Any = (q.stride(), k_cache.stride(), v_cache.stride(), table_strides)
    sizes = (kv_heads, num_heads // kv_heads, q_len, capacity, splits, seq_lens.stride(0))
    width = max(64, triton.next_power_of_2(max(dim, v_dim)))
    with device_of(q):
        KERNELS[q.element_size(), width][(programs * splits,)](
            q, k_cache, v_cache, seq_lens, block_table, acc, state, strides, sizes, scale,
            HEAD_DIM=dim, V_HEAD_DIM=v_dim, PAGE_SIZE=0 if block_table is None else page_size, ROWS=height,
        )  # fmt: skip
    split_kv.combine(acc, state, o, scale)
    return o
