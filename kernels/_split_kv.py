"""What attention of few queries to a long cache shares: how sequences are split, where tokens lie, how parts combine.

A sequence is cut into as many splits as its tokens give work to all multiprocessors; each split attends alone. A row of
a split leaves acc = sum 2^(s - peak) v, in fp32, and with it peak and total = sum 2^(s - peak): its log-sum-exp in two
parts, for the logarithm of a small total is lost beside a huge peak. Then one program per row combines its splits, in
their order and so without atomics: o = sum w acc / sum w total with w = 2^(peak - largest peak). Where one split is
enough its rows are o, and nothing is combined.

Dao et al., Flash-Decoding (https://crfm.stanford.edu/2023/10/12/flashdecoding.html); Kwon et al., PagedAttention
(arXiv:2309.06180); Milakov and Gimelshein, Online normalizer calculation (arXiv:1805.02867).
"""

from __future__ import annotations

from functools import cache
from math import ceil

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels._launch import device_of, expect, expect_device, expect_tensor

LOG2E = tl.constexpr(1.4426950408889634)
MOST_SPLITS = 128
SPLIT_TOKENS = 128  # at least, of the longest sequence there may be
SPLITS_AT_ONCE = 16


@triton.jit
def dot(a, b, acc):
    """a @ b + acc in fp32."""
    return tl.dot(a, b, acc, input_precision="ieee")


@triton.jit
def steep(scale):
    """|scale| in base 2. Positive, so that the peak stays a maximum, and never zero, for -inf * 0 is NaN."""
    return tl.maximum(tl.abs(scale) * LOG2E, 1.2e-38)


@triton.jit
def sign(scale):
    """What scores are multiplied by, which is exact, so that the slope of the softmax may be positive."""
    return tl.where(scale < 0, -1.0, 1.0)


