"""A frozen linear layer with a LoRA adapter: checks, sweep, cost and providers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch import dtype as Dtype  # noqa: N812 - `dtype` is an axis
from torch.nn import functional

import kernels.lora_linear
import reference.lora_linear
from bench.core.operator import Inputs, Make, Operator, bf16, fp16, fp32, grid, kernel, needs_cuda, peer
from bench.models import SEQ_LENS, Model, models


def as_peft_does(x: Tensor, weight: Tensor, a: Tensor, b: Tensor, alpha: float, bias: Tensor | None = None) -> Tensor:
    """The layer, and the adapter's two added to what it leaves in memory."""
    adapter = functional.linear(functional.linear(x, a), b)
    return functional.linear(x, weight.detach(), bias) + adapter * (alpha / len(a))


class LoraLinear(Operator):
    """Bound by the product with the frozen weight; the adapter should cost nothing. The layer is up of an MLP.

    Above the floor: x is read by both launches, the sums of h (M, R) pass through memory in fp32. Backward x and dy are
    read by the products for dA and dB too.
    """

    entry = staticmethod(kernels.lora_linear.lora_linear)
    reference = staticmethod(reference.lora_linear.lora_linear)
    # One element; one more than a tile in each direction, K even and not; partial sums of which the last is short; a
    # rank that is taken in two steps, the second one padded; nothing along each dimension.
    checks = (
        grid(m=[1, 33], n=[1, 35], k=[1, 70], rank=[1, 19], bias=[True], dtype=[fp32])
        + grid(m=[33], n=[35], k=[200], rank=[16], bias=[False], dtype=[fp32, bf16])
        + grid(m=[66], n=[258], k=[192], rank=[100], bias=[True], dtype=[fp16, bf16])
        + grid(m=[0, 5], n=[0, 7], k=[0, 9], rank=[3], bias=[True], dtype=[fp32])
    )
    sweep = grid(
        model=models("smollm2-135m", "smollm2-360m", "llama3-8b", "qwen2.5-7b", "qwen3-32b", "llama3-70b"),
        seq_len=SEQ_LENS,
        rank=[16],
        dtype=[bf16],
    )
    hostile = {"m": 7, "n": 20, "k": 40, "rank": 5, "bias": True, "dtype": fp32}
    vast = {"m": 2**18 + 1, "n": 8200, "k": 64, "rank": 16, "bias": True, "dtype": bf16}
    grad = True
    rows_of = ("x",)
    prepared = ("weight", "a", "b", "bias")
    frozen = ("weight",)

    def sizes(self, model: Model, seq_len: int, rank: int, dtype: Dtype) -> dict[str, Any]:
        n, k = model.intermediate_size, model.hidden_size
        return {"m": seq_len, "n": n, "k": k, "rank": rank, "bias": False, "dtype": dtype}

    def inputs(self, make: Make, m: int, n: int, k: int, rank: int, bias: bool, dtype: Dtype) -> Inputs:
        """Weight and adapter keep the variance of x, as after some training: b begins at zero."""
        x, scale = make.normal(m, k, dtype=dtype), max(1, k) ** -0.5
        weight, a = make.normal(n, k, dtype=dtype, scale=scale), make.normal(rank, k, dtype=dtype, scale=scale)
        inputs = {"x": x, "weight": weight, "a": a, "b": make.normal(n, rank, dtype=dtype, scale=rank**-0.5)}
        return inputs | {"alpha": 2.0 * rank} | ({"bias": make.normal(n, dtype=dtype)} if bias else {})

    def traffic(self, mode: str, m: int, n: int, k: int, rank: int, bias: bool, dtype: Dtype) -> int:
        """fwd: x, weight, adapter, bias; y. bwd: dy, x, weight, adapter; dx, the gradients of adapter and bias."""
        passes = {"fwd": 1, "bwd": 2}[mode]
        return (passes * (m * k + rank * (k + n)) + n * k + m * n + bias * n) * dtype.itemsize

    def flops(self, mode: str, m: int, n: int, k: int, rank: int, bias: bool, **_: Any) -> int:
        """fwd: the product, the adapter's two, a sum. bwd: dx as forward, a product for each factor, the sum of dy."""
        passes = {"fwd": 1, "bwd": 2}[mode]
        return 2 * m * n * k + passes * 2 * m * rank * (k + n) + bias * m * n

    @kernel
    def triton(self, x: Tensor, weight: Tensor, **adapter: Any) -> Callable[[], Tensor]:
        frozen = weight.detach()
        return lambda: kernels.lora_linear.lora_linear(x, frozen, **adapter)

    @peer()
    def eager(self, **inputs: Any) -> Callable[[], Tensor]:
        return lambda: as_peft_does(**inputs)

    @peer()
    def eager_compiled(self, x: Tensor, **layer: Any) -> Callable[[], Tensor]:
        """What Inductor makes of `eager`, whose products are in the dtype of x as the reference's are not."""
        needs_cuda(x)
        from torch._functorch import config

        # A backward that is timed runs more than once, so its compiled form may not consume what the forward saved.
        config.donated_buffer = False
        compiled = torch.compile(as_peft_does, dynamic=False)
        return lambda: compiled(x, **layer)

    @peer()
    def addmm(
        self, x: Tensor, weight: Tensor, a: Tensor, b: Tensor, alpha: float, bias: Tensor | None = None
    ) -> Callable[[], Tensor]:
        """As Unsloth's matmul_lora does: the second product of the adapter adds to what the layer left in memory."""
        frozen, scale = weight.detach(), alpha / len(a)
        return lambda: torch.addmm(functional.linear(x, frozen, bias), x @ a.T, b.T, alpha=scale)
