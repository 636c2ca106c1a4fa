"""What tests of memory share: what a call of our kernel needs, and what stands for a kernel that is not launched."""

from __future__ import annotations

import gc
from typing import Any

from bench.core import device, memory
from bench.core.case import Make
from bench.core.operator import Operator
from bench.core.trial import Trial

ROUNDED_UP = 4 * 512  # bytes that allocators add to a few small tensors


class NotLaunched:
    """Stands for a kernel, and for one by its configuration, of which only what its launcher allocates is looked at."""

    def __getitem__(self, _: Any) -> Any:
        return self

    def __call__(self, *_: Any, **__: Any) -> None:
        return None


def measured(trial: Trial) -> memory.Memory:
    """The memory of a trial, behind a first call."""
    trial.once()
    # What an interpreted call leaves in cycles would be given back in the middle of the next, which is measured.
    gc.collect()
    return memory.measure(trial, device.choose())


def needed_by(operator: type[Operator], mode: str, sizes: dict[str, Any], make: type[Make]) -> memory.Memory:
    """The memory of our kernel at these sizes."""
    declared, where = operator(), device.choose()
    return measured(Trial(declared.provider("triton"), declared.inputs(make(where), **sizes), mode))
