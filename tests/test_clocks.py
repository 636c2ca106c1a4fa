"""The GPU's stopwatches on a simulated device: what they count, in which order, and what they leave out."""

from __future__ import annotations

import ctypes
import gc
import os
import statistics
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from bench.core import clocks, worker
from bench.core import heat as heat_module
from bench.core.child import Child
from bench.core.clocks import EventClock, GraphClock, HostClock, cache_bytes, persisting_l2
from bench.core.device import pinning
from bench.core.heat import Heat
from bench.core.ledger import Ledger
from bench.core.marks import marks
from bench.core.race import Result, race
from bench.core.trial import Trial

L2 = 50 << 20
IDLE_S = 5e-6


class Device:
    """A device with a clock of its own, which begins what the host launches when both are ready for it.

    Work takes simulated seconds, also when a graph of it is replayed.
    """

    def __init__(self) -> None:
        self.now_s = self.side_s = self.host_s = 0.0
        self.flush_s = 1.0
        self.log: list[str] = []
        self._captured: list[Callable[[], None]] | None = None

    @property
    def captures(self) -> bool:
        """Whether a graph is being captured."""
        return self._captured is not None

    def work(
        self, name: str, seconds: float | Callable[[], float], aside_s: float = 0.0, launch_s: float = 1e-6
    ) -> Callable[[], None]:
        """A thunk that keeps the device busy, and a side stream longer than that by `aside_s`."""

        def run() -> None:
            if self._captured is not None:
                self._captured.append(run)
                return
            self.log.append(name)
            self.host_s += launch_s
            self.now_s = max(self.now_s, self.host_s) + (seconds() if callable(seconds) else seconds)
            self.side_s = max(self.side_s, self.now_s + aside_s)

        return run

    def waiting(self, name: str, seconds: float) -> Callable[[], None]:
        """A thunk that waits for the device before it launches."""
        launch = self.work(name, seconds, launch_s=2e-5)

        def run() -> None:
            self.host_s = max(self.host_s, self.now_s)
            launch()

        return run

    def event(self, **_: Any) -> Any:
        """A CUDA event, as far as the stopwatches use it."""
        event = SimpleNamespace(at_s=0.0)
        event.record = lambda: setattr(event, "at_s", max(self.now_s, self.host_s))
        event.query = lambda: event.at_s <= self.host_s
        event.synchronize = lambda: setattr(self, "host_s", max(self.host_s, event.at_s))
        event.elapsed_time = lambda end: (end.at_s - event.at_s) * 1e3
        return event

    def hold(self, cycles: int) -> None:
        """Keep the device busy for so many cycles of a gigahertz."""
        self.now_s = max(self.now_s, self.host_s) + cycles * 1e-9

    def synchronize(self, _: Any = None) -> None:
        """Wait for every stream."""
        self.host_s = max(self.host_s, self.now_s, self.side_s) + IDLE_S

    def graph(self) -> Any:
        """A CUDA graph that replays what was captured."""
        return SimpleNamespace(steps=[], replay=None)

    @contextmanager
    def capturing(self, graph: Any) -> Iterator[None]:
        """Inside, thunks are captured and not run."""
        self._captured = graph.steps
        try:
            yield
        finally:
            self._captured = None
        graph.replay = lambda: self._replayed(graph.steps)

    def _replayed(self, steps: list[Callable[[], None]]) -> None:
        """One launch for all of them."""
        launched_s = self.host_s + 1e-5
        for step in steps:
            step()
            self.host_s = launched_s


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    """A simulated device in place of torch.cuda, whose L2 flush takes a second if it is not told otherwise."""
    simulated = Device()
    flush = simulated.work("flush", lambda: simulated.flush_s)
    monkeypatch.setattr(torch.cuda, "Event", simulated.event)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", simulated.graph)
    monkeypatch.setattr(torch.cuda, "graph", simulated.capturing)
    monkeypatch.setattr(torch.cuda, "_sleep", simulated.hold)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: None)
    monkeypatch.setattr(torch.cuda, "synchronize", simulated.synchronize)
    monkeypatch.setattr(torch, "empty", lambda n, **_: SimpleNamespace(n=n, zero_=flush))
    monkeypatch.setattr(clocks, "perf_counter_ns", lambda: round(simulated.host_s * 1e9))
    monkeypatch.setattr(clocks, "persisting_l2", lambda: (lambda: simulated.log.append("reset"), "simulated"))
    monkeypatch.setattr(clocks, "cache_bytes", lambda _: L2)
    return simulated


