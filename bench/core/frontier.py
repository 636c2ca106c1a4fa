"""The frontier: the longest sequence that a provider can hold in memory, by doubling, then bisection, under a cap."""

from __future__ import annotations

import importlib
import re
import resource
import signal
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import psutil
import torch

from bench.core.case import Axes, Case, Make
from bench.core.child import Child, ChildDied, ChildFailed
from bench.core.memory import out_of_memory
from bench.core.messages import Out
from bench.core.operator import Operator, Unsupported
from bench.core.trial import Trial

START = 512
MOST = 1 << 24
STEP = 128
RESOLUTION = 32  # a frontier is found to one part in so many
FITS, NO_ROOM = "fits", "out of memory"
# Large pieces go back to the system when they are freed: glibc would keep them, outside of the cap.
ENVIRONMENT: dict[str, str | None] = {"MALLOC_MMAP_THRESHOLD_": str(1 << 20)}
SIZE = re.compile(r"([\d.]+)\s*([KMGT]?)(i?)B?", re.IGNORECASE)


@dataclass(frozen=True)
class Probe:
    """One length to be tried.

    cap_bytes: what torch may use on a GPU, and what the process may take on top of what it has on a CPU.
    """

    module: str
    qualname: str
    provider: str
    mode: str
    axes: Axes
    device: str
    cap_bytes: int


@dataclass(frozen=True)
class Found:
    """What a search found.

    largest: the longest that fitted (None: not even the first); fails_at: the shortest that did not (None: none
    was found); stopped: why the search ended; probes: how many lengths were tried.
    """

    largest: int | None
    fails_at: int | None
    stopped: str
    probes: int


def search(fits: Callable[[int], str], start: int = START, most: int = MOST) -> Found:
    """Double from `start` until something does not fit, then halve the gap until it is a 32nd of the length (or 128).

    fits: says `fits`, `out of memory`, or anything else, which ends the search: what fitted so far is then a lower
    bound. It must be monotonic: what fits at a length is taken to fit at all shorter ones.
    """
    largest: int | None = None
    fails_at: int | None = None
    at, probes = start, 0
    while at <= most:
        probes += 1
        outcome = fits(at)
        if outcome == NO_ROOM:
            fails_at = at
        elif outcome == FITS:
            largest = at
        else:
            return Found(largest, fails_at, f"{outcome} at {at}; the longest that fits is longer, if anything", probes)
        if fails_at is None:
            at *= 2
            continue
        if largest is None:
            return Found(None, fails_at, f"{NO_ROOM} at once", probes)
        gap = fails_at - largest
        if gap <= max(STEP, largest // RESOLUTION):
            return Found(largest, fails_at, NO_ROOM, probes)
        at = largest + max(STEP, gap // 2 // STEP * STEP)
    return Found(largest, None, f"everything fits up to {most}", probes)


def frontier(
    operator: type[Operator],
    mode: str,
    provider: str,
    device: torch.device,
    cap_bytes: int | None,
    child: Child,
    timeout_s: float,
    most: int = MOST,
) -> dict[str, Any]:
    """The frontier of a provider at its operator's first point of the sweep, as results hold it.

    child: one that serves `serve_probe`. A provider that cannot run here has none, and a reason.
    """
    axes = {name: value for name, value in operator.sweep[0].items() if name != "seq_len"}
    cap = cap_bytes or room(device)
    last: list[Out] = []

    def fits(length: int) -> str:
        asked = Probe(
            operator.__module__, operator.__qualname__, provider, mode, axes | {"seq_len": length}, str(device), cap
        )
        try:
            (answer,) = child.ask(asked, timeout_s=timeout_s)
        except ChildDied as end:
            killed = signal.SIGKILL.name in str(end)
            return NO_ROOM if killed else str(end)
        except ChildFailed as error:
            return str(error)
        if isinstance(answer, Out):
            last.append(answer)
            return answer.reason
        return str(answer)

    found = search(fits, most=most)
    if last:
        return nowhere(cap, last[-1].reason, last[-1].remedy)
    return {**asdict(found), "cap_bytes": cap, "reason": "", "remedy": ""}


def nowhere(cap_bytes: int | None, reason: str, remedy: str = "") -> dict[str, Any]:
    """What is known of a frontier that cannot be sought here."""
    return {**asdict(Found(None, None, "", 0)), "cap_bytes": cap_bytes, "reason": reason, "remedy": remedy}


def serve_probe(probe: Probe) -> Iterator[Any]:
    """The child's side: whether one call at this length fits."""
    device = torch.device(probe.device)
    operator: Operator = getattr(importlib.import_module(probe.module), probe.qualname)()
    case = Case(probe.axes, operator.sizes(**probe.axes), probe.mode)
    torch.compiler.reset()  # of a function that it has compiled for eight lengths torch compiles no ninth
    try:
        _call_once(operator, case, probe, device)
    except (ImportError, Unsupported) as obstacle:
        install = operator.providers()[probe.provider].install
        answer: Any = Out(probe.provider, "absent", str(obstacle), getattr(obstacle, "remedy", "") or install)
    except Exception as error:
        if not out_of_memory(error):
            raise
        answer = NO_ROOM
    else:
        answer = FITS
    if device.type == "cuda":
        torch.cuda.empty_cache()
    yield answer


def _call_once(operator: Operator, case: Case, probe: Probe, device: torch.device) -> None:
    """Nothing of it is left afterwards."""
    with _Capped(device, probe.cap_bytes):
        trial = Trial(operator.provider(probe.provider), operator.inputs(Make(device), **case.sizes), case.mode)
        trial.once()
        if device.type == "cuda":
            torch.cuda.synchronize(device)


class _Capped:
    """Inside, allocations beyond a cap fail, in place of the kernel ending the process."""

    def __init__(self, device: torch.device, cap_bytes: int) -> None:
        self._device, self._cap_bytes = device, cap_bytes

    def __enter__(self) -> None:
        if self._device.type == "cuda":
            total = torch.cuda.get_device_properties(self._device).total_memory
            torch.cuda.set_per_process_memory_fraction(min(1.0, self._cap_bytes / total), self._device)
            return
        torch.ones(1024, 1024).sum()  # torch's threads start now, outside of the cap
        self._before = resource.getrlimit(resource.RLIMIT_AS)
        limit = psutil.Process().memory_info().vms + self._cap_bytes
        resource.setrlimit(resource.RLIMIT_AS, (limit, self._before[1]))

    def __exit__(self, *_: object) -> None:
        if self._device.type == "cpu":
            resource.setrlimit(resource.RLIMIT_AS, self._before)


def room(device: torch.device) -> int:
    """What there is to be used: a GPU's free memory, or half of what the host has left."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available // 2)


def parse_size(text: str) -> int:
    """`8GiB`, `500MB` or `1073741824`, in bytes. Raises `ValueError`."""
    match = SIZE.fullmatch(text.strip())
    if match is None or match[1].count(".") > 1 or match[1] == ".":
        raise ValueError(f"--memory-cap: expected a size such as 8GiB or 500MB, got {text!r}")
    power = " KMGT".index(match[2].upper() or " ")
    found = int(float(match[1]) * (1024 if match[3] else 1000) ** power)
    if found <= 0:
        raise ValueError(f"--memory-cap: expected a size above 0, got {text!r}")
    return found
