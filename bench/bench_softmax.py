"""The softmax over the last dimension, over vocabularies and attention scores: checks, sweep, cost and providers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch import dtype as Dtype  # noqa: N812 - `dtype` is an axis

import kernels.softmax
import reference.softmax
from bench.core.operator import Inputs, Make, Operator, Unsupported, bf16, fp16, fp32, grid, kernel, needs_cuda, peer
from bench.models import SEQ_LENS, Model, models


class Softmax(Operator):
    """The softmax is bound by memory: one read and one write per element. `scores`: a matrix per head, stored whole.

    `masked` rows end in -inf: the first in all its entries, the others from some column on.
    """

    entry = staticmethod(kernels.softmax.softmax)
    reference = staticmethod(reference.softmax.softmax)
    # Borders of tiles, of what registers hold and of chunks, with rows that are aligned and rows that are not; rows
    # that share a program; no rows and no columns; lanes that see nothing but -inf.
    checks = (
        grid(rows=[1, 37], cols=[1, 127, 128, 1000], dtype=[fp32, fp16, bf16])
        + grid(rows=[0, 300], cols=[129], dtype=[fp32])
        + grid(rows=[3], cols=[0, 4097], dtype=[fp32])
        + grid(rows=[5], cols=[33, 40000], dtype=[fp32], masked=[True])
        + grid(rows=[2], cols=[16384, 16385, 32768, 32769], dtype=[fp32])
        + grid(rows=[2], cols=[16400, 32784, 50257], dtype=[bf16])
        + grid(rows=[1], cols=[131072], dtype=[fp16])
    )
    sweep = (
        grid(
            model=models("llama-7b", "llama3-8b", "qwen2.5-7b", "deepseek-v3", "bert-base", "gpt2-xl"),
            seq_len=SEQ_LENS,
            dtype=[bf16],
        )
        + grid(model=models("llama-7b"), seq_len=SEQ_LENS[:3], dtype=[bf16], scores=[True])
        + grid(model=models("bert-base", "bert-large"), seq_len=SEQ_LENS[:1], dtype=[bf16], scores=[True])
    )  # fmt: skip
    hostile = {"rows": 5, "cols": 40, "dtype": fp32}
    vast = {"rows": 2**16 + 1, "cols": 32768, "dtype": bf16}
    grad = True
    rows_of = ("x",)

    def sizes(self, model: Model, seq_len: int, dtype: Dtype, scores: bool = False) -> dict[str, Any]:
        """A row per token over its vocabulary; or the square matrices of all heads, up to what a model was made for."""
        rows, cols = (model.num_heads * seq_len, seq_len) if scores else (seq_len, model.vocab_size)
        return {"rows": rows, "cols": cols, "dtype": dtype}

    def inputs(self, make: Make, rows: int, cols: int, dtype: Dtype, masked: bool = False) -> Inputs:
        """Logits as wide as those of a trained model: a few entries hold nearly all of a row."""
        x = make.normal(rows, cols, dtype=dtype, scale=3.0)
        if masked:
            visible = make.integers(1, cols, rows, 1, dtype=torch.int64)
            visible[0] = 0
            x.masked_fill_(torch.arange(cols, device=x.device) >= visible, float("-inf"))
        return {"x": x}

    def traffic(self, mode: str, rows: int, cols: int, dtype: Dtype, **_: Any) -> int:
        """fwd: x; y. bwd: dy, y; dx."""
        return {"fwd": 2, "bwd": 3}[mode] * rows * cols * dtype.itemsize

    def flops(self, mode: str, rows: int, cols: int, **_: Any) -> int:
        """fwd: maximum, difference, exponential, sum, quotient. bwd: dot (2), difference, product."""
        return {"fwd": 5, "bwd": 4}[mode] * rows * cols

    @kernel
    def triton(self, x: Tensor) -> Callable[[], Tensor]:
        return lambda: kernels.softmax.softmax(x)

    @peer()
    def eager(self, x: Tensor) -> Callable[[], Tensor]:
        return lambda: torch.softmax(x, -1)

    @peer(install="pip install liger-kernel")
    def liger(self, x: Tensor) -> Callable[[], Tensor]:
        needs_cuda(x)
        if x.shape[-1] > 65536:
            raise Unsupported(f"takes rows of up to 65536 columns, not of {x.shape[-1]}")
        from liger_kernel.ops import LigerSoftmaxFunction

        return lambda: LigerSoftmaxFunction.apply(x)

    @peer(install="pip install quack-kernels")
    def quack(self, x: Tensor) -> Callable[[], Tensor]:
        needs_cuda(x)
        if torch.cuda.get_device_capability(x.device) < (9, 0):
            raise Unsupported("needs sm_90 or newer")
        from quack import softmax

        return lambda: softmax(x)
