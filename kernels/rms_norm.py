"""y = x / sqrt(mean(x^2) + eps) * weight over the last dimension; after a residual, h = x + residual, y = rms_norm(h).

Shapes: x, residual, y, h (..., cols), weight (cols,), seen as (rows, cols); rstd = 1 / sqrt(mean(x^2) + eps): (rows,).
Backward, with g = dy weight and n = x rstd:  dx = (g - n mean(g n)) rstd [+ dh],  dweight = sum over rows of dy n.

A program owns whole rows, several if they are short, and keeps them in registers: x, residual, y, h and dy, dh, x, dx
are each touched once. A row too wide for that is walked twice in chunks; the second walk finds it in L2. In the
backward a fixed number of programs strides over the rows, each sums its part of dweight in fp32 (in registers, or for
wide rows in its own row of `partials`), then one sum goes over the programs: its order is that of the device and sizes.
Source: Zhang & Sennrich 2019, arXiv:1910.07467.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels._launch import FLOATS, device_of, expect, expect_device, expect_like, expect_tensor, processors
from kernels._rows import WIDE_TILE, as_rows, tile_of

WIDEST = 131072
# The columns of a row, and in the backward its bytes, that 16 warps (the most that gfx942 allows) hold in registers.
FORWARD_COLS, BACKWARD_BYTES = 32768, 32768


@triton.jit
def _forward(
    x_ptr, residual_ptr, weight_ptr, y_ptr, h_ptr, rstd_ptr, row_strides, rows, cols, eps,
    BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)[:, None]
    col = tl.arange(0, BLOCK_COLS)[None, :]
    inside = (row < rows) & (col < cols)
    x = tl.load(x_ptr + row * row_strides[0] + col, mask=inside, other=0.0).to(tl.float32)
    if residual_ptr is not None:
        x += tl.load(residual_ptr + row * row_strides[1] + col, mask=inside, other=0.0).to(tl.float32)
        # The norm sees what is stored, since the backward and the next layer have nothing else to go by.
        x = x.to(h_ptr.dtype.element_ty).to(tl.float32)
        tl.store(h_ptr + row * cols + col, x.to(h_ptr.dtype.element_ty), mask=inside)
    rstd = tl.rsqrt(tl.sum(x * x, axis=1, keep_dims=True) / cols + eps)
    if rstd_ptr is not None:
        tl.store(rstd_ptr + row, rstd, mask=row < rows)
    weight = tl.load(weight_ptr + col, mask=col < cols, other=0.0).to(tl.float32)
    tl.store(y_ptr + row * cols + col, (x * rstd * weight).to(y_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _forward_wide(
    x_ptr, residual_ptr, weight_ptr, y_ptr, h_ptr, rstd_ptr, row_strides, cols, eps, BLOCK_COLS: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    x_row_ptr = x_ptr + row * row_strides[0]
    squares = tl.zeros((BLOCK_COLS,), tl.float32)
    for start in range(0, cols, BLOCK_COLS):
        col = start + tl.arange(0, BLOCK_COLS)
        x = tl.load(x_row_ptr + col, mask=col < cols, other=0.0).to(tl.float32)
        if residual_ptr is not None:
            x += tl.load(residual_ptr + row * row_strides[1] + col, mask=col < cols, other=0.0).to(tl.float32)
            x = x.to(h_ptr.dtype.element_ty).to(tl.float32)
            tl.store(h_ptr + row * cols + col, x.to(h_ptr.dtype.element_ty), mask=col < cols)
        squares += x * x
    rstd = tl.rsqrt(tl.sum(squares, axis=0) / cols + eps)
    if rstd_ptr is not None:
        tl.store(rstd_ptr + row, rstd)
    if residual_ptr is not None:
        x_row_ptr = h_ptr + row * cols
        # A thread may read back what another one has stored.
        tl.debug_barrier()
    for start in range(0, cols, BLOCK_COLS):
        col = start + tl.arange(0, BLOCK_COLS)
        x = tl.load(x_row_ptr + col, mask=col < cols, other=0.0).to(tl.float32)
        weight = tl.load(weight_ptr + col, mask=col < cols, other=0.0).to(tl.float32)
        tl.store(y_ptr + row * cols + col, (x * rstd * weight).to(y_ptr.dtype.element_ty), mask=col < cols)


@triton.jit
def _backward(
    dy_ptr, dh_ptr, x_ptr, weight_ptr, rstd_ptr, dx_ptr, partials_ptr, row_strides, rows, COLS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr,
):  # fmt: skip
    # Masks take registers: COLS is a constant, rstd has no mask. With registers to spare the weight stays in them.
    HELD: tl.constexpr = BLOCK_ROWS * BLOCK_COLS <= 8192 and x_ptr.dtype.element_ty.primitive_bitwidth == 16
    col = tl.arange(0, BLOCK_COLS)[None, :]
    weight = tl.load(weight_ptr + col, mask=col < COLS, other=0.0) if HELD else None
    dweight = tl.zeros((BLOCK_ROWS, BLOCK_COLS), tl.float32)
    for block in range(tl.program_id(0), tl.cdiv(rows, BLOCK_ROWS), tl.num_programs(0)):
        lane = block * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS).to(tl.int64)
        rstd = tl.load(rstd_ptr + tl.minimum(lane, rows - 1))[:, None]
        row = lane[:, None]
        inside = (row < rows) & (col < COLS)
        dy = tl.load(dy_ptr + row * row_strides[0] + col, mask=inside, other=0.0).to(tl.float32)
        x = tl.load(x_ptr + row * row_strides[2] + col, mask=inside, other=0.0).to(tl.float32)
        dweight += dy * (x * rstd)
        if dx_ptr is not None:
            dy *= (weight if HELD else tl.load(weight_ptr + col, mask=col < COLS, other=0.0)).to(tl.float32)
            slope = tl.sum(dy * (x * rstd), axis=1, keep_dims=True) * (rstd / COLS)
            dx = (dy - x * slope) * rstd
            if dh_ptr is not None:
                dx += tl.load(dh_ptr + row * row_strides[1] + col, mask=inside, other=0.0).to(tl.float32)
            tl.store(dx_ptr + row * COLS + col, dx.to(dx_ptr.dtype.element_ty), mask=inside)
    if partials_ptr is not None:
        partial_ptr = partials_ptr + tl.program_id(0).to(tl.int64) * COLS + col
        tl.store(partial_ptr, tl.sum(dweight, axis=0, keep_dims=True), mask=col < COLS)


@triton.jit
def _backward_wide(
    dy_ptr, dh_ptr, x_ptr, weight_ptr, rstd_ptr, dx_ptr, partials_ptr, row_strides, rows, cols, BLOCK_COLS: tl.constexpr
):
    first = tl.program_id(0).to(tl.int64)
    for row in range(first, rows, tl.num_programs(0)):
        rstd = tl.load(rstd_ptr + row)
        dots = tl.zeros((BLOCK_COLS,), tl.float32)
        if dx_ptr is not None:
            for start in range(0, cols, BLOCK_COLS):
                col = start + tl.arange(0, BLOCK_COLS)
                dy = tl.load(dy_ptr + row * row_strides[0] + col, mask=col < cols, other=0.0).to(tl.float32)
                x = tl.load(x_ptr + row * row_strides[2] + col, mask=col < cols, other=0.0).to(tl.float32)
                dy *= tl.load(weight_ptr + col, mask=col < cols, other=0.0).to(tl.float32)
                dots += dy * (x * rstd)
        slope = tl.sum(dots, axis=0) * (rstd / cols)
        # Between two rows a partial may pass from one thread of the program to another.
        tl.debug_barrier()
        for start in range(0, cols, BLOCK_COLS):
            col = start + tl.arange(0, BLOCK_COLS)
            dy = tl.load(dy_ptr + row * row_strides[0] + col, mask=col < cols, other=0.0).to(tl.float32)
            x = tl.load(x_ptr + row * row_strides[2] + col, mask=col < cols, other=0.0).to(tl.float32)
            if partials_ptr is not None:
                partial_ptr = partials_ptr + first * cols + col
                partial = tl.load(partial_ptr, mask=col < tl.where(row == first, 0, cols), other=0.0)
                tl.store(partial_ptr, partial + dy * (x * rstd), mask=col < cols)
            if dx_ptr is not None:
                dy *= tl.load(weight_ptr + col, mask=col < cols, other=0.0).to(tl.float32)
                dx = (dy - x * slope) * rstd
                if dh_ptr is not None:
                    dx += tl.load(dh_ptr + row * row_strides[1] + col, mask=col < cols, other=0.0).to(tl.float32)
                tl.store(dx_ptr + row * cols + col, dx.to(dx_ptr.dtype.element_ty), mask=col < cols)


def _launch_forward(x: Tensor, residual: Tensor | None, weight: Tensor, eps: float, keep: bool) -> tuple[Any, Any, Any]:
    """y, h (None without a residual) and rstd (None unless it is to be kept for a backward)."""
    cols, rows = x.shape[-1], x.numel() // x.shape[-1]
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    h = None if residual is None else torch.empty_like(y)
    rstd = torch.empty(rows, dtype=torch.float32, device=x.device) if keep else None
    flat, strides = as_rows(x, residual)
    arguments = (*flat, weight.contiguous(), y, h, rstd, strides)
    block_rows, tile = tile_of(cols)
    with device_of(x):
        if cols > FORWARD_COLS and rows:
            _forward_wide[(rows,)](*arguments, cols, eps, **WIDE_TILE)
        elif rows:
            _forward[(triton.cdiv(rows, block_rows),)](*arguments, rows, cols, eps, **tile)
    return y, h, rstd


def _launch_backward(dy: Tensor, dh: Tensor | None, saved: Any, needs_dx: bool, needs_dweight: bool) -> tuple[Any, Any]:
    """The gradients of the norm's input (dh added) and of the weight; None for what is not needed."""
    x, weight, rstd = saved
    rows, cols = len(rstd), x.shape[-1]
    wide = triton.next_power_of_2(cols) * x.element_size() > BACKWARD_BYTES
    kernel, block_rows, tile = (_backward_wide, 1, WIDE_TILE) if wide else (_backward, *tile_of(cols))
    # A multiprocessor holds 16 warps whatever registers they take, so that no program waits for another to end.
    programs = min(triton.cdiv(rows, block_rows), processors(x) * 16 // tile["num_warps"])
    dx = torch.empty(x.shape, dtype=x.dtype, device=x.device) if needs_dx else None
    partials = torch.empty(programs, cols, dtype=torch.float32, device=x.device) if needs_dweight else None
    if rows > 0:
        flat, strides = as_rows(dy, dh, x)
        with device_of(x):
            kernel[(programs,)](*flat, weight.contiguous(), rstd, dx, partials, strides, rows, cols, **tile)
    return dx, None if partials is None else partials.sum(0).to(weight.dtype)


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, residual: Tensor | None, weight: Tensor, eps: float) -> tuple[Any, Any]:
        y, h, rstd = _launch_forward(x, residual, weight, eps, keep=True)
        ctx.save_for_backward(x if h is None else h, weight, rstd)
        ctx.set_materialize_grads(False)
        return y, h

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor | None, dh: Tensor | None) -> tuple[Tensor | None, ...]:
        needs_x, needs_residual, needs_weight, _ = ctx.needs_input_grad
        dx, dweight = dh, None
        if dy is not None:
            dx, dweight = _launch_backward(dy, dh, ctx.saved_tensors, needs_x or needs_residual, needs_weight)
        return dx if needs_x else None, dx if needs_residual else None, dweight, None


