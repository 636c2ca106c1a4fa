"""The Jensen-Shannon divergence of two models from hidden states, no logits in memory: checks, sweep and providers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch import dtype as Dtype  # noqa: N812 - `dtype` is an axis
from torch.nn import functional

import kernels.distill_jsd
import reference.distill_jsd
from bench import bench_distill_kl
from bench.core.operator import Inputs, Make, Unsupported, bf16, fp16, fp32, grid, kernel, needs_cuda, peer
from bench.models import SEQ_LENS, models


class DistillJsd(bench_distill_kl.DistillKl):
    """Bound by tensor cores as `distill_kl` is, and of the same inputs; its mixture takes both products once more."""

    entry = staticmethod(kernels.distill_jsd.distill_jsd)
    reference = staticmethod(reference.distill_jsd.distill_jsd)
    # Borders of tiles and of splits; depths odd and even, and not the same; mixtures of one side and of both; no rows.
    checks = (
        grid(rows=[37], cols=[1, 130], depth=[40], beta=[0.1], temperature=[0.7], dtype=[fp32])
        + grid(rows=[3], cols=[5], depth=[1], beta=[0.999], dtype=[fp32])
        + grid(rows=[70], cols=[130], depth=[64], teacher_depth=[72], temperature=[2.0], dtype=[fp32, fp16, bf16])
        + grid(rows=[130], cols=[140], depth=[72], teacher_depth=[64], beta=[0.9], dtype=[bf16])
        + grid(rows=[9], cols=[2100], depth=[16], teacher_depth=[24], dtype=[fp32])
        + grid(rows=[0], cols=[33], depth=[16], dtype=[fp32])
    )
    sweep = grid(model=models("bert-tiny"), seq_len=[128, 512], dtype=[bf16]) + grid(
        model=models("llama3-8b", "qwen3-8b", "qwen2.5-7b", "gemma2-9b"), seq_len=SEQ_LENS, dtype=[bf16]
    )
    hostile = bench_distill_kl.DistillKl.hostile | {"beta": 0.3}
    provable_logits = 1 << 28  # half of those of `distill_kl`: a third distribution is kept

    def inputs(
        self,
        make: Make,
        rows: int,
        cols: int,
        depth: int,
        dtype: Dtype,
        teacher_depth: int = 16,
        temperature: float = 1.0,
        beta: float = 0.5,
    ) -> Inputs:
        """Those of `distill_kl`, and the teacher's share of the mixture."""
        return super().inputs(make, rows, cols, depth, dtype, teacher_depth, temperature) | {"beta": beta}

    @kernel
    def triton(self, **inputs: Any) -> Callable[[], Tensor]:
        return lambda: kernels.distill_jsd.distill_jsd(**inputs)

    @peer()
    def eager(
        self, hidden: Tensor, weight: Tensor, teacher: tuple[Tensor, Tensor], beta: float, temperature: float
    ) -> Callable[[], Tensor]:
        """Torch's own products and its own divergences: both logits in memory, and three distributions in fp32."""

        def divergence() -> Tensor:
            log_q = (functional.linear(hidden, weight) / temperature).log_softmax(-1, dtype=fp32)
            log_p = (functional.linear(*teacher) / temperature).log_softmax(-1, dtype=fp32)
            log_m = torch.logaddexp(log_p + math.log(beta), log_q + math.log1p(-beta))
            of_p, of_q = (
                functional.kl_div(log_m, log, reduction="batchmean", log_target=True) for log in (log_p, log_q)
            )
            return (beta * of_p + (1 - beta) * of_q).to(hidden.dtype)

        return divergence

    @peer(install="pip install liger-kernel")
    def liger(
        self, hidden: Tensor, weight: Tensor, teacher: tuple[Tensor, Tensor], beta: float, temperature: float
    ) -> Callable[[], Tensor]:
        """Logits of a chunk of rows in memory, in fp32; the gradient of hidden is made whether asked for or not."""
        needs_cuda(hidden)
        if hidden.requires_grad:
            raise Unsupported("its forward computes the gradients, and its backward scales them in place")
        from liger_kernel.ops import LigerFusedLinearJSDFunction

        options = None, beta, -100, temperature
        return lambda: LigerFusedLinearJSDFunction.apply(hidden, weight, *teacher, *options).to(hidden.dtype)
