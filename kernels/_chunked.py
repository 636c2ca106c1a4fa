"""What losses over a product of two matrices share: tiles of scores = left @ right^T, and gradients without the scores.

left, dleft (rows, K), right, dright (cols, K), scores (rows, cols). A loss reads scores tile by tile and never stores
them. Its gradient in them, the slopes, is made anew for one chunk of columns at a time, for all rows, and

    dright[chunk] = factor * slopes^T @ left        whole at once, since a chunk holds all rows of its columns
    dleft += slopes @ right[chunk]                  summed over chunks, in their order: no atomics, always the same bits

A program owns one tile of slopes, of dright or of dleft. Between chunks dleft waits in itself and, unless it is fp32,
in `rest`: what its dtype rounds away, which makes 16 bits of mantissa of bf16's 8, in half of what fp32 sums beside it
would take. So besides the gradients there are one chunk, of 32 MiB or of 2048 columns, and `rest`.

`order` tells which rows count: their numbers first, the others behind them, last how many do. Tiles of others end at
once, so that they cost nothing; nobody waits for the device to know. None: all count, in their order.
Source: Wijmans et al. 2024, arXiv:2411.09009 (no scores in memory); Hsu et al. 2024, arXiv:2410.10989 (chunks).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels._attention_tiles import place
from kernels._launch import device_of, tune
from kernels._logprob import LOG2E

CHUNK, LEAST_COLS = 1 << 24, 2048  # entries of the slopes in memory, and columns of them for tiles to fill a GPU
BLOCK_ROWS = 1024
EVEN = 64  # what every BLOCK_K divides

# Of 16-bit matrices tiles 128 columns wide fit 99 KiB of shared memory and, on gfx942, 64; of fp32, whose products are
# not those of tensor cores, what registers hold.
WIDE, NARROW, SLIM = (
    triton.Config({"BLOCK_M": 128, "BLOCK_N": n, "BLOCK_K": 64, "GROUP": 16}, num_warps=8, num_stages=3)
    for n in (256, 128, 64)
)
OF_FP32 = triton.Config({"BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_K": 32, "GROUP": 16}, num_warps=8, num_stages=2)


def tuned(kernel: Any, *tiles: triton.Config) -> dict[int, Any]:
    """The kernel by bytes of an element, tuned over these tiles, or over its one of fp32, for each `tuned_for`."""
    return {2: tune(tiles, key=["tuned_for"])(kernel), 4: tune([OF_FP32], key=["tuned_for"])(kernel)}


@triton.jit
def counted(order_ptr, rows):
    """How many rows count."""
    return rows if order_ptr is None else tl.load(order_ptr + rows)


@triton.jit
def row_of(order_ptr, at, count):
    """The rows that stand at these places; behind the last of `count` places that one again."""
    at = tl.minimum(at, count - 1)
    return at.to(tl.int64) if order_ptr is None else tl.load(order_ptr + at).to(tl.int64)


@triton.jit
def scores(matrices, row, col, cols, K, BLOCK_K: tl.constexpr, EVEN_K: tl.constexpr):
    """A tile of left @ right^T in fp32. Columns from `cols` on are the last one again: masks would take registers."""
    left_ptr, right_ptr, strides = matrices
    k = tl.arange(0, BLOCK_K)
    left_ptr += row[:, None] * strides[0] + k[None, :]
    right_ptr += tl.minimum(col, cols - 1).to(tl.int64)[None, :] * strides[1] + k[:, None]
    x = tl.zeros((row.shape[0], col.shape[0]), tl.float32)
    for start in range(0, K, BLOCK_K):
        if EVEN_K:
            left, right = tl.load(left_ptr), tl.load(right_ptr)
        else:
            left = tl.load(left_ptr, mask=(k < K - start)[None, :], other=0.0)
            right = tl.load(right_ptr, mask=(k < K - start)[:, None], other=0.0)
        x = tl.dot(left, right, x, input_precision="ieee")
        left_ptr += BLOCK_K
        right_ptr += BLOCK_K
    return x


@triton.jit
def rise(x, peak):
    """The new maximum of each row, how far it makes old powers fade, and the powers."""
    higher = tl.maximum(peak, tl.max(x, 1))
    # Subtract, then scale: in a fused multiply-add the rounded product of a huge peak would be off by more than 1.
    return higher, tl.exp2((peak - higher) * LOG2E), tl.exp2((x - higher[:, None]) * LOG2E)


@triton.jit
def _right_kernel(
    slopes_ptr, left_ptr, order_ptr, factor_ptr, dright_ptr, strides, sizes, tuned_for,  # noqa: ARG001
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    rows, K, first, width = sizes
    tile, group = place(tl.cdiv(K, BLOCK_N), tl.cdiv(width, BLOCK_M), GROUP)
    m = group * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tile * BLOCK_N + tl.arange(0, BLOCK_N)
    count = counted(order_ptr, rows)
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in range(0, count, BLOCK_K):
        at = start + tl.arange(0, BLOCK_K)
        row = row_of(order_ptr, at, count)
        slopes_ptrs = slopes_ptr + at.to(tl.int64)[:, None] * strides[1] + m[None, :]
        slopes = tl.load(slopes_ptrs, mask=(at < count)[:, None] & (m < width)[None, :], other=0.0)
        left_ptrs = left_ptr + row[:, None] * strides[0] + n[None, :]
        left = tl.load(left_ptrs, mask=(at < count)[:, None] & (n < K)[None, :], other=0.0)
        total = tl.dot(slopes.T, left, total, input_precision="ieee")
    dright_ptrs = dright_ptr + (first + m).to(tl.int64)[:, None] * K + n[None, :]
    # Where no row counts the factor is NaN, and the gradient nothing.
    total *= tl.where(count > 0, tl.load(factor_ptr), 0.0)
    tl.store(dright_ptrs, total.to(dright_ptr.dtype.element_ty), mask=(m < width)[:, None] & (n < K)[None, :])


@triton.jit
def _left_kernel(
    slopes_ptr, right_ptr, order_ptr, factor_ptr, dleft_ptr, rest_ptr, strides, sizes, tuned_for,  # noqa: ARG001
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    rows, K, first, width, cols = sizes
    tile, group = place(tl.cdiv(K, BLOCK_N), tl.cdiv(rows, BLOCK_M), GROUP)
    count = counted(order_ptr, rows)
    if first > 0 and group * BLOCK_M >= count:
        return
    at = group * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tile * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    slopes_ptr += at[:, None] * strides[1] + k[None, :]
    right_ptr += (first + k).to(tl.int64)[:, None] * strides[0] + n[None, :]
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    # Tiles of rows that do not count write zeros, once.
    for start in range(0, tl.where(group * BLOCK_M < count, width, 0), BLOCK_K):
        inside = k < width - start
        slopes = tl.load(slopes_ptr, mask=(at < count)[:, None] & inside[None, :], other=0.0)
        right = tl.load(right_ptr, mask=inside[:, None] & (n < K)[None, :], other=0.0)
        total = tl.dot(slopes, right, total, input_precision="ieee")
        slopes_ptr += BLOCK_K
        right_ptr += BLOCK_K * tl.cast(strides[0], tl.int64)
    place_of = row_of(order_ptr, at, rows)[:, None] * K + n[None, :]
    inside = (at < rows)[:, None] & (n < K)[None, :]
    if first > 0:
        total += tl.load(dleft_ptr + place_of, mask=inside, other=0.0).to(tl.float32)
        if rest_ptr is not None:
            total += tl.load(rest_ptr + place_of, mask=inside, other=0.0).to(tl.float32)
    if first + width == cols:
        total *= tl.where(at < count, tl.load(factor_ptr), 0.0)[:, None]
    rounded = total.to(dleft_ptr.dtype.element_ty)
    tl.store(dleft_ptr + place_of, rounded, mask=inside)
    if rest_ptr is not None:
        if first + width < cols:
            rest = (total - rounded.to(tl.float32)).to(dleft_ptr.dtype.element_ty)
            tl.store(rest_ptr + place_of, rest, mask=inside)


@triton.jit
def _order_kernel(targets_ptr, order_ptr, rows, ignore_index, BLOCK_ROWS: tl.constexpr):
    count = tl.cast(0, tl.int32)
    for start in range(0, rows, BLOCK_ROWS):
        row = start + tl.arange(0, BLOCK_ROWS)
        target = tl.load(targets_ptr + row, mask=row < rows, other=ignore_index)
        counts = (target != ignore_index).to(tl.int32)
        before = count + tl.cumsum(counts) - counts
        tl.store(order_ptr + tl.where(counts > 0, before, rows - 1 - (row - before)), row, mask=row < rows)
        count += tl.sum(counts)
    tl.store(order_ptr + rows, count)


# What is first spills nowhere on sm_80, sm_90 and sm_100. Slim tiles spread a left of few rows over more processors.
RIGHT, LEFT = tuned(_right_kernel, NARROW, WIDE), tuned(_left_kernel, NARROW, SLIM)


def as_matrix(x: Tensor) -> Tensor:
    """The matrix with columns side by side: a copy only where they are not."""
    return x if 1 in (x.stride(1), x.shape[1]) else x.contiguous()


def order_of(targets: Tensor, ignore_index: int) -> Tensor:
    """The rows that count, in order, then the others from the last one on, then how many count."""
    order = torch.empty(len(targets) + 1, dtype=torch.int32, device=targets.device)
    with device_of(targets):
        _order_kernel[(1,)](targets.contiguous(), order, len(targets), ignore_index, BLOCK_ROWS=BLOCK_ROWS)
    return order


def launch_tiles(
    kernels: dict[int, Any], rows: int, cols: int, *arguments: Any, across: int = 0, **constants: Any
) -> None:
    """Launch a tuned kernel over the tiles of (rows, cols); `across`: the columns of a program if not BLOCK_N."""
    x = arguments[0]

    def grid(meta: dict[str, Any]) -> tuple[int]:
        return (triton.cdiv(rows, meta["BLOCK_M"]) * triton.cdiv(cols, across or meta["BLOCK_N"]),)

    with device_of(x):
        kernels[x.element_size()][grid](*arguments, (triton.next_power_of_2(rows), cols), **constants)


def add_left(
    slopes: Tensor, right: Tensor, order: Tensor | None, factor: Tensor, dleft: Tensor, rest: Tensor | None,
    first: int, width: int,
) -> None:  # fmt: skip
    """What a chunk of `width` columns from `first` on adds to dleft; behind the last of them all, times factor."""
    rows, depth = dleft.shape
    # Tuned at the first chunk, the only one that does not add to what is there.
    launch_tiles(
        LEFT, rows, depth, slopes, right, order, factor, dleft, rest,
        (right.stride(0), slopes.stride(0)), (rows, depth, first, width, len(right)),
    )  # fmt: skip


def gradients(
    make_slopes: Callable[[Tensor, int, int], None], left: Tensor, right: Tensor, order: Tensor | None,
    factor: Tensor, needs: tuple[bool, bool],
) -> tuple[Tensor | None, Tensor | None]:  # fmt: skip
    """factor * slopes @ right and factor * slopes^T @ left, those that are needed.

    make_slopes(slopes, first, width) fills in the slopes of the columns from `first` on, one row for each that counts.
    """
    (rows, depth), cols = left.shape, len(right)
    like: dict[str, Any] = {"dtype": left.dtype, "device": left.device}
    width = min(triton.cdiv(cols, 128) * 128, max(LEAST_COLS, CHUNK // max(1, rows) // 256 * 256))
    slopes = torch.empty(rows, width, **like)
    dleft = torch.empty(rows, depth, **like) if needs[0] else None
    dright = torch.empty(cols, depth, **like) if needs[1] else None
    rest = torch.empty_like(dleft) if dleft is not None and width < cols and left.element_size() < 4 else None
    for first in range(0, cols, width):
        here = min(width, cols - first)
        make_slopes(slopes, first, here)
        if dright is not None:
            launch_tiles(
                RIGHT, here, depth, slopes, left, order, factor, dright,
                (left.stride(0), width), (rows, depth, first, here),
            )  # fmt: skip
        if dleft is not None:
            add_left(slopes, right, order, factor, dleft, rest, first, here)
    return dleft, dright
