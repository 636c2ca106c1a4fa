"""What devices say of themselves, on simulated drivers whose truth is known."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from bench.core import record, telemetry
from bench.core.clocks import Lap
from bench.core.energy import energy_per_call
from bench.core.race import race
from bench.core.telemetry import CpuMonitor, Log, Reading, monitor


class Gpu:
    """A GPU of 300 W whose energy counter moves every 20 ms; time passes when somebody works."""

    def __init__(self, step_s: float = 0.02) -> None:
        self.now_s, self.step_s = 0.0, step_s
        self.bits, self.sm_mhz = 0x1, 1980
        self.processes = [SimpleNamespace(pid=os.getpid(), usedGpuMemory=1 << 30)]
        self.asked = 0

    def energy_mj(self, _: Any) -> int:
        """Millijoules, as of the last step."""
        return int(self.now_s / self.step_s + 1e-9) * int(300e3 * self.step_s)

    def work(self, seconds: float) -> Callable[[], None]:
        """A thunk that takes so long."""

        def run() -> None:
            self.now_s += seconds

        return run

    def module(self) -> Any:
        """What stands in for pynvml."""

        def unsupported(*_: Any) -> int:
            self.asked += 1
            raise RuntimeError("Not Supported")

        def by_uuid(uuid: str) -> str:
            assert uuid == "GPU-1234"
            return "handle"

        return SimpleNamespace(
            NVML_CLOCK_SM=1,
            NVML_CLOCK_MEM=2,
            NVML_TEMPERATURE_GPU=0,
            nvmlInit=lambda: None,
            nvmlDeviceGetHandleByUUID=by_uuid,
            nvmlDeviceGetClockInfo=lambda _, kind: self.sm_mhz if kind == 1 else 3201,
            nvmlDeviceGetTemperature=lambda *_: 61,
            nvmlDeviceGetPowerUsage=unsupported,
            nvmlDeviceGetCurrentClocksEventReasons=lambda _: self.bits,
            nvmlDeviceGetComputeRunningProcesses=lambda _: self.processes,
            nvmlDeviceGetTotalEnergyConsumption=self.energy_mj,
        )


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    """A simulated GPU behind a simulated NVML."""
    found = Gpu()
    monkeypatch.setitem(sys.modules, "pynvml", found.module())
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(uuid="1234"))
    return found


CUDA = torch.device("cuda")


def test_nvml_is_read_in_si_units_and_what_it_lacks_is_asked_once(gpu: Gpu) -> None:
    asking = monitor(CUDA)
    gpu.bits = 0x1 | 0x4 | 0x40
    for _ in range(3):
        reading = asking.read()
    assert (reading.sm_clock_hz, reading.memory_clock_hz, reading.temperature_c) == (1.98e9, 3.201e9, 61.0)
    assert reading.throttled == ("software power cap", "hardware thermal slowdown")
    assert reading.power_w is None
    assert gpu.asked == 1
    assert asking.unavailable == {"power_w": "RuntimeError: Not Supported"}


def test_idle_and_chosen_clocks_are_no_throttling(gpu: Gpu) -> None:
    gpu.bits = 0x1 | 0x2 | 0x100
    assert monitor(CUDA).read().throttled == ()


def test_an_older_driver_is_asked_by_the_older_name(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    module = gpu.module()
    module.nvmlDeviceGetCurrentClocksThrottleReasons = module.nvmlDeviceGetCurrentClocksEventReasons
    del module.nvmlDeviceGetCurrentClocksEventReasons
    monkeypatch.setitem(sys.modules, "pynvml", module)
    gpu.bits = 0x20
    assert monitor(CUDA).read().throttled == ("software thermal slowdown",)


def test_a_driver_older_than_its_binding_is_asked_by_the_older_name(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    module = gpu.module()

    def missing(_: Any) -> int:
        raise RuntimeError("Function Not Found")

    module.nvmlDeviceGetCurrentClocksThrottleReasons = module.nvmlDeviceGetCurrentClocksEventReasons
    module.nvmlDeviceGetCurrentClocksEventReasons = missing
    monkeypatch.setitem(sys.modules, "pynvml", module)
    gpu.bits = 0x8
    assert monitor(CUDA).read().throttled == ("hardware slowdown",)
    del module.nvmlDeviceGetCurrentClocksThrottleReasons
    asking = monitor(CUDA)
    assert asking.read().throttled == ()
    assert asking.unavailable["throttled"] == "RuntimeError: Function Not Found"


def test_our_own_processes_are_no_others(gpu: Gpu) -> None:
    """The process that runs the tests may hold a context too, and so may a child that waits."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as waiting:
        gpu.processes.append(SimpleNamespace(pid=waiting.pid, usedGpuMemory=1 << 28))
        assert monitor(CUDA).read().foreign_processes == 0
        waiting.communicate(b"\n")
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe()
    child = context.Process(target=_send_household, args=(theirs,))
    child.start()
    assert {os.getpid(), child.pid} <= mine.recv()
    child.join()


def _send_household(pipe: Any) -> None:
    pipe.send(telemetry._household())


