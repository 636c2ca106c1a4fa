"""The operator of planted.py by a Gluon kernel, which Triton can compile but not interpret."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from bench.core.operator import kernel
from tests import planted


@gluon.jit
def _double_in_gluon(x_ptr, y_ptr, cols, BLOCK: gl.constexpr):
    layout: gl.constexpr = gl.BlockedLayout([8], [32], [1], [0])
    col = gl.arange(0, BLOCK, layout=layout)
    at = gl.program_id(0) * cols + col
    gl.store(y_ptr + at, gl.load(x_ptr + at, mask=col < cols, other=0.0) * 2, mask=col < cols)


class Doubled(planted.Doubled):
    """y = 2 x, row by row."""

    @kernel
    def gluon(self, x: Tensor) -> Callable[[], Tensor]:
        def run() -> Tensor:
            y = torch.empty_like(x)
            _double_in_gluon[(len(x),)](x, y, x.shape[1], BLOCK=256, num_warps=1)
            return y

        return run
