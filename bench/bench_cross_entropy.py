"""Cross-entropy over a vocabulary: checks, sweep, cost and providers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch import dtype as Dtype  # noqa: N812 - `dtype` is an axis
from torch.nn import functional

import kernels.cross_entropy
import reference.cross_entropy
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
from bench.core.proof import Yardstick, detached, part_of, yardsticks
from bench.models import SEQ_LENS, Model, models

IGNORED = -100
ROWS_AT_ONCE = 256  # of logits that the oracle widens to float64


class CrossEntropy(Operator):
    """Bound by memory: logits are read once, and once more for their gradient, which is written once.

    `ignored`: the share of rows that do not count, as the prompts of supervised fine-tuning; they need not be read.
    """

    entry = staticmethod(kernels.cross_entropy.cross_entropy)
    reference = staticmethod(reference.cross_entropy.cross_entropy)
    # Borders of vectors, of tiles and of chunks; no rows, and none that counts.
    checks = (
        grid(rows=[1, 37], cols=[1, 7, 127, 1000], dtype=[fp32, fp16, bf16])
        + grid(rows=[37], cols=[2, 129], ignored=[0.3], label_smoothing=[0.0, 0.1, 1.0], dtype=[fp32, bf16])
        + grid(rows=[5], cols=[8192, 8193], ignored=[0.2], label_smoothing=[0.1], dtype=[fp32])
        + grid(rows=[3], cols=[20001], dtype=[fp32, bf16])
        + grid(rows=[1], cols=[262144], dtype=[bf16])
        + grid(rows=[0, 5], cols=[33], ignored=[1.0], dtype=[fp32])
    )
    sweep = grid(
        model=models("llama-7b", "llama3-8b", "gemma2-9b", "qwen3-8b", "deepseek-v3", "gpt2-xl"),
        seq_len=SEQ_LENS,
        ignored=[0.0, 0.5],
        dtype=[bf16],
    )
    hostile = {"rows": 5, "cols": 40, "ignored": 0.2, "dtype": fp32}
    vast = {"rows": 2**14 + 1, "cols": 131072, "dtype": bf16}
    grad = True
    rows_of = ("logits", "targets")

    def sizes(self, model: Model, seq_len: int, ignored: float, dtype: Dtype) -> dict[str, Any]:
        return {"rows": seq_len, "cols": model.vocab_size, "ignored": ignored, "dtype": dtype}

    def inputs(
        self, make: Make, rows: int, cols: int, dtype: Dtype, ignored: float = 0.0, label_smoothing: float = 0.0
    ) -> Inputs:
        logits, targets = (
            make.normal(rows, cols, dtype=dtype, scale=2.0),
            make.integers(0, cols, rows, dtype=torch.int64),
        )
        targets[make.permutation(rows)[: round(ignored * rows)]] = IGNORED
        return {"logits": logits, "targets": targets, "ignore_index": IGNORED, "label_smoothing": label_smoothing}

    def traffic(self, mode: str, rows: int, cols: int, dtype: Dtype, ignored: float = 0.0, **_: Any) -> int:
        """fwd: logits that count, targets; loss. bwd: dloss, logits that count, targets; dlogits."""
        counted = rows - round(ignored * rows)
        logits = {"fwd": counted, "bwd": counted + rows}[mode] * cols
        return (logits + 1) * dtype.itemsize + 8 * rows

    def flops(
        self, mode: str, rows: int, cols: int, ignored: float = 0.0, label_smoothing: float = 0.0, **_: Any
    ) -> int:
        """fwd: maximum, difference, exp, sum. bwd: difference, exp, product. One sum more where targets are smooth."""
        each = {"fwd": 4, "bwd": 3}[mode] + (label_smoothing > 0)
        return each * (rows - round(ignored * rows)) * cols

    def samples(self, inputs: Inputs, seed: int = 0) -> list[Sample]:
        """The rows of the gradient that are looked at. The loss belongs to all rows and is always proven."""
        return [replace(sample, outputs=...) for sample in super().samples(inputs, seed)]

    def yardsticks(self, inputs: Inputs, mode: str, samples: Sequence[Sample] = ()) -> list[Yardstick]:
        """Of a sample: the mean over its rows, weighted, plus what all others add, a constant in float64."""
        if not samples:
            return super().yardsticks(inputs, mode)
        inputs, (sample,) = detached(inputs), samples
        counts, sampled = inputs["targets"] != inputs["ignore_index"], sample.views["targets"]
        counts_elsewhere = counts.clone()
        counts_elsewhere[sampled] = False
        rest = 0.0
        for rows in counts_elsewhere.nonzero().squeeze(1).split(ROWS_AT_ONCE):
            part = inputs | {"logits": inputs["logits"][rows].double(), "targets": inputs["targets"][rows]}
            rest += float(type(self).reference(**part)) * (len(rows) / int(counts.sum()))
        share = int(counts[sampled].sum()) / int(counts.sum())

        def whole(logits: Tensor, **others: Any) -> Tensor:
            wide = logits.to(torch.promote_types(logits.dtype, fp32))
            return (type(self).reference(wide, **others) * share + rest).to(logits.dtype)

        (yardstick,) = yardsticks(whole, part_of(inputs, sample), mode)
        return [replace(yardstick, sample=sample, rows=f"{len(sampled)} sampled")]

    @kernel
    def triton(self, **inputs: Any) -> Callable[[], Tensor]:
        return lambda: kernels.cross_entropy.cross_entropy(**inputs)

    @peer()
    def eager(self, logits: Tensor, targets: Tensor, ignore_index: int, label_smoothing: float) -> Callable[[], Tensor]:
        return lambda: functional.cross_entropy(
            logits, targets, ignore_index=ignore_index, label_smoothing=label_smoothing
        )

    @peer(install="pip install liger-kernel")
    def liger(self, logits: Tensor, targets: Tensor, ignore_index: int, label_smoothing: float) -> Callable[[], Tensor]:
        needs_cuda(logits)
        if logits.requires_grad:
            raise Unsupported("its forward writes the gradient over the logits, and its backward scales it there")
        if bool((targets == ignore_index).any()):
            raise Unsupported("writes zeros over the logits of ignored rows, even where no gradient is asked for")
        from liger_kernel.ops import LigerCrossEntropyFunction

        options = None, ignore_index, 0.0, label_smoothing, "mean", None, False, False, False
        return lambda: LigerCrossEntropyFunction.apply(logits, targets, *options)[0]

    @peer(install="pip install quack-kernels")
    def quack(self, logits: Tensor, targets: Tensor, ignore_index: int, label_smoothing: float) -> Callable[[], Tensor]:
        needs_cuda(logits)
        if torch.cuda.get_device_capability(logits.device) < (9, 0):
            raise Unsupported("needs sm_90 or newer")
        if label_smoothing:
            raise Unsupported("has no label smoothing")
        from quack import cross_entropy

        return lambda: cross_entropy(logits, targets, ignore_index=ignore_index).to(logits.dtype)

    @peer(install="pip install flash-attn --no-build-isolation")
    def flash_attn(
        self, logits: Tensor, targets: Tensor, ignore_index: int, label_smoothing: float
    ) -> Callable[[], Tensor]:
        needs_cuda(logits)
        from flash_attn.ops.triton.cross_entropy import cross_entropy_loss

        def mean() -> Tensor:
            losses, _ = cross_entropy_loss(logits, targets, label_smoothing=label_smoothing, ignore_index=ignore_index)
            loss: Tensor = losses.sum() / (targets != ignore_index).sum()
            return loss.to(logits.dtype)

        return mean