def test_others_on_the_gpu_are_counted_and_we_are_not(gpu: Gpu) -> None:
    asking = monitor(CUDA)
    assert asking.read().foreign_processes == 0
    gpu.processes.append(SimpleNamespace(pid=1, usedGpuMemory=5 << 30))
    reading = asking.read()
    assert (reading.foreign_processes, reading.foreign_bytes) == (1, 5 << 30)


@pytest.mark.parametrize("told", [[7, 8], []])
def test_where_we_are_not_told_others_are_unknown(gpu: Gpu, told: list[int]) -> None:
    """As in a container with pids of its own, or where a driver tells it nobody."""
    gpu.processes = [SimpleNamespace(pid=pid, usedGpuMemory=1 << 30) for pid in told]
    asking = monitor(CUDA)
    assert asking.read().foreign_processes is None
    assert "pid namespace" in asking.unavailable["foreign_processes"]


@pytest.mark.usefixtures("gpu")
def test_a_gpu_that_cannot_be_asked_says_so_for_every_field(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    asking = monitor(CUDA)
    assert asking.read() == Reading()
    assert asking.energy_j() is None
    assert {*telemetry.FIELDS, "energy"} <= set(asking.unavailable)
    assert "ModuleNotFoundError" in asking.unavailable["energy"]


@pytest.mark.usefixtures("gpu")
def test_amdsmi_is_read_in_si_units(monkeypatch: pytest.MonkeyPatch) -> None:
    module = SimpleNamespace(
        AmdSmiTemperatureType=SimpleNamespace(HOTSPOT=1),
        AmdSmiTemperatureMetric=SimpleNamespace(CURRENT=0),
        AmdSmiClkType=SimpleNamespace(GFX=0, MEM=4),
        amdsmi_init=lambda: None,
        amdsmi_get_processor_handles=lambda: ["first"],
        amdsmi_get_clock_info=lambda _, kind: {"clk": 2100 if kind == 0 else 1300},
        amdsmi_get_temp_metric=lambda *_: 55,
        amdsmi_get_power_info=lambda _: {"current_socket_power": "N/A", "average_socket_power": 480},
        amdsmi_get_energy_count=lambda _: {"energy_accumulator": 2_000_000, "counter_resolution": 15.26},
    )
    monkeypatch.setitem(sys.modules, "amdsmi", module)
    monkeypatch.setattr(torch.version, "hip", "6.4")
    asking = monitor(CUDA)
    reading = asking.read()
    assert (reading.sm_clock_hz, reading.memory_clock_hz) == (2.1e9, 1.3e9)
    assert (reading.temperature_c, reading.power_w) == (55.0, 480.0)
    assert asking.energy_j() == pytest.approx(30.52)
    assert "throttled" in asking.unavailable


@pytest.mark.parametrize("step_s", [0.02, 0.1])
@pytest.mark.parametrize("call_s", [2e-6, 1e-3, 0.5])
def test_energy_is_right_within_its_resolution(gpu: Gpu, step_s: float, call_s: float) -> None:
    gpu.step_s = step_s
    asking = monitor(CUDA)
    used = energy_per_call(gpu.work(call_s), call_s, asking, lambda: None, 20.0, clock=lambda: gpu.now_s)
    assert used is not None
    assert used.joules_per_call == pytest.approx(300 * call_s, abs=used.resolution_j)
    assert used.resolution_j <= 0.05 * used.joules_per_call or call_s > 0.1
    assert used.counter == "nvml"
    assert used.calls * call_s == pytest.approx(used.window_s)


def test_a_counter_that_stands_still_ends_and_says_so(gpu: Gpu) -> None:
    gpu.step_s = 1e9
    asking = monitor(CUDA)
    assert energy_per_call(gpu.work(1e-3), 1e-3, asking, lambda: None, 0.5, clock=lambda: gpu.now_s) is None
    assert asking.unavailable["energy"] == "the counter did not move twice in 0.5 s"


def test_a_cpu_without_a_counter_says_so(tmp_path: Path) -> None:
    asking = CpuMonitor(tmp_path)
    assert energy_per_call(lambda: None, 1e-3, asking, lambda: None, 1.0) is None
    assert "RAPL" in asking.unavailable["energy"]


def test_a_counter_of_a_cpu_wraps_around(tmp_path: Path) -> None:
    package = tmp_path / "intel-rapl:0"
    package.mkdir()
    (package / "max_energy_range_uj").write_text("1000000\n")
    asking = CpuMonitor(tmp_path)
    shown = []
    for value in (900_000, 950_000, 50_000):
        (package / "energy_uj").write_text(f"{value}\n")
        shown.append(asking.energy_j())
    assert shown == [pytest.approx(0.0), pytest.approx(0.05), pytest.approx(0.15)]


def test_the_load_of_a_cpu_is_that_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    used = iter([(0.0, 0.0, 0.0), (10.0, 7.0, 3.0), (10.0, 7.0, 3.0)])
    monkeypatch.setattr(CpuMonitor, "_used", staticmethod(lambda: next(used)))
    asking = CpuMonitor()
    assert asking.read().load == 0.4
    assert asking.read().load is None, "expected no answer where no time has passed"


class Scripted:
    """A monitor that says what the round is like."""

    name = "scripted"

    def __init__(self) -> None:
        self.unavailable: dict[str, str] = {}
        self.now_s, self.cost_s, self.reads = 0.0, 0.0, 0
        self.reading = Reading()

    def read(self) -> Reading:
        """What was put there."""
        self.reads += 1
        self.now_s += self.cost_s
        return self.reading

    def energy_j(self) -> float | None:
        """Nothing."""
        return None


def _race(asking: Scripted, rounds: int, names: str, lap_s: float, throttled: range = range(0)) -> Log:
    log = Log(asking, clock=lambda: asking.now_s)
    order = list(names)
    for round_ in range(rounds):
        asking.reading = Reading(sm_clock_hz=1e9, throttled=("heat",) if round_ in throttled else ())
        for name in order:
            asking.now_s += lap_s
            log.after(name, round_)
        order.reverse()
    return log


def test_nobody_is_left_without_a_reading_nor_starved() -> None:
    log = _race(Scripted(), 6, "abcdefg", lap_s=1e-5)
    assert all(len(log.of(name)["readings"]) >= 1 for name in "abcdefg")
    counts = [len(_race(Scripted(), 500, "abc", lap_s=7e-3).of(name)["readings"]) for name in "abc"]
    assert min(counts) > 20
    assert max(counts) <= min(counts) + 1


def test_slow_readings_take_a_twentieth_of_the_time_at_most() -> None:
    asking = Scripted()
    asking.cost_s = 0.02
    _race(asking, 2000, "ab", lap_s=5e-3)
    assert asking.reads * asking.cost_s <= 0.06 * asking.now_s


def test_a_throttled_stretch_is_marked_where_it_was() -> None:
    log = _race(Scripted(), 100, "a", lap_s=0.06, throttled=range(40, 60))
    (stretch,) = log.of("a")["throttled"]
    assert stretch == {"first_round": 40, "last_round": 59, "reasons": ["heat"]}
    assert log.marks("a") == [{"kind": "throttled", "text": "slowed in 20 of 100 rounds: heat"}]
    assert len(log.of("a")["readings"]) == 100


def test_a_throttled_stretch_of_a_real_race_costs_no_sample() -> None:
    """Two of five rounds at two thirds of the clock: told, marked, and every sample there, slow ones too."""
    asking, rounds, generator = Scripted(), 200, np.random.default_rng(4)

    class Throttling:
        primary, flushed_s, laps = "device", 0.0, 0

        def lap(self, thunk: Callable[[], object], fastest_s: float) -> Lap:
            def run() -> dict[str, float]:
                slow = 80 <= self.laps // 2 < 160
                self.laps += 1
                asking.now_s += 0.06
                asking.reading = Reading(sm_clock_hz=1e9 if slow else 1.5e9, throttled=("heat",) if slow else ())
                return {"device": float(str(thunk())) * (1.5 if slow else 1.0) * generator.normal(1, 2e-3)}

            return Lap(run, {"device": 1})

    log = Log(asking, clock=lambda: asking.now_s)
    thunks = {"a": lambda: 1e-3, "b": lambda: 2e-3}
    results = race(thunks, clock=Throttling(), min_rounds=rounds, max_rounds=rounds, on_lap=log.after)
    for name in thunks:
        assert len(results[name].samples) == rounds
        (stretch,) = log.of(name)["throttled"]
        assert abs(stretch["first_round"] - 80) <= 2
        assert abs(stretch["last_round"] - 159) <= 2
        assert {mark["kind"] for mark in log.marks(name)} == {"throttled", "unsteady clock"}
        assert len(results[name].modes) == 2
    assert results["b"].median / results["a"].median == pytest.approx(2.0, rel=0.005)


def test_marks_name_others_and_an_unsteady_clock() -> None:
    asking = Scripted()
    log = Log(asking, every_s=0.0, clock=lambda: asking.now_s)
    for round_, (load, clock) in enumerate([(0.3, 2e9), (0.1, 1.6e9), (0.2, 2e9)]):
        asking.now_s += 1
        asking.reading = Reading(sm_clock_hz=clock, load=load, foreign_processes=round_)
        log.after("a", round_)
    assert [mark["text"] for mark in log.marks("a")] == [
        "others used 20% of the processors meanwhile",
        "2 other processes on the GPU",
        "the clock went from 1600 to 2000 MHz, by 20%",
    ]
    assert log.marks("nobody") == []


def test_a_cpu_answers_here() -> None:
    reading = monitor(torch.device("cpu")).read()
    assert reading.load is None or 0 <= reading.load <= 1


def test_boards_of_one_model_are_told_apart_by_nothing_that_identifies_them_elsewhere() -> None:
    one, other = (record._board(SimpleNamespace(uuid=uuid)) for uuid in ("GPU-1234", "GPU-1235"))
    assert one != other
    assert "1234" not in one
    assert record._board(SimpleNamespace()) == ""
