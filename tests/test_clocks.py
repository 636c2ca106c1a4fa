"""The GPU's stopwatches on a simulated device: what they count, in which order, and what they leave out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bench.core import clocks
from bench.core.clocks import EventClock, GraphClock
from bench.core.race import race


class Device:
    """A device with a clock of its own: work takes simulated seconds, also when a graph of it is replayed."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.log: list[str] = []
        self._captured: list[Callable[[], None]] | None = None

    def work(self, name: str, seconds: float) -> Callable[[], None]:
        """A thunk that keeps the device busy."""

        def run() -> None:
            if self._captured is not None:
                self._captured.append(run)
                return
            self.log.append(name)
            self.now_s += seconds

        return run

    def event(self, **_: Any) -> Any:
        """A CUDA event, as far as the stopwatches use it."""
        event = SimpleNamespace(at_s=0.0, synchronize=lambda: None)
        event.record = lambda: setattr(event, "at_s", self.now_s)
        event.elapsed_time = lambda end: (end.at_s - event.at_s) * 1e3
        return event

    def graph(self) -> Any:
        """A CUDA graph that replays what was captured."""
        return SimpleNamespace(steps=[], replay=None)

    @contextmanager
    def capturing(self, graph: Any) -> Iterator[None]:
        """Inside, thunks are captured and not run."""
        self._captured = graph.steps
        yield
        self._captured = None
        graph.replay = lambda: [step() for step in graph.steps]


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    """A simulated device in place of torch.cuda, whose L2 flush takes a second."""
    simulated = Device()
    flush = simulated.work("flush", 1.0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(L2_cache_size=50 << 20))
    monkeypatch.setattr(torch.cuda, "Event", simulated.event)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", simulated.graph)
    monkeypatch.setattr(torch.cuda, "graph", simulated.capturing)
    monkeypatch.setattr(torch.cuda, "synchronize", simulated.synchronize)
    monkeypatch.setattr(clocks, "perf_counter_ns", lambda: round(simulated.host_s * 1e9))
    monkeypatch.setattr(clocks, "persisting_l2", lambda: (lambda: simulated.log.append("reset"), "simulated"))
    monkeypatch.setattr(clocks, "cache_bytes", lambda _: 50 << 20)
    monkeypatch.setattr(torch, "empty", lambda n, **_: SimpleNamespace(n=n, zero_=flush))
    return simulated


def test_events_count_the_call_and_not_the_flush_before_it(device: Device) -> None:
    clock = EventClock(torch.device("cpu"))
    results = race({"a": device.work("a", 3e-3), "b": device.work("b", 1e-3)}, clock=clock, min_rounds=6, max_rounds=6)
    assert results["a"].samples_s["device"] == pytest.approx([3e-3] * 6)
    assert results["b"].median == pytest.approx(1e-3)
    assert results["a"].primary == "device"
    assert all(0 <= seconds < 0.1 for seconds in results["a"].samples_s["host"]), (
        "expected the launch on the host's clock"
    )
    timed = "".join(name[0] for name in device.log).removeprefix("aaabbb")
    assert timed == ("fafb" + "fbfa") * 3, "expected a flush before every call, and rounds that turn around"


def test_flush_is_larger_than_the_cache(device: Device) -> None:
    flushed: Any = EventClock(torch.device("cpu"))._flush
    assert flushed.n * 4 >= 2 * (50 << 20)
    assert not device.log


def test_graphs_rotate_through_every_set_of_inputs(device: Device) -> None:
    clock = GraphClock()
    assert not clock
    clock.capture("a", [device.work(f"a{i}", 2e-6) for i in range(5)])
    clock.capture("b", [device.work("b", 8e-6)])
    assert clock
    device.log.clear()
    results = race(clock.thunks, clock=clock, min_rounds=6, max_rounds=6)
    assert results["a"].samples_s == {"graph": pytest.approx([2e-6] * 6)}
    assert results["b"].median == pytest.approx(8e-6)
    assert results["a"].calls == clocks.GRAPH_CALLS
    counts = [device.log.count(f"a{i}") for i in range(5)]
    assert min(counts) > 0
    assert max(counts) <= min(counts) * 7 / 6, "expected all sets of inputs to take their turn alike"


def test_more_sets_than_calls_are_all_captured(device: Device) -> None:
    clock = GraphClock()
    clock.capture("a", [device.work(f"a{i}", 1e-6) for i in range(40)])
    device.log.clear()
    clock.thunks["a"]()
    assert device.log == [f"a{i}" for i in range(40)]
