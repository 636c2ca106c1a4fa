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

    def forward(self) -> list[Tensor]:
        """The outputs of one call; in mode `bwd` with their graph."""
        with torch.set_grad_enabled(self.mode == "bwd"):
            return plain_outputs_of(self._thunk())

    def backward(self, outputs: Sequence[Tensor]) -> list[Tensor]:
        """The gradients behind outputs of `forward`, for random cotangents that stay the same."""
        return gradients(outputs, self.leaves, self._seeds(outputs))

    def once(self) -> list[Tensor]:
        """One whole call: the outputs and, in mode `bwd`, the gradients behind them."""
        outputs = self.forward()
        if self.mode == "fwd":
            return outputs
        return [out.detach() for out in outputs] + self.backward(outputs)

    def timed(self) -> Callable[[], object]:
        """The call that is timed. It may be repeated as often as one likes."""
        if self.mode == "fwd":
            return self._thunk
        outputs = self.forward()
        return self._backward_behind(outputs, self._seeds(outputs))

    def answering(
        self, yardstick: Yardstick, outputs: Sequence[Tensor] | None = None
    ) -> tuple[Callable[[], object], Callable[[Any], list[Tensor]]]:
        """A call like `timed`, on the inputs as they are now, and what turns its result into what `yardstick` judges.

        outputs: those of `forward` that a backward shall start from (default: new ones). Outside of a sample cotangents
        are zero: shared gradients depend on it alone.
        """
        sample = yardstick.sample
        at = ... if sample is None else sample.outputs
        if self.mode == "fwd":
            return self._thunk, lambda result: [_part(out, at) for out in plain_outputs_of(result)]
        outputs = self.forward() if outputs is None else outputs
        if sample is None:
            seeds = list(yardstick.cotangents)
        else:
            seeds = [torch.zeros_like(out) for out in outputs]
            for zeros, seed in zip(seeds, yardstick.cotangents, strict=True):
                zeros[at] = seed
        answers = [_part(out, at) for out in outputs]

        def answer(result: Any) -> list[Tensor]:
            pairs = zip(floating(self.inputs), self.leaves, result, strict=True)
            grads = {name: torch.zeros_like(leaf) if grad is None else grad for name, leaf, grad in pairs}
            return answers + list((grads if sample is None else part_of(grads, sample)).values())

        return self._backward_behind(outputs, seeds), answer

    def prove(self, yardsticks: Sequence[Yardstick]) -> Proof:
        """Run once and hold the answer against the yardsticks of these inputs, which must stay as they were."""
        before = fingerprint(self.inputs)
        outputs = self.forward()
        proofs = []
        for yardstick in yardsticks:
            call, answer = self.answering(yardstick, outputs)
            proofs.append(yardstick.judge(answer(outputs if self.mode == "fwd" else call())))
        if fingerprint(self.inputs) != before:
            raise Disproved("expected inputs that stay as they were, got a run that changed them")
        return max(proofs, key=lambda proof: proof.used)

    def _backward_behind(self, outputs: Sequence[Tensor], seeds: Sequence[Tensor]) -> Callable[[], object]:
        pairs = [(out, seed) for out, seed in zip(outputs, seeds, strict=True) if out.requires_grad]
        if not pairs or not self.leaves:
            raise Disproved("expected outputs that are differentiable in the inputs, got none that requires a gradient")
        outs, cotangents = zip(*pairs, strict=True)
        return lambda: torch.autograd.grad(outs, self.leaves, cotangents, retain_graph=True, allow_unused=True)

    def _seeds(self, outputs: Sequence[Tensor]) -> list[Tensor]:
        if not self._cotangents:
            self._cotangents = draw_cotangents(outputs)
        return self._cotangents


class Witness:
    """A thunk that, once armed, keeps the result of its next call: so an answer that was timed can be judged."""

    def __init__(self, thunk: Callable[[], Any]) -> None:
        self.armed = False
        self.kept: Any = None
        self._thunk = thunk

    def __call__(self) -> Any:
        """Call the thunk."""
        result = self._thunk()
        if self.armed:
            self.kept, self.armed = result, False
        return result


def plain_outputs_of(result: Any) -> list[Tensor]:
    """What a call returned, as a list of tensors. A subclass of Tensor could compute when it is looked at."""
    outputs = outputs_of(result)
    for out in outputs:
        if type(out) is not Tensor:
            raise Disproved(f"expected plain tensors, got {type(out).__name__}")
    return outputs


def _part(out: Tensor, at: Any) -> Tensor:
    """A part of an output, outside of any graph."""
    try:
        return out.detach()[at]
    except IndexError:
        raise Disproved(f"expected an output with the rows that are looked at, got shape {tuple(out.shape)}") from None


def fingerprint(inputs: Inputs) -> list[int]:
    """A checksum of the bits of every tensor."""
    return [
        int(value.detach().reshape(-1).view(BITS[value.element_size()]).sum(dtype=torch.int64))
        for value in inputs.values()
        if isinstance(value, Tensor)
    ]
