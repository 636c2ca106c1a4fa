"""Compiling kernels for GPUs that are not there: launchers run as they are, and launches end at the compiler."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import torch
from triton.backends.compiler import GPUTarget
from triton.backends.driver import DriverBase
from triton.runtime.autotuner import Autotuner
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

from bench.core.case import Case
from bench.core.child import Child

if TYPE_CHECKING:
    from bench.core.operator import Operator


@dataclass(frozen=True)
class Target:
    """A GPU architecture: what Triton calls it, and the most shared memory (LDS) that one block may have, in bytes."""

    gpu: GPUTarget
    shared_limit: int


# Shared memory per block: CUDA C++ Programming Guide, "Technical Specifications per Compute Capability".
# LDS per workgroup: AMD CDNA 3 ISA.
TARGETS = {
    "sm_80": Target(GPUTarget("cuda", 80, 32), 163 * 1024),
    "sm_90": Target(GPUTarget("cuda", 90, 32), 227 * 1024),
    "sm_100": Target(GPUTarget("cuda", 100, 32), 227 * 1024),
    "gfx942": Target(GPUTarget("hip", "gfx942", 64), 64 * 1024),
}


@dataclass(frozen=True)
class Launch:
    """One launch as compiled: the kernel's name, its shared memory and what a block may have, in bytes."""

    name: str
    shared: int
    limit: int

    @property
    def fits(self) -> bool:
        """Whether the target could launch it."""
        return self.shared <= self.limit


def compile_for(target: str, operator: type[Operator], provider: str) -> list[Launch]:
    """Compile what a provider launches at its smallest sweep case and at its hostile sizes, in every mode.

    Runs in a child of its own, where kernels are not interpreted. A launch whose first tuned configuration does not fit
    is compiled with the next, until one fits.
    """
    return list(_compiler().ask((target, operator.__module__, operator.__qualname__, provider)))


@cache
def _compiler() -> Child:
    return Child(serve, {"TRITON_INTERPRET": None})


def serve(request: tuple[str, str, str, str]) -> Iterator[Launch]:
    """The child's side of `compile_for`."""
    name, module, qualname, provider = request
    operator: type[Operator] = getattr(importlib.import_module(module), qualname)
    cases = [operator.sweep_cases("smoke")[0].sizes, operator.hostile]
    with compiling(TARGETS[name], list(TARGETS).index(name)) as launches:
        for sizes in cases:
            for mode in operator.modes():
                operator().trial(provider, Case(sizes, sizes, mode), "cpu").once()
    yield from launches


class compiling:  # noqa: N801 - a context manager that reads as a word
    """Inside, kernels compile for a target and are not launched; gives the list of launches that were compiled."""

    def __init__(self, target: Target, index: int) -> None:
        self._target = target
        self._index = index
        self._launches: list[Launch] = []
        self._patches = ExitStack()

    def __enter__(self) -> list[Launch]:
        driver.set_active(_StandIn(self._target.gpu, self._index))
        run, launches, limit = JITFunction.run, self._launches, self._target.shared_limit

        def compile_only(function: Any, *arguments: Any, grid: Any, warmup: bool, **options: Any) -> Launch:  # noqa: ARG001
            kernel = run(function, *arguments, grid=grid, warmup=True, **options)
            launch = Launch(function.fn.__name__, kernel.metadata.shared, limit)
            launches.append(launch)
            return launch

        def first_that_fits(tuner: Any, *arguments: Any, **options: Any) -> None:
            for config in tuner.configs:
                if tuner.fn.run(*arguments, **options, **config.all_kwargs()).fits:
                    return
                if config is not tuner.configs[-1]:
                    launches.pop()

        self._patches.enter_context(patch.object(JITFunction, "run", compile_only))
        self._patches.enter_context(patch.object(Autotuner, "run", first_that_fits))
        return launches

    def __exit__(self, *_: object) -> None:
        self._patches.close()


class _StandIn(DriverBase):  # type: ignore[misc]
    """What the compiler asks of a driver, for a GPU that is not there. Launchers see CPU tensors as its own."""

    def __init__(self, target: GPUTarget, index: int) -> None:
        super().__init__()
        self._target = target
        self._index = index

    @classmethod
    def is_active(cls) -> bool:
        return True

    def get_current_target(self) -> GPUTarget:
        return self._target

    def get_current_device(self) -> int:
        """A number per target: Triton keeps compiled kernels by device."""
        return self._index

    def get_current_stream(self, device: int) -> int:  # noqa: ARG002
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")

    def map_python_to_cpp_type(self, ty: str) -> str:
        raise NotImplementedError("nothing is launched on a stand-in")

    def get_benchmarker(self) -> Any:
        raise NotImplementedError("nothing is timed on a stand-in")
