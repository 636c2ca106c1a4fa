"""Compiling kernels for GPUs that are not there: launchers run as they are, and launches end at the compiler."""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
import triton
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.backends.driver import DriverBase
from triton.runtime.autotuner import Autotuner
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

from bench.core import resources
from bench.hardware import ARCHITECTURES

TARGETS = ("sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120", "gfx942", "gfx950")
# What launchers are told of the GPU that they run on: as many multiprocessors as an H100 or H200 has.
PROCESSORS = 132


@dataclass(frozen=True)
class Build:
    """One kernel as compiled with one configuration for one target.

    name: the kernel, its constants, launch options and the dtypes of its pointers. found: its `Resources` as a dict, or
    the reason why it is `absent`; and whether this configuration is the `default`, the first of those that it is tuned
    over. seconds: what the compiler took, when it last ran.
    """

    name: str
    found: dict[str, Any]
    seconds: float

    @property
    def fits(self) -> bool:
        """Whether the target could launch it."""
        return "absent" not in self.found


class Compiler:
    """Compiles what launchers launch, for one target. cache: a folder that keeps what was found, or None.

    builds: what was compiled so far, by name; launches that differ in nothing but the sizes of their tensors are one.
    """

    def __init__(self, target: str, cache: Path | None = None) -> None:
        self.builds: dict[str, Build] = {}
        self._default = True
        self._target = target
        self._gpu = gpu_target(target)
        self._architecture = ARCHITECTURES[target]
        self._cache = cache

    @contextmanager
    def instead(self, every: bool = True) -> Iterator[None]:
        """Inside, kernels compile and are not launched: with every configuration of theirs, or the first that fits."""

        def run(function: Any, *arguments: Any, grid: Any, warmup: bool, **options: Any) -> Any:  # noqa: ARG001
            return stock(function, *arguments, grid=grid, warmup=True, **options)

        def tune(tuner: Any, *arguments: Any, **options: Any) -> None:
            for config in tuner.configs:
                before, self._default = dict(self.builds), config is tuner.configs[0]
                tuner.fn.run(*arguments, **options, **config.all_kwargs())
                self._default = True
                new = [build for name, build in self.builds.items() if name not in before]
                if not every:
                    if all(build.fits for build in new):
                        return
                    if config is not tuner.configs[-1]:
                        self.builds = before

        if knobs.runtime.interpret:
            raise RuntimeError("TRITON_INTERPRET: expected it to be unset where kernels are to be compiled")
        stock = JITFunction.run
        with ExitStack() as patches:
            patches.enter_context(standing_in(self._target))
            patches.enter_context(patch.object(JITFunction, "run", run))
            patches.enter_context(patch.object(JITFunction, "_do_compile", self._replacement()))
            patches.enter_context(patch.object(Autotuner, "run", tune))
            yield

    def _replacement(self) -> Any:
        def compile_only(function: Any, *specialisation: Any) -> None:
            _, signature, _, constants, options, attributes, _ = specialisation
            name = _name(function, signature, constants, options)
            if name not in self.builds:
                source = function.ASTSource(function, signature, constants, attributes)
                build = self._build(name, source, options)
                self.builds[name] = replace(build, found=build.found | {"default": self._default})

        return compile_only

    def _build(self, name: str, source: Any, options: Any) -> Build:
        key = f"{_toolchain()}-{source.hash()}-{self._gpu}-{options.hash()}"
        kept = self._cache / f"{hashlib.sha256(key.encode()).hexdigest()}.json" if self._cache else None
        if kept and kept.exists():
            found, seconds = json.loads(kept.read_text())
            return Build(name, found, seconds)
        started = time.perf_counter()
        found = resources.build(source, self._gpu, options, self._architecture)
        seconds = time.perf_counter() - started
        if kept:
            write_whole(kept, json.dumps([found, seconds]))
        return Build(name, found, seconds)


def gpu_target(name: str) -> GPUTarget:
    """What Triton calls a target."""
    if name.startswith("sm_"):
        return GPUTarget("cuda", int(name[3:]), 32)
    return GPUTarget("hip", name, 64)


@contextmanager
def standing_in(target: str = "sm_90") -> Iterator[None]:
    """Inside, launchers see the GPU that counts are made for, be they compiled or interpreted."""
    with patch.object(driver, "_active", _StandIn(gpu_target(target), TARGETS.index(target))):
        yield


def _name(function: Any, signature: dict[str, Any], constants: dict[Any, Any], options: Any) -> str:
    """The kernel with the constants that it declares, its launch options, and the dtypes behind its pointers."""
    declared = {parameter.name for parameter in function.params if parameter.is_constexpr}
    names = list(signature)
    stated = {names[path[0]]: value for path, value in constants.items() if names[path[0]] in declared}
    shown = [f"{name}={value}" for name, value in stated.items()]
    shown += [f"num_warps={options.num_warps}", f"num_stages={options.num_stages}"]
    if options.num_ctas != 1:
        shown.append(f"num_ctas={options.num_ctas}")
    if getattr(options, "maxnreg", None):
        shown.append(f"maxnreg={options.maxnreg}")
    missing = {names[path[0]] for path, value in constants.items() if value is None and names[path[0]] not in declared}
    pointers = [f"{name}={_dtype(kind)}" for name, kind in signature.items() if "*" in str(kind)]
    return " ".join([function.fn.__name__, *shown, *pointers, *(f"{name}=None" for name in names if name in missing)])


def _dtype(kind: Any) -> str:
    """`*bf16` as bf16; those of a tuple side by side."""
    if isinstance(kind, tuple):
        return "+".join(_dtype(part) for part in kind if "*" in str(part))
    return str(kind).lstrip("*").partition("[")[0].removeprefix("tensordesc<")


def write_whole(path: Path, text: str) -> None:
    """Write a file as a whole or not at all: several processes may keep the same one."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
        file.write(text)
    Path(file.name).replace(path)


@cache
def _toolchain() -> str:
    """What decides about the machine code and what is read from it, beside the source: versions, and this reading."""
    reading = hashlib.sha256(Path(resources.__file__).read_bytes()).hexdigest()
    return f"{triton.__version__}-{reading}"


class _StandIn(DriverBase):  # type: ignore[misc]
    """What launchers and the compiler ask of a driver, for a GPU that is not there; CPU tensors are its own."""

    def __init__(self, target: GPUTarget, index: int) -> None:
        super().__init__()
        self._target = target
        self._index = index
        self.utils = SimpleNamespace(get_device_properties=lambda _: {"multiprocessor_count": PROCESSORS})

    @classmethod
    def is_active(cls) -> bool:
        return True

    def get_current_target(self) -> GPUTarget:
        return self._target

    def get_current_device(self) -> int:
        """A number per target: Triton keeps what it knows of a kernel by device."""
        return self._index

    def get_current_stream(self, device: int) -> int:  # noqa: ARG002
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")

    def map_python_to_cpp_type(self, ty: str) -> str:
        raise NotImplementedError("nothing is launched on a stand-in")

    def get_benchmarker(self) -> Any:
        raise NotImplementedError("nothing is timed on a stand-in")
