"""What a device says of itself while it is timed: clocks, temperature, power, what slows it, who else is there."""

from __future__ import annotations

import multiprocessing
import os
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

import psutil
import torch

FIELDS = ("sm_clock_hz", "memory_clock_hz", "temperature_c", "power_w", "throttled", "foreign_processes")
# NVML's reasons that slow a clock below what was asked for (nvml.h, nvmlClocksEventReason*). An idle GPU (0x1) and
# clocks that somebody has set (0x2, 0x100) do not: those are what the row is to be measured under.
SLOWED = {
    0x4: "software power cap",
    0x8: "hardware slowdown",
    0x10: "sync boost",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "hardware power brake",
}
EVERY_S = 0.05
SHARE = 0.05  # of the time that reading may take at most
FOREIGN_LOAD = 0.1  # of the processors: with two, a fifth of one is heard in a parallel call
UNSTEADY = 0.05  # of the clock: the times of what is bound by arithmetic follow it one to one


@dataclass(frozen=True)
class Reading:
    """What a device said at one moment; None where it does not say.

    throttled: what slowed it, in words; load: the share of all processors' time that others used since the last reading
    (of a CPU); foreign_processes, foreign_bytes: others on the GPU, and the memory they hold.
    """

    sm_clock_hz: float | None = None
    memory_clock_hz: float | None = None
    temperature_c: float | None = None
    power_w: float | None = None
    throttled: tuple[str, ...] = ()
    load: float | None = None
    foreign_processes: int | None = None
    foreign_bytes: int | None = None


class Monitor(Protocol):
    """Who asks a device. unavailable: what it does not say, and why."""

    name: str
    unavailable: dict[str, str]

    def read(self) -> Reading:
        """What it says now."""

    def energy_j(self) -> float | None:
        """Joules used since some moment in the past."""


class _Asking:
    """Asks until the answer is that there is none, and remembers why."""

    name = ""

    def __init__(self) -> None:
        self.unavailable: dict[str, str] = {}

    def _ask(self, what: str, how: Callable[[], Any]) -> Any:
        if what in self.unavailable:
            return None
        try:
            return how()
        except Exception as error:  # noqa: BLE001 - no answer of a driver's may cost a row
            self.unavailable[what] = f"{type(error).__name__}: {error}"
            return None


class NvmlMonitor(_Asking):
    """An NVIDIA GPU, found by its UUID, so that CUDA_VISIBLE_DEVICES is of no consequence."""

    name = "nvml"

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        import pynvml

        self._nvml = pynvml
        pynvml.nvmlInit()
        uuid = str(torch.cuda.get_device_properties(device).uuid)
        self._gpu = pynvml.nvmlDeviceGetHandleByUUID(uuid if uuid.startswith("GPU-") else f"GPU-{uuid}")
        self._reasons = self._newest_reasons()

    def read(self) -> Reading:
        """Clocks in Hz, temperature in degrees Celsius, power in watts as NVML averages it."""
        nvml, gpu = self._nvml, self._gpu
        bits = self._ask("throttled", lambda: int(self._reasons(gpu))) or 0
        others = self._ask("foreign_processes", self._others)
        return Reading(
            sm_clock_hz=self._ask("sm_clock_hz", lambda: nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_SM) * 1e6),
            memory_clock_hz=self._ask(
                "memory_clock_hz", lambda: nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_MEM) * 1e6
            ),
            temperature_c=self._ask(
                "temperature_c", lambda: float(nvml.nvmlDeviceGetTemperature(gpu, nvml.NVML_TEMPERATURE_GPU))
            ),
            power_w=self._ask("power_w", lambda: nvml.nvmlDeviceGetPowerUsage(gpu) * 1e-3),
            throttled=tuple(word for bit, word in SLOWED.items() if bits & bit),
            foreign_processes=None if others is None else len(others),
            foreign_bytes=None if others is None or None in others else sum(others),
        )

    def energy_j(self) -> float | None:
        """The GPU's own counter, which its driver keeps in millijoules."""
        found: float | None = self._ask(
            "energy", lambda: self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._gpu) * 1e-3
        )
        return found

    def _others(self) -> list[int | None]:
        """The memory of every other process with a CUDA context here.

        Only where we are among those that the driver tells can it be said who the others are: in a container it may
        tell nobody, or pids of another namespace.
        """
        processes = self._nvml.nvmlDeviceGetComputeRunningProcesses(self._gpu)
        if os.getpid() not in {each.pid for each in processes}:
            raise LookupError("which of the processes on the GPU is this one cannot be told (another pid namespace)")
        ours = _household() if len(processes) > 1 else {os.getpid()}
        return [each.usedGpuMemory for each in processes if each.pid not in ours]

    def _newest_reasons(self) -> Any:
        """What tells why clocks are low, by the name that binding and driver know (the newer one both from 535 on)."""
        newer = getattr(self._nvml, "nvmlDeviceGetCurrentClocksEventReasons", None)
        older = getattr(self._nvml, "nvmlDeviceGetCurrentClocksThrottleReasons", None)
        try:
            assert newer is not None
            newer(self._gpu)
        except Exception:  # noqa: BLE001 - where neither answers, the first reading keeps the reason
            return older or newer
        return newer


