"""Two operators, each with one kernel as it should be and others with a planted regression, for tests of counting."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from bench.core.operator import Inputs, Make, Operator, fp16, grid, kernel

Run = Callable[[], Tensor]
ROWS, COLS, SIZE = 3, 200, 128


@triton.jit
def _double(x_ptr, y_ptr, cols, TWICE: tl.constexpr, BOUND: tl.constexpr, BLOCK: tl.constexpr):
    col = tl.arange(0, BLOCK)
    inside = col < cols if BOUND else col < BLOCK
    at = tl.program_id(0) * cols + col
    y = tl.load(x_ptr + at, mask=inside, other=0.0) * 2
    if TWICE:
        y = (y + tl.load(x_ptr + at, mask=inside, other=0.0) * 2) / 2
    tl.store(y_ptr + at, y.to(y_ptr.dtype.element_ty), mask=col < cols)


def _doubled(x: Tensor, dtype: torch.dtype = fp16, twice: bool = False, bound: bool = True) -> Tensor:
    y = torch.empty(x.shape, dtype=dtype)
    _double[(len(x),)](x, y, x.shape[1], TWICE=twice, BOUND=bound, BLOCK=256)
    return y


def double(x: Tensor) -> Tensor:
    return x + x


class Doubled(Operator):
    """y = 2 x, row by row."""

    entry = staticmethod(double)
    reference = staticmethod(double)
    checks = grid(rows=[ROWS], dtype=[fp16])
    sweep = grid(seq_len=[512, 1024], dtype=[fp16])
    hostile = {"rows": 2, "dtype": fp16}

    def sizes(self, seq_len: int, dtype: torch.dtype) -> dict[str, Any]:
        return {"rows": ROWS, "dtype": dtype}

    def inputs(self, make: Make, rows: int, dtype: torch.dtype) -> Inputs:
        return {"x": make.normal(rows, COLS, dtype=dtype)}

    def traffic(self, mode: str, rows: int, dtype: torch.dtype) -> int:
        return 2 * rows * COLS * dtype.itemsize

    def flops(self, mode: str, rows: int, dtype: torch.dtype) -> int:
        return rows * COLS

    @kernel
    def sound(self, x: Tensor) -> Run:
        return lambda: _doubled(x)

    @kernel
    def second_load(self, x: Tensor) -> Run:
        return lambda: _doubled(x, twice=True)

    @kernel
    def extra_pass(self, x: Tensor) -> Run:
        return lambda: _doubled(_doubled(x) / 2)

    @kernel
    def widened(self, x: Tensor) -> Run:
        return lambda: _doubled(x, torch.float32).to(fp16)

    @kernel
    def unbounded(self, x: Tensor) -> Run:
        return lambda: _doubled(x, bound=False)

    @kernel
    def unbounded_inside(self, x: Tensor) -> Run:
        """Reads beyond its rows, and the memory there happens to be its own."""
        roomy = torch.zeros(2 * len(x), COLS, dtype=x.dtype)
        roomy[: len(x)] = x
        return lambda: _doubled(roomy[: len(x)], bound=False)


@triton.jit
def _multiply(a_ptr, b_ptr, out_ptr, SIZE: tl.constexpr, BLOCK_M: tl.constexpr, WIDE: tl.constexpr):
    row, k = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M), tl.arange(0, SIZE)
    a = tl.load(a_ptr + row[:, None] * SIZE + k[None, :])
    b = tl.load(b_ptr + k[:, None] * SIZE + k[None, :])
    if WIDE:
        out = tl.dot(a.to(tl.float32), b.to(tl.float32), input_precision="ieee")
    else:
        out = tl.dot(a, b, input_precision="ieee")
    tl.store(out_ptr + row[:, None] * SIZE + k[None, :], out.to(out_ptr.dtype.element_ty))


def _multiplied(a: Tensor, b: Tensor, block_m: int = 64, wide: bool = False, num_warps: int = 4) -> Tensor:
    out = torch.empty_like(a)
    _multiply[(SIZE // block_m,)](a, b, out, SIZE=SIZE, BLOCK_M=block_m, WIDE=wide, num_warps=num_warps)
    return out


def multiply(a: Tensor, b: Tensor) -> Tensor:
    return a @ b


class Multiplied(Operator):
    """a @ b of square matrices."""

    entry = staticmethod(multiply)
    reference = staticmethod(multiply)
    checks = grid(size=[SIZE], dtype=[fp16])
    sweep = grid(seq_len=[512], dtype=[fp16])
    hostile = {"size": SIZE, "dtype": fp16}

    def sizes(self, seq_len: int, dtype: torch.dtype) -> dict[str, Any]:
        return {"size": SIZE, "dtype": dtype}

    def inputs(self, make: Make, size: int, dtype: torch.dtype) -> Inputs:
        return {name: make.normal(size, size, dtype=dtype) for name in ("a", "b")}

    def traffic(self, mode: str, size: int, dtype: torch.dtype) -> int:
        return 3 * size * size * dtype.itemsize

    def flops(self, mode: str, size: int, dtype: torch.dtype) -> int:
        return 2 * size**3

    @kernel
    def sound(self, a: Tensor, b: Tensor) -> Run:
        return lambda: _multiplied(a, b)

    @kernel
    def off_the_tensor_core(self, a: Tensor, b: Tensor) -> Run:
        return lambda: _multiplied(a, b, wide=True)

    @kernel
    def too_few_rows(self, a: Tensor, b: Tensor) -> Run:
        return lambda: _multiplied(a, b, block_m=32)

    @kernel
    def spilling(self, a: Tensor, b: Tensor) -> Run:
        return lambda: _multiplied(a, b, block_m=128, num_warps=1)

    @kernel
    def too_large(self, a: Tensor, b: Tensor) -> Run:
        big = torch.empty(256, 512, dtype=a.dtype)
        return lambda: _large(big)

    @kernel
    def too_wide(self, a: Tensor, b: Tensor) -> Run:
        """Its sums are four times what fits into the tensor memory of sm_100."""
        wide = torch.empty(512, 16, dtype=a.dtype)
        return lambda: _large(wide)


@triton.jit
def _multiply_large(a_ptr, out_ptr, ROWS: tl.constexpr, COLS: tl.constexpr):
    row, k = tl.arange(0, ROWS), tl.arange(0, COLS)
    a = tl.load(a_ptr + row[:, None] * COLS + k[None, :])
    out = tl.dot(a, tl.trans(a), input_precision="ieee")
    tl.store(out_ptr + row[:, None] * ROWS + row[None, :], out.to(out_ptr.dtype.element_ty))


def _large(big: Tensor) -> Tensor:
    rows, cols = big.shape
    out = torch.empty(rows, rows, dtype=big.dtype)
    _multiply_large[(1,)](big, out, ROWS=rows, COLS=cols, num_warps=8)
    return out
