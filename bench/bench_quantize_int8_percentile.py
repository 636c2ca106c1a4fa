"""Row-wise quantisation to int8 by a percentile: checks, sweep, cost and providers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch import dtype as Dtype  # noqa: N812 - `dtype` is an axis

import kernels.quantize_int8_percentile
import reference.quantize_int8_percentile
from bench.core.operator import Inputs, Make, Operator, Unsupported, bf16, fp16, fp32, grid, kernel, peer
from bench.models import SEQ_LENS, Model, models

Quantized = tuple[Tensor, Tensor]


class QuantizeInt8Percentile(Operator):
    """Quantisation is bound by memory: one read and one write of a byte per element, if the search keeps up with it."""

    entry = staticmethod(kernels.quantize_int8_percentile.quantize_int8_percentile)
    reference = staticmethod(reference.quantize_int8_percentile.quantize_int8_percentile)
    # The smallest, one in the middle, one near the largest and the largest; what registers hold, and chunks beyond.
    checks = (
        grid(rows=[3], cols=[1, 127, 1000], percentile=[1e-6, 50.0, 99.9, 100.0], dtype=[fp32])
        + grid(rows=[5], cols=[128, 1000], percentile=[99.0], dtype=[fp16, bf16])
        + grid(rows=[0], cols=[5], percentile=[99.0], dtype=[fp32])
        + grid(rows=[2], cols=[32769, 40960], percentile=[99.9], dtype=[fp16, fp32])
    )
    sweep = grid(
        model=models("bert-base", "llama3-8b", "llama3-70b"), seq_len=SEQ_LENS, percentile=[99.9], dtype=[bf16]
    )
    hostile = {"rows": 5, "cols": 40, "percentile": 90.0, "dtype": fp32}
    vast = {"rows": 2**19 + 1, "cols": 4096, "percentile": 99.9, "dtype": bf16}
    rows_of = ("x",)

    def sizes(self, model: Model, seq_len: int, percentile: float, dtype: Dtype) -> dict[str, Any]:
        return {"rows": seq_len, "cols": model.hidden_size, "percentile": percentile, "dtype": dtype}

    def inputs(self, make: Make, rows: int, cols: int, percentile: float, dtype: Dtype) -> Inputs:
        return {"x": make.normal(rows, cols, dtype=dtype), "percentile": percentile}

    def traffic(self, mode: str, rows: int, cols: int, dtype: Dtype, **_: Any) -> int:
        """The row once in its dtype, once in int8; a scale."""
        return rows * (cols * (dtype.itemsize + 1) + 4)

    def flops(self, mode: str, rows: int, cols: int, **_: Any) -> int:
        """Magnitude, quotient and rounding; the search compares and counts."""
        return 3 * rows * cols

    @kernel
    def triton(self, **inputs: Any) -> Callable[[], Quantized]:
        return lambda: kernels.quantize_int8_percentile.quantize_int8_percentile(**inputs)

    @peer()
    def eager(self, x: Tensor, percentile: float) -> Callable[[], Quantized]:
        """torch's radix search for the few largest, whose smallest is the one that is meant."""
        largest, cols = torch.full((), 127.0, device=x.device), x.shape[-1]
        count = cols - math.ceil(percentile * cols / 100) + 1

        def quantize() -> Quantized:
            wide = x.float()
            scale = wide.abs().topk(count, dim=-1, sorted=True).values[:, -1] / largest
            return (wide / scale[:, None]).round_().clamp_(-127, 127).to(torch.int8), scale

        return quantize

    @peer()
    def torch_ao(self, **inputs: Any) -> Callable[[], Quantized]:
        raise Unsupported("torch.ao.quantization.HistogramObserver searches 2048 bins of equal width: an estimate")
