"""Attention within (shifted) windows of a picture: checks, sweep, cost and providers."""

from __future__ import annotations

import random
from collections.abc import Callable
from math import isqrt
from typing import Any

import torch
from torch import Tensor
from torch import dtype as Dtype  # noqa: N812 - `dtype` is an axis
from torch.nn import functional
from torch.nn.attention.flex_attention import flex_attention

import kernels.window_attention
import reference.window_attention
from bench.core.operator import (
    Inputs,
    Make,
    Operator,
    Sample,
    Unsupported,
    bf16,
    fp16,
    fp32,
    grid,
    kernel,
    needs_cuda,
    peer,
)
from bench.models import SEQ_LENS, Model, models

Run = Callable[[], Tensor]
PROVABLE_SCORES = 1 << 22
# The stages whose pictures are the smallest come first; the last stage of Swin at 224 pixels is a single window.
STAGES = (
    "swin-tiny-224-stage3", "swin-base-224-stage3", "swin-base-224-stage1", "swin-tiny-224-stage1",
    "swin-base-224-stage2", "swin-tiny-224-stage2", "swin-base-224-stage4", "swin-tiny-224-stage4",
    "swin-base-384-stage3", "swin-base-384-stage1",
)  # fmt: skip


def partitioned(x: Tensor, window: int, shift: int) -> Tensor:
    """(B, H, W, heads, D) as (windows, heads, tokens of a window, D)."""
    if shift:
        x = x.roll((-shift, -shift), (1, 2))
    x = x.unflatten(2, (-1, window)).unflatten(1, (-1, window))
    return x.permute(0, 1, 3, 5, 2, 4, 6).flatten(0, 2).flatten(2, 3)