def test_events_count_the_call_and_not_the_flush_before_it(device: Device) -> None:
    clock = EventClock(torch.device("cpu"))
    results = race({"a": device.work("a", 3e-3), "b": device.work("b", 1e-3)}, clock=clock, min_rounds=6, max_rounds=6)
    assert results["a"].samples_s["device"] == pytest.approx([3e-3] * 6)
    assert results["a"].samples_s["device_warm"] == pytest.approx([3e-3] * 6)
    assert results["b"].median == pytest.approx(1e-3)
    assert results["a"].primary == "device"
    assert results["a"].samples_s["host"] == pytest.approx([1e-6] * 6), "expected the launch on the host's clock"
    assert clock.flushed_s == pytest.approx(12.0, rel=1e-3)
    timed = "".join(name[0] for name in device.log).removeprefix("aaabbb")
    assert timed == ("rfaarfbb" + "rfbbrfaa") * 3, "expected reset and flush before every cold call, a warm one behind"


def test_a_warm_call_that_finds_its_inputs_in_the_cache_is_told_apart(device: Device) -> None:
    def seconds() -> float:
        return 3e-5 if device.log[-2:] == ["flush", "a"] else 1e-5

    result = race({"a": device.work("a", seconds)}, clock=EventClock(torch.device("cpu")))["a"]
    cold, warm = (statistics.median(result.samples_s[name]) for name in ("device", "device_warm"))
    assert cold / warm == pytest.approx(3.0, rel=0.005)


def test_work_aside_shows_as_lag(device: Device) -> None:
    clock = EventClock(torch.device("cpu"))
    assert clock.idle_lag_s == pytest.approx(IDLE_S, rel=0.01)
    thunks = {"honest": device.work("a", 1e-3), "hiding": device.work("b", 1e-5, aside_s=1e-3)}
    results = race(thunks, clock=clock, min_rounds=6, max_rounds=6)
    assert statistics.median(results["honest"].samples_s["lag"]) == pytest.approx(IDLE_S, rel=0.01)
    assert statistics.median(results["hiding"].samples_s["lag"]) == pytest.approx(1e-3 + IDLE_S, rel=0.01)
    heat: Any = Heat.__new__(Heat)
    heat._clock = clock
    assert heat._hides(results["honest"]) == ""
    assert "expected work on the stream that it was called on, got a device that was busy 0.001" in heat._hides(
        results["hiding"]
    )


def test_a_noisy_drifting_device_is_recovered(device: Device) -> None:
    """1 ms and 1.1 ms with 3 % of noise, on a device that gets a fifth slower while it warms up."""
    generator = np.random.default_rng(7)

    def taking(seconds: float) -> Callable[[], float]:
        return lambda: seconds * (1 + 0.03 * generator.normal()) * (1 + 0.2 * min(1.0, device.now_s / 200))

    thunks = {"a": device.work("a", taking(1e-3)), "b": device.work("b", taking(1.1e-3))}
    results = race(thunks, clock=EventClock(torch.device("cpu")), precision=1e-9, min_rounds=500, max_rounds=500)
    assert results["b"].median / results["a"].median == pytest.approx(1.1, rel=0.005)


def test_flush_is_larger_than_the_cache(device: Device) -> None:
    clock = EventClock(torch.device("cpu"))
    flushed: Any = clock._before._flush
    assert flushed.n * 4 >= 2 * L2
    assert clock.conditions() == {"flush_bytes": 2 * L2, "persisting_l2": "simulated"}
    assert not device.log


def test_graphs_rotate_through_every_set_of_inputs(device: Device) -> None:
    clock = GraphClock(torch.device("cpu"))
    assert not clock
    clock.capture("a", [device.work(f"a{i}", 2e-6) for i in range(5)])
    clock.capture("b", [device.work("b", 8e-6)])
    assert clock
    device.log.clear()
    results = race(clock.thunks, clock=clock, min_rounds=6, max_rounds=6)
    assert results["a"].samples_s["graph"] == pytest.approx([2e-6] * 6)
    assert results["b"].median == pytest.approx(8e-6)
    assert results["a"].calls == {"graph": clocks.GRAPH_CALLS, "graph_warm": clocks.GRAPH_CALLS}
    warm = device.log.count("a0") - device.log.count("a1")
    counts = [device.log.count("a0") - warm, *(device.log.count(f"a{i}") for i in range(1, 5))]
    assert min(counts) > 0
    assert max(counts) <= min(counts) * 7 / 6, "expected all sets of inputs to take their turn alike"
    assert warm >= 6 * clocks.GRAPH_CALLS - max(counts), "expected the warm graph to use one set only"


