"""Batch normalisation as the paper writes it: Ioffe & Szegedy 2015, arXiv:1502.03167, algorithms 1 and 2."""

from __future__ import annotations

import torch
from torch import Tensor


def _normalised(x: Tensor, mean: Tensor, variance: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """(x - mean) / sqrt(variance + eps) * weight + bias in at least fp32, with one cast at the end."""
    shape = (-1, *[1] * (x.ndim - 2))
    wide = torch.promote_types(x.dtype, torch.float32)
    mean, rstd, weight, bias = (each.to(wide).view(shape) for each in (mean, (variance + eps).rsqrt(), weight, bias))
    return ((x.to(wide) - mean) * rstd * weight + bias).to(x.dtype)


def batch_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    *,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> tuple[Tensor, Tensor, Tensor]:
    """x (N, C, ...) normalised by the mean and variance of each channel, and the new running statistics (C,).

    y uses the variance divided by n, the running variance moves towards that divided by n - 1, each by `momentum`; no
    gradient flows through running statistics. Algorithm 1; the moving averages: section 3.1, as torch takes them.
    """
    dims = [0, *range(2, x.ndim)]
    values = x.to(torch.promote_types(x.dtype, torch.float32))
    mean, variance = values.mean(dims), values.var(dims, correction=0)
    y = _normalised(x, mean, variance, weight, bias, eps)
    with torch.no_grad():
        unbiased = values.var(dims, correction=1)
        running_mean = (1 - momentum) * running_mean + momentum * mean
        running_var = (1 - momentum) * running_var + momentum * unbiased
    return y, running_mean, running_var


def batch_norm_inference(
    x: Tensor, weight: Tensor, bias: Tensor, running_mean: Tensor, running_var: Tensor, eps: float = 1e-5
) -> Tensor:
    """x (N, C, ...) normalised by the running statistics of each channel: algorithm 2."""
    return _normalised(x, running_mean, running_var, weight, bias, eps)
