"""Rows to the places of a token's choices, and back: what dispatching and combining share, forward and backward.

spread:  rows[slots[t, j]] = x[t], a copy for each of the k choices of a token
gather:  x[t] = sum over j of weights[t, j] rows[slots[t, j]], in fp32 (all weights 1 where there are none)

x (tokens, cols), slots, weights (tokens, k), rows (tokens * k, cols). One is the other's gradient. A program owns a
stretch of one token, so that x and rows are touched once each, whatever the order of slots. A slot outside of the rows
is passed over.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels._launch import FLOATS, device_of, expect, expect_device, expect_tensor

# Of a program: two 128-bit bf16 accesses for each thread, and for each choice. Most models are whole stretches wide.
STRETCH = {"BLOCK_COLS": 1024, "num_warps": 2}


@triton.jit
def _stretch(cols, BLOCK_COLS: tl.constexpr):
    """This program's token and columns."""
    stretches = tl.cdiv(cols, BLOCK_COLS)
    token = (tl.program_id(0) // stretches).to(tl.int64)
    return token, tl.program_id(0) % stretches * BLOCK_COLS + tl.arange(0, BLOCK_COLS)


@triton.jit
def _spread(x_ptr, slots_ptr, rows_ptr, x_stride, size, BLOCK_COLS: tl.constexpr):
    rows, cols, top_k = size
    token, col = _stretch(cols, BLOCK_COLS)
    x = tl.load(x_ptr + token * x_stride + col, mask=col < cols, other=0.0)
    for j in range(top_k):
        slot = tl.load(slots_ptr + token * top_k + j).to(tl.int64)
        known = (slot >= 0) & (slot < rows)
        tl.store(rows_ptr + slot * cols + col, x, mask=(col < cols) & known)


@triton.jit
def _gather(rows_ptr, slots_ptr, weights_ptr, x_ptr, row_stride, size, BLOCK_COLS: tl.constexpr):
    rows, cols, top_k = size
    token, col = _stretch(cols, BLOCK_COLS)
    x = tl.zeros((BLOCK_COLS,), tl.float32)
    for j in range(top_k):
        slot = tl.load(slots_ptr + token * top_k + j).to(tl.int64)
        known = (slot >= 0) & (slot < rows)
        row = tl.load(rows_ptr + slot * row_stride + col, mask=(col < cols) & known, other=0.0).to(tl.float32)
        if weights_ptr is not None:
            row *= tl.load(weights_ptr + token * top_k + j).to(tl.float32)
        x += row
    tl.store(x_ptr + token * cols + col, x.to(x_ptr.dtype.element_ty), mask=col < cols)


def side_by_side(x: Tensor) -> Tensor:
    """Rows whose columns lie side by side: a copy only where they do not."""
    return x if 1 in (x.stride(1), x.shape[1]) else x.contiguous()


def spread(x: Tensor, slots: Tensor) -> Tensor:
    """(tokens * k, cols): every token at the slots of its choices (contiguous, a permutation of all rows)."""
    rows = torch.empty(slots.numel(), x.shape[1], dtype=x.dtype, device=x.device)
    if rows.numel():
        x = side_by_side(x)
        with device_of(x):
            _spread[(len(x) * triton.cdiv(x.shape[1], STRETCH["BLOCK_COLS"]),)](
                x, slots, rows, x.stride(0), (*rows.shape, slots.shape[1]), **STRETCH
            )
    return rows


def gather(rows: Tensor, slots: Tensor, weights: Tensor | None) -> Tensor:
    """(tokens, cols): the sum of the rows at the slots of a token, contiguous as the weights are."""
    x = torch.empty(len(slots), rows.shape[1], dtype=rows.dtype, device=rows.device)
    if x.numel():
        rows = side_by_side(rows)
        with device_of(rows):
            _gather[(len(x) * triton.cdiv(x.shape[1], STRETCH["BLOCK_COLS"]),)](
                rows, slots, weights, x, rows.stride(0), (*rows.shape, slots.shape[1]), **STRETCH
            )
    return x


def expect_choices(name: str, value: Any, like: str, other: Tensor) -> None:
    """Raise unless `value` is (tokens, k) integers on the device of `other`, the argument named `like`."""
    expect_tensor(name, value, dtypes=(torch.int32, torch.int64), rank=2)
    expect_device(name, value, like, other)
    expect(value.numel() < 2**31, name, "fewer than 2^31 choices", f"shape {tuple(value.shape)}")


def expect_rows(name: str, value: Any) -> None:
    """Raise unless `value` is a matrix of floats."""
    expect_tensor(name, value, dtypes=FLOATS, rank=2)
