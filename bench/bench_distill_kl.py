"""Distillation from hidden states, no logits in memory: checks, sweep, cost and providers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch import dtype as Dtype  # noqa: N812 - `dtype` is an axis
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

import kernels.distill_kl
import reference.distill_kl
from bench.core.operator import (
    Inputs,
    Make,
    Operator,
    Sample,
    Unsupported,
    bf16,
    fp16,
    fp32,
    grid,
    kernel,
    needs_cuda,
    peer,
)
from bench.core.proof import Function, Yardstick, detached, yardsticks
from bench.models import SEQ_LENS, Model, models

# The larger model of the same vocabulary.
TEACHERS = {
    "bert-tiny": "bert-mini",
    "bert-base": "bert-large",
    "llama3-8b": "llama3-70b",
    "qwen3-8b": "qwen3-32b",
    "qwen2.5-7b": "qwen2.5-vl-72b",
    "gemma2-9b": "gemma2-27b",
}


class DistillKl(Operator):
    """Bound by tensor cores: two products with the vocabulary, and in the backward two more of the student's."""

    entry: ClassVar[Function] = staticmethod(kernels.distill_kl.distill_kl)
    reference: ClassVar[Function] = staticmethod(reference.distill_kl.distill_kl)
    # Borders of tiles and of splits; depths odd and even, and not the same; no rows.
    checks = (
        grid(rows=[1, 37], cols=[1, 130], depth=[40], temperature=[0.7], dtype=[fp32])
        + grid(rows=[3], cols=[5], depth=[1], dtype=[fp32])
        + grid(rows=[70], cols=[257], depth=[64, 72], teacher_depth=[128], temperature=[2.0], dtype=[fp32, fp16, bf16])
        + grid(rows=[130], cols=[140], depth=[128], teacher_depth=[33], dtype=[bf16])
        + grid(rows=[9], cols=[2100], depth=[16], teacher_depth=[24], dtype=[fp32])
        + grid(rows=[0], cols=[33], depth=[16], dtype=[fp32])
    )
    sweep = grid(model=models("bert-base"), seq_len=[128, 512], dtype=[bf16]) + grid(
        model=models("llama3-8b", "qwen3-8b", "qwen2.5-7b", "gemma2-9b"), seq_len=SEQ_LENS, dtype=[bf16]
    )
    hostile = {"rows": 5, "cols": 40, "depth": 16, "teacher_depth": 24, "temperature": 2.0, "dtype": fp32}
    vast = {"rows": 16, "cols": 2**17 + 1, "depth": 2**14, "teacher_depth": 64, "dtype": bf16}
    grad = True
    provable_logits: ClassVar[int] = 1 << 29  # of each of the two, 4 GiB in float64

    def sizes(self, model: Model, seq_len: int, dtype: Dtype) -> dict[str, Any]:
        (teacher,) = models(TEACHERS[model.name])
        sizes = {"rows": seq_len, "cols": model.vocab_size, "depth": model.hidden_size, "dtype": dtype}
        return sizes | {"teacher_depth": teacher.hidden_size}

    def inputs(
        self,
        make: Make,
        rows: int,
        cols: int,
        depth: int,
        dtype: Dtype,
        teacher_depth: int = 16,
        temperature: float = 1.0,
    ) -> Inputs:
        """Logits of standard deviation 2, as of trained models. The teacher is one argument: it has no gradient."""
        pairs = [
            (make.normal(rows, each, dtype=dtype), make.normal(cols, each, dtype=dtype, scale=2 / each**0.5))
            for each in (depth, teacher_depth)
        ]
        return {"hidden": pairs[0][0], "weight": pairs[0][1], "teacher": pairs[1], "temperature": temperature}

    def traffic(
        self, mode: str, rows: int, cols: int, depth: int, dtype: Dtype, teacher_depth: int = 16, **_: Any
    ) -> int:
        """fwd: hidden states and weights of both; loss. bwd: dloss and those; dhidden, dweight."""
        student = {"fwd": 1, "bwd": 2}[mode] * depth
        return ((rows + cols) * (student + teacher_depth) + 1) * dtype.itemsize

    def flops(
        self, mode: str, rows: int, cols: int, depth: int, dtype: Dtype, teacher_depth: int = 16, **_: Any
    ) -> int:
        """fwd: both products. bwd: two of the student's; logits made anew buy memory, not mathematics."""
        return 2 * rows * cols * {"fwd": depth + teacher_depth, "bwd": 2 * depth}[mode]

    def yardsticks(self, inputs: Inputs, mode: str, samples: Sequence[Sample] = ()) -> list[Yardstick]:
        """Of many logits: the mean of the reference over blocks of rows, whose logits are not kept."""
        rows = len(inputs["hidden"])
        at_once = max(1, self.provable_logits // len(inputs["weight"]))
        if rows <= at_once:
            return super().yardsticks(inputs, mode)

        def whole(hidden: Tensor, weight: Tensor, teacher: tuple[Tensor, Tensor], **options: float) -> Tensor:
            total = torch.zeros((), dtype=hidden.dtype, device=hidden.device)
            for start in range(0, rows, at_once):
                part, taught = hidden[start : start + at_once], (teacher[0][start : start + at_once], teacher[1])
                loss = checkpoint(partial(type(self).reference, **options), part, weight, taught, use_reentrant=False)
                total = total + loss * (len(part) / rows)
            return total

        return yardsticks(whole, detached(inputs), mode)

    @kernel
    def triton(self, **inputs: Any) -> Callable[[], Tensor]:
        return lambda: kernels.distill_kl.distill_kl(**inputs)

    @peer()
    def eager(
        self, hidden: Tensor, weight: Tensor, teacher: tuple[Tensor, Tensor], temperature: float
    ) -> Callable[[], Tensor]:
        """Torch's own products and its own divergence: both logits in memory, and their softmaxes in fp32."""

        def divergence() -> Tensor:
            log_q = (functional.linear(hidden, weight) / temperature).log_softmax(-1, dtype=fp32)
            log_p = (functional.linear(*teacher) / temperature).log_softmax(-1, dtype=fp32)
            return functional.kl_div(log_q, log_p, reduction="batchmean", log_target=True).to(hidden.dtype)

        return divergence

    @peer(install="pip install liger-kernel")
    def liger(
        self, hidden: Tensor, weight: Tensor, teacher: tuple[Tensor, Tensor], temperature: float
    ) -> Callable[[], Tensor]:
        """Its generalised Jensen-Shannon divergence, which at beta = 0 is this one."""
        needs_cuda(hidden)
        if hidden.requires_grad:
            raise Unsupported("its forward computes the gradients, and its backward scales them in place")
        from liger_kernel.ops import LigerFusedLinearJSDFunction

        options = None, 0.0, -100, temperature
        return lambda: LigerFusedLinearJSDFunction.apply(hidden, weight, *teacher, *options).to(hidden.dtype)
