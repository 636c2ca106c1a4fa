"""An operator whose need for memory is known, for the search of its frontier."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bench.core.operator import Inputs, Make, Operator, Unsupported, fp32, grid, kernel, peer

ROW_BYTES = 4096
compilations: list[int] = []


def twice(x: Tensor) -> Tensor:
    """2 x."""
    return x + x


class Twice(Operator):
    """4 KiB per position in, 4 KiB out."""

    entry = staticmethod(twice)
    reference = staticmethod(twice)
    checks = grid(n=[1], dtype=[fp32])
    sweep = grid(seq_len=[512], dtype=[fp32])
    hostile = dict(n=5, dtype=fp32)

    def sizes(self, seq_len: int, dtype: torch.dtype) -> dict[str, Any]:
        """A row per position."""
        return {"n": seq_len, "dtype": dtype}

    def inputs(self, make: Make, n: int, dtype: torch.dtype) -> Inputs:
        """Zeros, drawn without a detour."""
        return {"x": torch.zeros(n, ROW_BYTES // 4, dtype=dtype, device=make.device)}

    def traffic(self, mode: str, n: int, dtype: torch.dtype) -> int:
        """One read, one write."""
        return 2 * n * ROW_BYTES

    def flops(self, mode: str, n: int, dtype: torch.dtype) -> int:
        """One addition each."""
        return n * ROW_BYTES // 4

    @kernel
    def ours(self, x: Tensor) -> Callable[[], Tensor]:
        """Stands for a GPU kernel."""
        return lambda: x + x

    @peer()
    def threefold(self, x: Tensor) -> Callable[[], Tensor]:
        """Needs two tensors besides its input and its answer."""

        def run() -> Tensor:
            a, b = x.clone(), x.clone()
            return a + b

        return run

    @peer()
    def crashing(self, x: Tensor) -> Callable[[], Tensor]:
        """Crashes where it is given much."""

        def run() -> Tensor:
            if len(x) > 1024:
                os.kill(os.getpid(), signal.SIGSEGV)
            return x + x

        return run

    @peer()
    def compiled(self, x: Tensor) -> Callable[[], Tensor]:
        """Twice, by torch.compile; `compilations` has the lengths that it was compiled for."""

        def backend(graph: Any, example: list[Any]) -> Any:
            compilations.append(len(next(each for each in example if isinstance(each, Tensor))))
            return graph

        made = torch.compile(twice, backend=backend, dynamic=False)
        return lambda: made(x)

    @peer(install="pip install more")
    def elsewhere(self, x: Tensor) -> Callable[[], Tensor]:
        """Cannot run here."""
        raise Unsupported("needs more")
