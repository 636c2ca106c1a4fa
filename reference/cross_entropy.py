"""Cross-entropy as the textbook writes it.

Bishop 2006, Pattern Recognition and Machine Learning, section 4.3.4; label smoothing as in section 7 of Szegedy et al.
2015, "Rethinking the Inception Architecture", arXiv:1512.00567.
"""

import torch
from torch import Tensor


def cross_entropy(logits: Tensor, targets: Tensor, ignore_index: int = -100, label_smoothing: float = 0.0) -> Tensor:
    """The mean of -log softmax(logits)[target] over the rows whose target is not ignore_index.

    logits (rows, V), targets (rows,) -> a number, computed in at least fp32. With label smoothing s the target is the
    distribution (1 - s) [j = t] + s / V.
    """
    counts = targets != ignore_index
    log_p = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
    loss = -log_p.gather(1, torch.where(counts, targets, 0).long()[:, None]).squeeze(1)
    if label_smoothing:
        loss = (1 - label_smoothing) * loss - label_smoothing * log_p.mean(-1)
    return (torch.where(counts, loss, 0).sum() / counts.sum()).to(logits.dtype)
