"""The child's side of the clock: one case, its providers proven one by one, then raced against each other."""

from __future__ import annotations

import importlib
import mmap
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from bench.core import memory
from bench.core.case import Case, Inputs, Make
from bench.core.clocks import GRAPH_BELOW_S, Clock, EventClock, GraphClock, HostClock, Thunk, rotations
from bench.core.memory import Memory
from bench.core.operator import Operator, Unsupported
from bench.core.proof import Disproved, Proof, Yardstick, poisoned
from bench.core.race import Result, race
from bench.core.trial import Trial


@dataclass(frozen=True)
class Request:
    """One case to be clocked.

    cap_s: the time cap of the race per provider; flight: a file whose first byte says, while
    the race runs, whose turn it is (an index into `providers`), so that a crash is laid at the right door.
    """

    module: str
    qualname: str
    case: str
    profile: str
    providers: tuple[str, ...]
    device: str
    cap_s: float
    flight: str


@dataclass(frozen=True)
class Begun:
    """A provider (or, for all of them together, the race) is about to start."""

    provider: str
    phase: str


@dataclass(frozen=True)
class Out:
    """A provider that leaves the race: `absent` (it cannot run here) or `failed` (it ran, and wrongly), and why."""

    provider: str
    status: str
    reason: str
    remedy: str = ""


@dataclass(frozen=True)
class Proven:
    """A provider that may race: its proof, the memory of one call, and what the first call took (compiling, tuning)."""

    provider: str
    proof: Proof
    memory: Memory
    setup_s: float


@dataclass(frozen=True)
class Timed:
    """A provider's samples; `note` says what else is to be known (such as a clock that could not be had)."""

    provider: str
    result: Result
    note: str = ""


@dataclass(frozen=True)
class Raced:
    """The wall time of a whole race beside the time spent inside the thunks, in seconds."""

    wall_s: float
    thunks_s: float


Message = Begun | Out | Proven | Timed | Raced


def serve(request: Request) -> Iterator[Message]:
    """Prove, measure and race the providers of one case."""
    operator, case = find(request.module, request.qualname, request.profile, request.case)
    device = torch.device(request.device)
    torch.compiler.reset()
    yield Begun("", "oracle")
    inputs = operator.inputs(Make(device), **case.sizes)
    yardsticks = operator.yardsticks(inputs, case.mode, operator.samples(inputs))
    runners: dict[str, Trial] = {}
    for name in request.providers:
        yield Begun(name, "proof")
        try:
            trial, proven = _prepare(operator, name, inputs, case.mode, yardsticks)
        except (ImportError, Unsupported, torch.OutOfMemoryError) as obstacle:
            yield _absent(operator, name, obstacle)
        except Exception as error:  # noqa: BLE001 - whatever a provider does wrong costs its own row only
            yield Out(name, "failed", _told(error))
            _survive(device)
            _restore(inputs, operator.inputs(Make(device), **case.sizes))
        else:
            yield proven
            runners[name] = trial
    if runners:
        yield Begun("", "race")
        with Path(request.flight).open("r+b") as file, mmap.mmap(file.fileno(), 1) as flight:
            turns = {name: index for index, name in enumerate(request.providers)}

            def on_turn(name: str) -> None:
                flight[0] = turns[name]

            yield from _race(operator, case, runners, device, request.cap_s * len(runners), on_turn)


def find(module: str, qualname: str, profile: str, case_id: str) -> tuple[Operator, Case]:
    """The operator and its sweep case of that id."""
    operator: type[Operator] = getattr(importlib.import_module(module), qualname)
    return operator(), next(case for case in operator.sweep_cases(profile) if case.id == case_id)