@triton.jit
def place(lens_ptr, sizes, ROWS: tl.constexpr, BLOCK_N: tl.constexpr):
    """This program's batch, key head, split and rows, the first and last of its tokens, the last that each row sees.

    Neighbours read the same tokens: first the tiles of rows go round, then key heads, whose keys lie side by side.
    """
    kv_heads, group, q_len, capacity, splits, lens_stride = sizes
    tiles = tl.cdiv(q_len * group, ROWS)
    rest = tl.program_id(0) // tiles
    row = tl.program_id(0) % tiles * ROWS + tl.arange(0, ROWS)
    head, rest = (rest % kv_heads).to(tl.int64), rest // kv_heads
    split, batch = rest % splits, (rest // splits).to(tl.int64)
    length = tl.minimum(tl.load(lens_ptr + batch * lens_stride), capacity).to(tl.int32)
    tokens = tl.cdiv(tl.cdiv(length, BLOCK_N), splits) * BLOCK_N
    first = split * tokens
    stop = tl.minimum(first + tokens, length)
    limit = length - q_len + row // group
    return batch, head, split, row.to(tl.int64), first, stop, limit


@triton.jit
def look_up(table_ptr, strides, batch, start, stop, PAGE_SIZE: tl.constexpr, BLOCK_N: tl.constexpr):
    """The page that a tile lies in, or that of each of its tokens; without a table a sequence is one page.

    Tiles are looked up one ahead, so that no load waits for the place where it is to begin.
    """
    if table_ptr is None:
        page = batch
    elif PAGE_SIZE % BLOCK_N == 0:
        page = tl.load(table_ptr + batch * strides[0] + start // PAGE_SIZE * strides[1], mask=start < stop, other=0)
    else:
        token = start + tl.arange(0, BLOCK_N)
        page = tl.load(table_ptr + batch * strides[0] + token // PAGE_SIZE * strides[1], mask=token < stop, other=0)
    return page.to(tl.int64)


@triton.jit
def locate(page, strides, start, PAGE_SIZE: tl.constexpr, BLOCK_N: tl.constexpr):
    """The tokens of a tile, and how far from the first of a cache they lie; without pages PAGE_SIZE is zero."""
    token = start + tl.arange(0, BLOCK_N)
    slot = token if PAGE_SIZE == 0 else token % PAGE_SIZE
    return token, page * strides[0] + slot.to(tl.int64) * strides[1]


@triton.jit
def soften(s, state, slope, AXIS: tl.constexpr):
    """The online softmax along the tokens of a tile of scores: powers, how much what went before fades, the state."""
    total, peak_before = state
    peak = tl.maximum(peak_before, tl.max(s, AXIS))
    base = tl.where(peak == -float("inf"), 0.0, peak)
    # Subtract, then scale: a fused multiply-add rounds the scaled peak, which at huge scores is off by more than 1.
    p = tl.exp2((s - tl.expand_dims(base, AXIS)) * slope)
    fade = tl.exp2((peak_before - base) * slope)
    return p, fade, (total * fade + tl.sum(p, AXIS), peak)


@triton.jit
def leave(out_ptr, state_ptr, acc, state, at, sizes, WIDTH: tl.constexpr, AXIS: tl.constexpr):
    """Store the sums of a split, of WIDTH along AXIS: as o where it is the only one, else with peaks and totals."""
    batch, head, split, row, limit = at
    kv_heads, group, q_len, _, splits, _ = sizes
    total, peak = state
    # A row that sees nothing is known by its place, not by its value: scores of -inf give NaN, as in the textbook.
    sees = limit >= 0
    total, peak = tl.where(sees, total, 1.0), tl.where(sees, peak, 0.0)
    acc = tl.where(tl.expand_dims(sees, AXIS), acc, 0.0)
    inside = row < q_len * group
    # The sequence's place is a number of 64 bits, the places of rows within it are of 32: fewer registers.
    first = batch * q_len * kv_heads * group * splits
    part = (row // group * kv_heads * group + head * group + row % group) * splits + split
    if state_ptr is None:
        acc = acc / tl.expand_dims(total, AXIS)
    else:
        state_ptr += 2 * first
        tl.store(state_ptr + 2 * part, peak, mask=inside)
        tl.store(state_ptr + 2 * part + 1, total, mask=inside)
    col = tl.expand_dims(tl.arange(0, acc.shape[AXIS]), 1 - AXIS)
    out_ptrs = out_ptr + first * WIDTH + (tl.expand_dims(part * WIDTH, AXIS) + col)
    tl.store(out_ptrs, acc.to(out_ptr.dtype.element_ty), mask=tl.expand_dims(inside, AXIS) & (col < WIDTH))


@triton.jit
def _combine(
    acc_ptr, state_ptr, o_ptr, splits, scale,
    WIDTH: tl.constexpr, MOST: tl.constexpr, TOGETHER: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    acc_ptr += row * splits * WIDTH
    state_ptr += row * splits * 2
    every, col = tl.arange(0, MOST), tl.arange(0, triton.next_power_of_2(WIDTH))
    peak = tl.max(tl.load(state_ptr + 2 * every, mask=every < splits, other=-float("inf")), 0)
    base = tl.where(peak == -float("inf"), 0.0, peak)
    o = tl.zeros(col.shape, tl.float32)
    total = 0.0
    for start in range(0, splits, TOGETHER):
        split = start + tl.arange(0, TOGETHER)
        inside = split < splits
        peaks = tl.load(state_ptr + 2 * split, mask=inside, other=-float("inf"))
        weight = tl.exp2((peaks - base) * steep(scale))
        total += tl.sum(weight * tl.load(state_ptr + 2 * split + 1, mask=inside, other=0.0), 0)
        mask = inside[:, None] & (col < WIDTH)[None, :]
        acc = tl.load(acc_ptr + split[:, None] * WIDTH + col[None, :], mask=mask, other=0.0)
        o += tl.sum(acc * weight[:, None], 0)
    tl.store(o_ptr + row * WIDTH + col, (o / total).to(o_ptr.dtype.element_ty), mask=col < WIDTH)


@cache
def split_count(programs: int, tokens: int, slots: int) -> int:
    """The fewest splits that fill the `slots` of a GPU to 95 % of the best: FlashAttention's rule, there with 85 %.

    programs: those of one split; tokens: the most that a sequence may have.
    """

    def filled(splits: int) -> float:
        waves = programs * splits / slots
        return waves / ceil(waves)

    counts = range(1, max(1, min(MOST_SPLITS, tokens // SPLIT_TOKENS)) + 1)
    best = max(map(filled, counts))
    return next(splits for splits in counts if filled(splits) >= 0.95 * best)


def parts(o: Tensor, splits: int, direct: bool = True) -> tuple[Tensor, Tensor | None]:
    """Where splits leave their sums, and their peaks and totals: for one split, if `direct`, o itself, and nothing."""
    if splits == 1 and direct:
        return o, None
    acc, state = (
        torch.empty(*o.shape[:-1], splits, width, dtype=torch.float32, device=o.device) for width in (o.shape[-1], 2)
    )
    return acc, state


def combine(acc: Tensor, state: Tensor | None, o: Tensor, scale: float) -> None:
    """Reduce the parts of every row to o."""
    if state is not None:
        with device_of(o):
            _combine[(o.numel() // o.shape[-1],)](
                acc, state, o, acc.shape[-2], scale, WIDTH=o.shape[-1], MOST=MOST_SPLITS, TOGETHER=SPLITS_AT_ONCE
            )


def expect_lengths(seq_lens: Tensor, block_table: Tensor | None, q: Tensor) -> None:
    """Raise unless there is a length for every sequence of q and, with pages, a row of the table."""
    given = [("seq_lens", seq_lens, 1)] + ([] if block_table is None else [("block_table", block_table, 2)])
    for name, value, rank in given:
        expect_tensor(name, value, dtypes=(torch.int32, torch.int64), rank=rank)
        expect_device(name, value, "q", q)
        expect(len(value) == len(q), name, f"an entry for each of the {len(q)} sequences of q", len(value))


def expect_scale(scale: object) -> None:
    """Raise unless `scale` is None or a number that is finite in float32."""
    if scale is not None and (isinstance(scale, bool) or not isinstance(scale, int | float)):
        raise TypeError(f"scale: expected a number or None, got {type(scale).__name__}")
    finite = scale is None or abs(scale) <= torch.finfo(torch.float32).max
    expect(finite, "scale", "a number that is finite in float32", scale)
