"""Gate and up projections with SwiGLU's gate behind them: checks, sweep, cost and providers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch import dtype as Dtype  # noqa: N812 - `dtype` is an axis
from torch.nn import functional

import kernels.swiglu_linear
import reference.swiglu_linear
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


class SwiGluLinear(Operator):
    """Bound by tensor cores. The projections cross memory in training only: kept forward, read and derived backward.

    What stands above the floor is theirs: forward nothing in inference; backward gate, up, dgate and dup, of which
    products read the last two again.
    """

    entry = staticmethod(kernels.swiglu_linear.swiglu_linear)
    reference = staticmethod(reference.swiglu_linear.swiglu_linear)
    # One element; one more than a tile in each direction, K even and not, several tiles; nothing along each dimension.
    checks = (
        grid(m=[1, 33], n=[1, 35], k=[1, 70], dtype=[fp32, bf16])
        + grid(m=[40], n=[66], k=[64], dtype=[fp32])
        + grid(m=[130], n=[129], k=[128], dtype=[fp16, bf16])
        + grid(m=[0, 5], n=[0, 7], k=[0, 9], dtype=[fp32])
    )
    sweep = grid(
        model=models("smollm2-135m", "smollm2-360m", "llama3-8b", "qwen2.5-7b", "qwen3-32b", "llama3-70b"),
        seq_len=SEQ_LENS,
        dtype=[bf16],
    )
    hostile = {"m": 7, "n": 20, "k": 40, "dtype": fp32}
    vast = {"m": 2**18 + 1, "n": 8200, "k": 64, "dtype": bf16}
    grad = True
    rows_of = ("x",)
    prepared = ("gate_weight", "up_weight")

    def sizes(self, model: Model, seq_len: int, dtype: Dtype) -> dict[str, Any]:
        return {"m": seq_len, "n": model.intermediate_size, "k": model.hidden_size, "dtype": dtype}

    def inputs(self, make: Make, m: int, n: int, k: int, dtype: Dtype) -> Inputs:
        """Weights keep the variance of x."""
        x, scale = make.normal(m, k, dtype=dtype), max(1, k) ** -0.5
        gate_weight, up_weight = (make.normal(n, k, dtype=dtype, scale=scale) for _ in range(2))
        return {"x": x, "gate_weight": gate_weight, "up_weight": up_weight}

    def traffic(self, mode: str, m: int, n: int, k: int, dtype: Dtype) -> int:
        """fwd: x, both weights; y. bwd: dy, x, both weights; dx, the gradients of both weights."""
        passes = {"fwd": 1, "bwd": 2}[mode]
        return (passes * (m * k + 2 * n * k) + m * n) * dtype.itemsize

    def flops(self, mode: str, m: int, n: int, k: int, **_: Any) -> int:
        """fwd: two products and the gate. bwd: four products and the gate's derivative (counts as in SwiGLU)."""
        products, gate = {"fwd": (2, 6), "bwd": (4, 12)}[mode]
        return products * 2 * m * n * k + gate * m * n

    @kernel
    def triton(self, x: Tensor, gate_weight: Tensor, up_weight: Tensor) -> Callable[[], Tensor]:
        return lambda: kernels.swiglu_linear.swiglu_linear(x, gate_weight, up_weight)

    @peer()
    def eager(self, x: Tensor, gate_weight: Tensor, up_weight: Tensor) -> Callable[[], Tensor]:
        """Two products of torch's, and its operations on what they leave in memory."""
        return lambda: functional.silu(x @ gate_weight.T) * (x @ up_weight.T)

    @peer()
    def eager_compiled(self, x: Tensor, gate_weight: Tensor, up_weight: Tensor) -> Callable[[], Tensor]:
        """What Inductor makes of `eager`, whose products are in the dtype of x as the reference's are not."""
        needs_cuda(x)
        from torch._functorch import config

        # A backward that is timed runs more than once, so its compiled form may not consume what the forward saved.
        config.donated_buffer = False

        def linear(x: Tensor, gate_weight: Tensor, up_weight: Tensor) -> Tensor:
            return functional.silu(x @ gate_weight.T) * (x @ up_weight.T)

        compiled = torch.compile(linear, dynamic=False)
        return lambda: compiled(x, gate_weight, up_weight)

    @peer(install="pip install liger-kernel")
    def liger(self, x: Tensor, gate_weight: Tensor, up_weight: Tensor) -> Callable[[], Tensor]:
        needs_cuda(x)
        if x.requires_grad:
            raise Unsupported("its backward writes over gate and up: a second one would differentiate at its results")
        from liger_kernel.ops import LigerSiLUMulFunction

        return lambda: LigerSiLUMulFunction.apply(x @ gate_weight.T, x @ up_weight.T)

    @peer(install="pip install quack-kernels")
    def quack(self, x: Tensor, gate_weight: Tensor, up_weight: Tensor) -> Callable[[], Tensor]:
        needs_cuda(x)
        if x.requires_grad:
            raise Unsupported("trains one weight whose rows alternate between gate and up, not two")
        if torch.cuda.get_device_capability(x.device)[0] < 9:
            raise Unsupported("needs sm_90")
        from quack.gemm_interface import gemm_gated

        weight = torch.stack((gate_weight, up_weight), 1).flatten(0, 1)

        def linear() -> Tensor:
            y: Tensor = gemm_gated(x, weight.T, activation="swiglu", store_preact=False)[1]
            return y

        return linear
