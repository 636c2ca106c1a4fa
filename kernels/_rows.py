"""What kernels over the last dimension share: tensors seen as rows, and the tile that holds rows in registers."""

from __future__ import annotations

import triton
from torch import Tensor

WIDE_TILE = {"BLOCK_COLS": 8192, "num_warps": 16}  # a chunk of a row that registers cannot hold
SHORT_TILE = 2048  # elements to which short rows are gathered: two 128-bit bf16 accesses for each thread of 4 warps


def as_rows(*tensors: Tensor | None) -> tuple[list[Tensor | None], tuple[int, ...]]:
    """Each tensor as (rows, cols), columns side by side (a copy only where no view is that), and the row strides."""
    flat = [None if tensor is None else tensor.reshape(-1, tensor.shape[-1]) for tensor in tensors]
    flat = [rows if rows is None or 1 in (rows.stride(1), rows.shape[1]) else rows.contiguous() for rows in flat]
    return flat, tuple(0 if rows is None else rows.stride(0) for rows in flat)


def tile_of(cols: int) -> tuple[int, dict[str, int]]:
    """The rows of a tile, and all its launch options: 16 elements per thread until 16 warps are full."""
    block_cols = triton.next_power_of_2(cols)
    block_rows = max(1, SHORT_TILE // block_cols)
    tile = {"BLOCK_ROWS": block_rows, "BLOCK_COLS": block_cols}
    return block_rows, tile | {"num_warps": min(16, block_rows * block_cols // 512)}
