"""An operator whose providers cheat, each in a way of its own, and some that only look as if they did."""

from __future__ import annotations

import ctypes
import gc
import itertools
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bench.core.operator import Inputs, Make, Operator, Unsupported, fp32, grid, peer

Run = Callable[[], Any]
ROWS, COLS = 512, 2048


def squash(x: Tensor, w: Tensor) -> Tensor:
    """tanh(x) w, the reference and the entry point."""
    return torch.tanh(x) * w


def after(calls: int) -> Callable[[], bool]:
    """Whether it has been asked more often than that."""
    asked = itertools.count(1)
    return lambda: next(asked) > calls


class _Remembering(torch.autograd.Function):
    """The right gradients, computed once for each graph."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        ctx.save_for_backward(x, w)
        ctx.known = None
        return squash(x, w)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        if ctx.known is None:
            x, w = ctx.saved_tensors
            y = torch.tanh(x)
            ctx.known = grads[0] * w * (1 - y * y), (grads[0] * y).sum(0)
        return ctx.known


class _Scaled(torch.autograd.Function):
    """Gradients that are one part in a thousand too large."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        ctx.save_for_backward(x, w)
        return squash(x, w)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x, w = ctx.saved_tensors
        y = torch.tanh(x)
        return 1.001 * grads[0] * w * (1 - y * y), (grads[0] * y).sum(0)


class Lazy(Tensor):
    """A tensor that is computed when it is looked at."""

    run: Run

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        known = [arg.run() if isinstance(arg, Lazy) else arg for arg in args]
        return function(*known, **(kwargs or {}))


