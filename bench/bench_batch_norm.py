"""Batch normalisation in training and at inference: checks, sweep, cost and providers."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch import dtype as Dtype  # noqa: N812 - `dtype` is an axis
from torch.backends import cudnn
from torch.nn import functional

import kernels.batch_norm
import reference.batch_norm
from bench.core.operator import Inputs, Make, Operator, bf16, fp16, fp32, grid, kernel, needs_cuda, peer
from bench.models import SEQ_LENS, FeatureMaps, feature_maps

Outputs = tuple[Tensor, Tensor, Tensor]
PATCHES = 196  # of 16 x 16 pixels, which a picture of 224 x 224 has: so many tokens of a sequence are one picture
# One whose channels a program can hold at most lengths, one whose channels it cannot, then the others.
STAGES = ("resnet50-conv5", "resnet50-conv2", "resnet50-conv4", "resnet50-conv3", "resnet50-conv1")


def moved(running: Callable[[Tensor, Tensor], Tensor], mean: Tensor, var: Tensor) -> Outputs:
    """What torch gives, which writes over the running statistics: it is handed copies of them."""
    mean, var = mean.detach().clone(), var.detach().clone()
    return running(mean, var), mean, var


class BatchNorm(Operator):
    """Bound by memory. Channels that a program can hold are read once; others twice: the first y waits for the last x.

    A length counts pictures: as many as a vision transformer would make so many tokens of.
    """

    entry = staticmethod(kernels.batch_norm.batch_norm)
    reference = staticmethod(reference.batch_norm.batch_norm)
    # Both layouts; two positions; no spatial axes. With a large mean, which a variance of raw squares would drown in:
    # channels as large as a program can hold in the backward, in the forward, and larger: several tiles in a stretch
    # and several stretches.
    checks = (
        grid(shape=[(3, 70, 3, 3)], channels_last=[True], dtype=[fp32, bf16])
        + grid(shape=[(2, 3, 5, 7)], channels_last=[False], dtype=[fp32, fp16])
        + grid(shape=[(9, 33), (2, 1), (4, 2, 9)], dtype=[fp32])
        + grid(shape=[(9, 33)], dtype=[bf16], weight_dtype=[bf16])
        + grid(shape=[(1, 9, 33, 62), (2, 9, 33, 62), (2, 9, 33, 63)], channels_last=[True], dtype=[fp32], mean=[1e3])
        + grid(shape=[(4, 2, 33, 63), (5, 2, 33, 63), (9, 5, 33, 63)], channels_last=[False], dtype=[fp32], mean=[1e3])
    )
    # Contiguous in the stages whose pictures are large: few of them fill the tile of a channel.
    sweep = grid(model=feature_maps(*STAGES), seq_len=SEQ_LENS, channels_last=[True], dtype=[bf16]) + grid(
        model=feature_maps("resnet50-conv2", "resnet50-conv1"), seq_len=SEQ_LENS, channels_last=[False], dtype=[bf16]
    )
    hostile = {"shape": (3, 4, 2, 5), "dtype": fp32}
    grad = True

    def sizes(self, model: FeatureMaps, seq_len: int, channels_last: bool, dtype: Dtype) -> dict[str, Any]:
        shape = (max(1, seq_len // PATCHES), model.channels, model.side, model.side)
        return {"shape": shape, "channels_last": channels_last, "dtype": dtype}

    def inputs(
        self,
        make: Make,
        shape: tuple[int, ...],
        dtype: Dtype,
        channels_last: bool = False,
        weight_dtype: Dtype = fp32,
        mean: float = 0.0,
    ) -> Inputs:
        """All that belongs to a channel in fp32, as mixed precision keeps it."""
        x = make.normal(*shape, dtype=dtype) + mean
        if channels_last:
            x = x.to(memory_format=torch.channels_last)
        weight, bias = (make.normal(shape[1], dtype=weight_dtype) for _ in range(2))
        running_mean, running_var = make.normal(shape[1], dtype=fp32), make.uniform(0.5, 2.0, shape[1], dtype=fp32)
        running = {"running_mean": running_mean, "running_var": running_var}
        return {"x": x, "weight": weight, "bias": bias, **running, "momentum": 0.1, "eps": 1e-5}

    def traffic(self, mode: str, shape: tuple[int, ...], dtype: Dtype, weight_dtype: Dtype = fp32, **_: Any) -> int:
        """fwd: x, weight, bias, running statistics; y, new ones. bwd: dy, x, weight; dx, dweight, dbias."""
        tensors, weights, statistics = {"fwd": (2, 2, 4), "bwd": (3, 3, 0)}[mode]
        channels = weights * weight_dtype.itemsize + statistics * 4
        return tensors * prod(shape) * dtype.itemsize + channels * shape[1]

    def flops(self, mode: str, shape: tuple[int, ...], **_: Any) -> int:
        """fwd: mean, difference, square, sum, two products, bias. bwd: m (2), sums (3), dx (5)."""
        return {"fwd": 7, "bwd": 10}[mode] * prod(shape)

    @kernel
    def triton(self, **inputs: Any) -> Callable[[], Outputs]:
        return lambda: kernels.batch_norm.batch_norm(**inputs)

    @peer()
    def eager(
        self, x: Tensor, weight: Tensor, bias: Tensor, running_mean: Tensor, running_var: Tensor, momentum: float,
        eps: float,
    ) -> Callable[[], Outputs]:  # fmt: skip
        """Torch's choice: cuDNN's kernels or its own."""

        def run(mean: Tensor, var: Tensor) -> Tensor:
            return functional.batch_norm(x, mean, var, weight, bias, training=True, momentum=momentum, eps=eps)

        return lambda: moved(run, running_mean, running_var)

    @peer()
    def native(
        self, x: Tensor, weight: Tensor, bias: Tensor, running_mean: Tensor, running_var: Tensor, momentum: float,
        eps: float,
    ) -> Callable[[], Outputs]:  # fmt: skip
        """Torch's own kernels, cuDNN or not."""
        needs_cuda(x)

        def run(mean: Tensor, var: Tensor) -> Tensor:
            with cudnn.flags(enabled=False):
                return functional.batch_norm(x, mean, var, weight, bias, training=True, momentum=momentum, eps=eps)

        return lambda: moved(run, running_mean, running_var)


