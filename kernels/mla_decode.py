"""Decoding with multi-head latent attention, absorbed: o = softmax(q c^T * scale) c', where c' are c's first R columns.

q (B, Nq, H, R + P), one cache (B, T, R + P) for all heads, seq_lens (B) -> o (B, Nq, H, R); DeepSeek-V3 has R = 512,
the rank of what keys and values are made of, P = 64 columns for rotary positions, and H = 128. The matrices that would
make keys and values of c are absorbed, by q before and by the projection of o behind. Pages, lengths and what a query
sees are those of decode_attention.

One program owns a split of a sequence's tokens and up to 64 of the Nq * H rows that attend to them. A tile of c is
loaded once: both products, s = q c^T and o = p c', read it in shared memory, beside q and the next tile on its way; o
is 64 x 512 sums in the registers of 8 warps. 128 heads are two programs side by side,
the second of which finds c in L2. They do 242 operations per byte of the cache, about what an H100 can while it reads
one. Parts of o, of 4 R + 8 bytes a row and split, are written and read once more, even of a single one (_split_kv.py).

DeepSeek-AI, DeepSeek-V2 (arXiv:2405.04434, section 2.1.2 and appendix C); FlashMLA
(https://github.com/deepseek-ai/FlashMLA).
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

MAX_RANK, MAX_ROPE = 512, 64
MOST_ROWS = 64
RESIDENT = 1  # programs at once on a multiprocessor


@triton.jit
def _attend(
    q_ptr, c_ptr, lens_ptr, table_ptr, out_ptr, state_ptr, strides, sizes, scale,
    RANK: tl.constexpr, ROPE: tl.constexpr, PAGE_SIZE: tl.constexpr, ROWS: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    q_strides, c_strides, table_strides = strides
    batch, head, split, row, first, stop, limit = place(lens_ptr, sizes, ROWS, BLOCK_N)
    heads, q_len = sizes[1], sizes[2]
    col = tl.arange(0, max(16, triton.next_power_of_2(RANK))).to(tl.int64)
    rope = tl.arange(0, max(16, triton.next_power_of_2(ROPE))).to(tl.int64)
    q_ptr += batch * q_strides[0] + (row // heads * q_strides[1] + row % heads * q_strides[2])[:, None]
    c_ptrs, r_ptrs = c_ptr + col[None, :] * c_strides[2], c_ptr + (RANK + rope)[None, :] * c_strides[2]
    inside, c_inside, r_inside = (row < q_len * heads)[:, None], (col < RANK)[None, :], (rope < ROPE)[None, :]
    q = tl.load(q_ptr + col[None, :] * q_strides[3], mask=inside & c_inside, other=0.0)
    q_rope = tl.load(q_ptr + (RANK + rope)[None, :] * q_strides[3], mask=inside & r_inside, other=0.0)
    slope = steep(scale)
    acc = tl.zeros((ROWS, col.shape[0]), tl.float32)
    state = (tl.zeros((ROWS,), tl.float32), tl.full((ROWS,), -float("inf"), tl.float32))
    page = look_up(table_ptr, table_strides, batch, first, stop, PAGE_SIZE, BLOCK_N)
    for start in tl.range(first, stop, BLOCK_N):
        next_page = look_up(table_ptr, table_strides, batch, start + BLOCK_N, stop, PAGE_SIZE, BLOCK_N)
        token, c_row = locate(page, c_strides, start, PAGE_SIZE, BLOCK_N)
        cached = (token < stop)[:, None]
        c = tl.load(c_ptrs + c_row[:, None], mask=cached & c_inside, other=0.0)
        r = tl.load(r_ptrs + c_row[:, None], mask=cached & r_inside, other=0.0)
        s = dot(q_rope, r.T, dot(q, c.T, None)) * sign(scale)
        s = tl.where(token[None, :] <= limit[:, None], s, -float("inf"))
        p, fade, state = soften(s, state, slope, 1)
        acc = dot(p.to(c.dtype), c, acc * fade[:, None])
        page = next_page
    leave(out_ptr, state_ptr, acc, state, (batch, head, split, row, limit), sizes, RANK, 1)


# By bytes of an element: ROWS, BLOCK_N, num_warps, num_stages. The second takes 216 KiB of the 227 of Hopper, and more
# than others have; the last fits into less than 100 KiB.
TILES = {2: [(64, 32, 8, 2), (64, 64, 8, 2), (32, 32, 8, 2), (16, 16, 4, 1)], 4: [(16, 16, 8, 1), (16, 16, 4, 1)]}
KERNELS = {
    size: tune(
        [
            triton.Config({"ROWS": rows, "BLOCK_N": n}, num_warps=warps, num_stages=stages)
            for rows, n, warps, stages in points
        ],
        key=["RANK", "ROPE"],
    )(_attend)
    for size, points in TILES.items()
}


def _check(q: Tensor, kv_cache: Tensor, kv_lora_rank: int) -> None:
    for name, x, rank in (("q", q, 4), ("kv_cache", kv_cache, 3)):
        expect_tensor(name, x, dtypes=FLOATS, rank=rank)
        expect_like(name, x, "q", q)
        expect_inference(name, x)
    if isinstance(kv_lora_rank, bool) or not isinstance(kv_lora_rank, int):
        raise TypeError(f"kv_lora_rank: expected an int, got {type(kv_lora_rank).__name__}")
    expect(1 <= kv_lora_rank <= MAX_RANK, "kv_lora_rank", f"a number from 1 to {MAX_RANK}", kv_lora_rank)
    width, widest = q.shape[3], kv_lora_rank + MAX_ROPE
    expect(kv_lora_rank < width <= widest, "q", f"a width from {kv_lora_rank + 1} to {widest}", width)
    expect(kv_cache.shape[2] == width, "kv_cache", f"the width of q, {width}", kv_cache.shape[2])


def mla_decode(
    q: Tensor,
    kv_cache: Tensor,
    seq_lens: Tensor,
    *,
    scale: float,
    kv_lora_rank: int = 512,
    block_table: Tensor | None = None,
) -> Tensor:
    """softmax(q c^T * scale) c[:kv_lora_rank] over the cached rows c of each sequence; deterministic; no gradients.

    q (B, Nq, H, R + P), kv_cache (B, T, R + P) -> (B, Nq, H, R), contiguous; float32, float16 or bfloat16, of any
    strides; R = kv_lora_rank from 1 to 512, P from 1 to 64. With block_table (B, M), kv_cache is a pool of pages (N,
    page size, R + P), and entry m of a sequence is the page of its tokens from m * page size on. Entries that no token
    needs may be anything; the others are not checked, for they lie on the device. seq_lens (B) and block_table are
    int32 or int64. A length counts the new tokens too, which are in the cache already, and ends at what the cache can
    hold. Query i sees the tokens j <= seq_len - Nq + i; one that sees none gives zeros. `scale` has no default, for it
    belongs to the width of a head before the absorption, 192 in DeepSeek-V3. DeepSeek-V2 (arXiv:2405.04434).

    Raises:
        TypeError: an argument is of the wrong type or dtype.
        ValueError: shapes that do not go together, a width beyond what is said, an infinite scale, another device, or
            an argument that asks for a gradient.
    """
    _check(q, kv_cache, kv_lora_rank)
    split_kv.expect_lengths(seq_lens, block_table, q)
    if scale is None:
        raise TypeError("scale: expected a number, got None")
    split_kv.expect_scale(scale)
    (batch, q_len, heads, width), page_size = q.shape, kv_cache.shape[1]
    if block_table is None:
        expect(len(kv_cache) == batch, "kv_cache", f"the batch size of q, {batch}", len(kv_cache))
    o = torch.empty(batch, q_len, heads, kv_lora_rank, dtype=q.dtype, device=q.device)
    if o.numel() == 0:
        return o
    rows, capacity = q_len * heads, page_size if block_table is None else page_size * block_table.shape[1]
    splits = split_kv.split_count(batch * triton.cdiv(rows, MOST_ROWS), capacity, RESIDENT * processors(q))
    # 64 x 512 sums fill the registers: none are left to round what is stored, and so even one split is combined.
    acc, state = split_kv.parts(o, splits, direct=False)
    strides: Any = (q.stride(), kv_cache.stride(), () if block_table is None else block_table.stride())
    sizes = (1, heads, q_len, capacity, splits, seq_lens.stride(0))
    with device_of(q):
        KERNELS[q.element_size()][lambda meta: (batch * splits * triton.cdiv(rows, meta["ROWS"]),)](
            q, kv_cache, seq_lens, block_table, acc, state, strides, sizes, float(scale),
            RANK=kv_lora_rank, ROPE=width - kv_lora_rank, PAGE_SIZE=0 if block_table is None else page_size,
        )  # fmt: skip
    split_kv.combine(acc, state, o, float(scale))
    return o
