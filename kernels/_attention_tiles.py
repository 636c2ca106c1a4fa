"""What the forward and the backward of attention share: where a program stands, how tiles move, how both are tuned."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels._documents import bounds, find_document
from kernels._launch import device_of, tune

Point = tuple[int, int, int, int]  # BLOCK_M, BLOCK_N, num_warps, num_stages
Points = dict[tuple[int, int], Point]  # by bytes of an element and head dimension
Tuned = dict[tuple[bool, bool, int, int], Any]

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
        inside = tl.arange(0, HEIGHT) < rows - start
        x = tl.load(x_ptrs, inside[:, None] & (col < WIDTH)[None, :], other=0.0)
    elif WIDTH != BLOCK:
        x = tl.load(x_ptrs, (col < WIDTH)[None, :], other=0.0)
    else:
        x = tl.load(x_ptrs)
    return x


@triton.jit
def store_tile(x_ptr, x, start, rows, step, WIDTH: tl.constexpr):
    """Store a tile as rows from `start` on, `step` apart, of a contiguous matrix.

    What its addresses are made of waits in registers from before the loops on: little, and no upper half of `start`.
    """
    row = tl.arange(0, x.shape[0]).to(tl.int64)
    col = tl.arange(0, x.shape[1])
    inside = (tl.arange(0, x.shape[0]) < rows - start)[:, None] & (col < WIDTH)[None, :]
    first = tl.cast(start, tl.uint32).to(tl.int64) * step
    x_ptrs = x_ptr + first * WIDTH + (row[:, None] * step * WIDTH + col[None, :])
    tl.store(x_ptrs, x.to(x_ptr.dtype.element_ty), inside)


@triton.jit
def head_at(x_ptr, strides, batch, head, first):
    """The address of a sequence: of its row `first`, in one head."""
    return x_ptr + tl.cast(batch, tl.int64) * strides[0] + tl.cast(head, tl.int64) * strides[1] + first * strides[2]


@triton.jit
def stand(sizes, heads, KEYS: tl.constexpr, PACKED: tl.constexpr, BLOCK: tl.constexpr):
    """The first row of this program's tile, its batch and head; the first query and key of its sequence, their numbers.

    Queries come in reverse: under a causal mask the last see most, and the heaviest go first. Keys do so as they are.
    """
    batches, q_len, k_len, together = sizes[0], sizes[3], sizes[4], sizes[7]
    rows = k_len if KEYS else q_len
    if PACKED:
        slots = rows // BLOCK + batches + 1
        slot, head = place(slots, heads, together)
        slot = slot if KEYS else slots - 1 - slot
        cu_ptr = sizes[9] if KEYS else sizes[8]
        document = find_document(cu_ptr, slot, batches, BLOCK)
        start = (slot - tl.load(cu_ptr + document) // BLOCK - document) * BLOCK
        q_first, q_len = bounds(sizes[8], document, batches, q_len)
        k_first, k_len = bounds(sizes[9], document, batches, k_len)
        # A slot without a tile, and what stands behind all documents, sees nothing.
        busy = (document < batches) & (start < (k_len if KEYS else q_len))
        if KEYS:
            q_len = tl.where(busy, q_len, 0)
        else:
            k_len = tl.where(busy, k_len, 0)
        at = (start, 0, head.to(tl.int32), q_first, k_first, q_len, k_len)
    else:
        tiles = tl.cdiv(rows, BLOCK)
        tile, head = place(tiles, batches * heads, together)
        start = (tile if KEYS else tiles - 1 - tile) * BLOCK
        head = head.to(tl.int32)
        at = (start, head // heads, head % heads, 0, 0, q_len, k_len)
    return at


@triton.jit
def rows_of(at, length, first, heads, total, PACKED: tl.constexpr):
    """The first row of this program's head in an output, its step, and its place in one number per row."""
    batch, h = at[1], at[2]
    if PACKED:
        found = (first * heads + h, heads, h.to(tl.int64) * total + first)
    else:
        row = (batch * heads + h).to(tl.int64) * length
        found = (row, 1, row)
    return found


