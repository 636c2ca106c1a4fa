"""The forward of window attention where a tile of whole rows of scores is too large for registers: keys in tiles."""

from __future__ import annotations

import triton
import triton.language as tl

from kernels._attention_tiles import LOG2E, dot
from kernels._launch import tune
from kernels._window_tiles import divided, load_bias, load_tokens, parts, store_tokens, tokens
from kernels.attention import soften

MAX_SCORES = 64 * 128  # of whole rows in a tile


@triton.jit
def _bias_of_keys(
    table_ptr, strides, head, first, first_key, WINDOW: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr
):
    """The biases of a tile, -inf for keys that are not there: no other mask need be kept for these."""
    bias = load_bias(table_ptr, strides, head, first, first_key, WINDOW, BLOCK_M, BLOCK_N).to(tl.float32)
    return tl.where((first_key + tl.arange(0, BLOCK_N) < WINDOW * WINDOW)[None, :], bias, -float("inf"))


@triton.jit
def _parts_of_tiles(shift, WINDOW: tl.constexpr, BLOCK_N: tl.constexpr):
    """The parts of all keys, those of each tile two bits above those of the one before."""
    packed = tl.zeros((BLOCK_N,), tl.int32)
    for tile in tl.static_range(triton.cdiv(WINDOW * WINDOW, BLOCK_N)):
        packed |= parts(tile * BLOCK_N, shift, WINDOW, BLOCK_N, 0) << 2 * tile
    return packed


@triton.jit
def _attend(
    q, k_ptr, v_ptr, strides, size, head, window, biases, query_parts, key_parts, scale,
    DIM: tl.constexpr, WINDOW: tl.constexpr, SHIFTED: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """What a tile of queries takes from a window, by an online softmax."""
    acc = tl.zeros(q.shape, tl.float32)
    total, peak = tl.zeros((q.shape[0],), tl.float32), tl.full((q.shape[0],), -float("inf"), tl.float32)
    divide = divided(window, size, WINDOW) % 4
    for tile in tl.static_range(len(biases)):
        bias = biases[tile]
        at, there = tokens(window, tile * BLOCK_N, size, WINDOW, bias.shape[1])
        k = load_tokens(k_ptr, strides[1], head, at, there, DIM)
        v = load_tokens(v_ptr, strides[2], head, at, there, DIM)
        s = dot(q, k.T, None) * scale + bias
        if SHIFTED:
            if bias.shape[1] != BLOCK_N:
                key_parts = parts(tile * BLOCK_N, size[2], WINDOW, bias.shape[1], 0) << 2 * tile
            # The differences of all tiles are one tile of registers, and what divides here is one number for each.
            apart = query_parts[:, None] ^ key_parts[None, :]
            s = tl.where((apart & (divide << 2 * tile)) == 0, s, -float("inf"))
        p, fade, total, peak = soften(s, total, peak, LOG2E)
        acc = dot(p.to(v.dtype), v, acc * fade[:, None])
    return acc * (1 / total)[:, None]


@triton.jit
def _forward_long(
    q_ptr, k_ptr, v_ptr, table_ptr, o_ptr, strides, size, counts, scale,
    DIM: tl.constexpr, WINDOW: tl.constexpr, SHIFTED: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    TOKENS: tl.constexpr = WINDOW * WINDOW
    TILES: tl.constexpr = triton.cdiv(TOKENS, BLOCK_M)
    windows, heads = counts
    head, group = tl.program_id(0) % heads, tl.program_id(0) // heads
    first = group % TILES * BLOCK_M
    biases = ()
    for tile in tl.static_range(triton.cdiv(TOKENS, BLOCK_N)):
        # The last tile is as narrow as the keys that are left: of 144, 16 beside four times 32.
        biases += (  # type: ignore[assignment]
            _bias_of_keys(
                table_ptr, strides[4], head, first, tile * BLOCK_N, WINDOW, BLOCK_M,
                min(BLOCK_N, max(16, triton.next_power_of_2(TOKENS - tile * BLOCK_N))),
            ),
        )  # fmt: skip
    query_parts = parts(first, size[2], WINDOW, BLOCK_M, 0) * 0x5555
    key_parts = _parts_of_tiles(size[2], WINDOW, BLOCK_N)
    for window in tl.range(group // TILES, windows, tl.num_programs(0) // (heads * TILES)):
        at, inside = tokens(window, first, size, WINDOW, BLOCK_M)
        q = load_tokens(q_ptr, strides[0], head, at, inside, DIM)
        o = _attend(
            q, k_ptr, v_ptr, strides, size, head, window, biases, query_parts, key_parts, scale,
            DIM, WINDOW, SHIFTED, BLOCK_N,
        )  # fmt: skip
        store_tokens(o_ptr, o, strides[3], head, at, inside, DIM)


# 4 warps: on sm_90 each of 8 would compute what another does, for a wgmma has 64 rows.
FORWARD_LONG = tune(
    [
        triton.Config({"BLOCK_N": n}, num_warps=warps, num_stages=stages)
        for n, warps, stages in ((32, 4, 2), (64, 4, 2), (64, 8, 2))
    ],
    key=["DIM", "WINDOW"],
)(_forward_long)
