"""A trial: one provider on the inputs of one case, ready to be proven, measured and timed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from bench.core.case import Inputs
from bench.core.proof import (
    BITS,
    Disproved,
    Proof,
    Yardstick,
    differentiable,
    draw_cotangents,
    floating,
    gradients,
    outputs_of,
    part_of,
)


class Trial:
    """A provider bound to inputs. What the provider does before it returns its thunk is preparation and not timed.

    mode `fwd`: the thunk is the call. mode `bwd`: the inputs are leaves that require gradients, and the call that is
    timed is the backward pass alone, behind one forward pass.
    """

    def __init__(self, provider: Callable[..., Callable[[], Any]], inputs: Inputs, mode: str) -> None:
        self.mode = mode
        self.inputs = differentiable(inputs) if mode == "bwd" else inputs
        self.leaves = [self.inputs[name] for name in floating(self.inputs)] if mode == "bwd" else []
        with torch.set_grad_enabled(mode == "bwd"):
            self._thunk = provider(**self.inputs)
        self._cotangents: list[Tensor] = []

    def once(self) -> list[Tensor]:
        """One whole call: the outputs and, in mode `bwd`, the gradients behind them."""
        outputs = self._forward()
        if self.mode == "fwd":
            return outputs
        return [out.detach() for out in outputs] + gradients(outputs, self.leaves, self._seeds(outputs))

    def timed(self) -> Callable[[], object]:
        """The call that is timed. It may be repeated as often as one likes."""
        if self.mode == "fwd":
            return self._thunk
        outputs = self._forward()
        seeds = self._seeds(outputs)
        return lambda: torch.autograd.grad(outputs, self.leaves, seeds, retain_graph=True, allow_unused=True)

    def prove(self, yardsticks: Sequence[Yardstick]) -> Proof:
        """Run once and hold the answer against the yardsticks of these inputs, which must stay as they were."""
        before = fingerprint(self.inputs)
        outputs = self._forward()
        proofs = [yardstick.judge(self._answer(outputs, yardstick)) for yardstick in yardsticks]
        if fingerprint(self.inputs) != before:
            raise Disproved("expected inputs that stay as they were, got a run that changed them")
        return max(proofs, key=lambda proof: proof.used)

    def _forward(self) -> list[Tensor]:
        with torch.set_grad_enabled(self.mode == "bwd"):
            return outputs_of(self._thunk())

    def _seeds(self, outputs: Sequence[Tensor]) -> list[Tensor]:
        if not self._cotangents:
            self._cotangents = draw_cotangents(outputs)
        return self._cotangents

    def _answer(self, outputs: Sequence[Tensor], yardstick: Yardstick) -> list[Tensor]:
        """What a yardstick measures. Outside of a sample cotangents are zero: shared gradients depend on it alone."""
        sample, seeds = yardstick.sample, yardstick.cotangents
        if sample is None:
            answer = [out.detach() for out in outputs]
            return answer + (gradients(outputs, self.leaves, seeds) if self.mode == "bwd" else [])
        answer = [out.detach()[sample.outputs] for out in outputs]
        if self.mode == "fwd":
            return answer
        whole = [torch.zeros_like(out) for out in outputs]
        for zeros, seed in zip(whole, seeds, strict=True):
            zeros[sample.outputs] = seed
        grads = dict(zip(floating(self.inputs), gradients(outputs, self.leaves, whole, retain=True), strict=True))
        return answer + list(part_of(grads, sample).values())


def fingerprint(inputs: Inputs) -> list[int]:
    """A checksum of the bits of every tensor."""
    return [
        int(value.detach().reshape(-1).view(BITS[value.element_size()]).sum(dtype=torch.int64))
        for value in inputs.values()
        if isinstance(value, Tensor)
    ]
