"""Small kernels whose cost is plain to see, for tests of the counter; run by a child in which they are interpreted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import triton
import triton.language as tl

from bench.core.count import Launch, counting
from bench.core.interpreter import mend


@triton.jit
def copy(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y_ptr + at, tl.load(x_ptr + at, mask=at < n, other=0.0), mask=at < n)


@triton.jit
def copy_if(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = (at < n) & (n > 1)
    tl.store(y_ptr + at, tl.load(x_ptr + at, mask=inside, other=0.0), mask=inside)


@triton.jit
def copy_unmasked(x_ptr, y_ptr, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y_ptr + at, tl.load(x_ptr + at))


@triton.jit
def read_twice(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    first = tl.load(x_ptr + at, mask=at < n, other=0.0)
    second = tl.load(x_ptr + at, mask=at < n, other=0.0)
    tl.store(y_ptr + at, first + second, mask=at < n)


@triton.jit
def scalar(x_ptr, y_ptr):
    tl.store(y_ptr, tl.load(x_ptr))


@triton.jit
def block_pointer(x_ptr, y_ptr, rows, cols, ROWS: tl.constexpr, COLS: tl.constexpr):
    source = tl.make_block_ptr(x_ptr, (rows, cols), (cols, 1), (0, 0), (ROWS, COLS), (1, 0))
    target = tl.make_block_ptr(y_ptr, (rows, cols), (cols, 1), (0, 0), (ROWS, COLS), (1, 0))
    x = tl.load(source, boundary_check=(0, 1), padding_option="zero")
    tl.store(target, x, boundary_check=(0, 1))


@triton.jit
def descriptor(x_ptr, y_ptr, rows, cols, ROWS: tl.constexpr, COLS: tl.constexpr):
    source = tl.make_tensor_descriptor(x_ptr, (rows, cols), (cols, 1), (ROWS, COLS))
    target = tl.make_tensor_descriptor(y_ptr, (rows, cols), (cols, 1), (ROWS, COLS))
    target.store([0, 0], source.load([0, 0]))


@triton.jit
def host_descriptor(x, y):
    y.store([0, 0], x.load([0, 0]))


@triton.jit
def gather(x_ptr, y_ptr, rows, COLS: tl.constexpr, N: tl.constexpr):
    source = tl.make_tensor_descriptor(x_ptr, (rows, COLS), (COLS, 1), (1, COLS))
    target = tl.make_tensor_descriptor(y_ptr, (N, COLS), (COLS, 1), (1, COLS))
    row = tl.arange(0, N)
    target.scatter(source.gather(row * 0 + 1, 0), row, 0)


@triton.jit
def atomic(total_ptr, flag_ptr, n, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    tl.atomic_add(total_ptr + at % 4, at.to(tl.float32), mask=at < n)
    tl.atomic_cas(flag_ptr, 0, 1)


@triton.jit
def dots(a_ptr, b_ptr, out_ptr, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, PRECISION: tl.constexpr):
    row, col, k = tl.arange(0, M), tl.arange(0, N), tl.arange(0, K)
    a = tl.load(a_ptr + row[:, None] * K + k[None, :])
    b = tl.load(b_ptr + k[:, None] * N + col[None, :])
    out = tl.dot(a, b, input_precision=PRECISION)
    tl.store(out_ptr + row[:, None] * N + col[None, :], out.to(out_ptr.dtype.element_ty))


@triton.jit
def _larger(a, b):
    return tl.where(a > b, a * 1.0, b)


@triton.jit
def arithmetic(x_ptr, y_ptr, ROWS: tl.constexpr, COLS: tl.constexpr):
    at = tl.arange(0, ROWS)[:, None] * COLS + tl.arange(0, COLS)[None, :]
    x = tl.load(x_ptr + at)
    y = x * x - x / 3.0
    y = tl.maximum(tl.fma(y, x, x), 0.0)
    y = tl.exp2(y) + tl.rsqrt(tl.abs(x) + 1.0)
    y += tl.sum(x, axis=1, keep_dims=True) + tl.max(x, axis=0, keep_dims=True)
    y += tl.reduce(x, 1, _larger, keep_dims=True)
    tl.store(y_ptr + at, tl.cumsum(y, 1))


@triton.jit
def bits(x_ptr, y_ptr, N: tl.constexpr):
    at = tl.arange(0, N)
    whole = tl.load(x_ptr + at)
    low = tl.load(x_ptr.to(tl.pointer_type(tl.int8)) + at)
    tl.store(y_ptr + at, whole + low)


@triton.jit
def add_halves(a_ptr, b_ptr, out_ptr, N: tl.constexpr):
    at = tl.arange(0, N)
    tl.store(out_ptr + at, tl.load(a_ptr + at) + tl.load(b_ptr + at))


def _run_copy() -> None:
    copy[(2,)](torch.ones(100), torch.empty(100), 100, BLOCK=64)


def _run_copy_if() -> None:
    copy_if[(2,)](torch.ones(100), torch.empty(100), 100, BLOCK=64)


def _far_away(n: int) -> torch.Tensor:
    """In a part of memory of its own: what lies behind a small tensor is often the next small one."""
    return torch.ones(1 << 20)[:n]


def _run_out_of_bounds() -> None:
    copy_unmasked[(2,)](torch.ones(100), _far_away(128), BLOCK=64)


def _run_written_out_of_bounds() -> None:
    copy_unmasked[(2,)](_far_away(128), torch.ones(100), BLOCK=64)


def _run_read_twice() -> None:
    read_twice[(1,)](torch.ones(100), torch.empty(100), 100, BLOCK=128)


def _run_scalar() -> None:
    scalar[(3,)](torch.ones(1, dtype=torch.float64), torch.empty(1, dtype=torch.float64))


def _run_block_pointer() -> None:
    block_pointer[(1,)](torch.ones(5, 24), torch.empty(5, 24), 5, 24, ROWS=8, COLS=32)


def _run_descriptor() -> None:
    x, y = torch.ones(5, 24, dtype=torch.float16), torch.empty(5, 24, dtype=torch.float16)
    descriptor[(1,)](x, y, 5, 24, ROWS=8, COLS=32)


def _run_host_descriptor() -> None:
    from triton.tools.tensor_descriptor import TensorDescriptor

    x, y = (TensorDescriptor.from_tensor(torch.ones(5, 24), [8, 32]) for _ in range(2))
    host_descriptor[(1,)](x, y)


def _run_gather() -> None:
    gather[(1,)](torch.ones(4, 16), torch.empty(8, 16), 4, COLS=16, N=8)


def _run_atomic() -> None:
    atomic[(2,)](torch.zeros(4), torch.zeros(1, dtype=torch.int32), 10, BLOCK=16)


def _dots(dtype: torch.dtype, precision: str = "ieee") -> None:
    a, b = torch.ones(16, 32, dtype=dtype), torch.ones(32, 64, dtype=dtype)
    out = torch.empty(16, 64, dtype=torch.int32 if dtype == torch.int8 else torch.float32)
    dots[(1,)](a, b, out, M=16, N=64, K=32, PRECISION=precision)
    assert (out == 32).all()


def _run_arithmetic() -> None:
    arithmetic[(1,)](torch.rand(4, 8), torch.empty(4, 8), ROWS=4, COLS=8)


def _run_bits() -> None:
    bits[(1,)](torch.ones(16, dtype=torch.int32), torch.empty(16, dtype=torch.int32), N=16)


def _run_halves() -> None:
    x = torch.ones(2, 16)
    add_halves[(1,)](x[0], x[1], torch.empty(16), N=16)


def _run_torch() -> None:
    x = torch.ones(8, 4)  # 128 bytes
    y = torch.empty(8, 4)
    y.copy_(x.t().t())
    x.sum(0).to(torch.float16)
    x[:1].expand(8, 4) + 1
    x.to(torch.float32)
    x.zero_()
    copy[(1,)](x, y, 32, BLOCK=32)


RUNS: dict[str, Callable[[], Any]] = {
    "copy": _run_copy,
    "copy_if": _run_copy_if,
    "out_of_bounds": _run_out_of_bounds,
    "written_out_of_bounds": _run_written_out_of_bounds,
    "read_twice": _run_read_twice,
    "scalar": _run_scalar,
    "block_pointer": _run_block_pointer,
    "descriptor": _run_descriptor,
    "host_descriptor": _run_host_descriptor,
    "gather": _run_gather,
    "atomic": _run_atomic,
    "dot-fp16": lambda: _dots(torch.float16),
    "dot-bf16": lambda: _dots(torch.bfloat16),
    "dot-int8": lambda: _dots(torch.int8),
    "dot-fp32": lambda: _dots(torch.float32),
    "dot-tf32": lambda: _dots(torch.float32, "tf32"),
    "arithmetic": _run_arithmetic,
    "bits": _run_bits,
    "halves": _run_halves,
    "torch": _run_torch,
}


def serve(name: str) -> Iterator[list[Launch]]:
    """The launches of one of `RUNS`."""
    mend()
    with counting() as launches:
        RUNS[name]()
    yield launches
