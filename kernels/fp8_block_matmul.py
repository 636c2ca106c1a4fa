"""out = sum over blocks of 128 along K of (a @ b^T) * a_scale * b_scale: fp8 with a scale for every block, promoted.

Shapes: a (M, K) and b (N, K) e4m3, a_scale (M, K / 128), b_scale (N / 128, K / 128) fp32 (blocks at the edges may be
short), out (M, N). A program owns one BLOCK_M x BLOCK_N tile of out and walks along K, 128 at a time: so many columns
share a scale, and after so many the tensor cores of Hopper, which add up fp8 in about 14 bits, hand their sums over to
an accumulator of fp32, multiplied by the scales on the way. BLOCK_N divides 128, so that a tile of b has one scale.
Tiles run in groups of GROUP_M rows (kernels/_matmul.py): a and b come from memory about once and otherwise from L2.

The sum of a block is a dot of its own, not one into the accumulator: scales stand between them, and a dot that promotes
by itself (max_num_imprecise_acc) falls out of wgmma or serialises it.
Source: DeepSeek-AI 2024, arXiv:2412.19437, section 3.3.2 (fine-grained quantisation, accumulation in CUDA cores).
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels._launch import FLOATS, device_of, expect, expect_device, expect_inference, expect_tensor, tune
from kernels._matmul import load_tile, near, place, store_tile

BLOCK = 128  # of the quantisation, along K of both and along N of b

TILES = [triton.Config({"BLOCK_M": 128, "BLOCK_N": 128}, num_warps=8, num_stages=4)]
# K that 16 does not divide is read byte by byte, in small tiles, for addresses take registers.
ODD_TILES = [triton.Config({"BLOCK_M": 64, "BLOCK_N": 32}, num_warps=4, num_stages=2)]


@triton.jit
def _block_matmul(
    a_ptr, b_ptr, a_scale_ptr, b_scale_ptr, out_ptr, strides, sizes,
    tuned_for,  # noqa: ARG001 - the key of tuning: the power of two that M reaches up to, N and K
    EVEN_K: tl.constexpr, BLOCK_K: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, GROUP_M: tl.constexpr = 8,
):  # fmt: skip
    M, N, K = sizes
    a_strides, b_strides, a_scale_strides, b_scale_strides = strides
    row, col = place(M, N, BLOCK_M, BLOCK_N, GROUP_M)
    i = row + tl.arange(0, BLOCK_M)
    a_scale_ptr += i * a_scale_strides[0]
    b_scale_ptr += col // BLOCK_K * b_scale_strides[0]
    out = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for block in range(tl.cdiv(K, BLOCK_K)):
        a = load_tile(a_ptr, a_strides, row, M, block * BLOCK_K, K, BLOCK_M, BLOCK_K, EVEN_K)
        b = load_tile(b_ptr, b_strides, col, N, block * BLOCK_K, K, BLOCK_N, BLOCK_K, EVEN_K)
        # Read while the dot waits for its tiles, and needed behind it: their latency does not show.
        at = tl.cast(block, tl.int64)
        scale = tl.load(a_scale_ptr + at * a_scale_strides[1], mask=i < M, other=0.0)
        scale *= tl.load(b_scale_ptr + at * b_scale_strides[1])
        out += tl.dot(a, b.T, input_precision="ieee") * scale[:, None]
    store_tile(out_ptr, out, row, M, col, N)


BY_EVEN_K = {even: tune(tiles, key=["tuned_for"])(_block_matmul) for even, tiles in ((True, TILES), (False, ODD_TILES))}


def _expect_scale(argument: str, scale: Tensor, shape: tuple[int, int], a: Tensor) -> None:
    """Raise unless `scale` is an fp32 matrix of that shape beside `a`, which asks for no gradient."""
    expect_tensor(argument, scale, dtypes=(torch.float32,), rank=2)
    expect_device(argument, scale, "a", a)
    expect(scale.shape == shape, argument, f"shape {shape}, an entry for every block", f"shape {tuple(scale.shape)}")
    expect_inference(argument, scale)


def fp8_block_matmul(
    a: Tensor, b: Tensor, a_scale: Tensor, b_scale: Tensor, *, out_dtype: torch.dtype = torch.bfloat16
) -> Tensor:
    """a @ b^T of fp8 matrices, a scaled by tiles of 1 x 128 and b by tiles of 128 x 128; fp32 sums and one cast.

    a: (M, K), b: (N, K), float8_e4m3fn; a_scale: (M, ceil(K / 128)), b_scale: (ceil(N / 128), ceil(K / 128)), fp32;
    out_dtype: fp32, fp16 or bf16. Any strides (fastest where K is contiguous), any size may be 0. Returns (M, N),
    contiguous. For inference: a scale that asks for a gradient is refused. Source: DeepSeek-V3, arXiv:2412.19437.

    Raises:
        TypeError: an argument is not a tensor of these dtypes, or out_dtype none of them.
        ValueError: a shape or device does not fit, or a scale asks for a gradient.
    """
    expect_tensor("a", a, dtypes=(torch.float8_e4m3fn,), rank=2)
    expect_tensor("b", b, dtypes=(torch.float8_e4m3fn,), rank=2)
    expect_device("b", b, "a", a)
    (m, k), n = a.shape, len(b)
    expect(b.shape[1] == k, "b", f"{k} columns, as a has", f"shape {tuple(b.shape)}")
    blocks = triton.cdiv(k, BLOCK)
    _expect_scale("a_scale", a_scale, (m, blocks), a)
    _expect_scale("b_scale", b_scale, (triton.cdiv(n, BLOCK), blocks), a)
    if out_dtype not in FLOATS:
        raise TypeError(f"out_dtype: expected {' or '.join(map(str, FLOATS))}, got {out_dtype}")
    a, b = near("a", a), near("b", b)
    out = torch.empty(m, n, dtype=out_dtype, device=a.device)
    strides = (a.stride(), b.stride(), a_scale.stride(), b_scale.stride())

    def grid(meta: dict[str, Any]) -> tuple[int]:
        return (triton.cdiv(m, meta["BLOCK_M"]) * triton.cdiv(n, meta["BLOCK_N"]),)

    if out.numel():
        with device_of(a):
            BY_EVEN_K[k % BLOCK == 0][grid](
                a, b, a_scale, b_scale, out, strides, (m, n, k), (triton.next_power_of_2(m), n, k),
                EVEN_K=k % BLOCK == 0, BLOCK_K=BLOCK,
            )  # fmt: skip
    return out
