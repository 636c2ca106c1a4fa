"""Stopwatches. Each turns a thunk into a lap: something that runs it once more and says how long that took, in seconds.

Three named numbers, none of which stands in for another, each cold (nothing of the inputs in the last-level cache) and
warm (called right before):

`host`, `host_warm`: wall-clock time of a call that has finished when it returns: a CPU's clock. On a GPU `host` is the
    time the host spends launching, beside the device's own.
`device`, `device_warm`: time between two events around the call. Cold: the L2 cache is written over before.
`graph`, `graph_warm`: calls captured in one CUDA graph, for kernels so short that the gaps between launches would be
    measured instead. Cold: the calls rotate through more inputs than L2 holds. Warm: they share one set.
"""

from __future__ import annotations

import ctypes
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter, perf_counter_ns
from typing import Any, Protocol

import torch

Thunk = Callable[[], object]

SHORTEST_LAP_S = 200e-6
WARMUP_CALLS = 3
WARMUP_S = 10e-3
GRAPH_BELOW_S = 20e-6
GRAPH_CALLS = 32
FLUSH_MULTIPLE = 2
IDLE_LOOKS = 20
UNKNOWN_CACHE_BYTES = 64 << 20
NEVER_SET_ASIDE = "nothing to reset: no CUDA"


@dataclass(frozen=True)
class Lap:
    """A timed run of a thunk: calling `run` gives seconds per call by clock; `calls` says how many calls each took."""

    run: Callable[[], dict[str, float]]
    calls: dict[str, int] = field(default_factory=dict)


class Clock(Protocol):
    """What `race` needs of a stopwatch.

    primary: the name of the samples that the race is decided by; flushed_s: the time spent on flushing caches so far.
    """

    primary: str
    flushed_s: float

    def lap(self, thunk: Thunk, fastest_s: float) -> Lap:
        """Prepare to time a thunk whose fastest call so far took `fastest_s`. Does not call it."""


class HostClock:
    """Wall-clock time per call: one call behind a flushed last-level cache, then a batch of warm ones.

    flush_bytes: what is written between calls (default: twice the last-level cache; 0: nothing, and `host` is warm
    too).
    """

    primary = "host"

    def __init__(self, flush_bytes: int | None = None) -> None:
        self.flush_bytes = FLUSH_MULTIPLE * cache_bytes(torch.device("cpu")) if flush_bytes is None else flush_bytes
        self.flushed_s = 0.0
        self._flush = torch.zeros(self.flush_bytes, dtype=torch.int8)

    def lap(self, thunk: Thunk, fastest_s: float = math.inf) -> Lap:
        """A warm batch of one call, or of as many as take 200 microseconds, chosen once."""
        calls = max(1, math.ceil(SHORTEST_LAP_S / max(fastest_s, 1e-9)))

        def one() -> dict[str, float]:
            began = perf_counter_ns()
            self._flush.fill_(1)
            start = perf_counter_ns()
            thunk()
            cold = perf_counter_ns()
            for _ in range(calls):
                thunk()
            end = perf_counter_ns()
            self.flushed_s += (start - began) * 1e-9
            return {"host": (cold - start) * 1e-9, "host_warm": (end - cold) * 1e-9 / calls}

        return Lap(one, {"host": 1, "host_warm": calls})

    def conditions(self) -> dict[str, Any]:
        """What its samples depend on."""
        return {"flush_bytes": self.flush_bytes}