def test_more_sets_than_calls_are_all_captured(device: Device) -> None:
    clock = GraphClock(torch.device("cpu"))
    clock.capture("a", [device.work(f"a{i}", 1e-6) for i in range(40)])
    device.log.clear()
    clock.thunks["a"]()
    assert device.log == ["reset", "flush", *(f"a{i}" for i in range(40)), *["a0"] * 40]


def test_a_slow_launch_is_not_taken_for_a_slow_kernel(device: Device) -> None:
    """10 us of work that the host needs 60 us to launch, behind a flush of 30 us, which hides but half of that."""
    device.flush_s = 30e-6
    clock = EventClock(torch.device("cpu"))
    slow = device.work("a", 10e-6, launch_s=60e-6)
    result = race({"a": slow}, clock=clock, min_rounds=20, max_rounds=20)["a"]
    assert result.median == pytest.approx(10e-6, rel=0.005)
    assert statistics.median(result.samples_s["device_warm"]) == pytest.approx(10e-6, rel=0.005)
    assert statistics.median(result.samples_s["host"]) == pytest.approx(60e-6)
    assert clock.exposed[slow] == 0
    assert clock.flushed_s == pytest.approx(20 * (30e-6 + clocks.AHEAD_S + 180e-6), rel=0.01)


def test_a_launch_that_slows_down_is_hidden_again(device: Device) -> None:
    """Its first calls took 5 us to launch, and then it takes 200: the device is held back for longer."""
    device.flush_s = 30e-6
    clock, laps = EventClock(torch.device("cpu")), 40
    slow = device.work("a", 10e-6, launch_s=200e-6)
    lap = clock.lap(slow, fastest_s=5e-6)
    found = [lap.run()["device"] for _ in range(laps)]
    assert 1 <= clock.exposed[slow] <= 5
    assert found[-1] == pytest.approx(10e-6)
    assert max(found) > 100e-6, "expected samples that are kept as they were taken"


def test_a_call_that_waits_for_the_device_cannot_be_hidden_and_is_marked(device: Device) -> None:
    device.flush_s = 30e-6
    clock = EventClock(torch.device("cpu"))
    waiting = device.waiting("a", 10e-6)
    result = race({"a": waiting}, clock=clock, min_rounds=20, max_rounds=20)["a"]
    assert result.median == pytest.approx(30e-6), "expected the gap behind the wait"
    assert clock.exposed[waiting] == 20
    (mark,) = marks(result, None, clock.exposed[waiting])
    assert mark["kind"] == "launch gaps"
    assert mark["text"] == "in 20 of 20 rounds the device may have waited for the host to launch"
    assert marks(result, None, 2) == [], "expected no word of what cannot move a median"


def test_small_sets_are_cold_in_graphs_too(device: Device) -> None:
    """A call that finds its set in L2 takes a third; a flush empties that, and 64 small sets do not."""
    device.flush_s = 30e-6

    def seconds(name: str) -> Callable[[], float]:
        def taken() -> float:
            since = device.log[:-1][::-1]
            flushed = since.index("flush") if "flush" in since else len(since)
            return 1e-6 if name in since[:flushed] else 3e-6

        return taken

    clock = GraphClock(torch.device("cpu"))
    clock.capture("a", [device.work(f"a{i}", seconds(f"a{i}")) for i in range(64)])
    result = race(clock.thunks, clock=clock, min_rounds=6, max_rounds=6)["a"]
    assert result.median == pytest.approx(3e-6)
    assert statistics.median(result.samples_s["graph_warm"]) == pytest.approx(1e-6)
    assert clock.exposed[clock.thunks["a"]] == 0
    assert clock.flushed_s > 6 * 30e-6


@pytest.mark.usefixtures("device")
def test_what_a_graph_reads_is_kept_alive() -> None:
    """A graph knows addresses only: what a provider has prepared for its thunk may not be given to others."""
    prepared = torch.zeros(4)
    kept = weakref.ref(prepared)
    clock = GraphClock(torch.device("cpu"))
    clock.capture("a", [lambda x=prepared: x])  # type: ignore[misc]
    del prepared
    gc.collect()
    assert kept() is not None