def _household() -> set[int]:
    """This process, the one whose child it is, and all that these have started: they wait while it times."""
    parent = multiprocessing.parent_process()
    root = psutil.Process(None if parent is None else parent.pid)
    return {os.getpid(), root.pid, *(each.pid for each in root.children(recursive=True))}


class AmdMonitor(_Asking):
    """An AMD GPU, by amdsmi, which comes with ROCm."""

    name = "amdsmi"

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        import amdsmi

        self._smi = amdsmi
        amdsmi.amdsmi_init()
        self._gpu = amdsmi.amdsmi_get_processor_handles()[device.index or 0]
        self.unavailable["throttled"] = "not asked of amdsmi"
        self.unavailable["foreign_processes"] = "not asked of amdsmi"

    def read(self) -> Reading:
        """Clocks in Hz, hotspot in degrees Celsius, socket power in watts."""
        smi, gpu = self._smi, self._gpu
        hotspot, now = smi.AmdSmiTemperatureType.HOTSPOT, smi.AmdSmiTemperatureMetric.CURRENT

        def clock(kind: Any) -> float:
            return float(smi.amdsmi_get_clock_info(gpu, kind)["clk"]) * 1e6

        def power() -> float:
            told = smi.amdsmi_get_power_info(gpu)
            return float(next(told[name] for name in POWER if isinstance(told.get(name), int | float)))

        return Reading(
            sm_clock_hz=self._ask("sm_clock_hz", lambda: clock(smi.AmdSmiClkType.GFX)),
            memory_clock_hz=self._ask("memory_clock_hz", lambda: clock(smi.AmdSmiClkType.MEM)),
            temperature_c=self._ask("temperature_c", lambda: float(smi.amdsmi_get_temp_metric(gpu, hotspot, now))),
            power_w=self._ask("power_w", power),
        )

    def energy_j(self) -> float | None:
        """The accumulator times its resolution, which amdsmi tells in microjoules."""

        def joules() -> float:
            told = self._smi.amdsmi_get_energy_count(self._gpu)
            return float(told["energy_accumulator"]) * float(told["counter_resolution"]) * 1e-6

        found: float | None = self._ask("energy", joules)
        return found


POWER = ("current_socket_power", "socket_power", "average_socket_power")


class CpuMonitor(_Asking):
    """A CPU, by psutil and, where it may be read, Intel's and AMD's energy counter (RAPL)."""

    name = "psutil"

    def __init__(self, powercap: Path = Path("/sys/class/powercap")) -> None:
        super().__init__()
        self._packages = sorted(powercap.glob("intel-rapl:?"))
        self._last_uj: dict[Path, int] = {}
        self._joules = 0.0
        for name in ("memory_clock_hz", "power_w", "throttled", "foreign_processes"):
            self.unavailable[name] = "a CPU does not say"
        self._before = self._used()

    def read(self) -> Reading:
        """The clock as the kernel tells it (in a virtual machine, what it was started with)."""
        total_s, busy_s, own_s = self._used()
        passed_s, others_s = total_s - self._before[0], busy_s - self._before[1] - (own_s - self._before[2])
        load = None
        if passed_s > 0:
            load, self._before = round(min(1.0, max(0.0, others_s / passed_s)), 4), (total_s, busy_s, own_s)
        return Reading(
            sm_clock_hz=self._ask("sm_clock_hz", lambda: psutil.cpu_freq().current * 1e6),
            temperature_c=self._ask("temperature_c", _hottest),
            load=load,
        )

    def energy_j(self) -> float | None:
        """All packages together; their counters wrap around."""

        def joules() -> float:
            if not self._packages:
                raise LookupError("no RAPL counter under /sys/class/powercap")
            for package in self._packages:
                now = int((package / "energy_uj").read_text())
                step = now - self._last_uj.get(package, now)
                if step < 0:
                    step += int((package / "max_energy_range_uj").read_text())
                self._last_uj[package] = now
                self._joules += step * 1e-6
            return self._joules

        found: float | None = self._ask("energy", joules)
        return found

    @staticmethod
    def _used() -> tuple[float, float, float]:
        """Seconds of all processors: that passed, that somebody used (the hypervisor too), that this process used."""
        times, own = psutil.cpu_times(), psutil.Process().cpu_times()
        total = sum(times)
        return total, total - times.idle - getattr(times, "iowait", 0.0), own.user + own.system


