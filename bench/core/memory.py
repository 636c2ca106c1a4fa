"""How much memory a call needs above its inputs: peak and output bytes, from the allocator's own events."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from bench.core.proof import outputs_of


@dataclass(frozen=True)
class Memory:
    """What one call needs.

    peak_bytes: the most that torch's allocator held at once during the call, above what it held before;
    output_bytes: of that, what the results themselves occupy. What a library allocates past torch's allocator is not
    seen.
    """

    peak_bytes: int
    output_bytes: int


def measure(call: Callable[[], Any], device: torch.device) -> Memory:
    """Run `call` once and follow the allocator: CUDA's own peak counter, or the CPU allocator's events one by one."""
    return _on_cuda(call, device) if device.type == "cuda" else _on_cpu(call)


def _on_cuda(call: Callable[[], Any], device: torch.device) -> Memory:
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    result = call()
    torch.cuda.synchronize(device)
    return Memory(torch.cuda.max_memory_allocated(device) - before, _bytes(result))


def _on_cpu(call: Callable[[], Any]) -> Memory:
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        result = call()
    held = peak = 0
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return Memory(peak, _bytes(result))


def _bytes(result: Any) -> int:
    """The bytes of the distinct storages that hold a result."""
    storages = {value.untyped_storage().data_ptr(): value.untyped_storage().nbytes() for value in outputs_of(result)}
    return sum(storages.values())
