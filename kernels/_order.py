"""Numbers compared as integers: a number and its place in one key of 64 bits, so that one maximum finds both.

Equals are ordered by their place, the smallest first; zeros are equal, and NaN is above all. Which key was found is
told by comparing keys, not places: for gfx942 LLVM crashes over the latter (as of Triton 3.7).
"""

from __future__ import annotations

import triton
import triton.language as tl

TAKEN = tl.constexpr(-(2**63))  # below all keys


@triton.jit
def ordered(x):
    """fp32 as int32 in the same order."""
    x = tl.where(x == 0, 0.0, x)
    bits = tl.where(x == x, x.to(tl.int32, bitcast=True), 0x7FFFFFFF)
    return tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


@triton.jit
def keys_of(x, place, inside):
    """What the largest x is found by; TAKEN where it is not inside."""
    return tl.where(inside, (ordered(x).to(tl.int64) << 32) + (0x7FFFFFFF - place), TAKEN)


@triton.jit
def best(keys):
    """The largest key of every row, its value and its place."""
    key = tl.max(keys, axis=1, keep_dims=True)
    bits = (key >> 32).to(tl.int32)
    value = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits).to(tl.float32, bitcast=True)
    return key, value, 0x7FFFFFFF - (key & 0x7FFFFFFF).to(tl.int32)


@triton.jit
def in_best_groups(choice, col, E, GROUPS: tl.constexpr, TOP_GROUPS: tl.constexpr, PAIRS: tl.constexpr):
    """Which experts belong to the best groups."""
    WIDTH: tl.constexpr = triton.next_power_of_2(GROUPS)
    group, place = col // (E // GROUPS), tl.arange(0, WIDTH)[None, :]
    scores = tl.zeros((choice.shape[0], WIDTH), tl.float32)
    for g in range(GROUPS):
        keys = keys_of(choice, col, (group == g) & (col < E))
        key, value, _ = best(keys)
        if PAIRS:
            _, second, _ = best(tl.where(keys == key, TAKEN, keys))
            value += second
        scores = tl.where(place == g, value, scores)
    keys = keys_of(scores, place, place < GROUPS)
    found = tl.zeros(choice.shape, tl.int32)
    for _ in range(TOP_GROUPS):
        key, _, chosen = best(keys)
        found += (group == chosen).to(tl.int32)
        keys = tl.where(keys == key, TAKEN, keys)
    return found > 0
