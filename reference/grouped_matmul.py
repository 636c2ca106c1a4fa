"""Products of rows with the matrix of the expert that each belongs to, as the textbook writes them."""

from __future__ import annotations

import torch
from torch import Tensor


def grouped_matmul(x: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    """y_r = x_r @ weight[e]^T for the rows r of expert e: those from ends[e - 1] (0 for the first) to ends[e].

    x: (rows, K) sorted by expert; weight: (experts, N, K); ends: (experts,), never falling. Returns (rows, N); rows
    behind the last end belong to no expert and are zero.
    Source: Fedus et al. 2021, Switch Transformers (arXiv:2101.03961), equation 2, for all tokens of an expert at once.
    """
    bounds = [0, *ends.tolist()]
    parts = [x[start:stop] @ matrix.T for start, stop, matrix in zip(bounds[:-1], bounds[1:], weight, strict=True)]
    behind = x[bounds[-1] :] @ torch.zeros_like(weight[0]).T
    return torch.cat([*parts, behind])
