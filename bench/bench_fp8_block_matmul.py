"""Products of fp8 matrices with a scale for every block: checks, sweep, cost and providers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch import dtype as Dtype  # noqa: N812 - `dtype` is an axis

import kernels.fp8_block_matmul
import reference.fp8_block_matmul
from bench.core.operator import (
    Inputs,
    Make,
    Operator,
    Unsupported,
    bf16,
    fp16,
    fp32,
    grid,
    kernel,
    needs_cuda,
    peer,
)
from bench.models import SEQ_LENS, Model, models

BLOCK = 128


def needs_hopper(a: Tensor) -> None:
    """Raise `Unsupported` unless `a` is on a GPU of compute capability 9."""
    needs_cuda(a)
    if torch.cuda.get_device_capability(a.device)[0] != 9:
        raise Unsupported("needs sm_90")


def down_columns(scale: Tensor) -> Tensor:
    """The same scales, those of a column side by side."""
    return scale.T.contiguous().T


class Fp8BlockMatmul(Operator):
    """Many rows are bound by fp8 tensor cores, a handful by reading b. The layers are up and down of an MLP."""

    entry = staticmethod(kernels.fp8_block_matmul.fp8_block_matmul)
    reference = staticmethod(reference.fp8_block_matmul.fp8_block_matmul)
    # One element; one more than a tile in each direction, blocks that are whole and short; nothing along a dimension.
    checks = (
        grid(m=[1, 65], n=[1, 130], k=[1, 150], dtype=[fp32, bf16])
        + grid(m=[130], n=[129], k=[256], dtype=[fp32, fp16, bf16])
        + grid(m=[0, 5], n=[0, 7], k=[0, 9], dtype=[fp32])
    )
    sweep = grid(
        model=models("bert-base", "bert-large", "llama3-8b", "deepseek-v3", "llama3-70b"),
        seq_len=SEQ_LENS,
        layer=["up", "down"],
        dtype=[bf16],
    )
    hostile = {"m": 7, "n": 20, "k": 140, "dtype": fp32}
    vast = {"m": 2**18 + 1, "n": 8200, "k": 128, "dtype": bf16}
    rows_of = ("a", "a_scale")
    prepared = ("a_scale", "b", "b_scale")

    def sizes(self, model: Model, seq_len: int, layer: str, dtype: Dtype) -> dict[str, Any]:
        narrow, wide = model.hidden_size, model.intermediate_size
        n, k = (wide, narrow) if layer == "up" else (narrow, wide)
        return {"m": seq_len, "n": n, "k": k, "dtype": dtype}

    def inputs(self, make: Make, m: int, n: int, k: int, dtype: Dtype) -> Inputs:
        """What quantising to the largest e4m3, 448, leaves of normal entries: a block's largest is about 3 of them."""
        blocks = -(-k // BLOCK)
        a, b = (make.normal(size, k, dtype=torch.float8_e4m3fn, scale=100.0) for size in (m, n))
        a_scale = make.uniform(0.005, 0.02, m, blocks, dtype=fp32)
        b_scale = make.uniform(0.005, 0.02, -(-n // BLOCK), blocks, dtype=fp32).mul_(max(1, k) ** -0.5)
        return {"a": a, "b": b, "a_scale": a_scale, "b_scale": b_scale, "out_dtype": dtype}

    def traffic(self, mode: str, m: int, n: int, k: int, dtype: Dtype) -> int:
        """Both matrices, their scales, out."""
        return m * k + n * k + 4 * -(-k // BLOCK) * (m + -(-n // BLOCK)) + m * n * dtype.itemsize

    def flops(self, mode: str, m: int, n: int, k: int, **_: Any) -> int:
        """A product and a sum; for every block of K one more of each."""
        return 2 * m * n * (k + -(-k // BLOCK))

    @kernel
    def triton(self, **inputs: Any) -> Callable[[], Tensor]:
        return lambda: kernels.fp8_block_matmul.fp8_block_matmul(**inputs)

    @peer()
    def scaled_mm(
        self, a: Tensor, b: Tensor, a_scale: Tensor, b_scale: Tensor, out_dtype: Dtype
    ) -> Callable[[], Tensor]:
        """torch's, by cuBLAS: scales of a down its columns, those of b along K, padded to a multiple of four."""
        needs_hopper(a)
        if out_dtype != bf16 or len(a) % 4 or a.shape[1] % BLOCK or len(b) % BLOCK:
            raise Unsupported("takes whole blocks and rows by fours, and writes bf16")
        from torch.nn.functional import ScalingType, scaled_mm

        blocks = b_scale.shape[1]
        padded = b_scale.new_ones(len(b_scale), -(-blocks // 4) * 4)
        padded[:, :blocks] = b_scale
        scales = down_columns(a_scale), padded[:, :blocks].T
        kinds = ScalingType.BlockWise1x128, ScalingType.BlockWise128x128
        return lambda: scaled_mm(a, b.T, scales[0], kinds[0], scales[1], kinds[1], output_dtype=out_dtype)

    @peer(install="pip install git+https://github.com/deepseek-ai/DeepGEMM")
    def deep_gemm(
        self, a: Tensor, b: Tensor, a_scale: Tensor, b_scale: Tensor, out_dtype: Dtype
    ) -> Callable[[], Tensor]:
        needs_hopper(a)
        if out_dtype != bf16:
            raise Unsupported("writes bf16")
        from deep_gemm import fp8_gemm_nt, get_mn_major_tma_aligned_tensor

        scale = get_mn_major_tma_aligned_tensor(a_scale)

        def matmul() -> Tensor:
            out = torch.empty(len(a), len(b), dtype=out_dtype, device=a.device)
            fp8_gemm_nt((a, scale), (b, b_scale), out)
            return out

        return matmul

    @peer(install="pip install vllm")
    def vllm(self, a: Tensor, b: Tensor, a_scale: Tensor, b_scale: Tensor, out_dtype: Dtype) -> Callable[[], Tensor]:
        needs_hopper(a)
        if out_dtype == fp32 or len(a) % 4 or a.shape[1] % BLOCK or len(b) % BLOCK:
            raise Unsupported("takes whole blocks and rows by fours, and writes fp16 and bf16")
        from vllm import _custom_ops

        scale = down_columns(a_scale)
        return lambda: _custom_ops.cutlass_scaled_mm(a, b.T, scale, b_scale.T, out_dtype)

    @peer(install="pip install torchao")
    def torchao(self, a: Tensor, b: Tensor, a_scale: Tensor, b_scale: Tensor, out_dtype: Dtype) -> Callable[[], Tensor]:
        needs_cuda(a)
        if out_dtype != bf16:
            raise Unsupported("writes bf16")
        from torchao.kernel.blockwise_quantization import blockwise_fp8_gemm

        return lambda: blockwise_fp8_gemm(a, a_scale, b, b_scale, BLOCK)
