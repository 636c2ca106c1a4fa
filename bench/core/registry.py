"""The file system is the registry: every `bench/bench_<stem>.py` holds operators, and nothing else lists them."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path

import torch

from bench.core.case import Case, Inputs, Make
from bench.core.operator import Operator, Unsupported
from bench.core.trial import Trial

BENCH = Path(__file__).resolve().parents[1]
NEEDS_GPU = "needs a GPU (checked in the interpreter; interpreted times are not times)"


@dataclass(frozen=True)
class Availability:
    """Whether a provider can run here in some mode of its operator; if not, why, and what would mend it."""

    provider: str
    role: str
    available: bool
    reason: str = ""
    remedy: str = ""


def operators() -> list[type[Operator]]:
    """All operators, in the order of their files and of their definition."""
    found = []
    for file in sorted(BENCH.glob("bench_*.py")):
        module = importlib.import_module(f"bench.{file.stem}")
        found += [
            value
            for value in vars(module).values()
            if isinstance(value, type) and issubclass(value, Operator) and value.__module__ == module.__name__
        ]
    return found


def availability(operator: type[Operator], device: torch.device) -> list[Availability]:
    """Prepare each provider on the first sweep case (tensors of the smallest length) and see whether it objects."""
    case = operator.sweep_cases("smoke")[0]
    inputs = operator().inputs(Make(device), **case.sizes)
    return [_try(operator, name, case, inputs, device) for name in operator.providers()]


def _try(operator: type[Operator], name: str, case: Case, inputs: Inputs, device: torch.device) -> Availability:
    role, install = operator.providers()[name].role, operator.providers()[name].install
    if role == "kernel" and device.type == "cpu":
        return Availability(name, role, False, NEEDS_GPU)
    try:
        trial = Trial(operator().provider(name), inputs, case.mode)
        if role == "peer":
            trial.once()
    except ImportError as error:
        return Availability(name, role, False, str(error), install)
    except Unsupported as obstacle:
        return Availability(name, role, False, str(obstacle), obstacle.remedy or install)
    return Availability(name, role, True)
