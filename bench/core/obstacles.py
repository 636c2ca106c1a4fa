"""What stands in a provider's way, in words, and how its process goes on."""

from __future__ import annotations

import torch

from bench.core.memory import out_of_memory
from bench.core.messages import Out
from bench.core.operator import Operator


def absent(operator: Operator, name: str, obstacle: Exception) -> Out:
    """Why a provider is absent and what would mend it. Our own kernels have no business failing to import."""
    provider = operator.providers()[name]
    if isinstance(obstacle, ImportError):
        if provider.role != "peer":
            return Out(name, "failed", in_a_line(obstacle))
        return Out(name, "absent", str(obstacle), provider.install)
    return Out(name, "absent", str(obstacle), getattr(obstacle, "remedy", "") or provider.install)


def unseen(name: str, error: Exception, samples_s: dict[str, list[float]], device: torch.device) -> Out:
    """A provider that could not be looked at once more behind the race: it raised, or memory did not suffice."""
    if out_of_memory(error):
        give_back(device)
        return Out(name, "absent", "out of memory in the check behind the race", samples_s=samples_s)
    return Out(name, "invalid", in_a_line(error), samples_s=samples_s)


def in_a_line(error: Exception) -> str:
    """An error in one line, its type first."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:500]}"


def settle(device: torch.device) -> None:
    """Wait until a GPU has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def survive(device: torch.device) -> None:
    """End this process if an error has poisoned the CUDA context: the parent goes on with a new one."""
    try:
        settle(device)
    except Exception:  # noqa: BLE001 - any error here means that the context is lost
        raise SystemExit(3) from None


def give_back(device: torch.device) -> None:
    """Let others have the memory that a provider which ran out of it has left in torch's cache."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
