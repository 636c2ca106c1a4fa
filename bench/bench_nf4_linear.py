"""A linear layer with a weight of 4-bit NormalFloats: checks, sweep, cost and providers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch import dtype as Dtype  # noqa: N812 - `dtype` is an axis
from torch.nn import functional

import kernels.nf4_linear
import reference.nf4_linear
from bench.core.operator import Inputs, Make, Operator, Sample, bf16, fp16, fp32, grid, kernel, needs_cuda, peer
from bench.models import Model, models

BLOCK = 64
SAMPLED_COLUMNS = 256


def of_bytes(dtype: Dtype, like: Tensor) -> Tensor:
    """The two entries of each of the 256 bytes."""
    entries = torch.arange(256, device=like.device)
    values = torch.tensor(reference.nf4_linear.VALUES, dtype=dtype, device=like.device)
    return values[torch.stack([entries >> 4, entries & 15], -1)]


def dequantized(packed: Tensor, absmax: Tensor, pairs: Tensor) -> Tensor:
    """The weight, looked up two entries at a time; `pairs` says for every byte which."""
    values = functional.embedding(packed.int(), pairs).view(*absmax.shape, BLOCK)
    return (values * absmax[..., None]).flatten(1)


class Nf4Linear(Operator):
    """Bound by reading the weight, half a byte an entry, while rows of x are few. Layers are up and down of an MLP.

    Rows are a batch where a model writes text, or the tokens of a step that trains an adapter beside the weight. Above
    the floor: each share of K (backward: of N) leaves its sums in memory, 8 bytes an entry and share, written and read.
    """

    entry = staticmethod(kernels.nf4_linear.nf4_linear)
    reference = staticmethod(reference.nf4_linear.nf4_linear)
    # One row and one block; one more than a tile in each direction, K in one share and in two of which the last is
    # short (backward: N); nothing along each dimension.
    checks = (
        grid(m=[1, 17], n=[1, 35], k=[64], bias=[True], dtype=[fp32])
        + grid(m=[2], n=[35], k=[576], bias=[False, True], dtype=[fp32])
        + grid(m=[65], n=[66], k=[192], bias=[False], dtype=[bf16])
        + grid(m=[3], n=[520], k=[64], bias=[False], dtype=[bf16])
        + grid(m=[17], n=[130], k=[128], bias=[True], dtype=[fp16])
        + grid(m=[3], n=[7], k=[128], bias=[True], dtype=[fp16, bf16])
        + grid(m=[0, 5], n=[0, 7], k=[0, 64], bias=[True], dtype=[fp32])
    )
    sweep = grid(
        model=models("smollm2-135m", "smollm2-360m", "llama3-8b", "qwen2.5-7b", "llama3-70b"),
        batch=[1, 4, 16, 64],
        layer=["up", "down"],
        dtype=[bf16],
    ) + grid(model=models("llama3-8b", "llama3-70b"), batch=[2048], layer=["up", "down"], dtype=[bf16])
    hostile = {"m": 3, "n": 20, "k": 128, "bias": True, "dtype": fp32}
    vast = {"m": 1, "n": 2**20 + 1, "k": 4160, "bias": True, "dtype": bf16}
    grad = True
    prepared = ("packed", "absmax", "bias")
    frozen = ("absmax",)

    def sizes(self, model: Model, batch: int, layer: str, dtype: Dtype) -> dict[str, Any]:
        narrow, wide = model.hidden_size, model.intermediate_size
        n, k = (wide, narrow) if layer == "up" else (narrow, wide)
        return {"m": batch, "n": n, "k": k, "bias": False, "dtype": dtype}

    def inputs(self, make: Make, m: int, n: int, k: int, bias: bool, dtype: Dtype) -> Inputs:
        """Entries spread evenly, which is what NormalFloats are for, in blocks that about keep the variance of x."""
        packed = make.integers(0, 256, n, k // 2, dtype=torch.uint8)
        absmax = make.uniform(1.5, 3.0, n, k // BLOCK, dtype=fp32).mul_(max(1, k) ** -0.5)
        inputs = {"x": make.normal(m, k, dtype=dtype), "packed": packed, "absmax": absmax}
        return inputs | ({"bias": make.normal(n, dtype=dtype)} if bias else {})

    def samples(self, inputs: Inputs, seed: int = 0) -> list[Sample]:
        """Columns of y, which are rows of the weight: the first, some by lot and the last."""
        n = len(inputs["packed"])
        if n <= SAMPLED_COLUMNS:
            return []
        drawn = torch.randint(n, (SAMPLED_COLUMNS - 2,), generator=torch.Generator().manual_seed(seed))
        columns = torch.cat([torch.tensor([0, n - 1]), drawn]).unique().to(inputs["x"].device)
        names = [name for name in ("packed", "absmax", "bias") if name in inputs]
        return [Sample(dict.fromkeys(names, columns), (slice(None), columns))]

    def traffic(self, mode: str, m: int, n: int, k: int, bias: bool, dtype: Dtype) -> int:
        """The weight at half a byte an entry and four a block, x, the bias, y. bwd: the weight, dy, both gradients."""
        return n * k // 2 + 4 * n * k // BLOCK + (m * k + m * n + bias * n) * dtype.itemsize

    def flops(self, mode: str, m: int, n: int, k: int, bias: bool, **_: Any) -> int:
        """A product and a sum; for every block of K one more of each; the sum with the bias.

        bwd: the weight's entries times their absmax, a product and a sum, the sum of dy.
        """
        scaled = {"fwd": 2 * m * n * (k // BLOCK), "bwd": n * k}[mode]
        return 2 * m * n * k + scaled + bias * m * n

    @kernel
    def triton(self, absmax: Tensor, **inputs: Any) -> Callable[[], Tensor]:
        frozen = absmax.detach()
        return lambda: kernels.nf4_linear.nf4_linear(absmax=frozen, **inputs)

    @peer()
    def eager(self, x: Tensor, packed: Tensor, absmax: Tensor, bias: Tensor | None = None) -> Callable[[], Tensor]:
        """The weight in the dtype of x through memory, in three launches, then torch's product.

        It is kept for the backward, at four times the bytes; bitsandbytes makes it anew.
        """
        pairs, scale = of_bytes(x.dtype, x), absmax.detach().to(x.dtype)
        return lambda: functional.linear(x, dequantized(packed, scale, pairs), bias)

    @peer()
    def dense(self, x: Tensor, packed: Tensor, absmax: Tensor, bias: Tensor | None = None) -> Callable[[], Tensor]:
        """The layer that 4 bits replace: its weight is in the dtype of x beforehand, at four times the bytes."""
        weight = dequantized(packed, absmax.detach(), of_bytes(fp32, x)).to(x.dtype)
        return lambda: functional.linear(x, weight, bias)

    @peer(install="pip install bitsandbytes")
    def bitsandbytes(
        self, x: Tensor, packed: Tensor, absmax: Tensor, bias: Tensor | None = None
    ) -> Callable[[], Tensor]:
        """One kernel of its own up to a batch that it knows of the GPU, a dequantised weight and cuBLAS beyond.

        Its backward dequantises the weight, in the dtype of x, and multiplies as torch does.
        """
        needs_cuda(x)  # on a CPU it looks for a package called kernels, and finds ours
        from bitsandbytes import matmul_4bit
        from bitsandbytes.functional import QuantState, get_4bit_type

        state = QuantState(
            absmax.detach().reshape(-1),
            shape=torch.Size([len(packed), x.shape[-1]]),
            code=get_4bit_type("nf4", device=x.device),
            blocksize=BLOCK,
            quant_type="nf4",
            dtype=x.dtype,
        )
        weight = packed.reshape(-1, 1)
        return lambda: matmul_4bit(x, weight, quant_state=state, bias=bias)
