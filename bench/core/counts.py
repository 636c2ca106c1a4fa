"""Counting all there is: units of work, done in processes side by side and kept in a cache.

A unit is either the launches of one case (interpreted) or the kernels of one operator's mode for one target (compiled).
What it finds depends on the sources and on the versions of Triton and torch alone, not on the machine.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import queue
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.core.child import Child
from bench.core.fingerprint import fingerprint

if TYPE_CHECKING:
    from bench.core.operator import Operator

STALL_S = 3600.0  # a whole unit is one answer
Found = dict[str, Any]


@dataclass(frozen=True)
class Unit:
    """What is counted at a time: a case of an operator by its id, or (target is set) a mode's kernels for a target."""

    module: str
    qualname: str
    provider: str
    mode: str
    case: str = ""
    target: str = ""

    @property
    def operator(self) -> type[Operator]:
        """The class that declares it."""
        found: type[Operator] = getattr(importlib.import_module(self.module), self.qualname)
        return found

    @property
    def id(self) -> str:
        """As part of a test id."""
        return f"{self.mode}-{self.provider}-{self.target}" if self.target else f"{self.case}-{self.provider}"

    @property
    def path(self) -> tuple[str, ...]:
        """Where results/counts.json keeps what is found."""
        if self.target:
            return ("resources", self.operator.name(), self.mode, self.provider, self.target)
        return ("cases", self.operator.name(), self.case, self.provider)


def units_of(operator: type[Operator], provider: str) -> list[Unit]:
    """All units of one of an operator's kernels."""
    from bench.core.compile import TARGETS

    module, qualname = operator.__module__, operator.__qualname__
    cases = [Unit(module, qualname, provider, case.mode, case=case.id) for case in operator.counted_cases()]
    return cases + [
        Unit(module, qualname, provider, mode, target=target) for mode in operator.modes() for target in TARGETS
    ]


def paths_of(operator: type[Operator]) -> list[tuple[str, ...]]:
    """All that results/counts.json keeps of an operator."""
    units = [unit.path for provider in operator.providers("kernel") for unit in units_of(operator, provider)]
    return [("floors", operator.name()), *units]


def versions() -> dict[str, str]:
    """What decides about counts beside the sources; builds of one torch version (`+cpu`) do not differ."""
    return {name: version(name).partition("+")[0] for name in ("torch", "triton")}


# The parent's side.


@dataclass(frozen=True)
class Answer:
    """What a unit found, and what it took: seconds by the kernel that was compiled."""

    found: Found
    seconds: dict[str, float]


class Counts:
    """Units of work in progress, on as many processes as there are cores. cache: a folder to keep findings in."""

    def __init__(self, cache: Path, processes: int | None = None) -> None:
        self._cache = cache
        self._processes = processes or len(os.sched_getaffinity(0))
        self._futures: dict[Unit, Future[Answer]] = {}
        self._waiting: queue.SimpleQueue[Unit] = queue.SimpleQueue()
        self._workers: list[_Worker] = []

    def submit(self, units: Iterable[Unit]) -> None:
        """Begin to count, in this order."""
        new = list(units)
        for unit in new:
            self._futures[unit] = Future()
            self._waiting.put(unit)
        for _ in range(min(len(new), self._processes - len(self._workers))):
            worker = _Worker(self._waiting, self._futures, self._cache)
            self._workers.append(worker)
            worker.start()

    def result(self, unit: Unit) -> Answer:
        """What a unit found; waits for it. Raises what went wrong there."""
        if unit not in self._futures:
            self.submit([unit])
        return self._futures[unit].result()

    def close(self) -> None:
        """End the processes, whatever they are at."""
        for worker in self._workers:
            worker.stop()


class _Worker(threading.Thread):
    """Works off units with a child of the kind that each needs, one at a time."""

    def __init__(self, waiting: queue.SimpleQueue[Unit], futures: dict[Unit, Future[Answer]], cache: Path) -> None:
        super().__init__(daemon=True)
        self._waiting, self._futures, self._cache = waiting, futures, cache
        self._children = {
            False: Child(serve, {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}),
            True: Child(serve, {"TRITON_INTERPRET": None}),
        }
        self._stopped = False

    def run(self) -> None:
        while not self._stopped:
            try:
                unit = self._waiting.get(timeout=0.2)
            except queue.Empty:
                continue
            compiles = bool(unit.target)
            self._children[not compiles].stop()
            try:
                (answer,) = self._children[compiles].ask((unit, self._cache), STALL_S)
                self._futures[unit].set_result(answer)
            except Exception as error:  # noqa: BLE001 - whoever asks for the result gets it
                self._futures[unit].set_exception(error)

    def stop(self) -> None:
        self._stopped = True
        for child in self._children.values():
            child.stop()


# The child's side.


def serve(request: tuple[Unit, Path]) -> Iterator[Answer]:
    """Count one unit."""
    unit, folder = request
    yield _compiled(unit, folder) if unit.target else _interpreted(unit, folder)


def _compiled(unit: Unit, folder: Path) -> Answer:
    """The kernels that a mode launches: with every configuration at counted cases, with one for all other models.

    And with one at hostile sizes: the first that fits.
    """
    from bench.core.case import Blank, Case
    from bench.core.compile import Compiler
    from bench.core.trial import Trial

    operator = unit.operator
    compiler = Compiler(unit.target, folder)
    thorough = operator.counted_cases()
    cases = thorough + [case for case in operator.counted_cases(every=True) if case not in thorough]
    for case in [*cases, Case(operator.hostile, operator.hostile, unit.mode)]:
        if case.mode != unit.mode:
            continue
        with compiler.instead(every=case in thorough):
            declared = operator()
            trial = Trial(declared.provider(unit.provider), declared.inputs(Blank("cpu"), **case.sizes), case.mode)
            forward = dict(compiler.builds)
            timed = trial.timed()
            if unit.mode == "bwd":
                compiler.builds = forward
            timed()
    builds = compiler.builds.values()
    return Answer({build.name: build.found for build in builds}, {build.name: build.seconds for build in builds})


def _interpreted(unit: Unit, folder: Path) -> Answer:
    """The launches of one case."""
    made_with = f"{fingerprint(unit)} {versions()} {version('numpy')}"
    kept = folder / f"{hashlib.sha256(made_with.encode()).hexdigest()}.json"
    if kept.exists():
        return Answer(json.loads(kept.read_text()), {})
    import torch

    from bench.core.compile import standing_in, write_whole
    from bench.core.count import counting
    from bench.core.interpreter import mend

    mend()
    torch.set_num_threads(1)
    operator = unit.operator
    (case,) = (case for case in operator.counted_cases() if case.id == unit.case)
    with standing_in():
        timed = operator().trial(unit.provider, case, "cpu").timed()
        with torch.set_grad_enabled(unit.mode == "bwd"), counting() as launches:
            timed()
    found = {f"{index} {launch.kernel}": launch.as_dict() for index, launch in enumerate(launches)}
    write_whole(kept, json.dumps(found))
    return Answer(found, {})
