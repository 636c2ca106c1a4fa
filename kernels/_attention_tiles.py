"""What the forward and the backward of attention share: where a program stands, how tiles move, how both are tuned."""

from __future__ import annotations

from itertools import product
from typing import Any

import triton
import triton.language as tl

from kernels._launch import device_of, tune

Point = tuple[int, int, int, int]  # BLOCK_M, BLOCK_N, num_warps, num_stages
Tuned = dict[tuple[bool, int, int], Any]

LOG2E = tl.constexpr(1.4426950408889634)
L2_BYTES = 16 << 20  # the share of L2 for what side-by-side heads stream
UNMASKED = 1 << 30


@triton.jit
def dot(a, b, acc):
    """a @ b + acc in fp32."""
    return tl.dot(a, b, acc, input_precision="ieee")


@triton.jit
def place(tiles, heads, together):
    """The tile and head of this program: tiles in order within every `together` heads, so that those share L2."""
    program = tl.program_id(0).to(tl.int64)
    first = program // (tiles * together) * together
    width = tl.minimum(heads - first, together)
    rest = program - first * tiles
    return (rest // width).to(tl.int32), first + rest % width


@triton.jit
def load_tile(x_ptr, strides, start, rows, WIDTH: tl.constexpr, HEIGHT: tl.constexpr, MASKED: tl.constexpr):
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
def store_tile(x_ptr, x, start, rows, WIDTH: tl.constexpr):
    """Store a tile as rows from `start` on of a contiguous (rows, WIDTH) matrix."""
    row = start.to(tl.int64) + tl.arange(0, x.shape[0])
    col = tl.arange(0, x.shape[1])
    inside = (row < rows)[:, None] & (col < WIDTH)[None, :]
    tl.store(x_ptr + row[:, None] * WIDTH + col[None, :], x.to(x_ptr.dtype.element_ty), inside)


@triton.jit
def walk(k_ptr, v_ptr, strides, sizes, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """This program's queries, their keys, the last key that each row sees, where whole tiles and all keys end."""
    batches, kv_heads, group, q_len, k_len, shift, together = sizes
    tiles = tl.cdiv(q_len, BLOCK_M)
    tile, head = place(tiles, batches * kv_heads * group, together)
    start = (tiles - 1 - tile) * BLOCK_M  # under a causal mask the last queries see most: heaviest first
    batch, h = head // (kv_heads * group), head % (kv_heads * group)
    k_head = k_ptr + batch * strides[1][0] + h // group * strides[1][1]
    v_head = v_ptr + batch * strides[2][0] + h // group * strides[2][1]
    limit = tl.minimum(start + tl.arange(0, BLOCK_M) + shift, k_len - 1)
    whole = tl.maximum(tl.minimum(start + shift + 1, k_len), 0) // BLOCK_N * BLOCK_N
    stop = tl.minimum(start + BLOCK_M + shift, k_len)
    return (start, batch, h, head), (k_head, v_head, strides[1], strides[2], k_len), limit, whole, stop


def tuned(kernel: Any, best: dict[tuple[int, int], Point]) -> Tuned:
    """The kernel by causality, bytes of an element and head dimension, tuned over the `best` known and its neighbours.

    The best known are the largest that spill nowhere on sm_80, sm_90 and sm_100: BLOCK_M says how often keys are read.
    """
    return {
        (causal, *kind): tune([_config(*point) for point in _around(*first)], key=["HEAD_DIM", "V_HEAD_DIM"])(kernel)
        for causal, (kind, first) in product((False, True), best.items())
    }


def _config(m: int, n: int, warps: int, stages: int) -> triton.Config:
    return triton.Config({"BLOCK_M": m, "BLOCK_N": n}, num_warps=warps, num_stages=stages)


def _around(m: int, n: int, warps: int, stages: int) -> list[Point]:
    """A point and those one step away from it, the ones that take less shared memory first."""
    steps = [(m, n, warps, stages), (m, n // 2, warps, stages), (m // 2, n, warps, stages)]
    steps += [(m, 2 * n, warps, stages), (2 * m, n, warps, stages), (m, n, warps, stages + 1)]
    return [point for point in steps if all(16 <= x <= 128 for x in point[:2])]


def launch(
    kernels: Tuned, tensors: tuple[Any, ...], strides: Any, causal: bool, scale: float, over_keys: bool = False
) -> None:
    """Launch a tuned kernel over the tiles of the queries, or of the keys. `tensors` begins with q, k and v."""
    q, k, v = tensors[:3]
    (batch, num_heads, q_len, dim), (kv_heads, k_len), v_dim = q.shape, k.shape[1:3], v.shape[3]
    group, size = num_heads // kv_heads, q.element_size()
    heads, rows, block, streamed = num_heads, q_len, "BLOCK_M", k_len / group
    if over_keys:
        heads, rows, block, streamed = kv_heads, k_len, "BLOCK_N", q_len * group
    together = max(1, int(L2_BYTES / (streamed * (dim + v_dim) * size)))
    sizes = (batch, kv_heads, group, q_len, k_len, k_len - q_len if causal else UNMASKED, together)
    width = max(64, triton.next_power_of_2(max(dim, v_dim)))
    with device_of(q):
        kernels[causal, size, width][lambda meta: (batch * heads * triton.cdiv(rows, meta[block]),)](
            *tensors, strides, sizes, scale, HEAD_DIM=dim, V_HEAD_DIM=v_dim
        )
