"""What a provider must leave alone: the instrument that judges it, and the settings under which others run."""

from __future__ import annotations

import gc
import importlib
import os
import time
from collections.abc import Callable, Collection
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any, NamedTuple

import torch

INSTRUMENT = (
    "case", "clocks", "energy", "integrity", "memory", "proof", "race", "roofs", "spread", "stock", "telemetry",
    "trial", "worker",
)  # fmt: skip
CLOCKS = ("perf_counter", "perf_counter_ns", "monotonic", "monotonic_ns", "time", "time_ns", "process_time")
ON_DEVICE = ("Event", "CUDAGraph", "graph", "synchronize", "current_stream", "get_device_properties", "_sleep")
MADE_OF = ("equal", "where", "stack", "finfo", "randn", "rand", "randint", "full", "zeros_like", "autograd")
KINDS = (BuiltinFunctionType, FunctionType, type, property, int, float, ModuleType, staticmethod, classmethod)


class _Watched(NamedTuple):
    """Parts of a module or class by name, as they were."""

    name: str
    owner: Any
    parts: dict[str, Any]
    names: frozenset[str]

    def replaced(self) -> list[str]:
        """The parts that are others now, or that now shadow what a base class has. They are put back."""
        changed = [part for part, original in self.parts.items() if vars(self.owner).get(part) is not original]
        for part in changed:
            setattr(self.owner, part, self.parts[part])
        shadows = []
        if isinstance(self.owner, type):
            own = set(vars(self.owner)) - self.names
            shadows = [part for part in own if any(part in vars(base) for base in self.owner.__mro__[1:-1])]
            for part in shadows:
                delattr(self.owner, part)
        return [f"{self.name}.{part}" for part in changed + shadows]


class Seal:
    """Broken by whoever replaces a clock, a function of the instrument, or what that is made of."""

    def __init__(self) -> None:
        heat = importlib.import_module("bench.core.heat")
        modules = [importlib.import_module(f"bench.core.{stem}") for stem in INSTRUMENT]
        classes = [
            value
            for module in modules
            for value in vars(module).values()
            if isinstance(value, type) and value.__module__ == module.__name__
        ]
        self._watched = [
            _watched("time", time, CLOCKS),
            _watched("torch", torch, MADE_OF),
            _watched("torch.autograd", torch.autograd, ("grad",)),
            _watched("torch.cuda", torch.cuda, ON_DEVICE),
            *(_watched(each.__name__, each) for each in modules),
            *(
                _watched(f"{each.__module__}.{each.__qualname__}", each)
                for each in (torch.Tensor, torch.cuda.Event, torch.cuda.CUDAGraph, heat.Heat, *classes)
            ),
        ]

    def broken(self) -> str:
        """The names of what was replaced, empty if nothing was. It is whole again afterwards."""
        return ", ".join(name for watched in self._watched for name in watched.replaced())


class Setting(NamedTuple):
    """Something that holds for the whole process."""

    name: str
    get: Callable[[], Any]
    put: Callable[[Any], object]


class Settings:
    """The settings of the process as they are now, under which every provider shall run."""

    def __init__(self, device: torch.device) -> None:
        self._settings = [*_settings(), *(_cuda_settings() if device.type == "cuda" else [])]
        self._values = [setting.get() for setting in self._settings]

    def changed(self) -> str:
        """What was changed, from what to what; empty if nothing was. It is as before afterwards."""
        found = []
        for setting, value in zip(self._settings, self._values, strict=True):
            if (now := setting.get()) != value:
                setting.put(value)
                found.append(f"{setting.name} from {value} to {now}")
        return ", ".join(found)


def _watched(name: str, owner: Any, parts: Collection[str] | None = None) -> _Watched:
    """Some parts of a module or class, or all functions, classes and numbers that it holds."""
    found = {
        part: value
        for part, value in vars(owner).items()
        if (part in parts if parts is not None else isinstance(value, KINDS) and not part.startswith("__"))
    }
    return _Watched(name, owner, found, frozenset(vars(owner)))


def _settings() -> list[Setting]:
    return [
        Setting("torch's threads", torch.get_num_threads, torch.set_num_threads),
        Setting(
            "the processors of this process", lambda: os.sched_getaffinity(0), lambda to: os.sched_setaffinity(0, to)
        ),
        Setting("torch's default dtype", torch.get_default_dtype, torch.set_default_dtype),
        Setting(
            "the precision of float32 products", torch.get_float32_matmul_precision, torch.set_float32_matmul_precision
        ),
        Setting(
            "deterministic algorithms", torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms
        ),
        Setting("autograd", torch.is_grad_enabled, torch.set_grad_enabled),
        Setting("the garbage collector", gc.isenabled, lambda on: gc.enable() if on else gc.disable()),
    ]


def _cuda_settings() -> list[Setting]:
    backends = torch.backends.cuda
    return [
        Setting("the current stream", torch.cuda.current_stream, torch.cuda.set_stream),
        Setting("the current device", torch.cuda.current_device, torch.cuda.set_device),
        Setting("flash SDPA", backends.flash_sdp_enabled, backends.enable_flash_sdp),
        Setting("memory-efficient SDPA", backends.mem_efficient_sdp_enabled, backends.enable_mem_efficient_sdp),
        Setting("math SDPA", backends.math_sdp_enabled, backends.enable_math_sdp),
        Setting("cuDNN SDPA", backends.cudnn_sdp_enabled, backends.enable_cudnn_sdp),
    ]