def joined(o: Tensor, size: tuple[int, int, int], window: int, shift: int) -> Tensor:
    """What `partitioned` has taken apart."""
    batch, height, width = size
    o = o.unflatten(2, (window, window)).unflatten(0, (batch, height // window, width // window))
    o = o.permute(0, 1, 4, 2, 5, 3, 6).flatten(3, 4).flatten(1, 2)
    return o.roll((shift, shift), (1, 2)) if shift else o


def positions(window: int, device: torch.device) -> Tensor:
    """For each pair of tokens of a window the entry of the bias table."""
    place = torch.arange(window * window, device=device)
    down, right = (x[:, None] - x[None, :] + window - 1 for x in (place // window, place % window))
    return down * (2 * window - 1) + right


def regions(size: tuple[int, int, int], window: int, shift: int, device: torch.device) -> Tensor:
    """(windows, tokens): tokens see each other where these are equal."""
    batch, height, width = size
    row, col = torch.arange(height, device=device), torch.arange(width, device=device)
    region = 2 * (row >= height - shift)[:, None] + (col >= width - shift)[None, :].int()
    return partitioned(region.expand(batch, -1, -1)[..., None, None], window, 0).flatten(1)


class WindowAttention(Operator):
    """Bound by memory: a window has so few tokens that q, k, v and o take longer to move than scores to compute."""

    entry = staticmethod(kernels.window_attention.window_attention)
    reference = staticmethod(reference.window_attention.window_attention)
    # Windows of one tile and of several, of one token, no windows; more windows than programs stride over them.
    checks = (
        grid(size=[(2, 6, 9)], window=[3], shift=[1], heads=[1], head_dim=[5], dtype=[fp32])
        + grid(size=[(1, 7, 14)], window=[7], shift=[3], heads=[1], head_dim=[32], dtype=[fp32, fp16, bf16])
        + grid(size=[(1, 12, 12)], window=[12], shift=[5], heads=[1], head_dim=[24], dtype=[fp32, bf16])
        + grid(size=[(1, 8, 8)], window=[8], heads=[2], head_dim=[80], biased=[False], dtype=[bf16])
        + grid(size=[(1, 4, 6)], window=[2], shift=[1], heads=[2], head_dim=[3], scale=[-0.7], dtype=[fp32])
        + grid(size=[(1, 2, 3)], window=[1], heads=[2], head_dim=[16], bias_dtype=[fp32], dtype=[fp32, bf16])
        + grid(size=[(0, 4, 4), (2, 0, 4)], window=[2], shift=[1], heads=[2], head_dim=[4], dtype=[fp32])
    )
    sweep = [
        point
        for point in grid(model=models(*STAGES, "qwen2.5-vl-vision"), seq_len=SEQ_LENS, dtype=[bf16])
        if point["seq_len"] >= point["model"].max_seq_len or point["model"].name == "qwen2.5-vl-vision"
    ]
    hostile = {"size": (2, 2, 4), "window": 2, "shift": 1, "heads": 2, "head_dim": 8, "dtype": fp32}
    vast = {"size": (7200, 56, 56), "window": 7, "shift": 3, "heads": 3, "head_dim": 32, "dtype": bf16}
    grad = True

    def sizes(self, model: Model, seq_len: int, dtype: Dtype) -> dict[str, Any]:
        """Of Swin as many whole pictures as have so many tokens, its windows shifted; of Qwen one such picture."""
        window, biased = model.window_side, model.name.startswith("swin")
        batch, side = max(1, seq_len // model.max_seq_len), isqrt(model.max_seq_len)
        size = (batch, side, side)
        if seq_len < model.max_seq_len:
            height = max(1, isqrt(seq_len) // window) * window
            size = (1, height, max(1, seq_len // (height * window)) * window)
        shift = window // 2 if biased and side > window else 0
        heads = {"heads": model.num_heads, "head_dim": model.head_dim}
        return {"size": size, "window": window, "shift": shift, "biased": biased, "dtype": dtype, **heads}

    def inputs(
        self, make: Make, size: tuple[int, int, int], window: int, heads: int, head_dim: int, dtype: Dtype,
        shift: int = 0, biased: bool = True, bias_dtype: Dtype | None = None, scale: float | None = None,
    ) -> Inputs:  # fmt: skip
        """Views of one projection, as models hand them over."""
        q, k, v = make.normal(*size, 3, heads, head_dim, dtype=dtype).unbind(3)
        table = make.normal((2 * window - 1) ** 2, heads, dtype=bias_dtype or dtype) if biased else None
        return {"q": q, "k": k, "v": v, "bias_table": table, "window": window, "shift": shift, "scale": scale}

    def samples(self, inputs: Inputs, seed: int = 0) -> list[Sample]:
        """The first, the last and some picture by lot; where windows are not shifted, a row of windows of each."""
        (batch, height, width, heads, _), window = inputs["q"].shape, inputs["window"]
        if batch * heads * height * width * window**2 <= PROVABLE_SCORES:
            return []
        lot, rows = random.Random(seed), height if inputs["shift"] else window
        samples = []
        last = (batch - 1, height // rows - 1)
        for picture, row in ((0, 0), tuple(lot.randint(0, most) for most in last), last):
            at = (slice(picture, picture + 1), slice(row * rows, (row + 1) * rows))
            samples.append(Sample({"q": at, "k": at, "v": at}, at))
        return samples

    def traffic(
        self, mode: str, size: tuple[int, int, int], window: int, heads: int, head_dim: int, dtype: Dtype,
        biased: bool = True, bias_dtype: Dtype | None = None, **_: Any,
    ) -> int:  # fmt: skip
        """fwd: q, k, v, the table; o. bwd: do, q, k, v, the table; dq, dk, dv, dtable."""
        batch, height, width = size
        tensors, tables = {"fwd": (4, 1), "bwd": (7, 2)}[mode]
        table = (2 * window - 1) ** 2 * heads * (bias_dtype or dtype).itemsize if biased else 0
        return tensors * batch * height * width * heads * head_dim * dtype.itemsize + tables * table

    def flops(
        self, mode: str, size: tuple[int, int, int], window: int, heads: int, head_dim: int, shift: int = 0, **_: Any
    ) -> int:
        """The products of pairs of tokens that see each other; the softmax is not counted. fwd: two, bwd: five."""
        batch, *sides = size
        # Along one axis: the pairs of all windows but the last, and of the two parts of that.
        seen = [(side // window - 1) * window**2 + (window - shift) ** 2 + shift**2 if side else 0 for side in sides]
        return {"fwd": 2, "bwd": 5}[mode] * 2 * batch * heads * seen[0] * seen[1] * head_dim

    @kernel
    def triton(self, **inputs: Any) -> Run:
        return lambda: kernels.window_attention.window_attention(**inputs)

    @peer()
    def eager(
        self, q: Tensor, k: Tensor, v: Tensor, bias_table: Tensor | None, window: int, shift: int, scale: float | None
    ) -> Run:
        """Torch's own attention: the picture rolled, taken apart and put together again, its mask in memory."""
        size = (q.shape[0], q.shape[1], q.shape[2])
        position, region = positions(window, q.device), regions(size, window, shift, q.device)
        apart = (region[:, None, :, None] != region[:, None, None, :]) if shift else None

        def run() -> Tensor:
            mask = None if bias_table is None else bias_table[position].permute(2, 0, 1)[None].to(q.dtype)
            if apart is not None:
                mask = torch.zeros((), dtype=q.dtype, device=q.device) if mask is None else mask
                mask = mask.masked_fill(apart, float("-inf"))
            parts = [partitioned(x, window, shift) for x in (q, k, v)]
            o = functional.scaled_dot_product_attention(parts[0], parts[1], parts[2], attn_mask=mask, scale=scale)
            return joined(o, size, window, shift)

        return run

    @peer()
    def flex(
        self, q: Tensor, k: Tensor, v: Tensor, bias_table: Tensor | None, window: int, shift: int, scale: float | None
    ) -> Run:
        """Biases and regions looked up for each score."""
        needs_cuda(q)
        size = (q.shape[0], q.shape[1], q.shape[2])
        position, region = positions(window, q.device), regions(size, window, shift, q.device)

        def modified(score: Tensor, window_: Tensor, head: Tensor, i: Tensor, j: Tensor) -> Tensor:
            if bias_table is not None:
                score = score + bias_table[position[i, j], head]
            return torch.where(region[window_, i] == region[window_, j], score, -float("inf")) if shift else score

        compiled = torch.compile(flex_attention, dynamic=False, fullgraph=True)

        def run() -> Tensor:
            parts = [partitioned(x, window, shift).contiguous() for x in (q, k, v)]
            o: Any = compiled(parts[0], parts[1], parts[2], score_mod=modified, scale=scale)
            return joined(o, size, window, shift)

        return run

    @peer(install="pip install torchvision")
    def torchvision(self, **_: Any) -> Run:
        raise Unsupported("shifted_window_attention computes q, k, v from tokens and projects o: another function")