class EventClock:
    """Device time between two events, L2 written over before the call; then once more, warm.

    `host` is the time the host takes to launch. `lag` is how long the device stays busy after the call is over by its
    own stream's account: work that a provider puts where its events do not see it (`idle_lag_s`: of an idle device).
    """

    primary = "device"

    def __init__(self, device: torch.device) -> None:
        self.flush_bytes = FLUSH_MULTIPLE * cache_bytes(device)
        self.flushed_s = 0.0
        self._device = device
        self._flush = torch.empty(self.flush_bytes // 4, dtype=torch.int32, device=device)
        self._reset, self._persisting = persisting_l2()
        self.idle_lag_s = statistics.median(self._lag_s() for _ in range(IDLE_LOOKS))

    def lap(self, thunk: Thunk, fastest_s: float = math.inf) -> Lap:  # noqa: ARG002 - one call at a time
        """Time one call at a time; the flush is enqueued ahead, so that the launch hides behind it."""
        idle, start, end, again, over = (torch.cuda.Event(enable_timing=True) for _ in range(5))

        def one() -> dict[str, float]:
            self._reset()
            idle.record()
            self._flush.zero_()
            start.record()
            began = perf_counter_ns()
            thunk()
            launched = perf_counter_ns()
            end.record()
            again.record()
            thunk()
            over.record()
            over.synchronize()
            lag_s = self._lag_s()
            self.flushed_s += idle.elapsed_time(start) * 1e-3
            return {
                "device": start.elapsed_time(end) * 1e-3,
                "device_warm": again.elapsed_time(over) * 1e-3,
                "host": (launched - began) * 1e-9,
                "lag": lag_s,
            }

        return Lap(one, {"device": 1, "device_warm": 1})

    def conditions(self) -> dict[str, Any]:
        """What its samples depend on."""
        return {"flush_bytes": self.flush_bytes, "persisting_l2": self._persisting}

    def _lag_s(self) -> float:
        """How long it takes until no stream of the device has anything left to do."""
        began = perf_counter_ns()
        torch.cuda.synchronize(self._device)
        return (perf_counter_ns() - began) * 1e-9


class GraphClock:
    """Device time per call inside captured graphs: one that rotates through several sets of inputs, and a warm one.

    Capture first, then race: `race(clock.thunks, clock=clock)`.
    """

    primary = "graph"
    flushed_s = 0.0

    def __init__(self) -> None:
        self.thunks: dict[str, Thunk] = {}
        self._laps: dict[Thunk, Lap] = {}
        self._reset, _ = persisting_l2()

    def __bool__(self) -> bool:
        """Whether anything was captured."""
        return bool(self.thunks)

    def capture(self, name: str, thunks: Sequence[Thunk]) -> None:
        """Capture at least `GRAPH_CALLS` calls of one runner, whose thunks are those of its sets of inputs."""
        for each in thunks:
            each()
        calls = max(GRAPH_CALLS, len(thunks))
        rotating = _graph_of([thunks[i % len(thunks)] for i in range(calls)])
        alone = _graph_of([thunks[0]] * calls)
        start, end, over = (torch.cuda.Event(enable_timing=True) for _ in range(3))

        def replay() -> dict[str, float]:
            self._reset()
            start.record()
            rotating.replay()
            end.record()
            alone.replay()
            over.record()
            over.synchronize()
            cold, warm = start.elapsed_time(end), end.elapsed_time(over)
            return {"graph": cold * 1e-3 / calls, "graph_warm": warm * 1e-3 / calls}

        self.thunks[name] = replay
        self._laps[replay] = Lap(replay, {"graph": calls, "graph_warm": calls})

    def lap(self, thunk: Thunk, fastest_s: float = math.inf) -> Lap:  # noqa: ARG002 - captured before
        """The captured graphs."""
        return self._laps[thunk]


def warm_up(thunk: Thunk) -> float:
    """Call a thunk up to three times, or for 10 ms; the fastest call in seconds of the host's time."""
    fastest, began = math.inf, perf_counter()
    for _ in range(WARMUP_CALLS):
        start = perf_counter_ns()
        thunk()
        fastest = min(fastest, (perf_counter_ns() - start) * 1e-9)
        if perf_counter() - began > WARMUP_S:
            break
    return fastest


def rotations(input_bytes: int, l2_bytes: int) -> int:
    """How many sets of inputs exceed twice the L2 cache together, so that none is found there again; at most 64."""
    return min(64, max(2, math.ceil(FLUSH_MULTIPLE * l2_bytes / max(1, input_bytes)) + 1))


def cache_bytes(device: torch.device) -> int:
    """The last-level cache of a device: L2 of a GPU; of a CPU what Linux says, or 64 MiB where it says nothing."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).L2_cache_size)
    found = {}
    for cache in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"):
        try:
            level, size = (int((cache / name).read_text().strip().removesuffix("K")) for name in ("level", "size"))
        except (OSError, ValueError):
            continue
        found[level] = size << 10
    return found[max(found)] if found else UNKNOWN_CACHE_BYTES


def persisting_l2() -> tuple[Callable[[], object], str]:
    """What gives up lines that some kernel has set aside in L2, and whether it works here, in words.

    Lines that persist outlive a flush: by them a card of 864 GB/s showed 3530 GB/s (llm.c #851).
    """
    if torch.version.cuda is None:
        return lambda: None, NEVER_SET_ASIDE
    try:
        reset = ctypes.CDLL("libcuda.so.1").cuCtxResetPersistingL2Cache
    except (OSError, AttributeError) as error:
        return lambda: None, f"not reset: {error}"
    if code := reset():
        return lambda: None, f"not reset: the driver answers {code}"
    return reset, "reset before every call"


def _graph_of(thunks: Sequence[Thunk]) -> Any:
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for thunk in thunks:
            thunk()
    return graph
