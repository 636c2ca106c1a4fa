"""The device of a run."""

from __future__ import annotations

import os

import torch


def choose() -> torch.device:
    """A GPU if torch sees one; else the CPU, where kernels are interpreted. Call it before kernels are imported.

    Triton decides at the import of a kernel whether it is interpreted, by the variable that is set here. Its
    interpreter is mended.
    """
    if torch.cuda.is_available():
        return torch.device("cuda")
    os.environ.setdefault("TRITON_INTERPRET", "1")
    from bench.core.interpreter import mend  # imports Triton, which looks at the variable

    mend()
    return torch.device("cpu")


def pinning() -> dict[str, str | None]:
    """The environment of a process whose threads stay on processors of their own: OpenMP's variables.

    What the user has set stays as it is.
    """
    wanted: dict[str, str | None] = {"OMP_PROC_BIND": "close", "OMP_PLACES": "cores"}
    return {name: value for name, value in wanted.items() if name not in os.environ}
