"""Stopwatches. Each turns a thunk into a lap: something that runs it once more and says how long that took, in seconds.

Three named numbers, none of which stands in for another, each cold (nothing of the inputs in the last-level cache) and
warm (called right before):

`host`, `host_warm`: wall-clock time of a call that has finished when it returns: a CPU's clock. On a GPU `host` is the
    time the host spends launching, beside the device's own.
`device`, `device_warm`: time between two events around the call, which is launched while the device is held back.
    Cold: the L2 cache is written over before.
`graph`, `graph_warm`: calls captured in one CUDA graph, for kernels so short that what lies between two events would
    be measured too. Cold: L2 is written over, and then the calls rotate through more inputs than it holds, or take one
    set each. Warm: they share one set.
"""

from __future__ import annotations

import ctypes
import math
import os
import statistics
from collections import Counter
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
# How long a device is held back: three times the launch of a call that is made twice, and what the stopwatch does.
AHEAD_LAUNCHES = 3.0
AHEAD_S = 20e-6
GRAPH_AHEAD_S = 100e-6
MOST_AHEAD_S = 2e-3
COUNTED_CYCLES = 200_000
NEVER_SET_ASIDE = "nothing to reset: no CUDA"


@dataclass(frozen=True)
class Lap:
    """A timed run of a thunk: calling `run` gives seconds per call by clock; `calls` says how many calls each took."""

    run: Callable[[], dict[str, float]]
    calls: dict[str, int] = field(default_factory=dict)


