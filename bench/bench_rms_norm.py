"""RMSNorm, alone and after a residual: checks, sweep, cost and providers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch import dtype as Dtype  # noqa: N812 - `dtype` is an axis
from torch.nn import functional

import kernels.rms_norm
import reference.rms_norm
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


def needs_hopper(x: Tensor) -> None:
    """Raise `Unsupported` unless quack is made for the device of `x`."""
    needs_cuda(x)
    if torch.cuda.get_device_capability(x.device) < (9, 0):
        raise Unsupported("needs sm_90 or newer")


class RmsNorm(Operator):
    """RMSNorm is bound by memory: one read and one write per element."""

    entry = staticmethod(kernels.rms_norm.rms_norm)
    reference = staticmethod(reference.rms_norm.rms_norm)
    # Borders of tiles, of what registers hold and of chunks; more rows than programs stride over them; no rows. In one
    # column with a small eps x cancels out of y, and its gradient is all rounding.
    checks = (
        grid(rows=[1, 37], cols=[1, 127, 128, 1000], dtype=[fp32, fp16, bf16])
        + grid(rows=[37], cols=[1, 100], dtype=[fp32, fp16, bf16], eps=[0.5])
        + grid(rows=[37], cols=[1000], dtype=[fp16, bf16], weight_dtype=[fp32])
        + grid(rows=[0, 300], cols=[129], dtype=[fp32])
        + grid(rows=[9], cols=[4097, 8192, 8193], dtype=[fp32])
        + grid(rows=[5], cols=[16384, 16385], dtype=[bf16])
        + grid(rows=[2], cols=[32768, 32769], dtype=[fp32])
        + grid(rows=[1], cols=[131072], dtype=[fp32])
    )
    sweep = grid(
        model=models("llama3-8b", "llama3-70b", "deepseek-v3", "qwen3-32b", "llama3-405b"),
        seq_len=SEQ_LENS,
        dtype=[bf16],
    )
    hostile = {"rows": 5, "cols": 40, "dtype": fp32}
    vast = {"rows": 2**19 + 1, "cols": 4096, "dtype": bf16}
    grad = True
    rows_of = ("x",)

    def sizes(self, model: Model, seq_len: int, dtype: Dtype) -> dict[str, Any]:
        return {"rows": seq_len, "cols": model.hidden_size, "dtype": dtype}

    def inputs(
        self, make: Make, rows: int, cols: int, dtype: Dtype, weight_dtype: Dtype | None = None, eps: float = 1e-6
    ) -> Inputs:
        x, weight = make.normal(rows, cols, dtype=dtype), make.normal(cols, dtype=weight_dtype or dtype)
        return {"x": x, "weight": weight, "eps": eps}

    def traffic(
        self, mode: str, rows: int, cols: int, dtype: Dtype, weight_dtype: Dtype | None = None, **_: Any
    ) -> int:
        """fwd: x, weight; y. bwd: dy, x, weight; dx, dweight."""
        tensors, weights = {"fwd": (2, 1), "bwd": (3, 2)}[mode]
        return tensors * rows * cols * dtype.itemsize + weights * cols * (weight_dtype or dtype).itemsize

    def flops(self, mode: str, rows: int, cols: int, **_: Any) -> int:
        """fwd: square, sum, two products. bwd: n, g, dot (2), slope, difference, product, dweight (2)."""
        return {"fwd": 4, "bwd": 9}[mode] * rows * cols

    @kernel
    def triton(self, x: Tensor, weight: Tensor, eps: float) -> Callable[[], Tensor]:
        return lambda: kernels.rms_norm.rms_norm(x, weight, eps)

    @peer()
    def eager(self, x: Tensor, weight: Tensor, eps: float) -> Callable[[], Tensor]:
        return lambda: functional.rms_norm(x, x.shape[-1:], weight, eps)

    @peer(install="pip install liger-kernel")
    def liger(self, x: Tensor, weight: Tensor, eps: float) -> Callable[[], Tensor]:
        needs_cuda(x)
        from liger_kernel.ops import LigerRMSNormFunction

        # "gemma" casts once, at the end; in place, its backward would turn the gradient it is given into its result.
        return lambda: LigerRMSNormFunction.apply(x, weight, eps, 0.0, "gemma", False)

    @peer(install="pip install quack-kernels")
    def quack(self, x: Tensor, weight: Tensor, eps: float) -> Callable[[], Tensor]:
        needs_hopper(x)
        from quack import rmsnorm

        return lambda: rmsnorm(x, weight, eps=eps)

    @peer(install="pip install flashinfer-python")
    def flashinfer(self, x: Tensor, weight: Tensor, eps: float) -> Callable[[], Tensor]:
        needs_cuda(x)
        if x.requires_grad:
            raise Unsupported("has no backward")
        from flashinfer import rmsnorm

        return lambda: rmsnorm(x, weight, eps)


class AddRmsNorm(Operator):
    """The sum of the residual rides along: two reads and two writes per element."""

    entry = staticmethod(kernels.rms_norm.add_rms_norm)
    reference = staticmethod(reference.rms_norm.add_rms_norm)
    checks, sweep, hostile, vast = RmsNorm.checks, RmsNorm.sweep, RmsNorm.hostile, RmsNorm.vast
    grad = True
    rows_of = ("x", "residual")

    def sizes(self, model: Model, seq_len: int, dtype: Dtype) -> dict[str, Any]:
        return RmsNorm().sizes(model, seq_len, dtype)

    def inputs(self, make: Make, rows: int, cols: int, dtype: Dtype, **others: Any) -> Inputs:
        alone = RmsNorm().inputs(make, rows, cols, dtype, **others)
        return {"x": alone.pop("x"), "residual": make.normal(rows, cols, dtype=dtype), **alone}

    def traffic(
        self, mode: str, rows: int, cols: int, dtype: Dtype, weight_dtype: Dtype | None = None, **_: Any
    ) -> int:
        """fwd: x, residual, weight; both outputs. bwd: dy, dh, h, weight; dx (= dresidual), dweight."""
        weights = {"fwd": 1, "bwd": 2}[mode]
        return 4 * rows * cols * dtype.itemsize + weights * cols * (weight_dtype or dtype).itemsize

    def flops(self, mode: str, rows: int, cols: int, **_: Any) -> int:
        """Those of RMSNorm and one addition."""
        return {"fwd": 5, "bwd": 10}[mode] * rows * cols

    @kernel
    def triton(self, x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> Callable[[], tuple[Tensor, Tensor]]:
        return lambda: kernels.rms_norm.add_rms_norm(x, residual, weight, eps)

    @peer()
    def eager(self, x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> Callable[[], tuple[Tensor, Tensor]]:
        def add_then_norm() -> tuple[Tensor, Tensor]:
            residual_out = x + residual
            return functional.rms_norm(residual_out, x.shape[-1:], weight, eps), residual_out

        return add_then_norm

    @peer(install="pip install liger-kernel")
    def liger(self, x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> Callable[[], tuple[Tensor, Tensor]]:
        needs_cuda(x)
        from liger_kernel.ops import LigerFusedAddRMSNormFunction

        return lambda: LigerFusedAddRMSNormFunction.apply(x, residual, weight, eps, 0.0, "gemma", False)

    @peer(install="pip install quack-kernels")
    def quack(self, x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> Callable[[], tuple[Tensor, Tensor]]:
        needs_hopper(x)
        from quack import rmsnorm

        return lambda: rmsnorm(x, weight, residual=residual, eps=eps, prenorm=True)

    @peer()
    def flashinfer(
        self, x: Tensor, residual: Tensor, weight: Tensor, eps: float
    ) -> Callable[[], tuple[Tensor, Tensor]]:
        # Restoring the inputs before each call would be timed with it, and double its traffic.
        raise Unsupported("fused_add_rmsnorm writes over x and residual: no second call would see the same inputs")
