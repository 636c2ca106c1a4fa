"""What elementwise kernels share: the tile of a program, and the launch over tensors of one shape.

A program owns 2048 elements: a stretch of one row, or several short rows. Where every tensor is contiguous all
elements are one row; rows may stand apart; other strides are copied first.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from kernels._launch import device_of

TILE = 2048  # two 128-bit bf16 accesses for each thread of 4 warps, and per tensor


@triton.jit
def tile(size, BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr):
    """The rows and columns of a program, and which of them lie inside of (rows, cols)."""
    blocks_per_row = tl.cdiv(size[1], BLOCK_COLS)
    program = tl.program_id(0).to(tl.int64)
    row = program // blocks_per_row * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)[:, None]
    col = program % blocks_per_row * BLOCK_COLS + tl.arange(0, BLOCK_COLS)[None, :]
    return row, col, (row < size[0]) & (col < size[1])


def launch(kernel: Any, inputs: tuple[Tensor, ...], outputs: tuple[Tensor | None, ...], **constants: Any) -> None:
    """Run kernel(*inputs, *outputs, row_strides, (rows, cols), **constants) over tensors of one shape.

    inputs: any strides; row_strides are theirs. outputs: contiguous; None where one is not needed.
    """
    if inputs[0].numel() == 0:
        return
    if all(value.is_contiguous() for value in inputs):
        inputs = tuple(value.view(1, -1) for value in inputs)
    else:
        inputs = tuple(value.reshape(-1, value.shape[-1]) for value in inputs)
        inputs = tuple(value if value.stride(1) == 1 else value.contiguous() for value in inputs)
    rows, cols = inputs[0].shape
    block_cols = min(TILE, triton.next_power_of_2(cols))
    block_rows = TILE // block_cols
    programs = triton.cdiv(rows, block_rows) * triton.cdiv(cols, block_cols)
    strides = tuple(value.stride(0) for value in inputs)
    with device_of(inputs[0]):
        kernel[(programs,)](
            *inputs, *outputs, strides, (rows, cols), **constants,
            BLOCK_ROWS=block_rows, BLOCK_COLS=block_cols, num_warps=4,
        )  # fmt: skip
