"""A kernel that does nothing but take exponentials, to find out how fast a GPU does that.

Each thread holds 8 values in registers and replaces each by 2^-x, 512 times: 8 independent chains hide the latency of
the special-function unit. Of memory it touches one load and one store per value.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import triton
import triton.language as tl

BLOCK = 1024
WARPS = 4
STEPS = 512
PROGRAMS = 16  # per multiprocessor


@triton.jit
def exponentials_kernel(x_ptr, BLOCK: tl.constexpr, STEPS: tl.constexpr):
    """x = 2^-x, STEPS times."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at)
    for _ in range(STEPS):
        x = tl.exp2(-x)
    tl.store(x_ptr + at, x)


def exponentials(device: torch.device) -> tuple[Callable[[], object], float]:
    """A launch that fills the GPU, and how many exponentials it takes."""
    programs = PROGRAMS * torch.cuda.get_device_properties(device).multi_processor_count
    x = torch.rand(programs * BLOCK, device=device)
    launch = exponentials_kernel[(programs,)]
    return lambda: launch(x, BLOCK=BLOCK, STEPS=STEPS, num_warps=WARPS), float(x.numel() * STEPS)
