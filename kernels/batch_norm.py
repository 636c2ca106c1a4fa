"""y = (x - mean) rstd weight + bias for each channel, rstd = 1 / sqrt(variance + eps): of the batch, or running ones.

Shapes: x, y (N, C, ...), the others (C,); n = N x what follows C positions have a channel. In training the statistics
are those of the batch, and new running ones come back beside y: the inputs stay as they are. Backward, with
m = (x - mean) rstd:  dbias = sum dy,  dweight = sum dy m,  dx = (dy - dbias / n - m dweight / n) rstd weight.

Which kernels run: where a program can hold its channels whole, a tile of at most 32768 elements (in the backward 16384,
of dy and x), one kernel does all (`whole` in _whole_channels.py decides). It reads x once, takes the variance from
centred values in registers, writes y, moves the running statistics: at the floor. A tile is all pixels of all pictures
of a channel; channels-last, all positions of the 16 channels (in fp32 8) that share a sector of 32 bytes, so that none
is moved twice. Each is rounded up to a power of two. Forward, of ResNet-50 that is, contiguous, 2 pictures of conv1, 8,
32, 128 and 512 of conv2 to conv5; channels-last in bf16, 2 of conv3, 10 of conv4, 41 of conv5. The backward reads dy
and x once and writes dx, beside 8 bytes of statistics for each channel: 1.01x of the floor at 2 pictures of conv5.
Larger channels are split. A program owns BLOCK_C channels and a stretch of positions. Each lane of its tile has its own
running mean and squares (no large mean can cancel them), merged at the end; a second kernel merges the stretches of a
channel in a fixed order and moves the running statistics; a third reads x again and writes y, a tile to a program. The
first y waits for the last x: no kernel can read x once here unless all programs together hold the whole tensor on chip.
That is 1.5x of the floor, 1.67x in the backward (dy and x twice, summed in the same stretches), unless L2 holds it.
Inference is the third kernel alone, at the floor.
Layout: channels-last tensors (and (N, C)) and contiguous ones are read where they are, y and dx lie like x; others are
copied, and dy may lie either way. Accesses are of 128 bits, in contiguous tensors where a channel has a multiple of 16
positions in a picture. The kernels of stretches stand in _channels.py.
Source: Ioffe & Szegedy 2015, arXiv:1502.03167; moments: Welford 1962, merged as in Chan et al. 1979.
"""

from __future__ import annotations

from math import prod
from typing import Any

import torch
import triton
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels import _channels as channels
from kernels import _whole_channels as resident
from kernels._channels import CHANNELS, MERGED, dense, is_last, stretches, tiles
from kernels._launch import FLOATS, device_of, expect, expect_device, expect_inference, expect_tensor
from kernels._whole_channels import BACKWARD, FORWARD, whole

Pair = tuple[Tensor, Tensor]


