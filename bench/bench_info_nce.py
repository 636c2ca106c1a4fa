"""CLIP's contrastive loss, the logits never in memory: checks, sweep, cost and providers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch import dtype as Dtype  # noqa: N812 - `dtype` is an axis
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

import kernels.info_nce
import reference.info_nce
import reference.linear_cross_entropy
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
from bench.core.proof import Yardstick, detached, yardsticks
from bench.models import SEQ_LENS, Model, models

PROVABLE_LOGITS = 1 << 28  # 2 GiB in float64
INF_CL_WIDTH = 256  # columns of a product inside it


class InfoNce(Operator):
    """Bound by tensor cores: the product of all pictures with all texts, and in the backward two more of its size.

    `seq_len` counts the pairs of a batch: CLIP was trained on 32768.
    """

    entry = staticmethod(kernels.info_nce.info_nce)
    reference = staticmethod(reference.info_nce.info_nce)
    # Borders of tiles and of splits; depths odd and even; no pairs.
    checks = (
        grid(pairs=[1, 37, 129], depth=[40], dtype=[fp32])
        + grid(pairs=[3], depth=[1], dtype=[fp32])
        + grid(pairs=[70, 130], depth=[64, 72], dtype=[fp16, bf16])
        + grid(pairs=[0], depth=[16], dtype=[fp32])
    )
    sweep = grid(model=models("clip-vit-b", "clip-vit-l", "clip-vit-big-g"), seq_len=SEQ_LENS, dtype=[bf16])
    hostile = {"pairs": 5, "depth": 16, "dtype": fp32}
    vast = {"pairs": 16, "depth": 2**27 + 8, "dtype": bf16}
    grad = True

    def sizes(self, model: Model, seq_len: int, dtype: Dtype) -> dict[str, Any]:
        return {"pairs": seq_len, "depth": model.projection_dim, "dtype": dtype}

    def inputs(self, make: Make, pairs: int, depth: int, dtype: Dtype) -> Inputs:
        """Rows of about length 1, those of a pair as far apart as of a trained CLIP (a cosine of 0.3).

        Pairs that are much closer have a loss of nearly 0, of which fp32 holds few digits. The scale lies around the
        1 / 0.07 that CLIP begins with.
        """
        image, other = (make.normal(pairs, depth, dtype=fp32, scale=depth**-0.5) for _ in range(2))
        text = 0.3 * image + 0.95 * other
        scale = make.uniform(10.0, 20.0, dtype=fp32)
        return {"image": image.to(dtype), "text": text.to(dtype), "logit_scale": scale}

    def traffic(self, mode: str, pairs: int, depth: int, dtype: Dtype) -> int:
        """fwd: image, text, scale; loss. bwd: dloss and those; dimage, dtext, dscale. The scale is of fp32."""
        numbers, scales = {"fwd": (2, 1), "bwd": (4, 2)}[mode]
        return (numbers * pairs * depth + 1) * dtype.itemsize + 4 * scales

    def flops(self, mode: str, pairs: int, depth: int, dtype: Dtype) -> int:
        """fwd: one product. bwd: two: the logits made anew buy memory, not mathematics."""
        return {"fwd": 2, "bwd": 4}[mode] * pairs * pairs * depth

    def yardsticks(self, inputs: Inputs, mode: str, samples: Sequence[Sample] = ()) -> list[Yardstick]:
        """Of many logits: the mean over blocks of rows and of columns, whose logits are not kept."""
        pairs = len(inputs["image"])
        at_once = max(1, PROVABLE_LOGITS // max(1, pairs))
        if pairs <= at_once:
            return super().yardsticks(inputs, mode)
        one_way = reference.linear_cross_entropy.linear_cross_entropy

        def whole(image: Tensor, text: Tensor, logit_scale: Tensor) -> Tensor:
            total = torch.zeros((), dtype=torch.promote_types(image.dtype, fp32), device=image.device)
            for labels in torch.arange(pairs, device=image.device).split(at_once):
                for these, those in ((image, text), (text, image)):
                    scaled = logit_scale * these[labels]
                    loss = checkpoint(one_way, scaled, those, labels, use_reentrant=False)
                    total = total + loss * (len(labels) / (2 * pairs))
            return total.to(image.dtype)

        return yardsticks(whole, detached(inputs), mode)

    @kernel
    def triton(self, **inputs: Any) -> Callable[[], Tensor]:
        return lambda: kernels.info_nce.info_nce(**inputs)

    @peer()
    def eager(self, image: Tensor, text: Tensor, logit_scale: Tensor) -> Callable[[], Tensor]:
        """Torch's own product and its own losses, as OpenCLIP has them: logits in memory."""
        if image.dtype != fp32 and not image.is_cuda:
            raise Unsupported("torch's mean of bf16 and fp16 losses is off by more than their precision on a CPU")
        labels = torch.arange(len(image), device=image.device)

        def loss() -> Tensor:
            logits = logit_scale * image @ text.T
            return (functional.cross_entropy(logits, labels) + functional.cross_entropy(logits.T, labels)) / 2

        return loss

    @peer(install="pip install inf-cl")
    def inf_cl(self, image: Tensor, text: Tensor, logit_scale: Tensor) -> Callable[[], Tensor]:
        """Its loss of one GPU, both ways: two walks, in TF32, which holds numbers of 16 bits as they are."""
        needs_cuda(image)
        if torch.version.hip:
            raise Unsupported("holds PTX")
        pairs, depth = image.shape
        if image.dtype == fp32:
            raise Unsupported("multiplies in TF32")
        if depth % INF_CL_WIDTH or pairs % 64:
            raise Unsupported(f"needs a depth that {INF_CL_WIDTH} divides, and pairs that 64 divides")
        from inf_cl import cal_flash_loss

        labels = torch.arange(pairs, device=image.device)

        def loss() -> Tensor:
            a, b = image.float(), text.float()  # it would do so itself, but behind a product with the scale in 16 bits
            rows = cal_flash_loss(a, b, labels, logit_scale, INF_CL_WIDTH)
            cols = cal_flash_loss(b, a, labels, logit_scale, INF_CL_WIDTH)
            return torch.cat((rows, cols)).mean().to(image.dtype)

        return loss
