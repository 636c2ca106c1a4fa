"""SGD with momentum over the parameters of real models: checks, sweep, cost and providers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch import dtype as Dtype  # noqa: N812 - `dtype` is an axis

import kernels.sgd
import reference.sgd
from bench import optimizers
from bench.core.operator import Inputs, Make, bf16, fp32, grid, kernel, peer
from bench.optimizers import Updated

LR, MOMENTUM = 1e-2, 0.9


class Sgd(optimizers.Optimizer):
    """SGD is bound by memory: three reads and two writes a parameter.

    The copies that each call of a library begins with are part of its time: in fp32 they move 16 bytes where the update
    moves 20.
    """

    entry = staticmethod(kernels.sgd.sgd)
    reference = staticmethod(reference.sgd.sgd)
    # Parameters that are less than a block, one, more; empty ones; the first misplaced one and all behind it.
    checks = (
        grid(sizes=[(0,), (1,), (2048, 3, 0, 2049)], dtype=[fp32])
        + grid(sizes=[(2060,)], step=[1, 10], nesterov=[False, True], dampening=[0.0, 0.5], dtype=[fp32])
        + grid(sizes=[(2056, 9)], dtype=[bf16], state=[bf16, fp32], seed=[None, 3])
        + grid(sizes=[(300,)], dtype=[bf16], grad=[fp32])
    )
    rows_of = ("params", "grads", "momentum_buffers")
    written = (0, 2)
    decay = 1e-4

    def states(self, make: Make, n: int, dtype: Dtype) -> Inputs:
        return {"momentum_buffers": make.normal(n, dtype=dtype, scale=1e-2)}

    def inputs(self, make: Make, *sizes: Any, dampening: float = 0.0, nesterov: bool = True, **shared: Any) -> Inputs:
        settings = {"lr": LR, "momentum": MOMENTUM, "dampening": dampening, "nesterov": nesterov}
        return super().inputs(make, *sizes, **shared) | settings

    def traffic(
        self, mode: str, sizes: tuple[int, ...], dtype: Dtype, state: Dtype = fp32, grad: Dtype | None = None,
        step: int = 10, **_: Any,
    ) -> int:  # fmt: skip
        """Parameters before and after; momentum after and, but in the first step, before; gradients."""
        momenta = 1 if step == 1 else 2
        return sum(sizes) * (2 * dtype.itemsize + momenta * state.itemsize + (grad or dtype).itemsize)

    def flops(self, mode: str, sizes: tuple[int, ...], **_: Any) -> int:
        """A product and a sum each: for weight decay, twice for momentum (Nesterov's once more), for the parameter."""
        return 9 * sum(sizes)

    @kernel
    def triton(self, **inputs: Any) -> Callable[[], Updated]:
        return lambda: kernels.sgd.sgd(**inputs)

    @peer()
    def eager(self, **inputs: Any) -> Callable[[], Updated]:
        """torch's fused kernel (`SGD(fused=True)`), a call for each weight decay."""
        self.needs_one_dtype(inputs)
        first, settings = _settings(inputs)

        def fused(parts: list[list[Tensor]], decay: float) -> None:
            torch._fused_sgd_(*parts, weight_decay=decay, is_first_step=first, **settings)

        return self.on_copies(fused, inputs)

    @peer()
    def foreach(self, **inputs: Any) -> Callable[[], Updated]:
        """torch's multi-tensor operations (`SGD(foreach=True)`), a few launches for each weight decay."""
        from torch.optim.sgd import sgd

        self.needs_one_dtype(inputs)
        first, settings = _settings(inputs)

        def many(parts: list[list[Tensor]], decay: float) -> None:
            params, grads, buffers = parts
            # Nesterov's momentum is added to the gradients in place where no weight decay has made new ones.
            grads = grads if decay else list(torch._foreach_mul(grads, 1))
            momenta: list[Tensor | None] = [None] * len(params) if first else [*buffers]
            sgd(params, grads, momenta, foreach=True, weight_decay=decay, **settings)
            if first:
                torch._foreach_copy_(buffers, [momentum for momentum in momenta if momentum is not None])

        return self.on_copies(many, inputs)


def _settings(inputs: Inputs) -> tuple[bool, dict[str, Any]]:
    """Whether it is the first step, and what torch is told beside."""
    settings = {name: inputs[name] for name in ("lr", "momentum", "dampening", "nesterov")}
    return inputs["step"] == 1, {**settings, "maximize": False}
