"""Row-wise quantisation to int8: checks, sweep, cost and providers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch import dtype as Dtype  # noqa: N812 - `dtype` is an axis

import kernels.quantize_int8
import reference.quantize_int8
from bench.core.operator import Inputs, Make, Operator, Unsupported, bf16, fp16, fp32, grid, kernel, peer
from bench.models import SEQ_LENS, Model, models

Quantized = tuple[Tensor, Tensor]


class QuantizeInt8(Operator):
    """Quantisation is bound by memory: one read and one write of a byte per element."""

    entry = staticmethod(kernels.quantize_int8.quantize_int8)
    reference = staticmethod(reference.quantize_int8.quantize_int8)
    # Borders of tiles, of what registers hold and of chunks; rows that share a program; no rows and no columns.
    checks = (
        grid(rows=[1, 37], cols=[1, 127, 128, 1000], dtype=[fp32, fp16, bf16])
        + grid(rows=[0, 300], cols=[129], dtype=[fp32])
        + grid(rows=[3], cols=[0, 4097], dtype=[fp32])
        + grid(rows=[2], cols=[32768, 32769, 40960, 70001], dtype=[fp16])
    )
    sweep = grid(model=models("bert-base", "llama3-8b", "llama3-70b"), seq_len=SEQ_LENS, dtype=[bf16])
    hostile = {"rows": 5, "cols": 40, "dtype": fp32}
    vast = {"rows": 2**19 + 1, "cols": 4096, "dtype": bf16}
    rows_of = ("x",)

    def sizes(self, model: Model, seq_len: int, dtype: Dtype) -> dict[str, Any]:
        return {"rows": seq_len, "cols": model.hidden_size, "dtype": dtype}

    def inputs(self, make: Make, rows: int, cols: int, dtype: Dtype) -> Inputs:
        return {"x": make.normal(rows, cols, dtype=dtype)}

    def traffic(self, mode: str, rows: int, cols: int, dtype: Dtype) -> int:
        """The row once in its dtype, once in int8; a scale."""
        return rows * (cols * (dtype.itemsize + 1) + 4)

    def flops(self, mode: str, rows: int, cols: int, **_: Any) -> int:
        """Magnitude, maximum, quotient and rounding."""
        return 4 * rows * cols

    @kernel
    def triton(self, x: Tensor) -> Callable[[], Quantized]:
        return lambda: kernels.quantize_int8.quantize_int8(x)

    @peer()
    def eager(self, x: Tensor) -> Callable[[], Quantized]:
        largest = torch.full((), 127.0, device=x.device)

        def quantize() -> Quantized:
            wide = x.float()
            scale = torch.linalg.vector_norm(wide, torch.inf, -1) / largest
            return (wide / scale[:, None]).round_().to(torch.int8), scale

        return quantize

    @peer(install="pip install bitsandbytes")
    def bitsandbytes(self, x: Tensor) -> Callable[[], Quantized]:
        raise Unsupported(
            "multiplies by 127 / absmax: of a million integers some hundred differ by one from the definition"
        )
