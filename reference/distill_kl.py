"""Distillation from hidden states as the textbook writes it.

Hinton et al. 2015, "Distilling the Knowledge in a Neural Network", arXiv:1503.02531, section 2: softened probabilities
(equation 1), compared by the Kullback-Leibler divergence, whose gradient is that of the paper's cross-entropy.
"""

import torch
from torch import Tensor


def distill_kl(hidden: Tensor, weight: Tensor, teacher: tuple[Tensor, Tensor], temperature: float = 1.0) -> Tensor:
    """The mean over rows of sum p (log p - log q), p of the teacher and q of the student, both at the temperature.

    hidden (rows, K), weight (V, K), teacher: its (rows, L) and (V, L) -> a number, computed in at least fp32.
    """
    wide = torch.promote_types(hidden.dtype, torch.float32)
    teacher_hidden, teacher_weight = (value.to(hidden.dtype) for value in teacher)
    log_q = ((hidden @ weight.T).to(wide) / temperature).log_softmax(-1)
    log_p = ((teacher_hidden @ teacher_weight.T).to(wide) / temperature).log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1).mean().to(hidden.dtype)
