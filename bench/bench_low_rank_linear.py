"""A linear layer of low rank: checks, sweep, cost and providers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch import dtype as Dtype  # noqa: N812 - `dtype` is an axis
from torch.nn import functional

import kernels.low_rank_linear
import reference.low_rank_linear
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


def two_linears(x: Tensor, a: Tensor, b: Tensor, bias: Tensor) -> Tensor:
    """The layer as two of torch's."""
    return functional.linear(functional.linear(x, a), b, bias)


class LowRankLinear(Operator):
    """The up projection of an MLP by its largest singular values: with ranks that pay off, bound by memory.

    Forward moves the floor. Backward x and dy are read by two products each, dy by the sum too; h and dh pass through
    memory.
    """

    entry = staticmethod(kernels.low_rank_linear.low_rank_linear)
    reference = staticmethod(reference.low_rank_linear.low_rank_linear)
    # One element; one more than a tile in each direction, ranks that are padded and not, several programs for the same
    # rows and one; nothing along each dimension.
    checks = (
        grid(m=[1, 33], n=[1, 70], k=[1, 70], rank=[1, 19], bias=[True], dtype=[fp32])
        + grid(m=[33], n=[35], k=[70], rank=[16], bias=[False], dtype=[fp32, bf16])
        + grid(m=[130], n=[192], k=[128], rank=[40, 64], bias=[True], dtype=[fp16, bf16])
        + grid(m=[0, 5], n=[0, 7], k=[0, 9], rank=[3], bias=[True], dtype=[fp32])
    )
    sweep = grid(
        model=models("bert-base", "bert-large", "llama3-8b", "llama3-70b"),
        seq_len=SEQ_LENS,
        rank=[128, 256],
        dtype=[bf16],
    )
    hostile = {"m": 7, "n": 20, "k": 40, "rank": 5, "bias": True, "dtype": fp32}
    vast = {"m": 2**18 + 1, "n": 8200, "k": 64, "rank": 16, "bias": True, "dtype": bf16}
    grad = True
    rows_of = ("x",)
    prepared = ("a", "b", "bias")

    def sizes(self, model: Model, seq_len: int, rank: int, dtype: Dtype) -> dict[str, Any]:
        n, k = model.intermediate_size, model.hidden_size
        return {"m": seq_len, "n": n, "k": k, "rank": rank, "bias": True, "dtype": dtype}

    def inputs(self, make: Make, m: int, n: int, k: int, rank: int, bias: bool, dtype: Dtype) -> Inputs:
        """Factors keep the variance of x."""
        x = make.normal(m, k, dtype=dtype)
        a = make.normal(rank, k, dtype=dtype, scale=max(1, k) ** -0.5)
        b = make.normal(n, rank, dtype=dtype, scale=rank**-0.5)
        return {"x": x, "a": a, "b": b} | ({"bias": make.normal(n, dtype=dtype)} if bias else {})

    def traffic(self, mode: str, m: int, n: int, k: int, rank: int, bias: bool, dtype: Dtype) -> int:
        """fwd: x, both factors, the bias; y. bwd: dy, x, both factors; dx and the gradients of factors and bias."""
        passes = {"fwd": 1, "bwd": 2}[mode]
        return (passes * (m * k + rank * (k + n)) + m * n + bias * n) * dtype.itemsize

    def flops(self, mode: str, m: int, n: int, k: int, rank: int, bias: bool, **_: Any) -> int:
        """fwd: two products, a sum. bwd: two products for dx, one for each factor; the sum of dy."""
        return {"fwd": 1, "bwd": 2}[mode] * 2 * m * rank * (k + n) + bias * m * n

    @kernel
    def triton(self, **inputs: Any) -> Callable[[], Tensor]:
        return lambda: kernels.low_rank_linear.low_rank_linear(**inputs)

    @peer()
    def eager(self, **inputs: Any) -> Callable[[], Tensor]:
        return lambda: two_linears(**inputs)

    @peer()
    def eager_compiled(self, x: Tensor, **factors: Any) -> Callable[[], Tensor]:
        """What Inductor makes of `eager`, whose products are in the dtype of x as the reference's are not."""
        needs_cuda(x)
        from torch._functorch import config

        # A backward that is timed runs more than once, so its compiled form may not consume what the forward saved.
        config.donated_buffer = False
        compiled = torch.compile(two_linears, dynamic=False)
        return lambda: compiled(x, **factors)

    @peer()
    def dense(self, x: Tensor, a: Tensor, b: Tensor, bias: Tensor) -> Callable[[], Tensor]:
        """What the factors replace: one product with the whole weight, made of them beforehand."""
        if x.requires_grad:
            raise Unsupported("has no gradients of the factors")
        weight = b @ a
        return lambda: functional.linear(x, weight, bias)
