"""The log-probability of chosen tokens as the textbook writes it.

Rafailov et al. 2023, "Direct Preference Optimization", arXiv:2305.18290; Shao et al. 2024, "DeepSeekMath" (GRPO),
arXiv:2402.03300: the log pi(y_t | x, y_<t) that both are made of.
"""

import torch
from torch import Tensor


def selected_logprob(logits: Tensor, tokens: Tensor, ignore_index: int = -100) -> Tensor:
    """log softmax(logits)[token] of each row, 0 where the token is ignore_index; in at least fp32.

    logits (rows, V), tokens (rows,) -> (rows,).
    """
    chosen = tokens != ignore_index
    log_p = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
    return torch.where(chosen, log_p.gather(1, torch.where(chosen, tokens, 0).long()[:, None]).squeeze(1), 0)
