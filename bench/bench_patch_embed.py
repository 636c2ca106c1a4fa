"""Patches of pictures as tokens: checks, sweep, cost and providers."""

from __future__ import annotations

from collections.abc import Callable
from math import isqrt, prod
from typing import Any

from torch import Tensor
from torch import dtype as Dtype  # noqa: N812 - `dtype` is an axis
from torch.nn import functional

import kernels.patch_embed
import reference.patch_embed
from bench.core.operator import Inputs, Make, Operator, bf16, fp16, fp32, grid, kernel, peer
from bench.models import SEQ_LENS, Model, models

Run = Callable[[], Tensor]


class PatchEmbed(Operator):
    """A product of matrices, one of which is the picture itself: bound by arithmetic once there are enough patches."""

    entry = staticmethod(kernels.patch_embed.patch_embed)
    reference = staticmethod(reference.patch_embed.patch_embed)
    # Borders of tiles in patches, pixels of a patch and columns; patches of one pixel; more patches than one share of
    # the sums; no pictures.
    checks = (
        grid(shape=[(2, 3, 8, 12)], patch=[4], width=[5], biased=[True, False], dtype=[fp32])
        + grid(shape=[(1, 3, 14, 28)], patch=[14], width=[33], dtype=[fp32, fp16, bf16])
        + grid(shape=[(2, 1, 3, 2), (0, 2, 4, 4)], patch=[1], width=[1], dtype=[fp32])
        + grid(shape=[(1, 1, 48, 48)], patch=[2], width=[3], dtype=[fp32, bf16])
        + grid(shape=[(1, 3, 16, 32)], patch=[16], width=[130], dtype=[bf16])
    )
    sweep = grid(model=models("vit-b", "vit-l", "clip-vit-l", "vit-h"), seq_len=SEQ_LENS, dtype=[bf16])
    hostile = {"shape": (2, 2, 4, 6), "patch": 2, "width": 5, "dtype": fp32}
    vast = {"shape": (14300, 3, 224, 224), "patch": 16, "width": 768, "dtype": bf16}
    grad = True
    rows_of = ("pixels",)

    def sizes(self, model: Model, seq_len: int, dtype: Dtype) -> dict[str, Any]:
        """As many whole pictures as have so many patches, at least one; the class token is none of them."""
        patches = model.max_seq_len - 1
        side = isqrt(patches) * model.patch_size
        shape = (max(1, seq_len // patches), 3, side, side)
        biased = model.name != "clip-vit-l"
        return {
            "shape": shape,
            "patch": model.patch_size,
            "width": model.hidden_size,
            "biased": biased,
            "dtype": dtype,
        }

    def inputs(
        self,
        make: Make,
        shape: tuple[int, int, int, int],
        patch: int,
        width: int,
        dtype: Dtype,
        biased: bool = True,
    ) -> Inputs:
        """Weights that keep the variance of the pixels."""
        pixels = make.normal(*shape, dtype=dtype)
        depth = shape[1] * patch * patch
        weight = make.normal(width, shape[1], patch, patch, dtype=dtype, scale=depth**-0.5)
        return {"pixels": pixels, "weight": weight, "bias": make.normal(width, dtype=dtype) if biased else None}

    def traffic(
        self, mode: str, shape: tuple[int, int, int, int], patch: int, width: int, dtype: Dtype, biased: bool = True
    ) -> int:
        """fwd: pixels, weight, bias; out. bwd: dout, pixels, weight; dpixels, dweight, dbias."""
        pixels, weight = prod(shape), width * shape[1] * patch * patch
        out = pixels // (shape[1] * patch * patch) * width
        each = {"fwd": 1, "bwd": 2}[mode]
        return (each * (pixels + weight) + out + biased * width) * dtype.itemsize

    def flops(self, mode: str, shape: tuple[int, int, int, int], width: int, **_: Any) -> int:
        """One product of matrices, two in the backward: a product and a sum for each pixel and column."""
        return {"fwd": 2, "bwd": 4}[mode] * prod(shape) * width

    @kernel
    def triton(self, **inputs: Any) -> Run:
        return lambda: kernels.patch_embed.patch_embed(**inputs)

    @peer()
    def eager(self, pixels: Tensor, weight: Tensor, bias: Tensor | None) -> Run:
        """A convolution whose stride is its size, as models write it: cuDNN's on a GPU."""
        stride = weight.shape[2]
        return lambda: functional.conv2d(pixels, weight, bias, stride=stride).flatten(2).transpose(1, 2)

    @peer()
    def unfold(self, pixels: Tensor, weight: Tensor, bias: Tensor | None) -> Run:
        """The patches copied side by side, and one product of matrices: cuBLAS on a GPU."""
        (batch, channels, height, width), size = pixels.shape, weight.shape[2]

        def run() -> Tensor:
            patches = pixels.reshape(batch, channels, height // size, size, width // size, size)
            rows = patches.permute(0, 2, 4, 1, 3, 5).reshape(batch, -1, channels * size * size)
            return functional.linear(rows, weight.flatten(1), bias)

        return run
