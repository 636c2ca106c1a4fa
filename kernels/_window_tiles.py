"""What the forward and the backward of window attention share: tokens where they lie, scores, launches."""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from kernels._attention_tiles import LOG2E, dot
from kernels._launch import processors, tune

# Programs of 4 warps that a multiprocessor holds, some waiting for memory while others compute.
# Windows that a program has at least, if there are as many: its biases are gathered once, its sums of ds stored once.
PROGRAMS, LEAST_FORWARD, LEAST_BACKWARD = 8, 4, 10
WIDE = 64 * 32  # entries of the keys of a window, padded, beyond which 4 warps lack registers


@triton.jit
def tokens(window, first, size, WINDOW: tl.constexpr, COUNT: tl.constexpr):
    """Where COUNT tokens of a window lie, from the first on, and which of them there are."""
    height, width, shift = size
    token = first + tl.arange(0, COUNT)
    across, down = width // WINDOW, height // WINDOW
    y = window // across % down * WINDOW + token // WINDOW + shift
    x = window % across * WINDOW + token % WINDOW + shift
    y, x = tl.where(y < height, y, y - height), tl.where(x < width, x, x - width)
    return (window // across // down, y, x), token < WINDOW * WINDOW


@triton.jit
def parts(first, shift, WINDOW: tl.constexpr, COUNT: tl.constexpr, ABSENT: tl.constexpr):
    """On which side of the shift each token lies: 2 if below, 1 if to the right. It is the same in every window."""
    token = first + tl.arange(0, COUNT)
    below, right = token // WINDOW >= WINDOW - shift, token % WINDOW >= WINDOW - shift
    return tl.where(token < WINDOW * WINDOW, below.to(tl.int32) * 2 + right.to(tl.int32), ABSENT)


@triton.jit
def divided(window, size, WINDOW: tl.constexpr):
    """By which differences of parts tokens of a window do not see each other: those of the last row and column only."""
    across, down = size[1] // WINDOW, size[0] // WINDOW
    last_row, last_col = window // across % down == down - 1, window % across == across - 1
    return 4 + 2 * last_row.to(tl.int32) + last_col.to(tl.int32)


@triton.jit
def pointers(x_ptr, strides, head, at, DIM: tl.constexpr):
    """Addresses of the tokens of one head, D padded to a power of two that fits a dot; which columns there are."""
    col = tl.arange(0, max(16, triton.next_power_of_2(DIM)))
    batch, y, x = at
    x_ptr += tl.cast(batch, tl.int64) * strides[0] + tl.cast(head, tl.int64) * strides[3]
    row = y.to(tl.int64) * strides[1] + x.to(tl.int64) * strides[2]
    return x_ptr + (row[:, None] + col[None, :].to(tl.int64) * strides[4]), (col < DIM)[None, :]


@triton.jit
def load_tokens(x_ptr, strides, head, at, inside, DIM: tl.constexpr):
    x_ptrs, there = pointers(x_ptr, strides, head, at, DIM)
    return tl.load(x_ptrs, mask=inside[:, None] & there, other=0.0)


@triton.jit
def store_tokens(x_ptr, x, strides, head, at, inside, DIM: tl.constexpr):
    x_ptrs, there = pointers(x_ptr, strides, head, at, DIM)
    tl.store(x_ptrs, x.to(x_ptr.dtype.element_ty), mask=inside[:, None] & there)


@triton.jit
def load_bias(
    table_ptr, strides, head, first, first_key, WINDOW: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr
):
    """The biases of a tile of scores, in the dtype of the table: in bf16 they take half the registers."""
    if table_ptr is None:
        bias = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    else:
        query, key = first + tl.arange(0, BLOCK_M)[:, None], first_key + tl.arange(0, BLOCK_N)[None, :]
        down = query // WINDOW - key // WINDOW + WINDOW - 1
        right = query % WINDOW - key % WINDOW + WINDOW - 1
        inside = (query < WINDOW * WINDOW) & (key < WINDOW * WINDOW)
        entry = (down * (2 * WINDOW - 1) + right) * strides[0] + head * strides[1]
        bias = tl.load(table_ptr + entry, mask=inside, other=0.0)
    return bias


@triton.jit
def weights(q, k, bias, scale, query_part, key_part, divide, SHIFTED: tl.constexpr, WINDOW: tl.constexpr):
    """The softmax of a tile of whole rows of scores. A key that is not there is of part 4, a query of part 0."""
    s = dot(q, k.T, None) * scale + bias.to(tl.float32)
    if SHIFTED:
        # Compared anew for each window: a tile of their differences, the same for all, would hold registers.
        s = tl.where((query_part & divide)[:, None] == (key_part & divide)[None, :], s, -float("inf"))
    elif WINDOW * WINDOW != k.shape[0]:
        s = tl.where(key_part[None, :] < 4, s, -float("inf"))
    p = tl.exp2((s - tl.max(s, 1)[:, None]) * LOG2E)
    return p * (1 / tl.sum(p, 1))[:, None]


def tuned(kernel: Any, *points: tuple[int, int]) -> dict[bool, Any]:
    """The kernel by whether a window is wide, tuned over warps and stages: how far loads run ahead of what computes."""
    # AMD's 4 warps hold what 8 cannot: a thread of theirs has up to 512 registers.
    each = {False: points, True: ((8, 2), (8, 1), (4, 2))}
    configs = {wide: [triton.Config({}, num_warps=w, num_stages=s) for w, s in some] for wide, some in each.items()}
    return {wide: tune(some, key=["DIM", "WINDOW"])(kernel) for wide, some in configs.items()}


def shape_of(q: Tensor, window: int, shift: int, least: int) -> tuple[tuple[Any, ...], dict[str, Any], bool, int, int]:
    """Sizes and constants of a launch, whether windows are wide, their tiles, and how many programs share a head."""
    batch, height, width, heads, dim = q.shape
    windows, block_n = batch * (height // window) * (width // window), max(16, triton.next_power_of_2(window**2))
    block_m = min(block_n, 128 // q.element_size())
    tiles = triton.cdiv(window**2, block_m)
    groups = max(1, min(triton.cdiv(windows, least), processors(q) * PROGRAMS // (heads * tiles)))
    constants = {"DIM": dim, "WINDOW": window, "SHIFTED": shift > 0, "BLOCK_M": block_m, "BLOCK_N": block_n}
    wide = block_n * max(32, triton.next_power_of_2(dim)) > WIDE
    return ((height, width, shift), (windows, heads)), constants, wide, tiles, groups
