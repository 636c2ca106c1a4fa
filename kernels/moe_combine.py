"""y[t] = sum over j of weights[t, j] rows[slots[t, j]]: what a token's experts returned, by the router's weights.

rows (tokens * k, cols), slots, weights (tokens, k), y (tokens, cols); every row belongs to one choice, as
`moe_dispatch` has it. Backward: drows[slots[t, j]] = weights[t, j] dy[t], dweights[t, j] = dy[t] . rows[slots[t, j]].

Forward: a program owns a stretch of one token, reads its k rows once and writes their sum in the order of j. Backward:
a program owns a token; it reads dy and the k rows once, writes their gradients, and keeps k sums for those of the
weights. Nothing is added up in memory: no atomics, and no row is touched twice.
Source: Shazeer et al. 2017 (arXiv:1701.06538), equation 1; Gale et al. 2022, MegaBlocks (arXiv:2211.15841).
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels import _moe_rows
from kernels._launch import FLOATS, device_of, expect, expect_device, expect_tensor

BLOCK_COLS = 2048  # that a program of the backward holds of a token: 16 for each thread of 4 warps
FEWEST_SUMS = 8  # choices up to which one compiled kernel serves all models


@triton.jit
def _backward(
    dy_ptr, rows_ptr, slots_ptr, weights_ptr, drows_ptr, dweights_ptr, strides, size,
    WIDTH: tl.constexpr, BLOCK_COLS: tl.constexpr,
):  # fmt: skip
    rows, cols, top_k = size
    token, place = tl.program_id(0).to(tl.int64), tl.arange(0, WIDTH)
    dweights = tl.zeros((WIDTH,), tl.float32)
    for start in range(0, cols, BLOCK_COLS):
        col = start + tl.arange(0, BLOCK_COLS)
        dy = tl.load(dy_ptr + token * strides[0] + col, mask=col < cols, other=0.0).to(tl.float32)
        for j in range(top_k):
            slot = tl.load(slots_ptr + token * top_k + j).to(tl.int64)
            inside = (col < cols) & (slot >= 0) & (slot < rows)
            if dweights_ptr is not None:
                row = tl.load(rows_ptr + slot * strides[1] + col, mask=inside, other=0.0).to(tl.float32)
                dweights += tl.where(place == j, tl.sum(dy * row, 0), 0.0)
            if drows_ptr is not None:
                drow = dy * tl.load(weights_ptr + token * top_k + j).to(tl.float32)
                tl.store(drows_ptr + slot * cols + col, drow.to(drows_ptr.dtype.element_ty), mask=inside)
    if dweights_ptr is not None:
        at = token * top_k + place
        tl.store(dweights_ptr + at, dweights.to(dweights_ptr.dtype.element_ty), mask=place < top_k)


class _MoeCombine(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, slots: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(rows, slots, weights)
        return _moe_rows.gather(rows, slots, weights)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        rows, slots, weights = ctx.saved_tensors
        drows = torch.empty(rows.shape, dtype=rows.dtype, device=rows.device) if ctx.needs_input_grad[0] else None
        dweights = torch.empty_like(weights) if ctx.needs_input_grad[2] else None
        tokens, top_k = slots.shape
        if tokens:
            dy, rows = _moe_rows.side_by_side(dy), _moe_rows.side_by_side(rows)
            with device_of(rows):
                _backward[(tokens,)](
                    dy, rows, slots, weights, drows, dweights, (dy.stride(0), rows.stride(0)), (*rows.shape, top_k),
                    WIDTH=max(FEWEST_SUMS, triton.next_power_of_2(top_k)), BLOCK_COLS=BLOCK_COLS, num_warps=4,
                )  # fmt: skip
        return drows, None, dweights


def moe_combine(rows: Tensor, slots: Tensor, weights: Tensor) -> Tensor:
    """Return y (tokens, cols): the rows of a token's experts, summed by its weights in fp32, with one cast at the end.

    rows: (tokens * k, cols) fp32, fp16 or bf16, any strides; slots: (tokens, k) int32 or int64, a permutation of all
    rows as `moe_dispatch` returns it, k at least 1 (a slot outside of the rows adds nothing); weights: (tokens, k)
    fp32, fp16 or bf16. Returns y in the dtype of rows. Differentiable in rows and weights; deterministic.
    Source: arXiv:1701.06538; arXiv:2211.15841.

    Raises:
        TypeError, ValueError: an argument is not as described.
    """
    _moe_rows.expect_rows("rows", rows)
    _moe_rows.expect_choices("slots", slots, "rows", rows)
    expect(slots.shape[1] >= 1, "slots", "at least 1 column", f"shape {tuple(slots.shape)}")
    expect(len(rows) == slots.numel(), "rows", f"{slots.numel()} rows, one for each of slots", len(rows))
    expect_tensor("weights", weights, dtypes=FLOATS, rank=2)
    expect_device("weights", weights, "rows", rows)
    expect(weights.shape == slots.shape, "weights", f"the shape of slots, {tuple(slots.shape)}", tuple(weights.shape))
    slots, weights = slots.contiguous(), weights.contiguous()
    if torch.is_grad_enabled() and (rows.requires_grad or weights.requires_grad):
        y: Tensor = _MoeCombine.apply(rows, slots, weights)
        return y
    return _moe_rows.gather(rows, slots, weights)