class BatchNormInference(Operator):
    """Bound by memory: one read and one write per element."""

    entry = staticmethod(kernels.batch_norm.batch_norm_inference)
    reference = staticmethod(reference.batch_norm.batch_norm_inference)
    checks = (
        grid(shape=[(3, 70, 3, 3)], channels_last=[True], dtype=[fp32, bf16])
        + grid(shape=[(2, 3, 5, 7)], channels_last=[False], dtype=[fp32, bf16])
        + grid(shape=[(9, 33), (1, 1), (0, 2, 9)], dtype=[fp16])
        + grid(shape=[(3, 2, 48, 48)], channels_last=[False, True], dtype=[fp32], mean=[1000.0])
    )
    sweep, hostile = BatchNorm.sweep, BatchNorm.hostile
    vast = {"shape": (2**13 + 1, 64, 64, 64), "channels_last": True, "dtype": bf16}
    rows_of = ("x",)
    prepared = ("weight", "bias", "running_mean", "running_var")

    def sizes(self, model: FeatureMaps, seq_len: int, channels_last: bool, dtype: Dtype) -> dict[str, Any]:
        return BatchNorm().sizes(model, seq_len, channels_last, dtype)

    def inputs(self, make: Make, **sizes: Any) -> Inputs:
        inputs = BatchNorm().inputs(make, **sizes)
        return {name: value for name, value in inputs.items() if name != "momentum"}

    def traffic(self, mode: str, shape: tuple[int, ...], dtype: Dtype, weight_dtype: Dtype = fp32, **_: Any) -> int:
        """x, weight, bias, running statistics; y."""
        return 2 * prod(shape) * dtype.itemsize + (2 * weight_dtype.itemsize + 2 * 4) * shape[1]

    def flops(self, mode: str, shape: tuple[int, ...], **_: Any) -> int:
        """One scale and one shift."""
        return 2 * prod(shape)

    @kernel
    def triton(self, **inputs: Any) -> Callable[[], Tensor]:
        return lambda: kernels.batch_norm.batch_norm_inference(**inputs)

    @peer()
    def eager(
        self, x: Tensor, weight: Tensor, bias: Tensor, running_mean: Tensor, running_var: Tensor, eps: float
    ) -> Callable[[], Tensor]:
        """Torch's choice: cuDNN's kernels or its own."""
        return lambda: functional.batch_norm(x, running_mean, running_var, weight, bias, training=False, eps=eps)

    @peer()
    def native(
        self, x: Tensor, weight: Tensor, bias: Tensor, running_mean: Tensor, running_var: Tensor, eps: float
    ) -> Callable[[], Tensor]:
        """Torch's own kernels, cuDNN or not."""
        needs_cuda(x)

        def run() -> Tensor:
            with cudnn.flags(enabled=False):
                return functional.batch_norm(x, running_mean, running_var, weight, bias, training=False, eps=eps)

        return run
