"""SGD with momentum over the parameters of real models: checks, sweep, cost and providers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch import dtype as Dtype  # noqa: N812 - `dtype` is an axis

import kernels.sgd
import reference.sgd
from bench.bench_adamw import on_copies, parameters_of
from bench.core.operator import Inputs, Make, Operator, Sample, Unsupported, bf16, fp32, grid, kernel, peer
from bench.models import Model, models

Updated = tuple[Tensor, ...]
ROLES, WRITTEN = ("params", "grads", "momentum_buffers"), (0, 2)
LR, MOMENTUM, DECAY = 1e-2, 0.9, 1e-4


class Sgd(Operator):
    """SGD is bound by memory: three reads and two writes a parameter.

    What is timed leaves its inputs as they are. Libraries write over theirs, so that each of their calls begins with
    copies of parameters and momentum, which are part of its time: in fp32 they move 16 bytes where the update moves 20.
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
    sweep = (
        grid(model=models("bert-tiny", "bert-mini"), layers=[1], dtype=[fp32])
        + grid(model=models("bert-base"), layers=[12], dtype=[fp32])
        + grid(model=models("bert-base"), layers=[12], dtype=[bf16], seed=[None, 1])
        + grid(model=models("llama3-8b"), layers=[1], dtype=[fp32])
    )
    hostile = {"sizes": (33, 7), "dtype": fp32}
    vast = {"sizes": (2**31 + 2**10,), "dtype": bf16}
    rows_of = ROLES

    def sizes(self, model: Model, layers: int, dtype: Dtype, seed: int | None = None) -> dict[str, Any]:
        found = parameters_of(model, layers)
        decays = tuple(DECAY if decays else 0.0 for _, decays in found)
        return {"sizes": tuple(size for size, _ in found), "decays": decays, "dtype": dtype, "seed": seed}

    def inputs(
        self, make: Make, sizes: tuple[int, ...], dtype: Dtype, state: Dtype = fp32, grad: Dtype | None = None,
        step: int = 10, dampening: float = 0.0, nesterov: bool = True, seed: int | None = None,
        decays: tuple[float, ...] = (),
    ) -> Inputs:  # fmt: skip
        n, several = sum(sizes), len(sizes) > 1
        each = decays or tuple(DECAY if at % 2 == 0 else 0.0 for at in range(len(sizes)))
        return {
            "params": make.normal(n, dtype=dtype, scale=0.02),
            "grads": make.normal(n, dtype=grad or dtype, scale=1e-2),
            "momentum_buffers": make.normal(n, dtype=state, scale=1e-2),
            "step": step,
            "lr": LR,
            "momentum": MOMENTUM,
            "dampening": dampening,
            "weight_decay": each if several else DECAY,
            "nesterov": nesterov,
            "sizes": sizes if several else (),
            "seed": seed,
        }

    def samples(self, inputs: Inputs, seed: int = 0) -> list[Sample]:
        """None of several parameters, which `sizes` counts."""
        return [] if inputs["sizes"] else super().samples(inputs, seed)

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
        first, settings = _settings(inputs)

        def fused(parts: list[list[Tensor]], decay: float) -> None:
            torch._fused_sgd_(*parts, weight_decay=decay, is_first_step=first, **settings)

        return on_copies(fused, [inputs[role] for role in ROLES], WRITTEN, inputs)

    @peer()
    def foreach(self, **inputs: Any) -> Callable[[], Updated]:
        """torch's multi-tensor operations (`SGD(foreach=True)`), a few launches for each weight decay."""
        from torch.optim.sgd import sgd

        first, settings = _settings(inputs)

        def many(parts: list[list[Tensor]], decay: float) -> None:
            params, grads, buffers = parts
            # Nesterov's momentum is added to the gradients in place where no weight decay has made new ones.
            grads = grads if decay else list(torch._foreach_mul(grads, 1))
            momenta: list[Tensor | None] = [None] * len(params) if first else [*buffers]
            sgd(params, grads, momenta, foreach=True, weight_decay=decay, **settings)
            if first:
                torch._foreach_copy_(buffers, [momentum for momentum in momenta if momentum is not None])

        return on_copies(many, [inputs[role] for role in ROLES], WRITTEN, inputs)


def _settings(inputs: Inputs) -> tuple[bool, dict[str, Any]]:
    """Whether it is the first step, and what torch is told beside; or why it cannot run."""
    if len({inputs[role].dtype for role in ROLES}) > 1:
        raise Unsupported("keeps its state in the dtype of the parameters")
    settings = {name: inputs[name] for name in ("lr", "momentum", "dampening", "nesterov")}
    return inputs["step"] == 1, {**settings, "maximize": False}