@triton.jit
def walk(
    k_ptr, v_ptr, strides, sizes,
    WINDOWED: tl.constexpr, PACKED: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """This program's queries, their keys, what rows see of them, and the stretches of tiles.

    The first row sees keys up to `high`, the others one more each, and from so many before that on. Of the tiles from
    `first` to `stop` those from `begin` to `whole` are seen whole by every row.
    """
    kv_heads, group, ahead, behind = sizes[1], sizes[2], sizes[5], sizes[6]
    at = stand(sizes, kv_heads * group, False, PACKED, BLOCK_M)
    start, batch, h, _, k_first, q_len, k_len = at
    k_head = head_at(k_ptr, strides[1], batch, h // group, k_first)
    v_head = head_at(v_ptr, strides[2], batch, h // group, k_first)
    low, high = start + k_len - q_len - behind, start + k_len - q_len + ahead
    whole = tl.maximum(tl.minimum(high + 1, k_len), 0) // BLOCK_N * BLOCK_N
    first, begin = 0, 0
    if WINDOWED:
        first = tl.maximum(low, 0) // BLOCK_N * BLOCK_N
        begin = tl.minimum(tl.cdiv(tl.maximum(low + BLOCK_M - 1, 0), BLOCK_N) * BLOCK_N, whole)
    spans = (first, begin, whole, tl.minimum(high + BLOCK_M, k_len))
    return at, (k_head, v_head, strides[1], strides[2], k_len), (high, ahead + behind, k_len), spans


@triton.jit
def stretch(spans, WINDOWED: tl.constexpr, MASKED: tl.constexpr):
    """From where to where a loop runs over whole tiles, or masked ones: those before `whole` stand a gap further on."""
    first, begin, whole, stop = spans
    if MASKED:
        found = (whole - (begin - first) if WINDOWED else whole, stop, whole, whole - begin)
    else:
        found = (begin, whole, whole, 0)
    return found


@triton.jit
def limit_of(seen, BLOCK_M: tl.constexpr):
    """The last key that each row sees; negative if none."""
    return tl.minimum(seen[0] + tl.arange(0, BLOCK_M), seen[2] - 1)


@triton.jit
def sees(start, seen, WINDOWED: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """Which of the keys from `start` on each row sees. From numbers, not rows: those would hold registers for long."""
    col = tl.arange(0, BLOCK_N)[None, :]
    if WINDOWED:  # columns as they are: what changes from tile to tile are two numbers a row, not one a column
        last = (limit_of(seen, BLOCK_M) - start)[:, None]
        first = (seen[0] - seen[1] - start + tl.arange(0, BLOCK_M))[:, None]
        inside = (col >= first) & (col <= last)
    else:
        inside = start + col <= limit_of(seen, BLOCK_M)[:, None]
    return inside


def tuned(kernel: Any, best: Points, windowed: Points | None = None) -> Tuned:
    """The kernel by mask, bytes of an element and head dimension, tuned over the `best` known and its neighbours.

    The best known are the largest that spill nowhere on sm_80, sm_90 and sm_100: BLOCK_M says how often keys are read.
    A window takes registers of its own: with one, `windowed` comes before `best`.
    """
    return {
        (causal, narrow, *kind): tune([_config(*point) for point in _around(*first)], key=["HEAD_DIM", "V_HEAD_DIM"])(
            kernel
        )
        for causal, narrow in product((False, True), repeat=2)
        for kind, first in (best | (windowed or {} if narrow else {})).items()
    }


def _config(m: int, n: int, warps: int, stages: int) -> triton.Config:
    return triton.Config({"BLOCK_M": m, "BLOCK_N": n}, num_warps=warps, num_stages=stages)


def _around(m: int, n: int, warps: int, stages: int) -> list[Point]:
    """A point and those one step away from it, the ones that take less shared memory first."""
    steps = [(m, n, warps, stages), (m, n // 2, warps, stages), (m // 2, n, warps, stages)]
    steps += [(m, 2 * n, warps, stages), (2 * m, n, warps, stages), (m, n, warps, stages + 1)]
    return [point for point in steps if all(16 <= x <= 128 for x in point[:2])]


def room(shape: Sequence[int], like: Tensor, packed: bool) -> Tensor:
    """Memory for an output (batch, heads, rows, width): contiguous; if packed, with all heads of a row side by side."""
    if not packed:
        return torch.empty(tuple(shape), dtype=like.dtype, device=like.device)
    _, heads, rows, width = shape
    return torch.empty((rows, heads, width), dtype=like.dtype, device=like.device).transpose(0, 1)[None]


class Seen(NamedTuple):
    """What queries see: keys up to their own, at most so many, of their own document (its bounds among q and k)."""

    causal: bool
    window: int | None
    documents: tuple[Tensor, ...] = ()


def launch(
    kernels: Tuned, tensors: tuple[Any, ...], strides: Any, seen: Seen, scale: float, over_keys: bool = False
) -> None:
    """Launch a tuned kernel over the tiles of the queries, or of the keys. `tensors` begins with q, k and v."""
    q, k, v = tensors[:3]
    (batch, num_heads, q_len, dim), (kv_heads, k_len), v_dim = q.shape, k.shape[1:3], v.shape[3]
    group, size = num_heads // kv_heads, q.element_size()
    heads, rows, block, streamed = num_heads, q_len, "BLOCK_M", k_len / group
    if over_keys:
        heads, rows, block, streamed = kv_heads, k_len, "BLOCK_N", q_len * group
    together = max(1, int(L2_BYTES / (streamed * (dim + v_dim) * size)))
    behind = 0 if seen.window is None else seen.window - 1
    ahead = 0 if seen.causal else UNMASKED if seen.window is None else behind
    packed = len(seen.documents) > 0
    batch = len(seen.documents[0]) - 1 if packed else batch
    sizes = (batch, kv_heads, group, q_len, k_len, ahead, behind, together, *seen.documents)
    width = max(64, triton.next_power_of_2(max(dim, v_dim)))

    def grid(meta: dict[str, int]) -> tuple[int]:
        tiles = rows // meta[block] + batch + 1 if packed else batch * triton.cdiv(rows, meta[block])
        return (heads * tiles,)

    options = {"HEAD_DIM": dim, "V_HEAD_DIM": v_dim, "WINDOWED": seen.window is not None, "PACKED": packed}
    with device_of(q):
        kernels[seen.causal, seen.window is not None, size, width][grid](*tensors, strides, sizes, scale, **options)