def _run(x: Tensor, residual: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Any]:
    """Check the arguments and run: y and h (None without a residual)."""
    expect_tensor("x", x, dtypes=FLOATS)
    expect(x.ndim >= 1 and 1 <= x.shape[-1] <= WIDEST, "x", f"rows of 1 to {WIDEST} columns", f"shape {tuple(x.shape)}")
    if residual is not None:
        expect_like("residual", residual, "x", x)
        expect(residual.shape == x.shape, "residual", f"the shape of x, {tuple(x.shape)}", tuple(residual.shape))
    expect_tensor("weight", weight, dtypes=tuple({x.dtype: 0, torch.float32: 0}), rank=1)
    expect_device("weight", weight, "x", x)
    expect(len(weight) == x.shape[-1], "weight", f"shape ({x.shape[-1]},), like a row of x", tuple(weight.shape))
    if isinstance(eps, bool) or not isinstance(eps, int | float):
        raise TypeError(f"eps: expected a number, got {type(eps).__name__}")
    expect(0 <= eps < float("inf"), "eps", "a finite number that is not negative", eps)
    if torch.is_grad_enabled() and any(value is not None and value.requires_grad for value in (x, residual, weight)):
        return _RmsNorm.apply(x, residual, weight, float(eps))
    return _launch_forward(x, residual, weight, float(eps), keep=False)[:2]


def rms_norm(x: Tensor, weight: Tensor, eps: float = 1e-6) -> Tensor:
    """Return x / sqrt(mean(x^2) + eps) * weight over the last dimension, in fp32 with one cast at the end.

    x: (..., cols), 1 to 131072 columns, fp32, fp16 or bf16, any strides. weight: (cols,), in x's dtype, or in fp32 for
    weights kept in full precision. Returns x's shape and dtype; differentiable. Source: arXiv:1910.07467.

    Raises:
        TypeError, ValueError: an argument is not as described, or eps is negative or not finite.
    """
    return _run(x, None, weight, eps)[0]


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float = 1e-6) -> tuple[Tensor, Tensor]:
    """Return (rms_norm(h, weight, eps), h), h = x + residual rounded to x's dtype first; differentiable in both.

    residual: shape and dtype of x; everything else, and what is raised, as in `rms_norm`.
    """
    expect_tensor("residual", residual, dtypes=FLOATS)
    return _run(x, residual, weight, eps)
