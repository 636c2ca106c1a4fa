"""The values of a case's inputs: which a provider has seen, which it has not, and how they get into its memory."""

from __future__ import annotations

import os
from collections.abc import Collection

import torch
from torch import Tensor

from bench.core.case import Case, Inputs, Make
from bench.core.operator import Operator

SEED = 0
ROOM = 8  # copies of the inputs may take an eighth of a GPU's free memory; larger ones wait in the host's


class Stock:
    """Inputs whose values change in place, so that an answer to other values than those at hand shows.

    inputs: what providers are bound to. `known` values are those that a provider is proven and timed on, the same in
    every run. `fresh` ones come from a seed that nobody can foresee, and no provider sees them before its time is
    taken. What an operator declares as `prepared` stays as it is.
    """

    def __init__(self, operator: Operator, case: Case, device: torch.device, seed: int | None = None) -> None:
        self.seed = int.from_bytes(os.urandom(4), "little") + 1 if seed is None else seed
        self.inputs = operator.inputs(Make(device, SEED), **case.sizes)
        drawn = operator.inputs(Make(device, self.seed), **case.sizes)
        self._changing = [name for name, value in self.inputs.items() if _changes(name, value, operator.prepared)]
        away = _shelf(self.inputs, device)
        self._known = {
            name: value.to(away, copy=True) for name, value in self.inputs.items() if isinstance(value, Tensor)
        }
        self._fresh = {name: drawn[name].to(away) for name in self._changing}
        self._generator = torch.Generator().manual_seed(self.seed)

    @property
    def nbytes(self) -> int:
        """The bytes of all tensors among the inputs."""
        return sum(value.nbytes for value in self.inputs.values() if isinstance(value, Tensor))

    def known(self) -> Inputs:
        """Put the values in that are the same in every run; gives the inputs."""
        return self._put(self._known)

    def fresh(self) -> Inputs:
        """Put the values in that come from an unforeseeable seed; gives the inputs."""
        return self._put(self._fresh)

    def mixed(self) -> Inputs:
        """Put values in that were never there before: each row (last dimension but one) known or fresh, by lot.

        Indices (int32, int64) are all fresh, since some of one set and some of another need not be a set.
        """
        for name in self._changing:
            known, fresh = self._known[name], self._fresh[name]
            if fresh.dtype in (torch.int32, torch.int64):
                known = fresh
            rows = torch.randint(0, 2, known.shape[-2:-1] or known.shape, generator=self._generator).bool()
            rows = rows.to(known.device)
            _copy(self.inputs[name], torch.where(rows[:, None] if known.ndim > 1 else rows, known, fresh))
        return self.inputs

    def _put(self, values: dict[str, Tensor]) -> Inputs:
        for name, value in values.items():
            _copy(self.inputs[name], value)
        return self.inputs


def _changes(name: str, value: object, prepared: Collection[str]) -> bool:
    return isinstance(value, Tensor) and name not in prepared


def _shelf(inputs: Inputs, device: torch.device) -> torch.device:
    """Where copies are kept: on the device, unless that would take memory that providers may need."""
    if device.type != "cuda":
        return device
    free, _ = torch.cuda.mem_get_info(device)
    total = sum(value.nbytes for value in inputs.values() if isinstance(value, Tensor))
    return device if ROOM * 2 * total <= free else torch.device("cpu")


def _copy(to: Tensor, source: Tensor) -> None:
    with torch.no_grad():
        to.copy_(source)
