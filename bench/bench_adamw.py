"""AdamW over the parameters of real models: checks, sweep, cost and providers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch import dtype as Dtype  # noqa: N812 - `dtype` is an axis

import kernels.adamw
import reference.adamw
from bench import optimizers
from bench.core.operator import Inputs, Make, Unsupported, bf16, fp32, grid, kernel, needs_cuda, peer
from bench.models import models
from bench.optimizers import Updated


class AdamW(optimizers.Optimizer):
    """AdamW is bound by memory: four reads and three writes a parameter.

    The copies that each call of a library begins with are part of its time: in fp32 they move 24 bytes where the update
    moves 28.
    """

    entry = staticmethod(kernels.adamw.adamw)
    reference = staticmethod(reference.adamw.adamw)
    # Parameters that are less than a block, one, more; empty ones; the first misplaced one and all behind it.
    checks = (
        grid(sizes=[(0,), (1,), (2048, 2048, 3, 0, 2049)], dtype=[fp32])
        + grid(sizes=[(4096, 100)], step=[1, 100000], dtype=[fp32])
        + grid(sizes=[(2056, 9)], dtype=[bf16], state=[bf16, fp32], seed=[None, 3])
        + grid(sizes=[(300,)], dtype=[bf16], grad=[fp32])
    )
    sweep = optimizers.Optimizer.sweep + grid(model=models("llama3-8b"), layers=[1], dtype=[bf16], seed=[None, 1])
    rows_of = ("params", "grads", "exp_avgs", "exp_avg_sqs")
    written = (0, 2, 3)
    decay = 0.1

    def states(self, make: Make, n: int, dtype: Dtype) -> Inputs:
        exp_avgs = make.normal(n, dtype=dtype, scale=1e-2)
        return {"exp_avgs": exp_avgs, "exp_avg_sqs": make.uniform(0, 1e-4, n, dtype=dtype)}

    def traffic(
        self, mode: str, sizes: tuple[int, ...], dtype: Dtype, state: Dtype = fp32, grad: Dtype | None = None, **_: Any
    ) -> int:
        """Parameters and both moments, before and after; gradients."""
        return sum(sizes) * (2 * dtype.itemsize + 4 * state.itemsize + (grad or dtype).itemsize)

    def flops(self, mode: str, sizes: tuple[int, ...], **_: Any) -> int:
        """Three for the first moment, four for the second, six for the parameter beside a root."""
        return 13 * sum(sizes)

    @kernel
    def triton(self, **inputs: Any) -> Callable[[], Updated]:
        return lambda: kernels.adamw.adamw(**inputs)

    @peer()
    def eager(self, **inputs: Any) -> Callable[[], Updated]:
        """torch's fused kernel (`AdamW(fused=True)`), a call for each weight decay."""
        self.needs_one_dtype(inputs)
        steps = [torch.full((), float(inputs["step"]), device=inputs["params"].device) for _ in inputs["sizes"] or (0,)]

        def fused(parts: list[list[Tensor]], decay: float) -> None:
            params, grads, exp_avgs, exp_avg_sqs = parts
            torch._fused_adamw_(
                params, grads, exp_avgs, exp_avg_sqs, [], steps[: len(params)],
                lr=1e-3, beta1=0.9, beta2=0.999, weight_decay=decay, eps=1e-8, amsgrad=False, maximize=False,
            )  # fmt: skip

        return self.on_copies(fused, inputs)

    @peer()
    def foreach(self, **inputs: Any) -> Callable[[], Updated]:
        """torch's multi-tensor operations (`AdamW(foreach=True)`), a dozen launches for each weight decay."""
        self.needs_one_dtype(inputs)
        from torch.optim.adamw import adamw

        before = float(inputs["step"] - 1)

        def many(parts: list[list[Tensor]], decay: float) -> None:
            params, grads, exp_avgs, exp_avg_sqs = parts
            steps = [torch.full((), before) for _ in params]
            adamw(
                params, grads, exp_avgs, exp_avg_sqs, [], steps, foreach=True,
                amsgrad=False, beta1=0.9, beta2=0.999, lr=1e-3, weight_decay=decay, eps=1e-8, maximize=False,
            )  # fmt: skip

        return self.on_copies(many, inputs)

    @peer(install="pip install torchao")
    def torchao(self, **inputs: Any) -> Callable[[], Updated]:
        """One compiled launch a parameter; bf16 rounded stochastically where there is a seed."""
        needs_cuda(inputs["params"])
        from torchao.optim.adam import single_param_adam

        compiled: Any = torch.compile(single_param_adam, fullgraph=True, dynamic=False)
        step, lr, stochastic = torch.tensor(float(inputs["step"])), torch.tensor(1e-3), inputs["seed"] is not None

        def each(parts: list[list[Tensor]], decay: float) -> None:
            for param, grad, exp_avg, exp_avg_sq in zip(*parts, strict=True):
                compiled(param, grad, step, exp_avg, exp_avg_sq, None, lr, 0.9, 0.999, decay, 1e-8, True, stochastic)

        return self.on_copies(each, inputs)

    @peer(install="pip install bitsandbytes")
    def bitsandbytes(self, **inputs: Any) -> Callable[[], Updated]:
        """Its 32-bit AdamW, a launch a parameter."""
        needs_cuda(inputs["params"])
        if inputs["seed"] is not None:
            raise Unsupported("rounds bf16 to nearest only")
        if inputs["exp_avgs"].dtype != fp32:
            raise Unsupported("keeps its state in fp32 or in 8 bits")
        from bitsandbytes.functional import optimizer_update_32bit

        def each(parts: list[list[Tensor]], decay: float) -> None:
            for param, grad, exp_avg, exp_avg_sq in zip(*parts, strict=True):
                optimizer_update_32bit(
                    "adam", grad, param, exp_avg, 0.9, 1e-8, inputs["step"], 1e-3, exp_avg_sq, 0.999, weight_decay=decay
                )  # fmt: skip

        return self.on_copies(each, inputs)

    @peer()
    def bitsandbytes_8bit(self, **_: Any) -> Callable[[], Updated]:
        """Its AdamW of 8 bits: moments of 256 levels in blocks of 256 are different mathematics."""
        raise Unsupported("keeps its moments in 8 bits, which no proof against moments of 32 or 16 can let pass")
