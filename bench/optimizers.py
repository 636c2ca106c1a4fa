"""What declarations of optimisers share: the parameters of real models, and libraries that write over their inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from torch import Tensor
from torch import dtype as Dtype  # noqa: N812 - `dtype` is an axis

from bench.core.case import Axes
from bench.core.operator import Inputs, Make, Operator, Sample, Unsupported, bf16, fp32, grid
from bench.models import Model, models

Updated = tuple[Tensor, ...]
Group = tuple[list[int], float]
Run = Callable[[list[list[Tensor]], float], None]


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


class Optimizer(Operator):
    """An update of parameters that lie one behind the other: its roles are `rows_of`, parameters and gradients first.

    What is timed leaves its inputs as they are. Libraries write over theirs, so that each of their calls begins with
    copies of the roles that are written.

    written: the roles that an update writes. decay: the weight decay of what decays.
    """

    written: ClassVar[tuple[int, ...]]
    decay: ClassVar[float]
    sweep = (
        grid(model=models("bert-tiny", "bert-mini"), layers=[1], dtype=[fp32])
        + grid(model=models("bert-base"), layers=[12], dtype=[fp32])
        + grid(model=models("bert-base"), layers=[12], dtype=[bf16], seed=[None, 1])
        + grid(model=models("llama3-8b"), layers=[1], dtype=[fp32])
    )
    hostile: ClassVar[Axes] = {"sizes": (33, 7), "dtype": fp32}
    vast: ClassVar[Axes | None] = {"sizes": (2**31 + 2**10,), "dtype": bf16}

    def sizes(self, model: Model, layers: int, dtype: Dtype, seed: int | None = None) -> Axes:
        """The parameters of some layers, and which of them decay."""
        found = parameters_of(model, layers)
        decays = tuple(self.decay if decays else 0.0 for _, decays in found)
        return {"sizes": tuple(size for size, _ in found), "decays": decays, "dtype": dtype, "seed": seed}

    def states(self, make: Make, n: int, dtype: Dtype) -> Inputs:
        """What an optimiser keeps of each parameter from step to step."""
        raise NotImplementedError

    def inputs(
        self, make: Make, sizes: tuple[int, ...], dtype: Dtype, state: Dtype = fp32, grad: Dtype | None = None,
        step: int = 10, seed: int | None = None, decays: tuple[float, ...] = (),
    ) -> Inputs:  # fmt: skip
        """Every second of several parameters decays, unless `decays` says which."""
        n, several = sum(sizes), len(sizes) > 1
        each = decays or tuple(self.decay if at % 2 == 0 else 0.0 for at in range(len(sizes)))
        return {
            "params": make.normal(n, dtype=dtype, scale=0.02),
            "grads": make.normal(n, dtype=grad or dtype, scale=1e-2),
            **self.states(make, n, state),
            "step": step,
            "weight_decay": each if several else self.decay,
            "sizes": sizes if several else (),
            "seed": seed,
        }

    def samples(self, inputs: Inputs, seed: int = 0) -> list[Sample]:
        """None of several parameters, which `sizes` counts."""
        return [] if inputs["sizes"] else super().samples(inputs, seed)

    def needs_one_dtype(self, inputs: Inputs) -> None:
        """Raise `Unsupported` for libraries that take one dtype in all roles."""
        if len({inputs[role].dtype for role in self.rows_of}) > 1:
            raise Unsupported("keeps its state in the dtype of the parameters")

    def on_copies(self, run: Run, inputs: Inputs) -> Callable[[], Updated]:
        """A call that has `run` write over copies of some roles, parameters of one weight decay at a time."""
        roles, sizes = [inputs[role] for role in self.rows_of], inputs["sizes"]
        of = groups(inputs["weight_decay"], len(sizes) or 1)

        def call() -> Updated:
            # Behind `.data` a library may say that it has changed what it could have changed.
            flat = [role.clone() if at in self.written else role.data for at, role in enumerate(roles)]
            parts = [split(role, sizes) for role in flat]
            for indices, decay in of:
                run([[part[i] for i in indices] for part in parts], decay)
            return tuple(flat[at] for at in self.written)

        return call
