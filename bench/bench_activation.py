"""The family of activations: checks, sweep, cost and providers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

import kernels.activation
import reference.activation
from bench.core.operator import Inputs, Make, Operator, bf16, fp16, fp32, grid, kernel, peer
from bench.models import SEQ_LENS, Model, models

KINDS = ["gelu", "gelu_tanh", "silu", "sigmoid", "tanh"]

EAGER: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": functional.gelu,
    "gelu_tanh": partial(functional.gelu, approximate="tanh"),
    "silu": functional.silu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
}


class Activation(Operator):
    """An activation is bound by memory, one read and one write per element, as long as its arithmetic hides there."""

    entry = staticmethod(kernels.activation.activation)
    reference = staticmethod(reference.activation.activation)
    checks = (
        grid(rows=[37], cols=[127], kind=KINDS, dtype=[fp32, fp16, bf16])
        + grid(rows=[1], cols=[1, 1000], kind=KINDS, dtype=[fp32, bf16])
        + grid(rows=[0, 3], cols=[2047, 2048, 2049], kind=["gelu"], dtype=[fp32])
        + grid(rows=[2], cols=[14336], kind=["silu"], dtype=[bf16])
    )
    # Each kind at a model that has it: a wide table for GELU and SiLU, and the two that saturate at the same width.
    sweep = (
        grid(model=models("bert-large", "vit-h"), kind=["gelu"], seq_len=SEQ_LENS, dtype=[bf16])
        + grid(model=models("gpt2-xl"), kind=["gelu_tanh"], seq_len=SEQ_LENS, dtype=[bf16])
        + grid(model=models("llama3-8b"), kind=["silu", "sigmoid", "tanh"], seq_len=SEQ_LENS, dtype=[bf16])
    )
    hostile = {"rows": 5, "cols": 40, "kind": "gelu", "dtype": fp32}
    vast = {"rows": 2**19 + 1, "cols": 4096, "kind": "gelu_tanh", "dtype": bf16}
    grad = True
    rows_of = ("x",)

    def sizes(self, model: Model, seq_len: int, kind: str, dtype: torch.dtype) -> dict[str, Any]:
        return {"rows": seq_len, "cols": model.intermediate_size, "kind": kind, "dtype": dtype}

    def inputs(self, make: Make, rows: int, cols: int, kind: str, dtype: torch.dtype) -> Inputs:
        return {"x": make.normal(rows, cols, dtype=dtype, scale=2.0), "kind": kind}

    def traffic(self, mode: str, rows: int, cols: int, dtype: torch.dtype, **_: Any) -> int:
        """fwd: x; y. bwd: dy, x; dx."""
        return {"fwd": 2, "bwd": 3}[mode] * rows * cols * dtype.itemsize

    def flops(self, mode: str, rows: int, cols: int, kind: str, **_: Any) -> int:
        """The formulas' operations, a special function as one, and in the backward those of f' and the product by dy.

        sigmoid: 4 (sign, exp, sum, quotient); with s (1 - s) and dy 7. tanh: 5 (scale, exp, two sums, quotient); with
        1 - y^2 and dy 8. silu: sigmoid and a product; s (1 + x (1 - s)) and dy make 9. gelu: Phi is 4 (scale, erf, sum,
        half), a product; the density is 4 (square, scale, exp, scale), x density + Phi and dy 3. gelu_tanh: u is 4
        (square, product, sum, product), sigmoid 4, a product; u' is 2, s (1 - s) 2, the sum with s 3, dy 1.
        """
        forward, backward = {
            "sigmoid": (4, 7),
            "tanh": (5, 8),
            "silu": (5, 9),
            "gelu": (5, 11),
            "gelu_tanh": (9, 16),
        }[kind]
        return (forward if mode == "fwd" else backward) * rows * cols

    @kernel
    def triton(self, x: Tensor, kind: str) -> Callable[[], Tensor]:
        return lambda: kernels.activation.activation(x, kind)

    @peer()
    def eager(self, x: Tensor, kind: str) -> Callable[[], Tensor]:
        function = EAGER[kind]
        return lambda: function(x)
