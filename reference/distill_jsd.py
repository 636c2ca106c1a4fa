"""Generalised knowledge distillation from hidden states as the paper writes it.

Agarwal et al. 2024, "On-Policy Distillation of Language Models: Learning from Self-Generated Mistakes" (GKD),
arXiv:2306.13649, equation 1, of softmaxes at a temperature (Hinton et al. 2015, arXiv:1503.02531, equation 1).
"""

import math

import torch
from torch import Tensor


def distill_jsd(
    hidden: Tensor, weight: Tensor, teacher: tuple[Tensor, Tensor], beta: float = 0.5, temperature: float = 1.0
) -> Tensor:
    """The mean over rows of beta KL(p || m) + (1 - beta) KL(q || m), m = beta p + (1 - beta) q; p of the teacher.

    hidden (rows, K), weight (V, K), teacher: its (rows, L) and (V, L) -> a number, computed in at least fp32.
    """
    wide = torch.promote_types(hidden.dtype, torch.float32)
    teacher_hidden, teacher_weight = (value.to(hidden.dtype) for value in teacher)
    log_q = ((hidden @ weight.T).to(wide) / temperature).log_softmax(-1)
    log_p = ((teacher_hidden @ teacher_weight.T).to(wide) / temperature).log_softmax(-1)
    log_m = torch.logaddexp(log_p + math.log(beta), log_q + math.log1p(-beta))
    of_p, of_q = ((log.exp() * (log - log_m)).sum(-1) for log in (log_p, log_q))
    return (beta * of_p + (1 - beta) * of_q).mean().to(hidden.dtype)
