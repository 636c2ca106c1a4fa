"""y = x W^T + bias with a weight of 4 bits: W = value of each entry times the largest magnitude of its block of 64.

Shapes: x (M, K), packed (N, K / 2) bytes of two entries each, the first in the high half, absmax (N, K / 64) fp32, bias
(N,), y (M, N). Of few rows of x, and M is 1 to 64 when a model writes text, reading W is all the time there is: half a
byte an entry, once. A program owns BLOCK_N rows of W, BLOCK_M rows of x and a share of K, and walks along it by blocks
of 64. Rows of W are the tall side of the product, y^T = W x^T: tensor cores want 64 rows, and those of x, padded to 16,
fill 16 columns. Bytes become entries in registers (_nf4.py), two at a time: the first entries of all pairs of bytes
meet every fourth column of x in one dot, the others in three more, for side by side as x has them they would have to
move between registers. The sums of a block are multiplied by its absmax in fp32, one product for every 64 entries and
row of x, so that no entry is rounded twice.

K is shared among as many programs as fill the GPU. Their sums stay apart, 4 bytes a share, row and column, and are
added up by a second launch in a fixed order; where one share is enough it writes y itself.

Backward: dx = dy W. The weight is codes and has no gradient; that of bias, the sum of dy over rows, is left to torch. A
program owns BLOCK_M rows and BLOCK_K columns of dx and a share of the N rows of W, and walks down these: a tile of W is
made in registers, multiplied by absmax in fp32 (the sum now runs across blocks), rounded to the dtype of x once more,
and goes to one dot with dy. No more of W than that ever exists. In training rows are many and every program makes its
tile anew: for 128 rows at a time that takes fewer cycles, by count of instructions, than to multiply it.
Source: Dettmers et al. 2023, QLoRA, arXiv:2305.14314, section 3 and appendix E; packed as bitsandbytes does.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels._launch import (
    FLOATS,
    device_of,
    expect,
    expect_device,
    expect_inference,
    expect_like,
    expect_tensor,
    processors,
    tune,
)
from kernels._matmul import load_tile, near, place, store_tile
from kernels._nf4 import by_words, entries

BLOCK = 64  # entries that share an absmax
SHARES = 16  # of K at most
LEAST = 4  # blocks of a share, if there are so many
RESIDENT = 4  # programs at once on a multiprocessor
TALLEST = {2: 64, 4: 16}  # rows of x that one program multiplies, by bytes of an element
ADDED_AT_ONCE = 256

# By bytes of an element of x and BLOCK_M: BLOCK_N and num_stages. Registers hold a tile's sums twice, those of a block
# and those of all; fp32 is multiplied by fp32 units.
TILES = {(2, 16): (128, 5), (2, 32): (128, 4), (2, 64): (64, 4), (4, 16): (32, 2)}
# Backward, by bytes of an element: BLOCK_M for few rows and for many. By both of these: BLOCK_N, BLOCK_K, num_warps,
# num_stages, and programs at once on a multiprocessor, by the registers and the shared memory of an H100.
BACKWARD_ROWS = {2: (64, 128), 4: (32, 32)}
BACKWARD_TILES = {(2, 64): (64, 128, 4, 4, 3), (2, 128): (64, 128, 8, 4, 2), (4, 32): (16, 64, 4, 2, 4)}


@triton.jit
def _product(
    x_ptr, words_ptr, absmax_ptr, bias_ptr, out_ptr, strides, sizes,
    BLOCK_K: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    M, N, K, span = sizes
    x_strides, word_strides, absmax_strides, bias_stride = strides
    # Programs of the same rows of W are neighbours: one reads them from memory, the others from L2.
    beside, share = tl.cdiv(M, BLOCK_M), tl.program_id(1)
    row, col = (tl.program_id(0) % beside).to(tl.int64) * BLOCK_M, (tl.program_id(0) // beside).to(tl.int64) * BLOCK_N
    j = col + tl.arange(0, BLOCK_N)
    absmax_ptr += j * absmax_strides[0]
    y = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
    nothing = tl.zeros((BLOCK_N,), tl.float32)
    for block in range(share * span, tl.minimum((share + 1) * span, K // BLOCK_K)):
        absmax = tl.load(absmax_ptr + tl.cast(block, tl.int64) * absmax_strides[1], mask=j < N, other=0.0)
        words = load_tile(words_ptr, word_strides, col, N, block * (BLOCK_K // 4), K, BLOCK_N, BLOCK_K // 4, True)
        x = load_tile(x_ptr, x_strides, row, M, block * BLOCK_K, K, BLOCK_M, BLOCK_K, True)
        w0, w1, w2, w3 = entries(words, x.dtype)
        even, odd = tl.split(tl.reshape(x, (BLOCK_M, BLOCK_K // 4, 2, 2)))
        x0, x2 = tl.split(even)
        x1, x3 = tl.split(odd)
        sums = tl.dot(w0, x0.T, input_precision="ieee")
        sums = tl.dot(w1, x1.T, sums, input_precision="ieee")
        sums = tl.dot(w2, x2.T, sums, input_precision="ieee")
        sums = tl.dot(w3, x3.T, sums, input_precision="ieee")
        y += sums * absmax[:, None]
        # An absmax of infinity makes NaN of the entries that are zero, and with them of the row.
        nothing += absmax * 0.0
    y += nothing[:, None]
    if bias_ptr is not None:
        y += tl.load(bias_ptr + j * bias_stride, mask=j < N, other=0.0).to(tl.float32)[:, None]
    store_tile(out_ptr + share.to(tl.int64) * M * N, y.T, row, M, col, N)


@triton.jit
def _backward(
    dy_ptr, words_ptr, absmax_ptr, out_ptr, strides, sizes,
    BLOCK: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr = 8,
):  # fmt: skip
    M, N, words_of_row, span = sizes
    dy_strides, word_strides, absmax_strides = strides
    share, K = tl.program_id(1), words_of_row * 4
    row, col = place(M, K, BLOCK_M, BLOCK_K, GROUP_M)
    words_ptr += col // 4 * word_strides[1]
    absmax_ptr += col // BLOCK * absmax_strides[1]
    rest = words_of_row - (col // 4).to(tl.int32)
    dx = tl.zeros((BLOCK_M, BLOCK_K), tl.float32)
    for start in range(share * span, tl.minimum((share + 1) * span, N), BLOCK_N):
        dy = load_tile(dy_ptr, dy_strides, row, M, start, N, BLOCK_M, BLOCK_N, False)
        words = load_tile(words_ptr, word_strides, start, N, 0, rest, BLOCK_N, BLOCK_K // 4, False)
        absmax = load_tile(absmax_ptr, absmax_strides, start, N, 0, rest * 4 // BLOCK, BLOCK_N, BLOCK_K // BLOCK, False)
        w0, w1, w2, w3 = entries(words, dy.dtype)
        weight = tl.reshape(tl.join(tl.join(w0, w2), tl.join(w1, w3)), (BLOCK_N, BLOCK_K // BLOCK, BLOCK))
        weight = tl.reshape((weight * absmax[:, :, None]).to(dy.dtype), (BLOCK_N, BLOCK_K))
        dx = tl.dot(dy, weight, dx, input_precision="ieee")
    store_tile(out_ptr + share.to(tl.int64) * M * K, dx, row, M, col, K)


@triton.jit
def _add_up(parts_ptr, bias_ptr, y_ptr, bias_stride, sizes, MOST: tl.constexpr, BLOCK: tl.constexpr):
    entries_of_y, N, shares = sizes
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside, share = at < entries_of_y, tl.arange(0, MOST).to(tl.int64)[:, None]
    parts_ptrs = parts_ptr + share * entries_of_y + at[None, :]
    y = tl.sum(tl.load(parts_ptrs, mask=(share < shares) & inside[None, :], other=0.0), 0)
    if bias_ptr is not None:
        y += tl.load(bias_ptr + at % N * bias_stride, mask=inside, other=0.0).to(tl.float32)
    tl.store(y_ptr + at, y.to(y_ptr.dtype.element_ty), mask=inside)


KERNELS = {
    kind: tune([triton.Config({"BLOCK_N": height}, num_warps=4, num_stages=stages)])(_product)
    for kind, (height, stages) in TILES.items()
}
BACKWARD = {
    kind: tune([triton.Config({"BLOCK_N": height, "BLOCK_K": width}, num_warps=warps, num_stages=stages)])(_backward)
    for kind, (height, width, warps, stages, _) in BACKWARD_TILES.items()
}


def _shares(tiles: int, steps: int, at_once: int) -> tuple[int, int]:
    """Among how many programs to share the steps of each tile, and how many steps one of them takes."""
    span = triton.cdiv(steps, max(1, min(at_once // tiles, steps // LEAST, SHARES)))
    return triton.cdiv(steps, span) if steps else 1, span


def _add(parts: Tensor, bias: Tensor | None, y: Tensor) -> None:
    """Add up shares and bias into y, unless there was one share, which is y."""
    if parts is not y:
        sizes, bias_stride = (y.numel(), y.shape[1], len(parts)), 0 if bias is None else bias.stride(0)
        grid = (triton.cdiv(y.numel(), ADDED_AT_ONCE),)
        _add_up[grid](parts, bias, y, bias_stride, sizes, MOST=SHARES, BLOCK=ADDED_AT_ONCE)


def _launch(x: Tensor, packed: Tensor, absmax: Tensor, bias: Tensor | None) -> Tensor:
    (m, k), n = x.shape, len(packed)
    y = torch.empty(m, n, dtype=x.dtype, device=x.device)
    if y.numel() == 0:
        return y
    x, words, size = near("x", x), near("packed", by_words(packed)), x.element_size()
    rows = min(TALLEST[size], max(16, triton.next_power_of_2(m)))
    blocks, tiles = k // BLOCK, triton.cdiv(m, rows) * triton.cdiv(n, TILES[size, rows][0])
    shares, span = _shares(tiles, blocks, RESIDENT * processors(x))
    out = y if shares == 1 else torch.empty(shares, m, n, dtype=torch.float32, device=x.device)
    bias_stride = 0 if bias is None else bias.stride(0)
    strides = (x.stride(), words.stride(), absmax.stride(), bias_stride)
    with device_of(x):
        KERNELS[size, rows][(tiles, shares)](
            x, words, absmax, bias if shares == 1 else None, out, strides, (m, n, k, span),
            BLOCK_K=BLOCK, BLOCK_M=rows,
        )  # fmt: skip
        _add(out, bias, y)
    return y


def _launch_backward(dy: Tensor, packed: Tensor, absmax: Tensor) -> Tensor:
    (m, n), k = dy.shape, packed.shape[1] * 2
    dx = torch.empty(m, k, dtype=dy.dtype, device=dy.device)
    if dx.numel() == 0:
        return dx
    dy, words, size = near("dy", dy), near("packed", by_words(packed)), dy.element_size()
    few, many = BACKWARD_ROWS[size]
    rows = few if m <= few else many
    height, width, _, _, resident = BACKWARD_TILES[size, rows]
    tiles = triton.cdiv(m, rows) * triton.cdiv(k, width)
    shares, span = _shares(tiles, triton.cdiv(n, height), resident * processors(dy))
    out = dx if shares == 1 else torch.empty(shares, m, k, dtype=torch.float32, device=dy.device)
    strides, sizes = (dy.stride(), words.stride(), absmax.stride()), (m, n, k // 4, span * height)
    with device_of(dy):
        BACKWARD[size, rows][(tiles, shares)](dy, words, absmax, out, strides, sizes, BLOCK=BLOCK, BLOCK_M=rows)
        _add(out, None, dx)
    return dx


class _Nf4Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, packed: Tensor, absmax: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(packed, absmax)
        return _launch(x, packed, absmax, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        needs_dx, _, _, needs_dbias = ctx.needs_input_grad
        dx = _launch_backward(dy, *ctx.saved_tensors) if needs_dx else None
        return dx, None, None, dy.sum(0) if needs_dbias else None


def nf4_linear(x: Tensor, packed: Tensor, absmax: Tensor, *, bias: Tensor | None = None) -> Tensor:
    """x W^T + bias, W of 4-bit NormalFloats in blocks of 64 along its rows: fp32 sums and one cast.

    x: (..., K) fp32, fp16 or bf16, K a multiple of 64; packed: (N, K / 2) uint8, the first of two entries in the high
    half; absmax: (N, K / 64) fp32; bias: (N,) of the dtype of x. The 16 values are rounded to the dtype of x, as tensor
    cores want them, their scale is not. Any strides (fastest where K is contiguous; leading dimensions that no view can
    join are copied), any size may be 0. Returns (..., N), contiguous; differentiable in x and bias. The weight is
    frozen: absmax is refused where it asks for a gradient. Made for few rows: the forward takes 64 of them at a time,
    and makes the weight anew for the next. Source: QLoRA, arXiv:2305.14314.

    Raises:
        TypeError: an argument is not a tensor of these dtypes.
        ValueError: a shape or device does not fit, or absmax asks for a gradient.
    """
    expect_tensor("x", x, dtypes=FLOATS)
    expect(x.ndim >= 1, "x", "at least 1 dimension", f"shape {tuple(x.shape)}")
    k = x.shape[-1]
    expect(k % BLOCK == 0, "x", f"a multiple of {BLOCK} as last dimension", f"shape {tuple(x.shape)}")
    for name, value, dtype, cols in (
        ("packed", packed, torch.uint8, k // 2), ("absmax", absmax, torch.float32, k // BLOCK),
    ):  # fmt: skip
        expect_tensor(name, value, dtypes=(dtype,), rank=2)
        expect_device(name, value, "x", x)
        expect(value.shape[1] == cols, name, f"{cols} columns for the {k} of x", f"shape {tuple(value.shape)}")
    n = len(packed)
    expect(len(absmax) == n, "absmax", f"{n} rows, as packed has", f"shape {tuple(absmax.shape)}")
    if bias is not None:
        expect_tensor("bias", bias, dtypes=FLOATS, rank=1)
        expect_like("bias", bias, "x", x)
        expect(len(bias) == n, "bias", f"{n} entries, one for each row of packed", len(bias))
    expect_inference("absmax", absmax)
    rows = x.reshape(math.prod(x.shape[:-1]), k)
    if torch.is_grad_enabled() and (x.requires_grad or (bias is not None and bias.requires_grad)):
        y: Tensor = _Nf4Linear.apply(rows, packed, absmax, bias)
    else:
        y = _launch(rows, packed, absmax, bias)
    return y.view(*x.shape[:-1], n)