def test_a_capture_that_fails_leaves_the_stream_as_it_was(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's own capture goes back to it only where its end succeeds."""
    streams = ["own"]

    @contextmanager
    def chosen(stream: str) -> Iterator[None]:
        before = streams[0]
        streams[0] = stream
        try:
            yield
        finally:
            streams[0] = before

    @contextmanager
    def failing(_: Any) -> Iterator[None]:
        streams[0] = "capturing"
        yield
        raise RuntimeError("planted")

    monkeypatch.setattr(torch.cuda, "stream", chosen)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: streams[0])
    monkeypatch.setattr(torch.cuda, "graph", failing)
    clock = GraphClock(torch.device("cpu"))
    with pytest.raises(RuntimeError, match="planted"):
        clock.capture("a", [device.work("a", 1e-6)])
    assert streams == ["own"]
    assert not clock


@pytest.mark.parametrize(
    ("driver", "words"),
    [
        (SimpleNamespace(cuCtxResetPersistingL2Cache=lambda: 0), "reset before every call"),
        (SimpleNamespace(cuCtxResetPersistingL2Cache=lambda: 801), "not reset: the driver answers 801"),
        (SimpleNamespace(), "not reset: "),
    ],
)
def test_persisting_lines_are_given_up_or_it_is_said_why_not(
    monkeypatch: pytest.MonkeyPatch, driver: Any, words: str
) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: driver)
    reset, told = persisting_l2()
    assert told.startswith(words)
    reset()
    monkeypatch.setattr(torch.version, "cuda", None)
    assert persisting_l2()[1] == clocks.NEVER_SET_ASIDE


def test_the_last_level_is_what_linux_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Six processors, of which two each share a cache of the third level; this process may run on the first four."""
    for cpu in range(6):
        pair = f"{cpu // 2 * 2}-{cpu // 2 * 2 + 1}\n"
        for index, (level, size, beside) in enumerate(
            [(1, "48K", f"{cpu}\n"), (2, "1024K", f"{cpu}\n"), (3, "32768K", pair)]
        ):
            folder = tmp_path / f"cpu{cpu}" / "cache" / f"index{index}"
            folder.mkdir(parents=True)
            for name, text in {"level": f"{level}\n", "size": f"{size}\n", "shared_cpu_list": beside}.items():
                (folder / name).write_text(text)
    monkeypatch.setattr(clocks, "Path", lambda name: tmp_path / name.removeprefix("/sys/devices/system/cpu/"))
    allowed = {0, 1}
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: allowed)
    assert cache_bytes(torch.device("cpu")) == 32 << 20
    assert HostClock().conditions() == {"flush_bytes": 64 << 20}
    allowed |= {2, 3}
    assert cache_bytes(torch.device("cpu")) == 64 << 20
    for cpu in allowed:
        (tmp_path / f"cpu{cpu}" / "cache" / "index2" / "size").write_text("who knows\n")
    assert cache_bytes(torch.device("cpu")) == 4 << 20
    allowed.clear()
    assert cache_bytes(torch.device("cpu")) == clocks.UNKNOWN_CACHE_BYTES


@pytest.mark.usefixtures("device")
def test_short_calls_are_raced_once_more_in_graphs(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever cannot be captured keeps the time that he has, and his row says why."""
    monkeypatch.setattr(heat_module, "cache_bytes", lambda _: L2)
    monkeypatch.setattr(heat_module, "Make", lambda *_: None)
    graded: set[bool] = set()

    def short(x: torch.Tensor) -> Callable[[], object]:
        work = device.work("short", 4e-6)

        def run() -> torch.Tensor:
            graded.add(torch.is_grad_enabled())
            work()
            return x

        return run

    def refusing(x: torch.Tensor) -> Callable[[], object]:
        def refuse() -> torch.Tensor:
            if device.captures:
                raise RuntimeError("not while a stream is captured\nand more")
            return x

        return refuse

    providers = {"short": short, "refusing": refusing}
    heat: Any = Heat.__new__(Heat)
    heat._device, heat._exposed = torch.device("cuda"), {}
    heat._case = SimpleNamespace(mode="fwd", sizes={})
    heat._request = SimpleNamespace(cap_s=0.2)
    heat._stock = SimpleNamespace(nbytes=L2 // 4, known=lambda: None)
    heat._operator = SimpleNamespace(inputs=lambda _: {"x": torch.zeros(4)}, provider=providers.__getitem__)
    heat._runners = {name: Trial(each, {"x": torch.zeros(4)}, "fwd") for name, each in providers.items()}
    turns: list[str] = []
    results = {name: Result("device", samples_s={"device": [5e-6] * 6}) for name in providers}
    steps = heat._in_graphs(results, turns.append)
    raced = next(steps)
    with pytest.raises(StopIteration) as ended:
        next(steps)
    graphs, notes = ended.value.value
    assert graphs["short"].median == pytest.approx(4e-6)
    assert notes == {"refusing": "no graph time: RuntimeError: not while a stream is captured"}
    assert graded == {False}, "expected no second compilation, for a mode that the race does not run in"
    assert turns[:2] == ["short", "refusing"], "expected a crash in a capture to be laid at the right door"
    assert heat._exposed == {"short": 0}
    assert raced.thunks_s == pytest.approx(len(graphs["short"].samples) * 64 * 4e-6, rel=1e-3)


def _conditions_of_two_threads(_: Any) -> Iterator[dict[str, Any]]:
    """A child's answer, once its threads have worked."""
    torch.set_num_threads(2)
    torch.ones(1 << 22).sum()
    yield worker.conditions(torch.device("cpu"))


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two processors")
@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"OMP_PROC_BIND": "close", "OMP_PLACES": "cores"}, "each thread to a processor of its own"),
        ({"OMP_PROC_BIND": "false", "OMP_PLACES": None}, "no: 0 of 2 threads have a processor of their own"),
    ],
)
def test_threads_are_bound_and_it_is_said_whether_they_are(environment: dict[str, str | None], words: str) -> None:
    child = Child(_conditions_of_two_threads, environment | {"OMP_NUM_THREADS": "2"})
    try:
        (found,) = child.ask(None)
    finally:
        child.stop()
    assert (found["threads"], found["pinned"]) == (2, words)
    assert found["flush_bytes"] == 2 * cache_bytes(torch.device("cpu"))


