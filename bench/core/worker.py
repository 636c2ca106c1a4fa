"""The child's side of the clock: it measures the device's roofs, and serves one case after the other."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import torch

from bench.core import roofs
from bench.core.case import Case
from bench.core.clocks import EventClock, HostClock
from bench.core.heat import Heat
from bench.core.messages import Message, Request, Survey, Surveyed
from bench.core.operator import Operator


def serve(request: Request | Survey) -> Iterator[Message]:
    """Everything that is to be said in answer to a request."""
    if isinstance(request, Survey):
        device = torch.device(request.device)
        measured = roofs.measure(device)  # first, so that torch's threads are there
        yield Surveyed([roof.as_dict() for roof in measured], conditions(device))
        return
    torch.compiler.reset()
    yield from Heat(request, *find(request.module, request.qualname, request.profile, request.case)).run()


def find(module: str, qualname: str, profile: str, case_id: str) -> tuple[Operator, Case]:
    """The operator and its sweep case of that id."""
    operator: type[Operator] = getattr(importlib.import_module(module), qualname)
    return operator(), next(case for case in operator.sweep_cases(profile) if case.id == case_id)


def conditions(device: torch.device) -> dict[str, Any]:
    """What samples depend on here, as this process finds it."""
    clock = EventClock(device) if device.type == "cuda" else HostClock()
    found = {"threads": torch.get_num_threads(), **clock.conditions()}
    return found if device.type == "cuda" else found | {"pinned": pinned()}


def pinned() -> str:
    """Whether each of torch's threads has a core to itself, in words."""
    threads = torch.get_num_threads()
    try:
        places = [os.sched_getaffinity(thread.id) for thread in psutil.Process().threads()]
    except (OSError, psutil.Error) as error:
        return f"unknown: {error}"
    cores = {next(iter(on)) for place in places if len(on := {_core(cpu) for cpu in place}) == 1}
    if len(cores) >= threads:
        return "each thread to a processor of its own"
    return f"no: {len(cores)} of {threads} threads have a processor of their own"


def _core(cpu: int) -> str:
    """The processors that Linux counts on the core of this one: several, where a core runs several threads."""
    try:
        return Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text(encoding="ascii")
    except OSError:
        return str(cpu)