class _Silent(_Asking):
    """Nobody can be asked."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__()
        self.name = name
        self.unavailable = dict.fromkeys((*FIELDS, "energy"), why)

    def read(self) -> Reading:
        """Nothing."""
        return Reading()

    def energy_j(self) -> float | None:
        """Nothing."""
        return None


def monitor(device: torch.device) -> Monitor:
    """Who asks this device. Where that cannot be had, nobody does, and `unavailable` says why."""
    if device.type != "cuda":
        return CpuMonitor()
    kind = AmdMonitor if torch.version.hip else NvmlMonitor
    try:
        return kind(device)
    except Exception as error:  # noqa: BLE001 - no driver's answer may cost a row
        return _Silent(kind.name, f"{type(error).__name__}: {error}")


@dataclass
class _Read:
    """The readings of one provider, each behind a round."""

    rounds: list[int] = field(default_factory=list)
    readings: list[Reading] = field(default_factory=list)


class Log:
    """The readings of a race, taken between laps, so that no thread disturbs them. Nothing is ever discarded for them.

    A provider is read behind its first lap, and then the one whose last reading is oldest is read when its turn comes;
    not more often than every `every_s`, nor so often that reading takes more than a twentieth of the time.
    """

    def __init__(self, monitor: Monitor, every_s: float = EVERY_S, clock: Callable[[], float] = perf_counter) -> None:
        self.monitor = monitor
        self._every_s, self._clock = every_s, clock
        self._next_s = 0.0
        self._read: dict[str, _Read] = {}

    def after(self, name: str, round_: int) -> None:
        """A lap of `name` in this round is over."""
        known = self._read.setdefault(name, _Read())
        fewest = min(len(each.rounds) for each in self._read.values())
        began = self._clock()
        if known.rounds and (began < self._next_s or len(known.rounds) > fewest):
            return
        known.readings.append(self.monitor.read())
        known.rounds.append(round_)
        ended = self._clock()
        self._next_s = ended + max(self._every_s, (ended - began) / SHARE)

    def of(self, name: str) -> dict[str, Any]:
        """What a record keeps of a provider's readings."""
        known = self._read.get(name, _Read())
        pairs = list(zip(known.rounds, known.readings, strict=True))
        return {
            "monitor": self.monitor.name,
            "readings": [
                {"round": at, **asdict(reading), "throttled": list(reading.throttled)} for at, reading in pairs
            ],
            "throttled": self._stretches(known),
            "unavailable": dict(self.monitor.unavailable),
        }

    def marks(self, name: str) -> list[dict[str, str]]:
        """What of that a reader must know before he believes the median."""
        known = self._read.get(name, _Read())
        found = []
        if stretches := self._stretches(known):
            rounds = sum(each["last_round"] - each["first_round"] + 1 for each in stretches)
            words = ", ".join(dict.fromkeys(reason for each in stretches for reason in each["reasons"]))
            found.append({"kind": "throttled", "text": f"slowed in {rounds} of {known.rounds[-1] + 1} rounds: {words}"})
        loads = [reading.load for reading in known.readings if reading.load is not None]
        if loads and (load := statistics.fmean(loads)) > FOREIGN_LOAD:
            found.append({"kind": "foreign load", "text": f"others used {load:.0%} of the processors meanwhile"})
        if others := max((reading.foreign_processes or 0 for reading in known.readings), default=0):
            found.append({"kind": "foreign load", "text": f"{others} other processes on the GPU"})
        clocks = [reading.sm_clock_hz for reading in known.readings if reading.sm_clock_hz]
        if clocks and (wander := (max(clocks) - min(clocks)) / statistics.median(clocks)) > UNSTEADY:
            span = f"{min(clocks) / 1e6:.0f} to {max(clocks) / 1e6:.0f} MHz"
            found.append({"kind": "unsteady clock", "text": f"the clock went from {span}, by {wander:.0%}"})
        return found

    @staticmethod
    def _stretches(known: _Read) -> list[dict[str, Any]]:
        """Rounds behind which something slowed the device; a reading speaks for the rounds since the one before."""
        found: list[dict[str, Any]] = []
        before = -1
        for at, reading in zip(known.rounds, known.readings, strict=True):
            if reading.throttled:
                if found and found[-1]["last_round"] == before:
                    found[-1]["last_round"] = at
                    found[-1]["reasons"] = sorted({*found[-1]["reasons"], *reading.throttled})
                else:
                    reasons = sorted(reading.throttled)
                    found.append({"first_round": before + 1, "last_round": at, "reasons": reasons})
            before = at
        return found


def _hottest() -> float:
    """The hottest sensor of the processor."""
    found = [each.current for group in psutil.sensors_temperatures().values() for each in group]
    if not found:
        raise LookupError("no sensor")
    return float(max(found))
