"""The kernels of batch normalisation: what a program owns of the channels of a batch. The essay: batch_norm.py."""

from __future__ import annotations

from math import prod
from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from kernels._launch import processors

TILE, CHANNELS = 4096, 64  # elements of a tile, 32 for each thread of 4 warps; channels side by side, 128 bytes of bf16
SMALL_TILE = 1024  # where a channel has no more than that
PROGRAMS = 4  # tiles that a multiprocessor has in flight, 16 warps
MERGED = 8192  # partial results that a program holds at once when it merges


@triton.jit
def place(first, size, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr):
    """BLOCK_P positions from the first on, the channels of this program, and which of both there are."""
    position = first + tl.arange(0, BLOCK_P).to(tl.int64)[:, None]
    channel = tl.program_id(0) % tl.cdiv(size[2], BLOCK_C) * BLOCK_C + tl.arange(0, BLOCK_C)[None, :]
    return position, channel, (position < size[0]) & (channel < size[2])


@triton.jit
def offset(position, channel, size, LAST: tl.constexpr):
    """Where they lie: channels innermost, or the pictures of a channel."""
    plane, channels = size[1], size[2]
    if LAST:
        at = position * channels + channel
    else:
        at = (position // plane * (channels - 1) + channel) * plane + position
    return at


@triton.jit
def stretch(size, steps, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr):
    """Which stretch of positions this program owns, and where it begins."""
    split = tl.program_id(0) // tl.cdiv(size[2], BLOCK_C)
    return split, split.to(tl.int64) * steps * BLOCK_P


@triton.jit
def _pivot(means):
    """The first of several means of a channel, if it is finite."""
    first = tl.arange(0, means.shape[0])[:, None] == 0
    pivot = tl.sum(tl.where(first, means, 0.0), axis=0, keep_dims=True)
    return tl.where(tl.abs(pivot) < float("inf"), pivot, 0.0)


@triton.jit
def moments(x_ptr, parts_ptr, size, steps, splits, LAST: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr):
    split, first = stretch(size, steps, BLOCK_P, BLOCK_C)
    means, squares = tl.zeros((BLOCK_P, BLOCK_C), tl.float32), tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    for step in range(steps):
        position, channel, inside = place(first + step * BLOCK_P, size, BLOCK_P, BLOCK_C)
        x = tl.load(x_ptr + offset(position, channel, size, LAST), mask=inside, other=0.0).to(tl.float32)
        away = tl.where(inside, x - means, 0.0)
        means += away * (1.0 / (step + 1))
        squares += away * (x - means)
    there = tl.minimum(size[0] - first, steps * BLOCK_P)
    lane = tl.arange(0, BLOCK_P)[:, None]
    count = tl.maximum(tl.cdiv(there - lane, BLOCK_P), 0).to(tl.float32)
    # Sums of what is left of a large mean do not round it away.
    pivot = _pivot(means)
    means -= pivot
    mean = tl.sum(means * count, axis=0, keep_dims=True) / there
    means -= mean
    squares = tl.sum(squares + means * means * count, axis=0, keep_dims=True)
    channel = place(first, size, 1, BLOCK_C)[1]
    part_ptr = parts_ptr + split * size[2] + channel
    tl.store(part_ptr, pivot + mean, mask=channel < size[2])
    tl.store(part_ptr + splits * size[2], squares, mask=channel < size[2])


@triton.jit
def keep(stats_ptr, running_ptrs, moved_ptrs, channel, mean, squares, size, momentum):
    """Write the moments of channels, if anybody wants them, and move the running ones towards them."""
    positions, channels = size[0], size[2]
    kept = channel < channels
    if stats_ptr is not None:
        tl.store(stats_ptr + channel, mean, mask=kept)
        tl.store(stats_ptr + channels + channel, squares / positions, mask=kept)
    before = tl.load(running_ptrs[0] + channel, mask=kept, other=0.0)
    tl.store(moved_ptrs[0] + channel, (1 - momentum) * before + momentum * mean, mask=kept)
    before = tl.load(running_ptrs[1] + channel, mask=kept, other=0.0)
    tl.store(moved_ptrs[1] + channel, (1 - momentum) * before + momentum * (squares / (positions - 1)), mask=kept)


@triton.jit
def merge(
    parts_ptr, stats_ptr, running_ptrs, moved_ptrs, size, length, splits, momentum,
    BLOCK_S: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """The moments of a channel from those of its stretches, which are `length` long (the last one may be shorter)."""
    positions, channels = size[0], size[2]
    split = tl.arange(0, BLOCK_S)[:, None]
    channel = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)[None, :]
    inside = (split < splits) & (channel < channels)
    means = tl.load(parts_ptr + split * channels + channel, mask=inside, other=0.0)
    squares = tl.load(parts_ptr + (splits + split) * channels + channel, mask=inside, other=0.0)
    count = tl.minimum(tl.maximum(positions - split.to(tl.int64) * length, 0), length).to(tl.float32)
    pivot = _pivot(means)
    means = tl.where(split < splits, means - pivot, 0.0)
    mean = tl.sum(means * count, axis=0, keep_dims=True) / positions
    means = tl.where(split < splits, means - mean, 0.0)
    mean += pivot
    squares = tl.sum(squares + means * means * count, axis=0, keep_dims=True)
    keep(stats_ptr, running_ptrs, moved_ptrs, channel, mean, squares, size, momentum)


@triton.jit
def normalise(
    x_ptr, mean_ptr, var_ptr, weight_ptr, bias_ptr, y_ptr, size, eps,
    LAST: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    first = stretch(size, 1, BLOCK_P, BLOCK_C)[1]
    position, channel, inside = place(first, size, BLOCK_P, BLOCK_C)
    at, kept = offset(position, channel, size, LAST), channel < size[2]
    mean = tl.load(mean_ptr + channel, mask=kept, other=0.0)
    rstd = tl.rsqrt(tl.load(var_ptr + channel, mask=kept, other=1.0) + eps)
    weight = tl.load(weight_ptr + channel, mask=kept, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + channel, mask=kept, other=0.0).to(tl.float32)
    x = tl.load(x_ptr + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(y_ptr + at, ((x - mean) * rstd * weight + bias).to(y_ptr.dtype.element_ty), mask=inside)


@triton.jit
def sums(
    dy_ptr, x_ptr, stats_ptr, parts_ptr, size, steps, splits, eps,
    LAST: tl.constexpr, DY_LAST: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """The sums of dy and of dy m over a stretch of positions."""
    split, first = stretch(size, steps, BLOCK_P, BLOCK_C)
    channel = place(first, size, 1, BLOCK_C)[1]
    kept = channel < size[2]
    mean = tl.load(stats_ptr + channel, mask=kept, other=0.0)
    rstd = tl.rsqrt(tl.load(stats_ptr + size[2] + channel, mask=kept, other=1.0) + eps)
    dbias, dweight = tl.zeros((BLOCK_P, BLOCK_C), tl.float32), tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    for step in range(steps):
        position, _, inside = place(first + step * BLOCK_P, size, BLOCK_P, BLOCK_C)
        dy = tl.load(dy_ptr + offset(position, channel, size, DY_LAST), mask=inside, other=0.0).to(tl.float32)
        x = tl.load(x_ptr + offset(position, channel, size, LAST), mask=inside, other=0.0).to(tl.float32)
        dbias += dy
        dweight += dy * ((x - mean) * rstd)
    part_ptr = parts_ptr + split * size[2] + channel
    tl.store(part_ptr, tl.sum(dbias, axis=0, keep_dims=True), mask=kept)
    tl.store(part_ptr + splits * size[2], tl.sum(dweight, axis=0, keep_dims=True), mask=kept)


@triton.jit
def backward(
    dy_ptr, x_ptr, stats_ptr, weight_ptr, sums_ptr, dx_ptr, size, eps,
    LAST: tl.constexpr, DY_LAST: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    first = stretch(size, 1, BLOCK_P, BLOCK_C)[1]
    position, channel, inside = place(first, size, BLOCK_P, BLOCK_C)
    at = offset(position, channel, size, LAST)
    positions, channels = size[0], size[2]
    kept = channel < channels
    mean = tl.load(stats_ptr + channel, mask=kept, other=0.0)
    rstd = tl.rsqrt(tl.load(stats_ptr + channels + channel, mask=kept, other=1.0) + eps)
    weight = tl.load(weight_ptr + channel, mask=kept, other=0.0).to(tl.float32)
    shift = tl.load(sums_ptr + channel, mask=kept, other=0.0) / positions
    slope = tl.load(sums_ptr + channels + channel, mask=kept, other=0.0) / positions
    dy = tl.load(dy_ptr + offset(position, channel, size, DY_LAST), mask=inside, other=0.0).to(tl.float32)
    x = tl.load(x_ptr + at, mask=inside, other=0.0).to(tl.float32)
    dx = (dy - shift - (x - mean) * rstd * slope) * (rstd * weight)
    tl.store(dx_ptr + at, dx.to(dx_ptr.dtype.element_ty), mask=inside)


def is_last(x: Tensor) -> bool:
    """Whether channels lie innermost."""
    return x.movedim(1, -1).is_contiguous()


def dense(x: Tensor, last: bool) -> Tensor:
    """x with its channels innermost, or as a contiguous tensor: a copy only where it is not so."""
    return x.movedim(1, -1).contiguous().movedim(-1, 1) if last else x.contiguous()


def tiles(x: Tensor) -> tuple[bool, tuple[int, int, int], dict[str, Any], int]:
    """Whether channels lie innermost, the sizes and options of a launch, and the programs that one step of it takes."""
    last = is_last(x)
    channels, plane = x.shape[1], prod(x.shape[2:])
    size = (x.shape[0] * plane, plane, channels)
    block_c = min(CHANNELS, triton.next_power_of_2(channels)) if last else 1
    block_p = (TILE if last or size[0] > SMALL_TILE else SMALL_TILE) // block_c
    options = {"LAST": last, "BLOCK_P": block_p, "BLOCK_C": block_c, "num_warps": max(1, block_p * block_c // 1024)}
    return last, size, options, triton.cdiv(size[0], block_p) * triton.cdiv(channels, block_c)


def stretches(x: Tensor, size: tuple[int, int, int], options: dict[str, Any]) -> tuple[int, int, int]:
    """The steps of a stretch, the stretches, and the programs that own one each: as many as run at once."""
    blocks, tiles = triton.cdiv(size[2], options["BLOCK_C"]), triton.cdiv(size[0], options["BLOCK_P"])
    steps = triton.cdiv(tiles, max(1, processors(x) * PROGRAMS // blocks))
    splits = triton.cdiv(tiles, steps)
    return steps, splits, splits * blocks