class Squash(Operator):
    """y = tanh(x) w."""

    entry = staticmethod(squash)
    reference = staticmethod(squash)
    checks = grid(n=[1, 5], dtype=[fp32])
    sweep = grid(seq_len=[ROWS], dtype=[fp32])
    hostile = dict(n=5, dtype=fp32)
    grad = True
    rows_of = ("x",)
    prepared = ("w",)

    def sizes(self, seq_len: int, dtype: torch.dtype) -> dict[str, Any]:
        """One row per position."""
        return {"n": seq_len, "dtype": dtype}

    def inputs(self, make: Make, n: int, dtype: torch.dtype) -> Inputs:
        """Gaussian rows, and weights around 1."""
        return {"x": make.normal(n, COLS, dtype=dtype), "w": 1 + make.normal(COLS, dtype=dtype, scale=0.1)}

    def traffic(self, mode: str, n: int, dtype: torch.dtype) -> int:
        """One read, one write."""
        return (2 * n + 1) * COLS * dtype.itemsize

    def flops(self, mode: str, n: int, dtype: torch.dtype) -> int:
        """A hyperbolic tangent and a product."""
        return 2 * n * COLS

    # Honest, however they look.

    @peer()
    def honest(self, x: Tensor, w: Tensor) -> Run:
        """As it should be."""
        return lambda: w * torch.tanh(x)

    @peer()
    def honest_workspace(self, x: Tensor, w: Tensor) -> Run:
        """Keeps a workspace, which is no output."""
        if x.requires_grad:
            raise Unsupported("has no backward")
        space = torch.empty_like(x)
        return lambda: torch.tanh(x, out=space) * w

    @peer()
    def honest_preparation(self, x: Tensor, w: Tensor) -> Run:
        """Converts what may be converted before it is timed."""
        if x.requires_grad:
            return lambda: torch.tanh(x) * w
        wide = w.expand(x.shape).contiguous()
        return lambda: torch.tanh(x).mul_(wide)

    @peer()
    def honest_start(self, x: Tensor, w: Tensor) -> Run:
        """Takes its time at first, as compilers do."""
        started = after(1)

        def run() -> Tensor:
            if not started():
                time.sleep(0.3)
            return squash(x, w)

        return run

    # Answers that are not computed.

    @peer()
    def unwritten(self, x: Tensor, w: Tensor) -> Run:
        """Writes nothing."""
        return lambda: torch.empty_like(x)

    @peer()
    def half_written(self, x: Tensor, w: Tensor) -> Run:
        """Writes the first half and leaves in the rest what was there."""
        answer = squash(x, w)

        def run() -> Tensor:
            y = answer.clone()
            y[: len(x) // 2] = squash(x[: len(x) // 2], w)
            return y

        return run

    @peer()
    def in_preparation(self, x: Tensor, w: Tensor) -> Run:
        """Computes before it is timed."""
        y = squash(x, w)
        return lambda: y

    @peer()
    def stale(self, x: Tensor, w: Tensor) -> Run:
        """Computes once."""
        known: list[Tensor] = []

        def run() -> Tensor:
            if not known:
                known.append(squash(x, w))
            return known[0].clone()

        return run

    @peer()
    def by_pointer(self, x: Tensor, w: Tensor) -> Run:
        """Remembers answers by the address of the inputs."""
        known: dict[int, Tensor] = {}
        return lambda: known[x.data_ptr()] if x.data_ptr() in known else known.setdefault(x.data_ptr(), squash(x, w))

    @peer()
    def by_shape(self, x: Tensor, w: Tensor) -> Run:
        """Remembers answers by the shape of the inputs."""
        known: dict[torch.Size, Tensor] = {}
        return lambda: known[x.shape] if x.shape in known else known.setdefault(x.shape, squash(x, w))

    @peer()
    def by_content(self, x: Tensor, w: Tensor) -> Run:
        """Remembers answers by a checksum of the inputs: always right, and never at work while it is timed."""
        known: dict[float, Tensor] = {}

        def run() -> Tensor:
            key = float(x[::8, ::64].sum())
            if key not in known:
                known[key] = squash(x, w)
            return known[key]

        return run

    @peer()
    def by_count(self, x: Tensor, w: Tensor) -> Run:
        """Stops working when it has been called often enough to be believed."""
        tired, last = after(8), [x]

        def run() -> Tensor:
            if not tired():
                last[0] = squash(x, w)
            return last[0]

        return run

    @peer()
    def sniffing(self, x: Tensor, w: Tensor) -> Run:
        """Works unless it is being timed, which the stack shows."""
        last = [x]

        def run() -> Tensor:
            frame = sys._getframe(1)
            while frame.f_back is not None and frame.f_code.co_name != "one":
                frame = frame.f_back
            if frame.f_code.co_name != "one":
                last[0] = squash(x, w)
            return last[0]

        return run

    @peer()
    def foreseen_rows(self, x: Tensor, w: Tensor) -> Run:
        """Computes the rows that a proof with the default seed looks at."""
        (sample,) = self.samples({"x": x})

        def run() -> Tensor:
            y = torch.zeros_like(x)
            y[sample.outputs] = squash(x[sample.outputs], w)
            return y

        return run

    # Wrong answers.

    @peer()
    def truncated(self, x: Tensor, w: Tensor) -> Run:
        """Leaves out the last eight columns."""

        def run() -> Tensor:
            y = torch.zeros_like(x)
            y[:, :-8] = squash(x[:, :-8], w[:-8])
            return y

        return run

    @peer()
    def half_precision(self, x: Tensor, w: Tensor) -> Run:
        """Computes in a cheaper dtype."""
        return lambda: squash(x.bfloat16(), w.bfloat16()).float()

    @peer()
    def other_dtype(self, x: Tensor, w: Tensor) -> Run:
        """Writes a cheaper dtype."""
        return lambda: squash(x, w).half()

    @peer()
    def not_a_number(self, x: Tensor, w: Tensor) -> Run:
        """Hopes that nothing compares with NaN."""
        return lambda: torch.full_like(x, float("nan"))

    @peer()
    def one_row(self, x: Tensor, w: Tensor) -> Run:
        """Hopes for broadcasting."""
        return lambda: squash(x[:1], w)

    @peer()
    def lazy(self, x: Tensor, w: Tensor) -> Run:
        """Hands out a promise, which whoever judges has to redeem."""

        def run() -> Tensor:
            promise = torch.empty_like(x).as_subclass(Lazy)
            promise.run = lambda: squash(x, w)
            return promise

        return run

    @peer()
    def in_background(self, x: Tensor, w: Tensor) -> Run:
        """Has a thread write the answer after it has returned."""

        def run() -> Tensor:
            y = torch.empty_like(x)

            def work() -> None:
                time.sleep(0.05)
                y.copy_(squash(x, w))

            threading.Thread(target=work).start()
            return y

        return run

    @peer()
    def overwriting(self, x: Tensor, w: Tensor) -> Run:
        """Writes every answer over the last one."""
        y = torch.empty_like(x)
        return lambda: torch.mul(torch.tanh(x), w, out=y)

    # Meddling with others.

    @peer()
    def mutating(self, x: Tensor, w: Tensor) -> Run:
        """Changes its input on every call."""

        def run() -> Tensor:
            y = squash(x, w)
            x.add_(1)
            return y

        return run

    @peer()
    def mutating_weight(self, x: Tensor, w: Tensor) -> Run:
        """Changes the input that stays the same from call to call."""

        def run() -> Tensor:
            y = squash(x, w)
            w.mul_(1.0001)
            return y

        return run

    @peer()
    def mutating_late(self, x: Tensor, w: Tensor) -> Run:
        """Changes its input when the proof is over, in the race."""
        late = after(14)

        def run() -> Tensor:
            y = squash(x, w)
            if late():
                x.zero_()
            return y

        return run

    @peer()
    def mutating_late_and_unseen(self, x: Tensor, w: Tensor) -> Run:
        """The same behind torch's back."""
        late = after(14)

        def run() -> Tensor:
            y = squash(x, w)
            if late():
                ctypes.memset(x.data_ptr(), 0, x.nbytes // 2)
            return y

        return run

    @peer()
    def clock_of_python(self, x: Tensor, w: Tensor) -> Run:
        """Slows the clock of everybody who asks Python for the time."""

        def run() -> Tensor:
            before = time.perf_counter_ns
            setattr(time, "perf_counter_ns", lambda: before() // 2)  # noqa: B010
            return squash(x, w)

        return run

    @peer()
    def clock_of_the_suite(self, x: Tensor, w: Tensor) -> Run:
        """Slows the clock that the suite reads."""
        from bench.core import clocks

        def run() -> Tensor:
            before = time.perf_counter_ns
            setattr(clocks, "perf_counter_ns", lambda: before() // 2)  # noqa: B010
            return squash(x, w)

        return run

    @peer()
    def clock_later(self, x: Tensor, w: Tensor) -> Run:
        """Slows it in the race only."""
        from bench.core import clocks

        late = after(14)

        def run() -> Tensor:
            if late():
                before = time.perf_counter_ns
                setattr(clocks, "perf_counter_ns", lambda: before() // 2)  # noqa: B010
            return squash(x, w)

        return run

    @peer()
    def judge(self, x: Tensor, w: Tensor) -> Run:
        """Puts a judge of its own in place."""
        from bench.core.proof import Proof, Yardstick

        setattr(Yardstick, "judge", lambda *_: Proof(0.0, 1.0))  # noqa: B010
        return lambda: torch.zeros_like(x)

    @peer()
    def arithmetic(self, x: Tensor, w: Tensor) -> Run:
        """Has every difference come out as nothing."""
        setattr(Tensor, "abs", lambda self: self * 0)  # noqa: B010
        return lambda: torch.zeros_like(x)

    @peer()
    def statistics(self, x: Tensor, w: Tensor) -> Run:
        """Halves every median."""
        from bench.core.race import Result

        setattr(Result, "median", property(lambda self: min(self.samples) / 2))  # noqa: B010
        return lambda: squash(x, w)

    @peer()
    def other_threads(self, x: Tensor, w: Tensor) -> Run:
        """Has its rivals run in another number of threads, more than there are processors."""
        threads = torch.get_num_threads() + 1

        def run() -> Tensor:
            torch.set_num_threads(threads)
            return squash(x, w)

        return run

    @peer()
    def one_processor(self, x: Tensor, w: Tensor) -> Run:
        """Leaves its rivals one processor."""

        def run() -> Tensor:
            os.sched_setaffinity(0, {(os.cpu_count() or 1) - 1})
            return squash(x, w)

        return run

    @peer()
    def other_arithmetic(self, x: Tensor, w: Tensor) -> Run:
        """Has everybody's products computed in less precision from here on."""

        def run() -> Tensor:
            torch.set_float32_matmul_precision("medium")
            return squash(x, w)

        return run

    @peer()
    def litter(self, x: Tensor, w: Tensor) -> Run:
        """Has the garbage collector run in everybody's laps."""

        def run() -> Tensor:
            gc.disable()
            return squash(x, w)

        return run

    @peer()
    def quitting(self, x: Tensor, w: Tensor) -> Run:
        """Ends the process as if all were well."""

        def run() -> Tensor:
            os._exit(0)

        return run

    # Gradients.

    @peer()
    def remembered_gradient(self, x: Tensor, w: Tensor) -> Run:
        """Computes the gradients of a graph once, however often they are timed."""
        return lambda: _Remembering.apply(x, w)  # type: ignore[no-untyped-call]

    @peer()
    def scaled_gradient(self, x: Tensor, w: Tensor) -> Run:
        """The right answer with a wrong gradient."""
        return lambda: _Scaled.apply(x, w)  # type: ignore[no-untyped-call]

    @peer()
    def no_gradient(self, x: Tensor, w: Tensor) -> Run:
        """The right answer without a graph."""
        return lambda: squash(x, w).detach()