def _prepare(
    operator: Operator, name: str, inputs: Inputs, mode: str, yardsticks: Sequence[Yardstick]
) -> tuple[Trial, Proven]:
    """Call a provider for the first time, prove it, and follow its memory."""
    device = next(value.device for value in inputs.values() if isinstance(value, torch.Tensor))
    ours = operator.providers()[name].role == "kernel"
    began = time.perf_counter()
    trial = Trial(operator.provider(name), inputs, mode)
    trial.once()
    _settle(device)
    setup_s = time.perf_counter() - began
    with poisoned() if ours else nullcontext():
        proof = trial.prove(yardsticks)
    if ours:
        for first, second in zip(trial.once(), trial.once(), strict=True):
            if not torch.equal(first, second):
                raise Disproved("expected the same bits from the same inputs, got two different answers")
    return trial, Proven(name, proof, memory.measure(trial.once, device), setup_s)


def _race(
    operator: Operator,
    case: Case,
    runners: dict[str, Trial],
    device: torch.device,
    cap_s: float,
    on_turn: Callable[[str], None],
) -> Iterator[Message]:
    """Race all runners; where the fastest is too short for events, race them all once more inside graphs."""
    clock: Clock = EventClock(device) if device.type == "cuda" else HostClock()
    with torch.no_grad():
        thunks = {name: trial.timed() for name, trial in runners.items()}
        began = time.perf_counter()
        results = race(thunks, clock=clock, cap_s=cap_s, on_turn=on_turn)
        wall_s = time.perf_counter() - began
        notes = dict.fromkeys(results, "")
        fastest = min(result.median for result in results.values())
        if device.type == "cuda" and case.mode == "fwd" and fastest < GRAPH_BELOW_S:
            graphs, notes = _captured(operator, case, thunks, device)
            for name, timed in (
                race(graphs.thunks, clock=graphs, cap_s=cap_s, on_turn=on_turn).items() if graphs else ()
            ):
                timed.samples_s |= results[name].samples_s
                results[name] = timed
    for name, result in results.items():
        yield Timed(name, result, notes[name])
    yield Raced(wall_s, sum(result.spent_s for result in results.values()))


def _captured(
    operator: Operator, case: Case, thunks: dict[str, Thunk], device: torch.device
) -> tuple[GraphClock, dict[str, str]]:
    """Capture every runner over inputs that rotate; says of each that cannot be captured why not."""
    first = operator.inputs(Make(device), **case.sizes)
    input_bytes = sum(value.nbytes for value in first.values() if isinstance(value, torch.Tensor))
    count = rotations(input_bytes, torch.cuda.get_device_properties(device).L2_cache_size)
    others = [operator.inputs(Make(device, seed=seed), **case.sizes) for seed in range(1, count)]
    graphs, notes = GraphClock(), dict.fromkeys(thunks, "")
    for name, thunk in thunks.items():
        try:
            graphs.capture(name, [thunk, *(Trial(operator.provider(name), each, case.mode).timed() for each in others)])
        except Exception as error:  # noqa: BLE001 - it keeps its device time, and its row says so
            notes[name] = f"no graph time: {_told(error)}"
    return graphs, notes


def _absent(operator: Operator, name: str, obstacle: Exception) -> Out:
    """Why a provider is absent and what would mend it. Our own kernels have no business failing to import."""
    provider = operator.providers()[name]
    if isinstance(obstacle, torch.OutOfMemoryError):
        return Out(name, "absent", "out of memory")
    if isinstance(obstacle, ImportError):
        if provider.role != "peer":
            return Out(name, "failed", _told(obstacle))
        return Out(name, "absent", str(obstacle), provider.install)
    return Out(name, "absent", str(obstacle), getattr(obstacle, "remedy", "") or provider.install)


def _told(error: Exception) -> str:
    """An error in one line, its type first."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:500]}"


def _restore(inputs: Inputs, originals: Inputs) -> None:
    """Give inputs their values back: a provider that failed may have changed them under the ones behind it."""
    for name, value in inputs.items():
        if isinstance(value, torch.Tensor):
            value.copy_(originals[name])


def _settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _survive(device: torch.device) -> None:
    """End this process if an error has poisoned the CUDA context: the parent goes on with a new one."""
    try:
        _settle(device)
    except Exception:  # noqa: BLE001 - any error here means that the context is lost
        raise SystemExit(3) from None
