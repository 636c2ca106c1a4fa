"""How much memory a call needs above its inputs, from the allocator's own events."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from bench.core.trial import Trial

NO_MEMORY = (
    "can't allocate memory", "bad_alloc", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED", "out of memory",
)  # fmt: skip


@dataclass(frozen=True)
class Memory:
    """What one call needs; in mode `bwd` a forward and the backward behind it.

    peak_bytes: the most that torch's allocator held at once, above what it held before; output_bytes: of that, the
    storages that hold the results; workspace_bytes: what is needed besides them; saved_bytes: what waits between
    forward and backward besides inputs and outputs, wherever it hides (None in mode `fwd`); least_bytes: the
    theoretical minimum, which is the results themselves. What a library allocates past torch is not seen.
    """

    peak_bytes: int
    output_bytes: int
    workspace_bytes: int
    saved_bytes: int | None
    least_bytes: int


def measure(trial: Trial, device: torch.device) -> Memory:
    """Run a trial that has run before, and follow the allocator: CUDA's counters, or the CPU's events one by one."""
    follow = _on_cuda if device.type == "cuda" else _on_cpu
    peak, _, results = follow(trial.once, device)
    saved = None
    if trial.mode == "bwd":
        _, held, outputs = follow(trial.forward, device)
        saved = max(0, held - _stored(outputs))
        del outputs
    output = _stored(results)
    least = sum(result.numel() * result.element_size() for result in results)
    return Memory(peak, output, max(0, peak - output), saved, least)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, a device's or the host's."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in NO_MEMORY)


def _on_cuda(call: Callable[[], Sequence[Tensor]], device: torch.device) -> tuple[int, int, Sequence[Tensor]]:
    """The peak of a call, what it still holds, and its results."""
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    results = call()
    torch.cuda.synchronize(device)
    held = torch.cuda.memory_allocated(device) - before
    return torch.cuda.max_memory_allocated(device) - before, held, results


def _on_cpu(call: Callable[[], Sequence[Tensor]], device: torch.device) -> tuple[int, int, Sequence[Tensor]]:  # noqa: ARG001
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        results = call()
    held = peak = 0
    events: list[Any] = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak, held, results


def _stored(results: Sequence[Tensor]) -> int:
    """The bytes of the distinct storages that hold tensors."""
    storages = {value.untyped_storage().data_ptr(): value.untyped_storage().nbytes() for value in results}
    return sum(storages.values())
