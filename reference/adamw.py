"""AdamW as the paper writes it, over parameters that lie one behind the other."""

from __future__ import annotations

import torch
from torch import Tensor


def adamw(
    params: Tensor, grads: Tensor, exp_avgs: Tensor, exp_avg_sqs: Tensor, step: int, lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, weight_decay: float | tuple[float, ...] = 1e-2,
    sizes: tuple[int, ...] = (), seed: int | None = None,  # noqa: ARG001 - the textbook rounds to nearest
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Parameters and both moments after a step, computed in at least fp32, with one cast at the end.

    sizes, weight_decay: those of the parameters within params (n,), or one weight decay for all. Loshchilov & Hutter
    2019, arXiv:1711.05101, algorithm 2, lines 6 to 12, with lr for alpha and for the schedule's eta as in PyTorch.
    """
    wide = torch.promote_types(params.dtype, torch.float32)
    p, g, m, v = (tensor.to(wide) for tensor in (params, grads, exp_avgs, exp_avg_sqs))
    if isinstance(weight_decay, tuple):
        each = zip(p.split(sizes or (len(p),)), weight_decay, strict=True)
        p = torch.cat([part * (1 - lr * decay) for part, decay in each])
    else:
        p = p * (1 - lr * weight_decay)
    m = betas[0] * m + (1 - betas[0]) * g
    v = betas[1] * v + (1 - betas[1]) * g**2
    p = p - lr * (m / (1 - betas[0] ** step)) / ((v / (1 - betas[1] ** step)).sqrt() + eps)
    return p.to(params.dtype), m.to(exp_avgs.dtype), v.to(exp_avg_sqs.dtype)
