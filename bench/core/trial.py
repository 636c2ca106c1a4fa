"""A trial: one provider on the inputs of one case, ready to be proven, measured and timed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from bench.core.case import Inputs, Make
from bench.core.proof import (
    BITS,
    Disproved,
    Function,
    Proof,
    Sample,
    differentiable,
    floating,
    gradients,
    outputs_of,
    prove,
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

    def prove(self, reference: Function, samples: Sequence[Sample] = ()) -> Proof:
        """Run once and hold the answer, or samples of it, against the reference. Inputs must stay as they were."""
        before = fingerprint(self.inputs)
        outputs = self._forward()
        if not samples:
            self._cotangents = self._draw(outputs) if self.mode == "bwd" else []
            proofs = [self._prove_all(reference, outputs)]
        else:
            proofs = [self._prove_sample(reference, outputs, sample) for sample in samples]
        if fingerprint(self.inputs) != before:
            raise Disproved("expected inputs that stay as they were, got a run that changed them")
        return max(proofs, key=lambda proof: proof.used)

    def _forward(self) -> list[Tensor]:
        with torch.set_grad_enabled(self.mode == "bwd"):
            return outputs_of(self._thunk())

    def _draw(self, outputs: Sequence[Tensor]) -> list[Tensor]:
        """Random cotangents, one for each output."""
        return [Make(out.device, seed=2 + i).normal(*out.shape, dtype=out.dtype) for i, out in enumerate(outputs)]

    def _seeds(self, outputs: Sequence[Tensor]) -> list[Tensor]:
        if not self._cotangents:
            self._cotangents = self._draw(outputs)
        return self._cotangents

    def _prove_all(self, reference: Function, outputs: Sequence[Tensor]) -> Proof:
        if self.mode == "fwd":
            return prove(outputs, reference, self.inputs, None)
        grads = gradients(outputs, self.leaves, self._cotangents)
        return prove([*(out.detach() for out in outputs), *grads], reference, self._detached(), self._cotangents)

    def _prove_sample(self, reference: Function, outputs: Sequence[Tensor], sample: Sample) -> Proof:
        """Prove the sampled rows. Cotangents are zero outside of them: shared gradients depend on them alone."""
        got = [out.detach()[sample.outputs] for out in outputs]
        rows = f"{got[0].numel() // max(1, got[0].shape[-1])} of {outputs[0].numel() // max(1, outputs[0].shape[-1])}"
        part = {
            name: value[sample.views[name]] if name in sample.views else value
            for name, value in self._detached().items()
        }
        if self.mode == "fwd":
            return prove(got, reference, part, None, rows)
        seeds = self._draw(got)
        whole = [torch.zeros_like(out) for out in outputs]
        for zeros, seed in zip(whole, seeds, strict=True):
            zeros[sample.outputs] = seed
        grads = gradients(outputs, self.leaves, whole, retain=True)
        for name, grad in zip(floating(self.inputs), grads, strict=True):
            got.append(grad[sample.views[name]] if name in sample.views else grad)
        return prove(got, reference, part, seeds, rows)

    def _detached(self) -> Inputs:
        return {name: value.detach() if isinstance(value, Tensor) else value for name, value in self.inputs.items()}


def fingerprint(inputs: Inputs) -> list[int]:
    """A checksum of the bits of every tensor."""
    return [
        int(value.detach().reshape(-1).view(BITS[value.element_size()]).sum(dtype=torch.int64))
        for value in inputs.values()
        if isinstance(value, Tensor)
    ]
