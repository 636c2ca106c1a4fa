"""Rows summed by key: what the gradient of an embedding is made of. out[key] = sum of the rows of x with that key.

x (n, cols), keys (n,), out (count, cols), zero where no row has the key; keys outside of 0 ... count - 1 are left out.
Keys are sorted first (a stable sort, so that the order of sums is that of the rows), which brings the rows of a key
side by side as a run. A program stands at each place of the order. Where a run begins, or a stretch of CHUNK places, it
sums what follows of the run within the stretch: most runs are whole then, and are stored. The parts of longer ones (a
padding token's may have half of the batch) wait in fp32, at most two for each stretch, and a second kernel joins them.
No atomics, no transfer to the host; x is read once, and what has no row is written by a fill alone.
Source: the segmented sums of Blelloch 1990, "Prefix sums and their applications", cut into stretches.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels._launch import device_of

CHUNK, JOINED = 32, 8  # rows that a program sums at most; parts that are loaded at once


@triton.jit
def _pieces(
    x_ptr, sorted_ptr, order_ptr, ends_ptr, out_ptr, parts_ptr, size, CHUNK: tl.constexpr, BLOCK_COLS: tl.constexpr
):
    cols, count = size
    place = tl.program_id(0)
    key = tl.load(sorted_ptr + place)
    begins = tl.load(sorted_ptr + place - 1, mask=place > 0, other=-1) != key
    end = tl.load(ends_ptr + place)
    limit = (place // CHUNK + 1) * CHUNK
    stop = tl.where(begins | (place % CHUNK == 0), tl.minimum(end, limit), place)
    col = tl.arange(0, BLOCK_COLS)
    total = tl.zeros((BLOCK_COLS,), tl.float32)
    for at in range(place.to(tl.int64), stop):
        row = tl.load(order_ptr + at)
        total += tl.load(x_ptr + row * cols + col, mask=col < cols, other=0.0).to(tl.float32)
    starts = (stop > place) & (key >= 0) & (key < count)
    whole = begins & (end <= limit)
    stored = (col < cols) & starts
    tl.store(out_ptr + key.to(tl.int64) * cols + col, total.to(out_ptr.dtype.element_ty), mask=stored & whole)
    # First that of a run which has begun before the stretch, then that of one which goes on behind it.
    part_ptr = parts_ptr + (place // CHUNK * 2 + begins.to(tl.int32)).to(tl.int64) * cols
    tl.store(part_ptr + col, total, mask=stored & (whole == 0))


@triton.jit
def _joins(
    sorted_ptr, ends_ptr, out_ptr, parts_ptr, size, places,
    CHUNK: tl.constexpr, JOINED: tl.constexpr, BLOCK_COLS: tl.constexpr,
):  # fmt: skip
    """The run that begins within a stretch and goes on behind it, if there is one."""
    cols, count = size
    chunk = tl.program_id(0)
    last = tl.minimum((chunk + 1) * CHUNK, places) - 1
    key, end = tl.load(sorted_ptr + last), tl.load(ends_ptr + last)
    before = tl.load(sorted_ptr + chunk * CHUNK - 1, mask=chunk > 0, other=-1)
    joins = (end > last + 1) & (before != key) & (key >= 0) & (key < count)
    col = tl.arange(0, BLOCK_COLS)
    kept = (col < cols) & joins
    total = tl.load(parts_ptr + (chunk.to(tl.int64) * 2 + 1) * cols + col, mask=kept, other=0.0)
    stop = tl.where(joins, (end - 1) // CHUNK + 1, 0)
    for first in range((chunk + 1).to(tl.int64), stop, JOINED):
        piece = first + tl.arange(0, JOINED).to(tl.int64)[:, None]
        inside = (piece < stop) & (col < cols)[None, :]
        total += tl.sum(tl.load(parts_ptr + piece * 2 * cols + col[None, :], mask=inside, other=0.0), axis=0)
    tl.store(out_ptr + key.to(tl.int64) * cols + col, total.to(out_ptr.dtype.element_ty), mask=kept)


def sum_by_key(x: Tensor, keys: Tensor, count: int) -> Tensor:
    """(count, cols) in the dtype of x, the sums in fp32. x: (n, cols), contiguous; keys: (n,) integers."""
    places, cols = x.shape
    out = torch.zeros(count, cols, dtype=x.dtype, device=x.device)
    if places == 0:
        return out
    ordered, order = torch.sort(keys, stable=True)
    ends = torch.searchsorted(ordered, ordered, right=True)
    chunks, block = triton.cdiv(places, CHUNK), triton.next_power_of_2(cols)
    parts = torch.empty(chunks, 2, cols, dtype=torch.float32, device=x.device)
    warps = max(1, min(16, block // 256))
    with device_of(x):
        _pieces[(places,)](
            x, ordered, order, ends, out, parts, (cols, count), CHUNK=CHUNK, BLOCK_COLS=block, num_warps=warps
        )
        _joins[(chunks,)](
            ordered, ends, out, parts, (cols, count), places,
            CHUNK=CHUNK, JOINED=JOINED, BLOCK_COLS=block, num_warps=min(16, 4 * warps),
        )  # fmt: skip
    return out
