"""SGD with momentum as PyTorch defines it, over parameters that lie one behind the other.

Bottou, Curtis & Nocedal 2018, "Optimization Methods for Large-Scale Machine Learning", arXiv:1606.04838, section 7.
"""

from __future__ import annotations

import torch
from torch import Tensor


def sgd(
    params: Tensor, grads: Tensor, momentum_buffers: Tensor, step: int, lr: float = 1e-3, momentum: float = 0.9,
    dampening: float = 0.0, weight_decay: float | tuple[float, ...] = 0.0, nesterov: bool = False,
    sizes: tuple[int, ...] = (), seed: int | None = None,  # noqa: ARG001 - the textbook rounds to nearest
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Parameters and momentum after a step, computed in at least fp32, with one cast at the end.

    sizes, weight_decay: those of the parameters within params (n,), or one weight decay for all. Sutskever et al. 2013,
    section 2, equations 1 and 2 (classical) and 3 and 4 (Nesterov), with a velocity that lr has not multiplied yet.
    """
    wide = torch.promote_types(params.dtype, torch.float32)
    p, g, b = (tensor.to(wide) for tensor in (params, grads, momentum_buffers))
    if isinstance(weight_decay, tuple):
        each = zip(p.split(sizes or (len(p),)), weight_decay, strict=True)
        g = g + torch.cat([part * decay for part, decay in each])
    else:
        g = g + p * weight_decay
    b = g if step == 1 else momentum * b + (1 - dampening) * g
    p = p - lr * (g + momentum * b if nesterov else b)
    return p.to(params.dtype), b.to(momentum_buffers.dtype)
