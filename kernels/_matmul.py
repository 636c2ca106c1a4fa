"""What products of matrices share: which tile of the output a program owns, and how tiles of matrices are moved."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from kernels._launch import expect

FARTHEST = 1 << 22  # rows this far apart take a tile of 256 of them half as far as 32 bits reach


@triton.jit
def place(M, N, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, GROUP_M: tl.constexpr):
    """The first row and the first column of a program's tile of (M, N), int64.

    Tiles run in groups of GROUP_M rows, column by column, so that what a group reads of both factors comes from memory
    about once and otherwise from L2.
    """
    across = tl.cdiv(N, BLOCK_N)
    first = tl.program_id(0) // (GROUP_M * across) * GROUP_M
    place = tl.program_id(0) % (GROUP_M * across)
    height = tl.minimum(tl.cdiv(M, BLOCK_M) - first, GROUP_M)
    return (first + place % height).to(tl.int64) * BLOCK_M, (place // height).to(tl.int64) * BLOCK_N


@triton.jit
def load_tile(x_ptr, strides, row, rows, col, cols, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, EVEN: tl.constexpr):
    """The (HEIGHT, WIDTH) tile at (row, col) of a (rows, cols) matrix, zeros outside of it.

    EVEN: WIDTH divides cols, so that no mask cuts the 128 bits of an access. Offsets from a tile's first row are 32
    bits wide, half the registers of the address that they are added to: `near` sees to that.
    """
    i, j = tl.arange(0, HEIGHT), tl.arange(0, WIDTH)
    inside = (i < rows - row)[:, None]
    if not EVEN:
        inside &= (j < cols - col)[None, :]
    x_ptr += tl.cast(row, tl.int64) * strides[0]
    return tl.load(x_ptr + (i[:, None] * strides[0] + (col + j)[None, :] * strides[1]), mask=inside, other=0.0)


@triton.jit
def store_tile(x_ptr, x, row, rows, col, cols):
    """Store a tile at (row, col) of a contiguous (rows, cols) matrix."""
    i, j = tl.arange(0, x.shape[0]), tl.arange(0, x.shape[1])
    inside = (i < rows - row)[:, None] & (j < cols - col)[None, :]
    x_ptr += row * cols + col
    tl.store(x_ptr + (i[:, None] * cols + j[None, :]), x.to(x_ptr.dtype.element_ty), mask=inside)


def near(argument: str, x: Tensor) -> Tensor:
    """The matrix x as `load_tile` can read it: a copy where its rows or columns lie too far apart."""
    cols = x.shape[1]
    expect(cols < FARTHEST, argument, f"fewer than {FARTHEST} columns", f"shape {tuple(x.shape)}")
    return x if x.stride(0) < FARTHEST and x.stride(1) * cols < 256 * FARTHEST else x.contiguous()
