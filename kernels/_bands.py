"""Gradients of a loss over scores = left @ right^T within a tenth of their own bytes: slopes lie where they will.

left, dleft (rows, K), right, dright (cols, K), slopes (rows, cols) the loss's gradient in the scores. Where K is far
smaller than rows and cols, as between pictures and texts, even a chunk of slopes that is wide enough for products
(`kernels._chunked`) is larger than both gradients. But until a gradient is made its memory is free. So either is made
by itself, dright from slopes^T as dleft from slopes, in bands of its rows, and a band in chunks of columns:

    dleft[band] += slopes[band, chunk] @ right[chunk]           dleft[band] *= factor behind the last chunk

The slopes of a band and chunk lie in the other gradient, if that is made later, or in the rows behind the band, or in
`spare`, whichever holds most. `spare`, a twelfth of the gradients or 2^19 entries, also holds what their dtype rounds
away between the chunks of a band: that makes 16 bits of mantissa of bf16's 8. Bands are an eighth of the rows and,
toward the end, when nothing but spare is left, a sixteenth; where one gradient is to be made, half of that.

What it costs: slopes are made anew for either gradient, 2 K operations an entry more than from a chunk that serves
both, and of n rows and columns there are five or six n / K chunks, of two launches each. At 8192 pairs and K = 768
these are 61, of 7 GFLOP: about as long as two launches take, and a band has 48 tiles of its gradient, or 96 slim ones,
for 132 multiprocessors; at 32768 pairs both are four times that. A kernel that multiplies slopes while they are in
registers, as attention's does, takes one launch, but holds no more than 256 columns of a gradient beside a tile of 128
rows of scores, and so makes all scores anew K / 256 times for either: 16 K operations an entry in place of 8 at K =
768, 24 at 1280. Where slopes need no more than 32 MiB of 16 bits, as up to 4096 pairs, launches would take longer than
products: there they are made once, in a chunk of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from kernels import _chunked

AT_ONCE = 1 << 24  # slopes that are made once, for both gradients
SHARE, LEAST_SPARE = 12, 1 << 19  # spare entries: one of so many of the gradients', and at least so many
BANDS = 8  # at least, of the rows of a gradient
WIDE_ENOUGH = 1024  # columns of a chunk, or as many as K: each passes over its band of the gradient, and the rest
BLOCK = 128  # what every BLOCK_M and BLOCK_N of slopes divides

# Fills in slopes (rows, columns) from a first row and a first column on, so many columns of them.
MakeSlopes = Callable[[Tensor, int, int, int], None]


def _blocks(length: int) -> int:
    """The least multiple of BLOCK that is not below a length."""
    return -(-length // BLOCK) * BLOCK


def _band(rooms: Callable[[int], list[Tensor]], rows: int, left: int, cols: int, depth: int) -> tuple[int, Tensor]:
    """How many of the `left` rows come next, and the memory of their slopes: (those rows, columns of a chunk)."""
    parts = BANDS
    while True:
        height = min(left, _blocks(-(-rows // parts)))
        room = max(rooms(height), key=Tensor.numel)
        width = min(_blocks(cols), room.numel() // height // BLOCK * BLOCK)
        if width >= min(_blocks(cols), WIDE_ENOUGH, _blocks(depth)) or (width and height <= BLOCK):
            return height, room[: height * width].view(height, width)
        parts *= 2


def _make(
    make_slopes: MakeSlopes, right: Tensor, factor: Tensor, dleft: Tensor, lent: Tensor | None, spare: Tensor
) -> None:
    """dleft = factor * slopes @ right. dleft, lent and spare are contiguous and of one dtype; lent is written over."""
    (rows, depth), cols = dleft.shape, len(right)
    memory, kept = dleft.view(-1), depth if dleft.element_size() < 4 else 0
    done = 0

    def rooms(height: int) -> list[Tensor]:
        behind = memory[(done + height) * depth :] if lent is None else lent.view(-1)
        return [behind, spare[height * kept :]] if height * kept <= len(spare) else [spare[:0]]

    while done < rows:
        height, slopes = _band(rooms, rows, rows - done, cols, depth)
        band, width = dleft[done : done + height], slopes.shape[1]
        rest = spare[: height * kept].view(height, kept) if kept and width < cols else None
        for first in range(0, cols, width):
            here = min(width, cols - first)
            make_slopes(slopes, done, first, here)
            _chunked.add_left(slopes, right, None, factor, band, rest, first, here)
        done += height


def gradients(
    one_way: MakeSlopes, other_way: MakeSlopes, left: Tensor, right: Tensor, factor: Tensor, needs: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    """factor * slopes @ right and factor * slopes^T @ left, those that are needed, at least one of them.

    one_way makes slopes, other_way slopes^T.
    """
    if len(left) * len(right) <= AT_ONCE:
        return _chunked.gradients(lambda slopes, *at: one_way(slopes, 0, *at), left, right, None, factor, needs)
    like: dict[str, Any] = {"dtype": left.dtype, "device": left.device}
    dleft = torch.empty(left.shape, **like) if needs[0] else None
    dright = torch.empty(right.shape, **like) if needs[1] else None
    entries = sum(made.numel() for made in (dleft, dright) if made is not None)
    # One block of slopes and the rest of its rows always fit, so that there is a band whatever the sizes.
    spare = torch.empty(max(LEAST_SPARE, entries // SHARE, BLOCK * (BLOCK + left.shape[1])), **like)
    if dright is not None:
        _make(other_way, left, factor, dright, dleft, spare)
    if dleft is not None:
        _make(one_way, right, factor, dleft, None, spare)
    return dleft, dright
