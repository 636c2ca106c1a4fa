"""Quantisation to int8 by channels: checks, sweep, cost and providers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch import dtype as Dtype  # noqa: N812 - `dtype` is an axis

import kernels.quantize_int8_channels
import reference.quantize_int8_channels
from bench.core.operator import Inputs, Make, Operator, Sample, Unsupported, bf16, fp16, fp32, grid, kernel, peer
from bench.models import SEQ_LENS, Model, models

Quantized = tuple[Tensor, Tensor]
PROVABLE, SAMPLED = 1 << 22, 64


class QuantizeInt8Channels(Operator):
    """Quantisation is bound by memory. The floor has x read once; along the last axis it takes a second time."""

    entry = staticmethod(kernels.quantize_int8_channels.quantize_int8_channels)
    reference = staticmethod(reference.quantize_int8_channels.quantize_int8_channels)
    # Channels that are columns, rows and in the middle; less than a tile, one, more; no elements.
    checks = (
        grid(shape=[(37, 129)], axis=[-1, 0], dtype=[fp32, fp16, bf16])
        + grid(shape=[(65, 128), (130, 1)], axis=[-1], dtype=[fp32])
        + grid(shape=[(3, 5, 70), (2, 3, 2100)], axis=[1], dtype=[fp32])
        + grid(shape=[(0, 3), (3, 0)], axis=[0, 1], dtype=[fp32])
    )
    sweep = grid(model=models("bert-base", "llama3-8b", "llama3-70b"), seq_len=SEQ_LENS, dtype=[bf16])
    hostile = {"shape": (5, 40), "axis": -1, "dtype": fp32}
    vast = {"shape": (2**19 + 1, 4096), "axis": -1, "dtype": bf16}

    def sizes(self, model: Model, seq_len: int, dtype: Dtype) -> dict[str, Any]:
        """Activations, by the columns that outliers keep to."""
        return {"shape": (seq_len, model.hidden_size), "axis": -1, "dtype": dtype}

    def inputs(self, make: Make, shape: tuple[int, ...], axis: int, dtype: Dtype) -> Inputs:
        return {"x": make.normal(*shape, dtype=dtype), "axis": axis}

    def samples(self, inputs: Inputs, seed: int = 0) -> list[Sample]:
        """Some columns, the first and the last among them, of a large x."""
        x: Tensor = inputs["x"]
        if x.numel() <= PROVABLE:
            return []
        lot = torch.randint(x.shape[-1], (SAMPLED,), generator=torch.Generator().manual_seed(seed))
        columns = torch.cat([lot, torch.tensor([0, x.shape[-1] - 1])]).unique().to(x.device)
        return [Sample({"x": (..., columns)}, (..., columns))]

    def traffic(self, mode: str, shape: tuple[int, ...], axis: int, dtype: Dtype) -> int:
        """Every element once in its dtype, once in int8; a scale for each channel."""
        return math.prod(shape) * (dtype.itemsize + 1) + 4 * shape[axis]

    def flops(self, mode: str, shape: tuple[int, ...], **_: Any) -> int:
        """Magnitude, maximum, quotient and rounding."""
        return 4 * math.prod(shape)

    @kernel
    def triton(self, **inputs: Any) -> Callable[[], Quantized]:
        return lambda: kernels.quantize_int8_channels.quantize_int8_channels(**inputs)

    @peer()
    def eager(self, x: Tensor, axis: int) -> Callable[[], Quantized]:
        if axis != -1 or x.ndim != 2:
            raise Unsupported("is written for the last of two axes")
        largest = torch.full((), 127.0, device=x.device)

        def quantize() -> Quantized:
            wide = x.float()
            scale = torch.linalg.vector_norm(wide, torch.inf, 0) / largest
            return (wide / scale).round_().to(torch.int8), scale

        return quantize

    @peer()
    def torch_ao(self, **inputs: Any) -> Callable[[], Quantized]:
        raise Unsupported(
            "torch.quantize_per_channel, behind PerChannelMinMaxObserver, multiplies by 1 / scale: some integers "
            "differ by one from the definition"
        )
