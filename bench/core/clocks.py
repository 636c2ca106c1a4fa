"""Stopwatches. Each turns a thunk into a lap: something that runs it once more and says how long that took, in seconds.

`host`: wall-clock time of a call that has finished when it returns (a CPU's only clock). On a GPU: the time the host
spends launching, beside the device's own. `device`: time between two events around the call, with the L2 cache flushed
before. `graph`: calls captured in one CUDA graph over inputs that rotate through more memory than L2 holds, for kernels
so short that the gaps between launches would be measured instead. Which clock counted a sample is stored with it; none
stands in for another.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

Thunk = Callable[[], object]

SHORTEST_LAP_S = 200e-6
WARMUP_CALLS = 3
WARMUP_S = 10e-3
GRAPH_BELOW_S = 20e-6
GRAPH_CALLS = 32
FLUSH_MULTIPLE = 2


@dataclass(frozen=True)
class Lap:
    """A timed run of a thunk: calling it runs the thunk `calls` times and gives seconds per call by clock."""

    run: Callable[[], dict[str, float]]
    calls: int = 1


class Clock(Protocol):
    """What `race` needs of a stopwatch."""

    primary: str

    def lap(self, thunk: Thunk) -> Lap:
        """Warm a thunk up and prepare to time it."""


class HostClock:
    """Wall-clock time per call. Calls too short for the clock are timed in batches of a fixed size, chosen once."""

    primary = "host"

    def lap(self, thunk: Thunk) -> Lap:
        """Choose the batch (1 for anything above 200 microseconds)."""
        calls = max(1, math.ceil(SHORTEST_LAP_S / max(warm_up(thunk), 1e-9)))

        def one() -> dict[str, float]:
            start = time.perf_counter_ns()
            thunk()
            return {"host": (time.perf_counter_ns() - start) * 1e-9}

        def batch() -> dict[str, float]:
            start = time.perf_counter_ns()
            for _ in range(calls):
                thunk()
            return {"host": (time.perf_counter_ns() - start) * 1e-9 / calls}

        return Lap(one if calls == 1 else batch, calls)


class EventClock:
    """Device time between two events, L2 flushed before every call; the host's launch time is kept beside it."""

    primary = "device"

    def __init__(self, device: torch.device) -> None:
        l2_bytes = torch.cuda.get_device_properties(device).L2_cache_size
        self._flush = torch.empty(FLUSH_MULTIPLE * l2_bytes // 4, dtype=torch.int32, device=device)

    def lap(self, thunk: Thunk) -> Lap:
        """Time one call at a time; the flush is enqueued ahead, so that the launch hides behind it."""
        warm_up(thunk)
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

        def one() -> dict[str, float]:
            self._flush.zero_()
            start.record()
            began = time.perf_counter_ns()
            thunk()
            launched = time.perf_counter_ns()
            end.record()
            end.synchronize()
            return {"device": start.elapsed_time(end) * 1e-3, "host": (launched - began) * 1e-9}

        return Lap(one)


class GraphClock:
    """Device time per call inside captured graphs, each rotating through several sets of inputs.

    Capture first, then race: `race(clock.thunks, clock=clock)`.
    """

    primary = "graph"

    def __init__(self) -> None:
        self.thunks: dict[str, Thunk] = {}
        self._laps: dict[Thunk, Lap] = {}

    def __bool__(self) -> bool:
        """Whether anything was captured."""
        return bool(self.thunks)

    def capture(self, name: str, thunks: Sequence[Thunk]) -> None:
        """Capture at least `GRAPH_CALLS` calls of one runner, whose thunks are those of its sets of inputs."""
        for each in thunks:
            each()
        calls = max(GRAPH_CALLS, len(thunks))
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for i in range(calls):
                thunks[i % len(thunks)]()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

        def replay() -> dict[str, float]:
            start.record()
            graph.replay()
            end.record()
            end.synchronize()
            return {"graph": start.elapsed_time(end) * 1e-3 / calls}

        self.thunks[name] = replay
        self._laps[replay] = Lap(replay, calls)

    def lap(self, thunk: Thunk) -> Lap:
        """The captured graph, warmed up."""
        warm_up(thunk)
        return self._laps[thunk]


def warm_up(thunk: Thunk) -> float:
    """Call a thunk up to three times, or for 10 ms; the fastest call in seconds of the host's time."""
    fastest, began = math.inf, time.perf_counter()
    for _ in range(WARMUP_CALLS):
        start = time.perf_counter_ns()
        thunk()
        fastest = min(fastest, (time.perf_counter_ns() - start) * 1e-9)
        if time.perf_counter() - began > WARMUP_S:
            break
    return fastest


def rotations(input_bytes: int, l2_bytes: int) -> int:
    """How many sets of inputs exceed twice the L2 cache together, so that none is found there again; at most 64."""
    return min(64, max(2, math.ceil(FLUSH_MULTIPLE * l2_bytes / max(1, input_bytes)) + 1))
