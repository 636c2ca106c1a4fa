"""SwiGLU's gate: checks, sweep, cost and providers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

import kernels.swiglu
import reference.swiglu
from bench.core.operator import (
    Inputs,
    Make,
    Operator,
    Unsupported,
    bf16,
    fp16,
    fp32,
    grid,
    joined,
    kernel,
    needs_cuda,
    peer,
)
from bench.models import SEQ_LENS, Model, models


class SwiGlu(Operator):
    """SwiGLU is bound by memory: two reads and one write per element. `fused`: gate and up are halves of one tensor."""

    entry = staticmethod(kernels.swiglu.swiglu)
    reference = staticmethod(reference.swiglu.swiglu)
    checks = (
        grid(rows=[1, 37], cols=[1, 127, 1000], fused=[False, True], dtype=[fp32, fp16, bf16])
        + grid(rows=[0, 3], cols=[2047, 2048, 2049], fused=[False, True], dtype=[fp32])
        + grid(rows=[2], cols=[14336], fused=[False, True], dtype=[bf16])
    )
    sweep = grid(
        model=models("llama3-8b", "qwen2.5-7b", "llama3-70b", "deepseek-v3", "llama3-405b"),
        seq_len=SEQ_LENS,
        fused=[False, True],
        dtype=[bf16],
    )
    hostile = {"rows": 5, "cols": 40, "fused": False, "dtype": fp32}
    vast = {"rows": 2**17 + 1, "cols": 16384, "fused": True, "dtype": bf16}
    grad = True
    rows_of = ("gate", "up")

    def sizes(self, model: Model, seq_len: int, fused: bool, dtype: torch.dtype) -> dict[str, Any]:
        return {"rows": seq_len, "cols": model.intermediate_size, "fused": fused, "dtype": dtype}

    def inputs(self, make: Make, rows: int, cols: int, fused: bool, dtype: torch.dtype) -> Inputs:
        gate, up = make.normal(rows, 2 * cols, dtype=dtype).split(cols, dim=-1)
        return {"gate": gate, "up": up} if fused else {"gate": gate.contiguous(), "up": up.contiguous()}

    def traffic(self, mode: str, rows: int, cols: int, dtype: torch.dtype, **_: Any) -> int:
        """fwd: gate, up; y. bwd: dy, gate, up; dgate, dup."""
        return {"fwd": 3, "bwd": 5}[mode] * rows * cols * dtype.itemsize

    def flops(self, mode: str, rows: int, cols: int, **_: Any) -> int:
        """fwd: sigmoid (4, one of them exp), two products. bwd: sigmoid, 1 + gate (1 - s), five products."""
        return {"fwd": 6, "bwd": 12}[mode] * rows * cols

    @kernel
    def triton(self, gate: Tensor, up: Tensor) -> Callable[[], Tensor]:
        return lambda: kernels.swiglu.swiglu(gate, up)

    @peer()
    def eager(self, gate: Tensor, up: Tensor) -> Callable[[], Tensor]:
        return lambda: functional.silu(gate) * up

    @peer(install="pip install liger-kernel")
    def liger(self, gate: Tensor, up: Tensor) -> Callable[[], Tensor]:
        needs_cuda(gate)
        if gate.requires_grad:
            raise Unsupported(
                "its backward writes over gate and up: a second one would differentiate at its own results"
            )
        from liger_kernel.ops import LigerSiLUMulFunction

        return lambda: LigerSiLUMulFunction.apply(gate, up)

    @peer(install="pip install liger-kernel")
    def liger_fused(self, gate: Tensor, up: Tensor) -> Callable[[], Tensor]:
        needs_cuda(gate)
        fused = joined(gate, up)
        from liger_kernel.ops import LigerFusedGateUpSiLUMulFunction

        return lambda: LigerFusedGateUpSiLUMulFunction.apply(fused, False)

    @peer(install="pip install flashinfer-python")
    def flashinfer(self, gate: Tensor, up: Tensor) -> Callable[[], Tensor]:
        needs_cuda(gate)
        fused = joined(gate, up)
        from flashinfer import silu_and_mul

        return lambda: silu_and_mul(fused)