def test_the_ledger_binds_threads_where_the_user_has_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_PROC_BIND", raising=False)
    monkeypatch.setenv("OMP_PLACES", "sockets")
    assert pinning() == {"OMP_PROC_BIND": "close"}
    monkeypatch.delenv("OMP_PLACES")
    assert pinning() == {"OMP_PROC_BIND": "close", "OMP_PLACES": "cores"}
    run: Any = None
    assert Ledger(run, torch.device("cpu"))._child._environment == pinning()


def test_a_core_that_runs_two_threads_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """OMP_PLACES=cores gives a thread the whole core: two processors, which nobody else of ours runs on."""
    places = iter([{0, 4}, {1, 5}, {0, 1, 4, 5}])
    monkeypatch.setattr(worker, "_core", lambda cpu: f"{cpu % 4},{cpu % 4 + 4}")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: next(places))
    threads = [SimpleNamespace(id=i) for i in range(3)]
    monkeypatch.setattr(psutil, "Process", lambda: SimpleNamespace(threads=lambda: threads))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert worker.pinned() == "each thread to a processor of its own"


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize(("primary", "own_s"), [("device", 2e-6), ("graph", 2e-6)])
def test_a_second_opinion_is_told_what_the_clock_adds(
    device: Device, monkeypatch: pytest.MonkeyPatch, primary: str, own_s: float
) -> None:
    smallest = device.work("smallest", own_s)
    monkeypatch.setattr(torch, "zeros", lambda *_, **__: SimpleNamespace(add_=lambda _: smallest()))
    heat: Any = Heat.__new__(Heat)
    heat._device = torch.device("cpu")
    heat._clock = EventClock(heat._device)
    result = Result(primary, samples_s={primary: [1e-5], f"{primary}_warm": [8e-6, 9e-6, 10e-6]})
    found = heat._opinion(lambda: None, result)
    assert found["own_s"] == pytest.approx(own_s)
    assert (found["against"], found["against_s"]) == (f"{primary}_warm", 9e-6)
    assert found["spread_s"] == pytest.approx(1e-6)
    assert found["reason"] == "the profiler saw nothing on a device"
