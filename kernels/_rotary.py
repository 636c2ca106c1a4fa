"""What all rotary embeddings share: pairs of entries in registers, the rotation of q and k in one launch, its gradient.

A tile is (tokens, heads, half): `half` counts the pairs of one head, and its cos and sin are read once for all heads of
the tile. Pairs are the two halves of what is turned, or neighbours, which one wide access brings and `split` tells
apart.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels._launch import device_of

TILE = 2048  # two 128-bit bf16 accesses for each thread of 4 warps: one per half
BLOCK_HEADS = 8  # a table in fp32 is then an eighth of what a tile moves
Sections = tuple[int, int] | None


@triton.jit
def place(index, tokens, chunks, BLOCK_TOKENS: tl.constexpr):
    """The batch, the tokens (a column) and the chunk of heads of a tile; chunks of the same tokens are neighbours."""
    tiles = tl.cdiv(tokens, BLOCK_TOKENS)
    index = tl.cast(index, tl.int64)
    tile = index // chunks
    token = tile % tiles * BLOCK_TOKENS + tl.arange(0, BLOCK_TOKENS)[:, None, None]
    return tile // tiles, token, (index % chunks).to(tl.int32)


@triton.jit
def heads_of(chunk, BLOCK_HEADS: tl.constexpr):
    """The heads of a chunk, a row."""
    return chunk.to(tl.int64) * BLOCK_HEADS + tl.arange(0, BLOCK_HEADS)[None, :, None]


@triton.jit
def load_table(table_ptr, strides, batch, token, tokens, sections, ROTARY_DIM: tl.constexpr):
    """cos or sin of the tokens: (tokens, 1, half), each pair from the axis of positions whose section it is in."""
    HALF: tl.constexpr = ROTARY_DIM // 2
    pair = tl.arange(0, triton.next_power_of_2(HALF))[None, None, :]
    table_ptrs = table_ptr + batch * strides[1] + token * strides[2] + pair
    if sections is not None:
        axis = (pair >= sections[0]).to(tl.int64) + (pair >= sections[1]).to(tl.int64)
        table_ptrs += axis * strides[0]
    return tl.load(table_ptrs, mask=(token < tokens) & (pair < HALF), other=0.0).to(tl.float32)


@triton.jit
def load_pairs(x_ptrs, inside, DIM: tl.constexpr, INTERLEAVED: tl.constexpr):
    """The first and the second entries, in fp32, of the pairs in rows of DIM entries; zeros outside."""
    HALF: tl.constexpr = DIM // 2
    BLOCK_HALF: tl.constexpr = triton.next_power_of_2(HALF)
    if INTERLEAVED:
        col = tl.arange(0, 2 * BLOCK_HALF)[None, None, :]
        x = tl.load(x_ptrs + col, mask=inside & (col < DIM), other=0.0)
        first, second = tl.split(x.reshape(x.shape[0], x.shape[1], BLOCK_HALF, 2))
    else:
        col = tl.arange(0, BLOCK_HALF)[None, None, :]
        first = tl.load(x_ptrs + col, mask=inside & (col < HALF), other=0.0)
        second = tl.load(x_ptrs + HALF + col, mask=inside & (col < HALF), other=0.0)
    return first.to(tl.float32), second.to(tl.float32)


@triton.jit
def store_pairs(y_ptrs, first, second, inside, DIM: tl.constexpr, INTERLEAVED: tl.constexpr):
    """The counterpart of `load_pairs`."""
    HALF: tl.constexpr = DIM // 2
    first, second = first.to(y_ptrs.dtype.element_ty), second.to(y_ptrs.dtype.element_ty)
    if INTERLEAVED:
        col = tl.arange(0, 2 * first.shape[2])[None, None, :]
        y = tl.join(first, second).reshape(first.shape[0], first.shape[1], 2 * first.shape[2])
        tl.store(y_ptrs + col, y, mask=inside & (col < DIM))
    else:
        col = tl.arange(0, first.shape[2])[None, None, :]
        tl.store(y_ptrs + col, first, mask=inside & (col < HALF))
        tl.store(y_ptrs + HALF + col, second, mask=inside & (col < HALF))


@triton.jit
def turn(first, second, cos, sin):
    """(first + i second) (cos + i sin)."""
    return first * cos - second * sin, second * cos + first * sin


@triton.jit
def _turn_heads(
    x_ptr, y_ptr, table_ptrs, x_strides, y_strides, table_strides, at, sections,
    HEAD_DIM: tl.constexpr, ROTARY_DIM: tl.constexpr, INTERLEAVED: tl.constexpr, INVERSE: tl.constexpr,
):  # fmt: skip
    batch, token, head, tokens, heads = at
    x_ptrs = x_ptr + batch * x_strides[0] + head * x_strides[1] + token * x_strides[2]
    y_ptrs = y_ptr + batch * y_strides[0] + head * y_strides[1] + token * y_strides[2]
    inside = (token < tokens) & (head < heads)
    # Before the table, which goes through shared memory to the heads: so all loads are under way before any is awaited.
    first, second = load_pairs(x_ptrs, inside, ROTARY_DIM, INTERLEAVED)
    if HEAD_DIM > ROTARY_DIM:
        col = ROTARY_DIM + tl.arange(0, triton.next_power_of_2(HEAD_DIM - ROTARY_DIM))[None, None, :]
        rest = tl.load(x_ptrs + col, mask=inside & (col < HEAD_DIM), other=0.0)
        tl.store(y_ptrs + col, rest, mask=inside & (col < HEAD_DIM))
    cos = load_table(table_ptrs[0], table_strides, batch, token, tokens, sections, ROTARY_DIM)
    sin = load_table(table_ptrs[1], table_strides, batch, token, tokens, sections, ROTARY_DIM)
    first, second = turn(first, second, cos, -sin if INVERSE else sin)
    store_pairs(y_ptrs, first, second, inside, ROTARY_DIM, INTERLEAVED)


@triton.jit
def _rotate_kernel(
    q_ptr, k_ptr, q_out_ptr, k_out_ptr, cos_ptr, sin_ptr, strides, sizes, sections,
    HEAD_DIM: tl.constexpr, ROTARY_DIM: tl.constexpr, INTERLEAVED: tl.constexpr, INVERSE: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr, BLOCK_HEADS: tl.constexpr,
):  # fmt: skip
    q_strides, k_strides, q_out_strides, k_out_strides, table_strides = strides
    tokens, num_heads, num_kv_heads = sizes
    q_chunks = tl.cdiv(num_heads, BLOCK_HEADS)
    chunks = q_chunks + tl.cdiv(num_kv_heads, BLOCK_HEADS)
    batch, token, chunk = place(tl.program_id(0), tokens, chunks, BLOCK_TOKENS)
    if chunk < q_chunks:
        _turn_heads(
            q_ptr, q_out_ptr, (cos_ptr, sin_ptr), q_strides, q_out_strides, table_strides,
            (batch, token, heads_of(chunk, BLOCK_HEADS), tokens, num_heads), sections,
            HEAD_DIM, ROTARY_DIM, INTERLEAVED, INVERSE,
        )  # fmt: skip
    else:
        _turn_heads(
            k_ptr, k_out_ptr, (cos_ptr, sin_ptr), k_strides, k_out_strides, table_strides,
            (batch, token, heads_of(chunk - q_chunks, BLOCK_HEADS), tokens, num_kv_heads), sections,
            HEAD_DIM, ROTARY_DIM, INTERLEAVED, INVERSE,
        )  # fmt: skip


def side_by_side(x: Tensor) -> Tensor:
    """`x` if the entries of a head lie side by side in memory, else a copy in which they do."""
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


def shape_of_tile(rotary_dim: int) -> dict[str, int]:
    """Launch options: as many tokens as fill the tile."""
    rows = max(1, TILE // triton.next_power_of_2(rotary_dim))
    heads = min(rows, BLOCK_HEADS)
    return {"BLOCK_TOKENS": rows // heads, "BLOCK_HEADS": heads, "num_warps": 4}


def tiles_of(x: Tensor, tile: dict[str, int]) -> int:
    """How many tiles q or k is made of."""
    batch, heads, tokens, _ = x.shape
    return batch * triton.cdiv(tokens, tile["BLOCK_TOKENS"]) * triton.cdiv(heads, tile["BLOCK_HEADS"])


def rotate(
    inputs: tuple[Tensor, Tensor], outputs: tuple[Tensor, Tensor], table: tuple[Tensor, Tensor],
    sections: Sections, interleaved: bool, inverse: bool,
) -> None:  # fmt: skip
    """Turn q and k into `outputs`, which may be the inputs: what is not turned then stays where it is."""
    (q, k), (cos, sin) = inputs, table
    rotary_dim = 2 * cos.shape[-1]
    in_place = outputs[0] is q
    tile = shape_of_tile(rotary_dim)
    programs = tiles_of(q, tile) + tiles_of(k, tile)
    if not programs:
        return
    strides = (*(x.stride()[:3] for x in (*inputs, *outputs)), cos.stride()[:3])
    with device_of(q):
        _rotate_kernel[(programs,)](
            *inputs, *outputs, cos, sin, strides, (q.shape[2], q.shape[1], k.shape[1]), sections,
            HEAD_DIM=rotary_dim if in_place else q.shape[3], ROTARY_DIM=rotary_dim, INTERLEAVED=interleaved,
            INVERSE=inverse, **tile,
        )  # fmt: skip


class Rotation(torch.autograd.Function):
    """q and k turned by a table, in place or not. The gradients are turned back and lie in memory as q and k do."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, sections: Sections, interleaved: bool, in_place: bool
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(cos, sin)
        if in_place:
            ctx.mark_dirty(q, k)
            outputs = q, k
        else:
            q, k = side_by_side(q), side_by_side(k)
            outputs = torch.empty_like(q), torch.empty_like(k)
        rotate((q, k), outputs, (cos, sin), sections, interleaved, inverse=False)
        ctx.how = sections, interleaved
        ctx.layouts = [torch.empty_like(out, device="meta").stride() for out in outputs]
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dq_out: Tensor, dk_out: Tensor) -> tuple[Tensor | None, ...]:
        inputs = side_by_side(dq_out), side_by_side(dk_out)
        dq, dk = (
            torch.empty_strided(x.shape, layout, dtype=x.dtype, device=x.device)
            for x, layout in zip(inputs, ctx.layouts, strict=True)
        )
        sections, interleaved = ctx.how
        rotate(inputs, (dq, dk), ctx.saved_tensors, sections, interleaved, inverse=True)
        return dq, dk, None, None, None, None, None


def apply(q: Tensor, k: Tensor, table: tuple[Tensor, Tensor], sections: Sections, interleaved: bool) -> Any:
    """q and k turned, recorded by autograd only if it asks for that."""
    if torch.is_grad_enabled() and (q.requires_grad or k.requires_grad):
        return Rotation.apply(q, k, *table, sections, interleaved, False)
    q, k = side_by_side(q), side_by_side(k)
    outputs = torch.empty_like(q), torch.empty_like(k)
    rotate((q, k), outputs, table, sections, interleaved, inverse=False)
    return outputs