class Clock(Protocol):
    """What `race` needs of a stopwatch.

    primary: the name of the samples that the race is decided by; flushed_s: the time spent so far on flushing caches
    and, behind that, on holding a device back.
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


class _Before:
    """What is done to a device before a call is timed.

    L2 is given up and written over, and then the device is held back until the call has been launched: it would
    otherwise wait for the host in the middle of what is timed, and a slow launch be taken for a slow kernel.
    """

    def __init__(self, device: torch.device) -> None:
        self.flush_bytes = FLUSH_MULTIPLE * cache_bytes(device)
        self._flush = torch.empty(self.flush_bytes // 4, dtype=torch.int32, device=device)
        self._reset, self.persisting = persisting_l2()
        self._begun, self._held = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self._cycles_per_s = max(self._count() for _ in range(IDLE_LOOKS))  # an idle device counts more slowly

    def hold(self, ahead_s: float) -> None:
        """Enqueue it; the device is held back for `ahead_s`."""
        self._reset()
        self._begun.record()
        self._flush.zero_()
        torch.cuda._sleep(int(ahead_s * self._cycles_per_s))
        self._held.record()

    def launched_late(self) -> bool:
        """Whether the device was free again before now: then it may have waited for a launch."""
        return bool(self._held.query())

    def took_s(self) -> float:
        """How long the device was busy with it, in seconds."""
        return float(self._begun.elapsed_time(self._held)) * 1e-3

    def _count(self) -> float:
        """The cycles that the device counts in a second."""
        self._begun.record()
        torch.cuda._sleep(COUNTED_CYCLES)
        self._held.record()
        self._held.synchronize()
        return COUNTED_CYCLES / self.took_s()


class EventClock:
    """Device time between two events, L2 written over before the call; then once more, warm.

    `host` is the time the host takes to launch. `lag` is how long the device stays busy after the call is over by its
    own stream's account: work that a provider puts where its events do not see it (`idle_lag_s`: of an idle device).
    exposed: how often the device was free before a thunk's calls were launched, as it is where a call waits for it;
    such samples may hold gaps.
    """

    primary = "device"

    def __init__(self, device: torch.device) -> None:
        self.flushed_s = 0.0
        self.exposed: Counter[Thunk] = Counter()
        self._device = device
        self._before = _Before(device)
        self.idle_lag_s = statistics.median(self._lag_s() for _ in range(IDLE_LOOKS))

    def lap(self, thunk: Thunk, fastest_s: float = math.inf) -> Lap:
        """Time one call at a time, both of them launched while the device is held back.

        fastest_s: how long the host took to launch it; the device is held back for longer where that is not enough.
        """
        start, end, again, over = (torch.cuda.Event(enable_timing=True) for _ in range(4))
        ahead_s = min(MOST_AHEAD_S, AHEAD_S + AHEAD_LAUNCHES * fastest_s)

        def one() -> dict[str, float]:
            nonlocal ahead_s
            self._before.hold(ahead_s)
            start.record()
            began = perf_counter_ns()
            thunk()
            launched = perf_counter_ns()
            end.record()
            again.record()
            thunk()
            over.record()
            if self._before.launched_late():
                self.exposed[thunk] += 1
                ahead_s = min(MOST_AHEAD_S, 2 * ahead_s)
            over.synchronize()
            lag_s = self._lag_s()
            self.flushed_s += self._before.took_s()
            return {
                "device": start.elapsed_time(end) * 1e-3,
                "device_warm": again.elapsed_time(over) * 1e-3,
                "host": (launched - began) * 1e-9,
                "lag": lag_s,
            }

        return Lap(one, {"device": 1, "device_warm": 1})

    def conditions(self) -> dict[str, Any]:
        """What its samples depend on."""
        return {"flush_bytes": self._before.flush_bytes, "persisting_l2": self._before.persisting}

    def _lag_s(self) -> float:
        """How long it takes until no stream of the device has anything left to do."""
        began = perf_counter_ns()
        torch.cuda.synchronize(self._device)
        return (perf_counter_ns() - began) * 1e-9


class GraphClock:
    """Device time per call inside captured graphs: one that rotates through several sets of inputs, and a warm one.

    Capture first, then race: `race(clock.thunks, clock=clock)`. `exposed` as in `EventClock`.
    """

    primary = "graph"

    def __init__(self, device: torch.device) -> None:
        self.thunks: dict[str, Thunk] = {}
        self.flushed_s = 0.0
        self.exposed: Counter[Thunk] = Counter()
        self._laps: dict[Thunk, Lap] = {}
        self._alive: list[Sequence[Thunk]] = []  # graphs know addresses only
        self._before = _Before(device)

    def __bool__(self) -> bool:
        """Whether anything was captured."""
        return bool(self.thunks)

    def capture(self, name: str, thunks: Sequence[Thunk]) -> None:
        """Capture at least `GRAPH_CALLS` calls of one runner, whose thunks are those of its sets of inputs.

        L2 is written over before each replay, so small sets are cold too: of those there are enough for each call.
        """
        for each in thunks:
            each()
        self._alive.append(thunks)
        calls = max(GRAPH_CALLS, len(thunks))
        rotating = _graph_of([thunks[i % len(thunks)] for i in range(calls)])
        alone = _graph_of([thunks[0]] * calls)
        start, end, over = (torch.cuda.Event(enable_timing=True) for _ in range(3))
        ahead_s = GRAPH_AHEAD_S

        def replay() -> dict[str, float]:
            nonlocal ahead_s
            self._before.hold(ahead_s)
            start.record()
            rotating.replay()
            end.record()
            alone.replay()
            over.record()
            if self._before.launched_late():
                self.exposed[replay] += 1
                ahead_s = min(MOST_AHEAD_S, 2 * ahead_s)
            over.synchronize()
            self.flushed_s += self._before.took_s()
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
    """The last-level cache of a device: L2 of a GPU; of a CPU what Linux says, or 64 MiB where it says nothing.

    Of a CPU with several, all that this process may run beside are one: a flush is written by all of its threads.
    """
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).L2_cache_size)
    found: dict[int, dict[str, int]] = {}
    for cpu in os.sched_getaffinity(0):
        for cache in Path(f"/sys/devices/system/cpu/cpu{cpu}/cache").glob("index*"):
            try:
                level, size = (int((cache / name).read_text().strip().removesuffix("K")) for name in ("level", "size"))
                beside = (cache / "shared_cpu_list").read_text()
            except (OSError, ValueError):
                continue
            found.setdefault(level, {})[beside] = size << 10
    return sum(found[max(found)].values()) if found else UNKNOWN_CACHE_BYTES


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
    # torch does not go back to the stream by itself where a capture fails.
    with torch.cuda.stream(torch.cuda.current_stream()), torch.cuda.graph(graph):
        for thunk in thunks:
            thunk()
    return graph
