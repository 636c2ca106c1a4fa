"""The softmax as the textbook writes it: Bridle 1990; Goodfellow, Bengio & Courville 2016, "Deep Learning", 4.1."""

import torch
from torch import Tensor


def softmax(x: Tensor) -> Tensor:
    """exp(x - max) / sum(exp(x - max)) over the last dimension; x, y (..., cols).

    The maximum cancels, and nothing overflows; a row of -inf alone has no probabilities and is NaN. In at least fp32,
    with one cast at the end.
    """
    if x.shape[-1] == 0:
        return x.clone()
    values = x.to(torch.promote_types(x.dtype, torch.float32))
    exponentials = torch.exp(values - values.amax(dim=-1, keepdim=True).detach())
    return (exponentials / exponentials.sum(dim=-1, keepdim=True)).to(x.dtype)
