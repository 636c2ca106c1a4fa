"""AdamW over the parameters of real models: checks, sweep, cost and providers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch import dtype as Dtype  # noqa: N812 - `dtype` is an axis

import kernels.adamw
import reference.adamw
from bench.core.operator import (
    Inputs,
    Make,
    Operator,
    Sample,
    Unsupported,
    bf16,
    fp32,
    grid,
    kernel,
    needs_cuda,
    peer,
)
from bench.models import Model, models

Updated = tuple[Tensor, ...]
Group = tuple[list[int], float]
DECAY = 0.1
ROLES, WRITTEN = ("params", "grads", "exp_avgs", "exp_avg_sqs"), (0, 2, 3)


def parameters_of(model: Model, layers: int) -> tuple[tuple[int, bool], ...]:
    """The size of every parameter of some layers, and whether its weight decays: biases and norms are left out of that.

    Those of BERT: four projections of attention and two of the feed-forward layer with biases, two layer norms. Those
    of a LLaMA: grouped keys and values, a gate, no biases, two RMSNorms.
    """
    hidden, inner, bert = model.hidden_size, model.intermediate_size, not model.causal
    queries, keys = model.num_heads * model.head_dim, model.num_kv_heads * model.head_dim
    outs = [(hidden, queries), (hidden, keys), (hidden, keys), (queries, hidden), (hidden, inner), (inner, hidden)]
    outs += [] if bert else [(hidden, inner)]
    biases = [width for _, width in outs] if bert else []
    norms = [hidden] * (4 if bert else 2)
    layer = [(rows * width, True) for rows, width in outs] + [(width, False) for width in biases + norms]
    return tuple(layer * layers)


def split(flat: Tensor, sizes: tuple[int, ...]) -> list[Tensor]:
    """The parameters that lie one behind the other in `flat`, as views."""
    return list(flat.split(list(sizes) or len(flat)))


def groups(weight_decay: float | tuple[float, ...], count: int) -> list[Group]:
    """The parameters of each weight decay: libraries take one decay for a call."""
    decays = weight_decay if isinstance(weight_decay, tuple) else (weight_decay,) * count
    return [([i for i in range(count) if decays[i] == decay], decay) for decay in dict.fromkeys(decays)]


class AdamW(Operator):
    """AdamW is bound by memory: four reads and three writes a parameter.

    What is timed leaves its inputs as they are. Libraries write over theirs, so that each of their calls begins with
    copies of parameters and moments, which are part of its time: in fp32 they move 24 bytes where the update moves 28.
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
    sweep = (
        grid(model=models("bert-tiny", "bert-mini"), layers=[1], dtype=[fp32])
        + grid(model=models("bert-base"), layers=[12], dtype=[fp32])
        + grid(model=models("bert-base"), layers=[12], dtype=[bf16], seed=[None, 1])
        + grid(model=models("llama3-8b"), layers=[1], dtype=[fp32])
        + grid(model=models("llama3-8b"), layers=[1], dtype=[bf16], seed=[None, 1])
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
        step: int = 10, seed: int | None = None, decays: tuple[float, ...] = (),
    ) -> Inputs:  # fmt: skip
        n, several = sum(sizes), len(sizes) > 1
        each = decays or tuple(DECAY if at % 2 == 0 else 0.0 for at in range(len(sizes)))
        return {
            "params": make.normal(n, dtype=dtype, scale=0.02),
            "grads": make.normal(n, dtype=grad or dtype, scale=1e-2),
            "exp_avgs": make.normal(n, dtype=state, scale=1e-2),
            "exp_avg_sqs": make.uniform(0, 1e-4, n, dtype=state),
            "step": step,
            "weight_decay": each if several else DECAY,
            "sizes": sizes if several else (),
            "seed": seed,
        }

    def samples(self, inputs: Inputs, seed: int = 0) -> list[Sample]:
        """None of several parameters, which `sizes` counts."""
        return [] if inputs["sizes"] else super().samples(inputs, seed)

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
        if len({inputs[name].dtype for name in ROLES}) > 1:
            raise Unsupported("keeps its state in the dtype of the parameters")
        steps = [torch.full((), float(inputs["step"]), device=inputs["params"].device) for _ in inputs["sizes"] or (0,)]

        def fused(parts: list[list[Tensor]], decay: float) -> None:
            params, grads, exp_avgs, exp_avg_sqs = parts
            torch._fused_adamw_(
                params, grads, exp_avgs, exp_avg_sqs, [], steps[: len(params)],
                lr=1e-3, beta1=0.9, beta2=0.999, weight_decay=decay, eps=1e-8, amsgrad=False, maximize=False,
            )  # fmt: skip

        return on_copies(fused, [inputs[role] for role in ROLES], WRITTEN, inputs)

    @peer()
    def foreach(self, **inputs: Any) -> Callable[[], Updated]:
        """torch's multi-tensor operations (`AdamW(foreach=True)`), a dozen launches for each weight decay."""
        if len({inputs[name].dtype for name in ROLES}) > 1:
            raise Unsupported("keeps its state in the dtype of the parameters")
        from torch.optim.adamw import adamw

        before = float(inputs["step"] - 1)

        def many(parts: list[list[Tensor]], decay: float) -> None:
            params, grads, exp_avgs, exp_avg_sqs = parts
            steps = [torch.full((), before) for _ in params]
            adamw(
                params, grads, exp_avgs, exp_avg_sqs, [], steps, foreach=True,
                amsgrad=False, beta1=0.9, beta2=0.999, lr=1e-3, weight_decay=decay, eps=1e-8, maximize=False,
            )  # fmt: skip

        return on_copies(many, [inputs[role] for role in ROLES], WRITTEN, inputs)

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

        return on_copies(each, [inputs[role] for role in ROLES], WRITTEN, inputs)

    @peer(install="pip install bitsandbytes")
    def bitsandbytes(self, **inputs: Any) -> Callable[[], Updated]:
        """Its 32-bit AdamW, a launch a parameter. That of 8 bits keeps other moments: different mathematics."""
        needs_cuda(inputs["params"])
        if inputs["seed"] is not None:
            raise Unsupported("rounds bf16 to nearest only")
        if inputs["exp_avgs"].dtype != fp32:
            raise Unsupported("keeps its state in fp32 or in 8 bits, which is different mathematics")
        from bitsandbytes.functional import optimizer_update_32bit

        def each(parts: list[list[Tensor]], decay: float) -> None:
            for param, grad, exp_avg, exp_avg_sq in zip(*parts, strict=True):
                optimizer_update_32bit(
                    "adam", grad, param, exp_avg, 0.9, 1e-8, inputs["step"], 1e-3, exp_avg_sq, 0.999, weight_decay=decay
                )  # fmt: skip

        return on_copies(each, [inputs[role] for role in ROLES], WRITTEN, inputs)


def on_copies(
    run: Callable[[list[list[Tensor]], float], None], roles: list[Tensor], written: tuple[int, ...], inputs: Inputs
) -> Callable[[], tuple[Tensor, ...]]:
    """A call that has `run` write over copies of some roles, a group of parameters of one weight decay at a time."""
    sizes = inputs["sizes"]
    of = groups(inputs["weight_decay"], len(sizes) or 1)

    def call() -> tuple[Tensor, ...]:
        # Behind `.data` a library may say that it has changed what it could have changed.
        flat = [role.clone() if at in written else role.data for at, role in enumerate(roles)]
        parts = [split(role, sizes) for role in flat]
        for indices, decay in of:
            run([[part[i] for i in indices] for part in parts], decay)
        return tuple(flat[at] for at in written)

    return call
