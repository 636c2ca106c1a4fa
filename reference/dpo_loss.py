"""Direct Preference Optimization as the paper writes it.

Rafailov et al. 2023, "Direct Preference Optimization: Your Language Model is Secretly a Reward Model",
arXiv:2305.18290, equation 7; with label smoothing, the conservative loss of E. Mitchell's note of 2023, as in TRL.
"""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def dpo_loss(
    logprob: Tensor, reference_logprob: Tensor, mask: Tensor, beta: float = 0.1, label_smoothing: float = 0.0
) -> Tensor:
    """-mean log sigma(beta (log-ratio of the chosen - log-ratio of the rejected answer)), in at least fp32.

    logprob, reference_logprob, mask (2 n, L): of n chosen answers, then of the n rejected ones -> a number. The
    log-ratio of an answer is the sum of logprob - reference_logprob over its tokens whose mask is not 0.
    """
    wide = torch.promote_types(logprob.dtype, torch.float32)
    ratio = torch.where(mask != 0, logprob.to(wide) - reference_logprob.to(wide), 0).sum(-1)
    chosen, rejected = ratio.chunk(2)
    h = beta * (chosen - rejected)
    return -((1 - label_smoothing) * logsigmoid(h) + label_smoothing * logsigmoid(-h)).mean()
