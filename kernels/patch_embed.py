"""Patches of a picture as tokens: out = patches weight^T + bias, where the rows of `patches` are read from the picture.

Shapes: pixels (B, C, H, W), weight (E, C, P, P), bias (E,), out (B, H / P * W / P, E). As a product of matrices: M
rows, one for each patch, K = C P P pixels of it, E columns. Patches do not overlap, so that each entry of the (M, K)
matrix is one pixel; where it lies follows from row and column, and the matrix is never stored. Backward, of the same
entries:  dpixels = dout weight,  dweight = dout^T patches,  dbias = sum over rows of dout.

A program owns one tile of a result. Tiles that read the same rows run side by side (there are few of them: E or K over
BLOCK), so that pixels and dout come from memory about once and otherwise from L2, where the weight lies all the time.
dweight is small and its sums are long: programs share out the rows, each keeps its sums in fp32 in its own part, and
torch adds the parts in a fixed order; those that own the first columns of dweight sum dbias on the way. Pixels along
the row of a patch lie side by side: 16 of them are two accesses of 128 bits, 14 are seven of 32 (K is a constant, so
that the compiler knows what divides it).
Source: Dosovitskiy et al. 2020, arXiv:2010.11929; implicit GEMM: Chetlur et al. 2014, arXiv:1410.0759.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels._launch import FLOATS, device_of, expect, expect_device, expect_like, expect_tensor, processors, tune

LARGEST_PATCH = 64
LEAST_ROWS = 512  # that a program of dweight sums over, if there are as many: more than it takes to add its part


def _config(m: int, n: int, k: int, warps: int, stages: int) -> triton.Config:
    return triton.Config({"BLOCK_M": m, "BLOCK_N": n, "BLOCK_K": k}, num_warps=warps, num_stages=stages)


# By bytes of an element. The first of 16 bits fits 99 KiB of shared memory, and on gfx942 its 64 KiB.
TILES = {
    2: [_config(128, 128, 32, 8, 4), _config(128, 256, 64, 8, 3)],
    4: [_config(64, 32, 32, 4, 2)],
}


def _tuned(kernel: Any) -> dict[int, Any]:
    return {size: tune(tiles, key=["width", "DEPTH"])(kernel) for size, tiles in TILES.items()}


@triton.jit
def _rows(row, strides, size, P: tl.constexpr):
    """Where patches begin, in entries from the first pixel."""
    down, across = size[0], size[1]
    place = row % (down * across)
    start = (row // (down * across)).to(tl.int64) * strides[0]
    return start + (place // across).to(tl.int64) * P * strides[2] + (place % across).to(tl.int64) * P * strides[3]


@triton.jit
def _cols(col, strides, P: tl.constexpr):
    """Where the pixels of a patch lie, in entries from its beginning."""
    channel = (col // (P * P)).to(tl.int64) * strides[1]
    return channel + (col // P % P).to(tl.int64) * strides[2] + (col % P).to(tl.int64) * strides[3]


@triton.jit
def _forward(
    pixels_ptr, weight_ptr, bias_ptr, out_ptr, strides, size, rows, width,
    DEPTH: tl.constexpr, P: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    across = tl.cdiv(width, BLOCK_N)
    row = tl.program_id(0) // across * BLOCK_M + tl.arange(0, BLOCK_M)
    col = tl.program_id(0) % across * BLOCK_N + tl.arange(0, BLOCK_N)
    pixels_ptr += _rows(row, strides, size, P)[:, None]
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in range(0, DEPTH, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        inside = (row < rows)[:, None] & (k < DEPTH)[None, :]
        patches = tl.load(pixels_ptr + _cols(k, strides, P)[None, :], mask=inside, other=0.0)
        inside = (k < DEPTH)[:, None] & (col < width)[None, :]
        weight = tl.load(weight_ptr + col[None, :] * DEPTH + k[:, None], mask=inside, other=0.0)
        total = tl.dot(patches, weight, total, input_precision="ieee")
    if bias_ptr is not None:
        total += tl.load(bias_ptr + col, mask=col < width, other=0.0).to(tl.float32)[None, :]
    inside = (row < rows)[:, None] & (col < width)[None, :]
    out_ptrs = out_ptr + row.to(tl.int64)[:, None] * width + col[None, :]
    tl.store(out_ptrs, total.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _dpixels(
    dout_ptr, weight_ptr, dpixels_ptr, strides, size, rows, width,
    DEPTH: tl.constexpr, P: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """A tile is BLOCK_N pixels of BLOCK_M patches, its sums go over the columns of dout."""
    across = tl.cdiv(DEPTH, BLOCK_N)
    row = tl.program_id(0) // across * BLOCK_M + tl.arange(0, BLOCK_M)
    k = tl.program_id(0) % across * BLOCK_N + tl.arange(0, BLOCK_N)
    dout_ptr += row.to(tl.int64)[:, None] * width
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in range(0, width, BLOCK_K):
        col = start + tl.arange(0, BLOCK_K)
        inside = (row < rows)[:, None] & (col < width)[None, :]
        dout = tl.load(dout_ptr + col[None, :], mask=inside, other=0.0)
        inside = (col < width)[:, None] & (k < DEPTH)[None, :]
        weight = tl.load(weight_ptr + col[:, None] * DEPTH + k[None, :], mask=inside, other=0.0)
        total = tl.dot(dout, weight, total, input_precision="ieee")
    inside = (row < rows)[:, None] & (k < DEPTH)[None, :]
    dpixels_ptrs = dpixels_ptr + _rows(row, strides, size, P)[:, None] + _cols(k, strides, P)[None, :]
    tl.store(dpixels_ptrs, total.to(dpixels_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _dweight(
    pixels_ptr, dout_ptr, dweight_ptr, dbias_ptr, strides, size, rows, width, splits,
    DEPTH: tl.constexpr, P: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """A tile is BLOCK_M columns of dout times BLOCK_N pixels of a patch, its sums go over a share of the rows."""
    across = tl.cdiv(DEPTH, BLOCK_N)
    split, tile = tl.program_id(0) % splits, tl.program_id(0) // splits
    col = tile // across * BLOCK_M + tl.arange(0, BLOCK_M)
    k = tile % across * BLOCK_N + tl.arange(0, BLOCK_N)
    pixels_ptr += _cols(k, strides, P)[None, :]
    share = tl.cdiv(tl.cdiv(rows, BLOCK_K), splits) * BLOCK_K
    total, sums = tl.zeros((BLOCK_M, BLOCK_N), tl.float32), tl.zeros((BLOCK_M, BLOCK_K), tl.float32)
    for start in range(split * share, tl.minimum((split + 1) * share, rows), BLOCK_K):
        row = start + tl.arange(0, BLOCK_K)
        inside = (col < width)[:, None] & (row < rows)[None, :]
        dout = tl.load(dout_ptr + row.to(tl.int64)[None, :] * width + col[:, None], mask=inside, other=0.0)
        inside = (row < rows)[:, None] & (k < DEPTH)[None, :]
        patches = tl.load(pixels_ptr + _rows(row, strides, size, P)[:, None], mask=inside, other=0.0)
        total = tl.dot(dout, patches, total, input_precision="ieee")
        sums += dout.to(tl.float32)
    inside = (col < width)[:, None] & (k < DEPTH)[None, :]
    dweight_ptr += split.to(tl.int64) * width * DEPTH
    dweight = total.to(dweight_ptr.dtype.element_ty)
    tl.store(dweight_ptr + col[:, None] * DEPTH + k[None, :], dweight, mask=inside)
    if dbias_ptr is not None:
        dbias = tl.sum(sums, axis=1).to(dbias_ptr.dtype.element_ty)
        tl.store(dbias_ptr + split * width + col, dbias, mask=(col < width) & (tile % across == 0))


FORWARD, DPIXELS, DWEIGHT = _tuned(_forward), _tuned(_dpixels), _tuned(_dweight)


def _tiles(height: int, width: int) -> Any:
    """The programs of a launch that owns tiles of a (height, width) matrix, by its configuration."""
    return lambda meta: (triton.cdiv(height, meta["BLOCK_M"]) * triton.cdiv(width, meta["BLOCK_N"]),)


def _added(parts: Tensor, dtype: torch.dtype) -> Tensor:
    """The sum of parts that lie behind each other."""
    return parts[0] if len(parts) == 1 else parts.sum(0).to(dtype)


def _sizes(pixels: Tensor, weight: Tensor) -> tuple[tuple[int, int], int, int, int]:
    """Patches along both sides, and M, E and K."""
    batch, channels, height, width = pixels.shape
    size = weight.shape[2]
    grid = (height // size, width // size)
    return grid, batch * grid[0] * grid[1], len(weight), channels * size * size


class _PatchEmbed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pixels: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(pixels, weight)
        grid, rows, width, depth = _sizes(pixels, weight)
        out = torch.empty(len(pixels), grid[0] * grid[1], width, dtype=pixels.dtype, device=pixels.device)
        if out.numel():
            bias = None if bias is None else bias.contiguous()
            with device_of(pixels):
                FORWARD[pixels.element_size()][_tiles(rows, width)](
                    pixels, weight.contiguous(), bias, out, pixels.stride(), grid, rows, width,
                    DEPTH=depth, P=weight.shape[2],
                )  # fmt: skip
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        pixels, weight = ctx.saved_tensors
        needs_pixels, needs_weight, needs_bias = ctx.needs_input_grad
        grid, rows, width, depth = _sizes(pixels, weight)
        dout, size, constants = dout.contiguous(), pixels.element_size(), {"DEPTH": depth, "P": weight.shape[2]}
        dpixels = torch.empty(pixels.shape, dtype=pixels.dtype, device=pixels.device) if needs_pixels else None
        # So many that each processor has two programs, at tiles of 128 x 128 entries.
        tiles = triton.cdiv(width, 128) * triton.cdiv(depth, 128)
        splits = max(1, min(triton.cdiv(rows, LEAST_ROWS), 2 * processors(pixels) // tiles))
        with device_of(pixels):
            if dpixels is not None and rows:
                DPIXELS[size][_tiles(rows, depth)](
                    dout, weight.contiguous(), dpixels, dpixels.stride(), grid, rows, width, **constants
                )
            # One part is the sum itself.
            kept = weight.dtype if splits == 1 else torch.float32
            parts = torch.empty(splits, width, depth, dtype=kept, device=dout.device)
            sums = torch.empty(splits, width, dtype=kept, device=dout.device) if needs_bias else None
            if needs_weight or needs_bias:
                DWEIGHT[size][lambda meta: (_tiles(width, depth)(meta)[0] * splits,)](
                    pixels, dout, parts, sums, pixels.stride(), grid, rows, width, splits, **constants
                )
        dweight = _added(parts, weight.dtype).view(weight.shape) if needs_weight else None
        return dpixels, dweight, None if sums is None else _added(sums, weight.dtype)


def patch_embed(pixels: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Each P x P patch of the pictures times a matrix, plus bias; differentiable, deterministic. arXiv:2010.11929.

    pixels: (B, C, H, W), any strides, H and W multiples of P (1 to 64); weight: (E, C, P, P); bias: (E,) or None; all
    fp32, fp16 or bf16. Returns (B, H / P * W / P, E), contiguous, patches row by row, in pixels' dtype; sums in fp32.

    Raises:
        TypeError, ValueError: an argument is not as described.
    """
    expect_tensor("pixels", pixels, dtypes=FLOATS, rank=4)
    expect_tensor("weight", weight, dtypes=FLOATS, rank=4)
    expect_like("weight", weight, "pixels", pixels)
    size, got = weight.shape[2], f"shape {tuple(weight.shape)}"
    expect(
        weight.shape[3] == size and 1 <= size <= LARGEST_PATCH,
        "weight",
        f"patches of 1 to {LARGEST_PATCH} squared",
        got,
    )
    expect(len(weight) >= 1 and weight.shape[1] >= 1, "weight", "at least one row and one channel", got)
    expect(weight.shape[1] == pixels.shape[1], "weight", f"{pixels.shape[1]} channels, as pixels have", got)
    whole = pixels.shape[2] % size == 0 and pixels.shape[3] % size == 0
    expect(whole, "pixels", f"a height and a width that are multiples of {size}", f"shape {tuple(pixels.shape)}")
    if bias is not None:
        expect_tensor("bias", bias, dtypes=(pixels.dtype,), rank=1)
        expect_device("bias", bias, "pixels", pixels)
        expect(len(bias) == len(weight), "bias", f"shape ({len(weight)},), as weight has rows", tuple(bias.shape))
    tokens: Tensor = _PatchEmbed.apply(pixels, weight, bias)
    return tokens
