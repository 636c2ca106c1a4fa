"""An operator with every kind of provider there is, good and bad, for tests of the instrument."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bench.core.operator import Inputs, Make, Operator, Sample, Unsupported, fp32, grid, kernel, needs_cuda, peer


def double(x: Tensor) -> Tensor:
    """2 x, the reference and the entry point."""
    return x + x


class Double(Operator):
    """y = 2 x."""

    entry = staticmethod(double)
    reference = staticmethod(double)
    checks = grid(n=[1, 5], dtype=[fp32])
    sweep = grid(seq_len=[512, 1024, 2048], dtype=[fp32])
    hostile = dict(n=5, dtype=fp32)
    grad = True
    rows_of = ("x",)

    def sizes(self, seq_len: int, dtype: torch.dtype) -> dict[str, Any]:
        """One row per position."""
        return {"n": seq_len, "dtype": dtype}

    def inputs(self, make: Make, n: int, dtype: torch.dtype) -> Inputs:
        """n rows of 256; none can be made of 1024."""
        if n == 1024:
            raise RuntimeError("planted error in the declaration")
        return {"x": make.normal(n, 256, dtype=dtype)}

    def samples(self, inputs: Inputs, seed: int = 0) -> list[Sample]:
        """Of 2048 rows not even a part can be checked."""
        if len(inputs["x"]) == 2048:
            raise torch.OutOfMemoryError("planted")
        return super().samples(inputs, seed)

    def traffic(self, mode: str, n: int, dtype: torch.dtype) -> int:
        """One read, one write."""
        return 2 * n * 256 * dtype.itemsize

    def flops(self, mode: str, n: int, dtype: torch.dtype) -> int:
        """One addition."""
        return n * 256

    @kernel
    def ours(self, x: Tensor) -> Callable[[], Tensor]:
        """Stands for a GPU kernel."""
        return lambda: x * 2

    @peer()
    def eager(self, x: Tensor) -> Callable[[], Tensor]:
        """Right."""
        return lambda: x * 2

    @peer(install="pip install nowhere-to-be-found")
    def missing(self, x: Tensor) -> Callable[[], Tensor]:
        """Not installed."""
        import nowhere_to_be_found  # type: ignore[import-not-found]

        return lambda: nowhere_to_be_found.double(x)

    @peer()
    def elsewhere(self, x: Tensor) -> Callable[[], Tensor]:
        """Needs another machine."""
        needs_cuda(x)
        return lambda: x * 2

    @peer()
    def forward_only(self, x: Tensor) -> Callable[[], Tensor]:
        """Cannot run one of the modes."""
        if x.requires_grad:
            raise Unsupported("has no backward")
        return lambda: x * 2

    @peer()
    def wrong(self, x: Tensor) -> Callable[[], Tensor]:
        """Gives a wrong answer."""
        return lambda: x * 2.001

    @peer()
    def mutating(self, x: Tensor) -> Callable[[], Tensor]:
        """Right, and then changes its input under the providers behind it."""

        def mutate() -> Tensor:
            y = x * 2
            x.add_(1)
            return y

        return mutate

    @peer()
    def raising(self, x: Tensor) -> Callable[[], Tensor]:
        """Raises."""
        raise RuntimeError("planted error")

    @peer()
    def crashing(self, x: Tensor) -> Callable[[], Tensor]:
        """Takes its process down while it is proven."""

        def crash() -> Tensor:
            os.kill(os.getpid(), signal.SIGSEGV)
            return x

        return crash

    @peer()
    def crashing_late(self, x: Tensor) -> Callable[[], Tensor]:
        """Takes its process down in the middle of the race."""
        calls = iter(range(10**9))

        def crash() -> Tensor:
            if next(calls) > 20:
                os.kill(os.getpid(), signal.SIGSEGV)
            return x * 2

        return crash

    @peer()
    def raising_late(self, x: Tensor) -> Callable[[], Tensor]:
        """Raises in the middle of the race."""
        calls = iter(range(10**9))

        def fail() -> Tensor:
            if next(calls) > 20:
                raise RuntimeError("planted late")
            return x * 2

        return fail

    @peer()
    def poisoning(self, x: Tensor) -> Callable[[], Tensor]:
        """Fails, and leaves a process behind that nobody else can use, as an illegal access to GPU memory does."""
        from bench.core import heat

        def lost(_: torch.device) -> None:
            raise SystemExit(3)

        setattr(heat, "survive", lost)  # noqa: B010 - in this child only
        raise RuntimeError("planted illegal access")

    @peer()
    def poisoning_late(self, x: Tensor) -> Callable[[], Tensor]:
        """Raises in the middle of the race, and leaves a process behind in which nothing works any more."""
        calls = iter(range(10**9))

        def fail() -> Tensor:
            if next(calls) > 20:
                from bench.core import heat

                setattr(heat, "Stock", None)  # noqa: B010 - in this child only
                raise RuntimeError("planted illegal access in the race")
            return x * 2

        return fail

    @peer()
    def greedy_late(self, x: Tensor) -> Callable[[], Tensor]:
        """Finds no memory in the middle of the race, where its rivals hold theirs."""
        calls = iter(range(10**9))
        return lambda: x.new_empty(1 << 50) if next(calls) > 20 else x * 2

    @peer()
    def greedy_afterwards(self, x: Tensor) -> Callable[[], Tensor]:
        """Finds no memory for values that it has not seen before the race."""
        known = x.clone()
        return lambda: x * 2 if x.equal(known) else x.new_empty(1 << 50)

    @peer()
    def crashing_import(self, x: Tensor) -> Callable[[], Tensor]:
        """Takes its process down when it is imported."""
        os.kill(os.getpid(), signal.SIGSEGV)
        return lambda: x * 2

    @peer()
    def greedy(self, x: Tensor) -> Callable[[], Tensor]:
        """Needs more memory than any machine has."""
        return lambda: x.new_empty(1 << 50)

    @peer()
    def spinning(self, x: Tensor) -> Callable[[], Tensor]:
        """Never comes back, and is busy all the while."""

        def spin() -> Tensor:
            while True:
                pass

        return spin

    @peer()
    def hanging(self, x: Tensor) -> Callable[[], Tensor]:
        """Never comes back."""

        def hang() -> Tensor:
            time.sleep(3600)
            return x

        return hang