def _launch_normalise(x: Tensor, mean: Tensor, var: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """y, from statistics whichever they are."""
    last, size, options, programs = tiles(x)
    x = dense(x, last)
    y = torch.empty_like(x)
    with device_of(x):
        channels.normalise[(programs,)](x, mean, var, weight.contiguous(), bias.contiguous(), y, size, eps, **options)
    return y


def _launch_stretches(
    x: Tensor, weight: Tensor, bias: Tensor, running: Pair, moved: Pair, stats: Tensor, momentum: float, eps: float
) -> Tensor:
    """y of channels that no program can hold: moments of stretches, those of channels, and x once more."""
    _, size, options, _ = tiles(x)
    steps, splits, programs = stretches(x, size, options)
    parts = torch.empty(2, splits, size[2], dtype=torch.float32, device=x.device)
    block_s = max(64, triton.next_power_of_2(splits))
    block_c = min(CHANNELS, max(1, MERGED // block_s))
    length = steps * options["BLOCK_P"]
    with device_of(x):
        channels.moments[(programs,)](x, parts, size, steps, splits, **options)
        channels.merge[(triton.cdiv(size[2], block_c),)](
            parts, stats, running, moved, size, length, splits, momentum, BLOCK_S=block_s, BLOCK_C=block_c, num_warps=8
        )
    return _launch_normalise(x, stats[0], stats[1], weight, bias, eps)


def _sums(dy: Tensor, x: Tensor, stats: Tensor, eps: float, dy_last: bool) -> Tensor:
    """dbias and dweight of channels that no program can hold."""
    _, size, options, _ = tiles(x)
    steps, splits, programs = stretches(x, size, options)
    parts = torch.empty(2, splits, size[2], dtype=torch.float32, device=x.device)
    with device_of(x):
        channels.sums[(programs,)](dy, x, stats, parts, size, steps, splits, eps, DY_LAST=dy_last, **options)
    return parts.sum(1)


class _BatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor, momentum: float, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        last, size, *_ = tiles(x)
        x, ctx.eps = dense(x, last), eps
        stats = torch.empty(2, size[2], dtype=torch.float32, device=x.device)
        running, moved = (mean.contiguous(), var.contiguous()), (torch.empty_like(stats[0]), torch.empty_like(stats[0]))
        if held := whole(x, last, size, FORWARD):
            programs, stride, options = held
            y, affine = torch.empty_like(x), (weight.contiguous(), bias.contiguous())
            kept = stats if any(ctx.needs_input_grad) else None
            with device_of(x):
                resident.forward[(programs,)](
                    x, affine, running, moved, kept, y, (stride, stride), size, momentum, eps, **options
                )
        else:
            y = _launch_stretches(x, weight, bias, running, moved, stats, momentum, eps)
        ctx.save_for_backward(x, weight, stats)
        ctx.mark_non_differentiable(*moved)
        ctx.set_materialize_grads(False)
        return y, *moved

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
        if dy is None:
            return (None,) * 7
        x, weight, stats = ctx.saved_tensors
        last, size, options, programs = tiles(x)
        dy = dy if is_last(dy) or dy.is_contiguous() else dense(dy, last)
        dy_last, weight = is_last(dy), weight.contiguous()
        dx = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        held = whole(x, last, size, BACKWARD)
        sums = torch.empty_like(stats) if held else _sums(dy, x, stats, ctx.eps, dy_last)
        with device_of(x):
            if held:
                programs, stride, options = held
                resident.backward[(programs,)](
                    dy, x, stats, weight, sums, dx, (stride,) * 3, size, ctx.eps, DY_LAST=dy_last, **options
                )
            elif dx is not None:
                channels.backward[(programs,)](
                    dy, x, stats, weight, sums, dx, size, ctx.eps, DY_LAST=dy_last, **options
                )
        dbias, dweight = sums.to(weight.dtype)
        return dx, dweight, dbias, None, None, None, None


def _check(x: Tensor, weight: Tensor, bias: Tensor, running_mean: Tensor, running_var: Tensor, **rates: float) -> None:
    expect_tensor("x", x, dtypes=FLOATS)
    expect(x.ndim >= 2 and x.shape[1] >= 1, "x", "shape (N, C, ...) with at least one channel", tuple(x.shape))
    either, wide = tuple({x.dtype: 0, torch.float32: 0}), (torch.float32,)
    expect_tensor("weight", weight, dtypes=either, rank=1)
    for name, value, dtypes in (
        ("weight", weight, either), ("bias", bias, (weight.dtype,)),
        ("running_mean", running_mean, wide), ("running_var", running_var, wide),
    ):  # fmt: skip
        expect_tensor(name, value, dtypes=dtypes, rank=1)
        expect_device(name, value, "x", x)
        expect(len(value) == x.shape[1], name, f"shape ({x.shape[1]},), one for each channel", tuple(value.shape))
    for name, rate in rates.items():
        if isinstance(rate, bool) or not isinstance(rate, int | float):
            raise TypeError(f"{name}: expected a number, got {type(rate).__name__}")
        expect(0 <= rate < float("inf"), name, "a finite number that is not negative", rate)


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
    """x normalised by the statistics of its channels, and the new running mean and variance: as new tensors.

    x: (N, C, ...), at least 2 positions for a channel, fp32, fp16 or bf16; weight, bias: (C,), in x's dtype or fp32;
    running statistics: (C,) fp32, which no gradient flows through; any strides. y uses the variance divided by n, the
    running variance moves towards that divided by n - 1, as torch's. Differentiable in x, weight and bias.
    arXiv:1502.03167, algorithm 1.

    Raises:
        TypeError, ValueError: an argument is not as described, or momentum or eps is negative or not finite.
    """
    _check(x, weight, bias, running_mean, running_var, momentum=momentum, eps=eps)
    positions = x.shape[0] * prod(x.shape[2:])
    expect(positions >= 2, "x", "at least 2 positions for a channel, since one has no variance", tuple(x.shape))
    return _BatchNorm.apply(x, weight, bias, running_mean, running_var, float(momentum), float(eps))


def batch_norm_inference(
    x: Tensor, weight: Tensor, bias: Tensor, running_mean: Tensor, running_var: Tensor, eps: float = 1e-5
) -> Tensor:
    """x normalised by running statistics; for inference: an argument that asks for a gradient is refused.

    Arguments and what is raised as in `batch_norm`; N may be 0. arXiv:1502.03167, algorithm 2.
    """
    _check(x, weight, bias, running_mean, running_var, eps=eps)
    for name, value in (("x", x), ("weight", weight), ("bias", bias)):
        expect_inference(name, value)
    if x.numel() == 0:
        return torch.empty_like(x)
    return _launch_normalise(x, running_mean.contiguous(), running_var.contiguous(), weight, bias, float(eps))
