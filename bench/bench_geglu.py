"""GeGLU's gate: checks, sweep, cost and providers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

import kernels.geglu
import reference.geglu
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


class GeGlu(Operator):
    """GeGLU is bound by memory: two reads and one write per element. `fused`: gate and up are halves of one tensor."""

    entry = staticmethod(kernels.geglu.geglu)
    reference = staticmethod(reference.geglu.geglu)
    checks = (
        grid(rows=[37], cols=[1, 127], fused=[False, True], approximate=["none", "tanh"], dtype=[fp32, fp16, bf16])
        + grid(rows=[1], cols=[1, 1000], fused=[True], approximate=["none", "tanh"], dtype=[fp32, bf16])
        + grid(rows=[0, 3], cols=[2047, 2048, 2049], fused=[False, True], approximate=["tanh"], dtype=[fp32])
        + grid(rows=[2], cols=[14336], fused=[True], approximate=["none"], dtype=[bf16])
    )
    # ModernBERT gates with the exact GELU, Gemma with the approximation; both project to gate and up at once. The
    # narrowest comes first: it is what a CPU clocks in minutes.
    sweep = grid(
        model=models("modernbert-large"), seq_len=SEQ_LENS, fused=[True], approximate=["none"], dtype=[bf16]
    ) + grid(
        model=models("gemma2-9b", "gemma2-27b"),
        seq_len=SEQ_LENS,
        fused=[True, False],
        approximate=["tanh"],
        dtype=[bf16],
    )
    hostile = {"rows": 5, "cols": 40, "fused": False, "approximate": "tanh", "dtype": fp32}
    vast = {"rows": 2**17 + 1, "cols": 16384, "fused": True, "approximate": "none", "dtype": bf16}
    grad = True
    rows_of = ("gate", "up")

    def sizes(self, model: Model, seq_len: int, fused: bool, approximate: str, dtype: torch.dtype) -> dict[str, Any]:
        cols = model.intermediate_size
        return {"rows": seq_len, "cols": cols, "fused": fused, "approximate": approximate, "dtype": dtype}

    def inputs(self, make: Make, rows: int, cols: int, fused: bool, approximate: str, dtype: torch.dtype) -> Inputs:
        gate, up = make.normal(rows, 2 * cols, dtype=dtype).split(cols, dim=-1)
        gates = {"gate": gate, "up": up} if fused else {"gate": gate.contiguous(), "up": up.contiguous()}
        return {**gates, "approximate": approximate}

    def traffic(self, mode: str, rows: int, cols: int, dtype: torch.dtype, **_: Any) -> int:
        """fwd: gate, up; y. bwd: dy, gate, up; dgate, dup."""
        return {"fwd": 3, "bwd": 5}[mode] * rows * cols * dtype.itemsize

    def flops(self, mode: str, rows: int, cols: int, approximate: str, **_: Any) -> int:
        """Those of the activations `gelu` and `gelu_tanh`; in the forward a product, in the backward three."""
        forward, backward = {"none": (5, 11), "tanh": (9, 16)}[approximate]
        return {"fwd": forward + 1, "bwd": backward + 3}[mode] * rows * cols

    @kernel
    def triton(self, gate: Tensor, up: Tensor, approximate: str) -> Callable[[], Tensor]:
        return lambda: kernels.geglu.geglu(gate, up, approximate)

    @peer()
    def eager(self, gate: Tensor, up: Tensor, approximate: str) -> Callable[[], Tensor]:
        return lambda: functional.gelu(gate, approximate=approximate) * up

    @peer(install="pip install liger-kernel")
    def liger(self, gate: Tensor, up: Tensor, approximate: str) -> Callable[[], Tensor]:
        needs_cuda(gate)
        if approximate != "tanh":
            raise Unsupported("has the approximation by tanh alone")
        if gate.requires_grad:
            raise Unsupported(
                "its backward writes over gate and up: a second one would differentiate at its own results"
            )
        from liger_kernel.ops import LigerGELUMulFunction

        return lambda: LigerGELUMulFunction.apply(gate, up)

    @peer(install="pip install flashinfer-python")
    def flashinfer(self, gate: Tensor, up: Tensor, approximate: str) -> Callable[[], Tensor]:
        needs_cuda(gate)
        fused = joined(gate, up)
        from flashinfer import gelu_and_mul, gelu_tanh_and_mul

        function = {"none": gelu_and_mul, "tanh": gelu_tanh_and_mul}[approximate]
        return lambda: function(fused)

    @peer(install="pip install vllm")
    def vllm(self, gate: Tensor, up: Tensor, approximate: str) -> Callable[[], Tensor]:
        needs_cuda(gate)
        fused = joined(gate, up)
        import vllm._custom_ops  # noqa: F401 - registers the operators

        operators = torch.ops._C
        if not hasattr(operators, "gelu_and_mul"):
            raise Unsupported("its compiled kernels did not load", "pip install vllm, built for this torch")
        function = {"none": operators.gelu_and_mul, "tanh": operators.gelu_tanh_and_mul}[approximate]

        def gate_and_multiply() -> Tensor:
            out = torch.empty(gate.shape, dtype=gate.dtype, device=gate.device)
            function(out, fused)
            return out

        return gate_and_multiply
