"""Cross-entropy of a linear layer's outputs, the logits never in memory: checks, sweep, cost and providers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch import dtype as Dtype  # noqa: N812 - `dtype` is an axis
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

import kernels.linear_cross_entropy
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

IGNORED = -100
PROVABLE_LOGITS = 1 << 30  # 8 GiB in float64


class LinearCrossEntropy(Operator):
    """Bound by tensor cores: the product with the vocabulary, and in the backward two more of its size.

    Rows are hidden states of one step's tokens. `ignored`: the share that does not count, as the prompts of supervised
    fine-tuning: they need no arithmetic.
    """

    entry = staticmethod(kernels.linear_cross_entropy.linear_cross_entropy)
    reference = staticmethod(reference.linear_cross_entropy.linear_cross_entropy)
    # Borders of tiles and of splits; depths odd and even; no rows, and none that counts.
    checks = (
        grid(rows=[1, 37], cols=[1, 130], depth=[40], dtype=[fp32])
        + grid(rows=[3], cols=[5], depth=[1], dtype=[fp32])
        + grid(rows=[70], cols=[257], depth=[64, 72], ignored=[0.4], dtype=[fp32, fp16, bf16])
        + grid(rows=[130], cols=[140], depth=[128], ignored=[0.1], dtype=[bf16])
        + grid(rows=[9], cols=[2100], depth=[16], ignored=[0.2], dtype=[fp32])
        + grid(rows=[0, 5], cols=[33], depth=[16], ignored=[1.0], dtype=[fp32])
    )
    # BERT was trained at 128 tokens, then at 512: the one that is counted, and that a CPU clocks.
    sweep = grid(model=models("bert-base"), seq_len=[128, 512], ignored=[0.0, 0.5], dtype=[bf16]) + grid(
        model=models("gpt2-xl", "llama3-8b", "qwen3-8b", "gemma2-9b", "llama3-70b", "deepseek-v3"),
        seq_len=SEQ_LENS,
        ignored=[0.0, 0.5],
        dtype=[bf16],
    )
    hostile = {"rows": 5, "cols": 40, "depth": 16, "ignored": 0.2, "dtype": fp32}
    vast = {"rows": 16, "cols": 2**17 + 1, "depth": 2**14, "dtype": bf16}
    grad = True

    def sizes(self, model: Model, seq_len: int, ignored: float, dtype: Dtype) -> dict[str, Any]:
        return {
            "rows": seq_len, "cols": model.vocab_size, "depth": model.hidden_size, "ignored": ignored, "dtype": dtype
        }  # fmt: skip

    def inputs(self, make: Make, rows: int, cols: int, depth: int, dtype: Dtype, ignored: float = 0.0) -> Inputs:
        """Logits of standard deviation 2, as those of a trained model."""
        hidden, weight = (
            make.normal(rows, depth, dtype=dtype),
            make.normal(cols, depth, dtype=dtype, scale=2 / depth**0.5),
        )
        targets = make.integers(0, cols, rows, dtype=torch.int64)
        targets[make.permutation(rows)[: round(ignored * rows)]] = IGNORED
        return {"hidden": hidden, "weight": weight, "targets": targets, "ignore_index": IGNORED}

    def traffic(self, mode: str, rows: int, cols: int, depth: int, dtype: Dtype, ignored: float = 0.0) -> int:
        """fwd: hidden states that count, weight, targets; loss. bwd: dloss and those; dhidden, dweight."""
        counted = rows - round(ignored * rows)
        numbers = {"fwd": counted + cols, "bwd": counted + rows + 2 * cols}[mode] * depth
        return (numbers + 1) * dtype.itemsize + 8 * rows

    def flops(self, mode: str, rows: int, cols: int, depth: int, dtype: Dtype, ignored: float = 0.0) -> int:
        """fwd: one product. bwd: two, 6 M V H in all: the logits made anew (8 M V H) buy memory, not mathematics."""
        return {"fwd": 2, "bwd": 4}[mode] * (rows - round(ignored * rows)) * cols * depth

    def yardsticks(self, inputs: Inputs, mode: str, samples: Sequence[Sample] = ()) -> list[Yardstick]:
        """Of many logits: the mean of the reference over blocks of rows, whose logits are not kept."""
        at_once = max(1, PROVABLE_LOGITS // len(inputs["weight"]))
        if len(inputs["hidden"]) <= at_once:
            return super().yardsticks(inputs, mode)
        inputs = detached(inputs)

        def whole(hidden: Tensor, weight: Tensor, targets: Tensor, ignore_index: int) -> Tensor:
            counts, total = targets != ignore_index, torch.zeros((), dtype=hidden.dtype, device=hidden.device)
            for rows in counts.nonzero().squeeze(1).split(at_once):
                loss = checkpoint(
                    type(self).reference, hidden[rows], weight, targets[rows], ignore_index, use_reentrant=False
                )
                total = total + loss * (len(rows) / counts.sum())
            return total

        return yardsticks(whole, inputs, mode)

    @kernel
    def triton(self, **inputs: Any) -> Callable[[], Tensor]:
        return lambda: kernels.linear_cross_entropy.linear_cross_entropy(**inputs)

    @peer()
    def eager(self, hidden: Tensor, weight: Tensor, targets: Tensor, ignore_index: int) -> Callable[[], Tensor]:
        """Torch's own product and its own loss: logits in memory."""
        if hidden.dtype != fp32 and not hidden.is_cuda:
            raise Unsupported("torch's mean of bf16 and fp16 losses is off by more than their precision on a CPU")
        return lambda: functional.cross_entropy(functional.linear(hidden, weight), targets, ignore_index=ignore_index)

    @peer(install="pip install cut-cross-entropy")
    def cce(self, hidden: Tensor, weight: Tensor, targets: Tensor, ignore_index: int) -> Callable[[], Tensor]:
        """Without its filter, which leaves out gradients below a threshold."""
        needs_cuda(hidden)
        if hidden.dtype == fp32:
            raise Unsupported("needs fp16 or bf16")
        from cut_cross_entropy import linear_cross_entropy

        return lambda: linear_cross_entropy(hidden, weight, targets, ignore_index, filter_eps=None).to(hidden.dtype)

    @peer(install="pip install liger-kernel")
    def liger(self, hidden: Tensor, weight: Tensor, targets: Tensor, ignore_index: int) -> Callable[[], Tensor]:
        needs_cuda(hidden)
        if hidden.requires_grad:
            raise Unsupported("its forward computes the gradients, and its backward scales them in place")
        from liger_kernel.ops import LigerFusedLinearCrossEntropyFunction

        options = None, None, ignore_index
        return lambda: LigerFusedLinearCrossEntropyFunction.apply(hidden, weight, targets, *options)[0].to(hidden.dtype)

    @peer(install="pip install quack-kernels")
    def quack(self, hidden: Tensor, weight: Tensor, targets: Tensor, ignore_index: int) -> Callable[[], Tensor]:
        """Its cross-entropy behind torch's product: logits in memory."""
        self._needs_hopper(hidden)
        from quack.linear_cross_entropy import linear_cross_entropy_func

        return lambda: linear_cross_entropy_func(hidden, weight, None, targets, ignore_index).to(hidden.dtype)

    @peer(install="pip install quack-kernels")
    def quack_chunked(self, hidden: Tensor, weight: Tensor, targets: Tensor, ignore_index: int) -> Callable[[], Tensor]:
        self._needs_hopper(hidden)
        if hidden.requires_grad:
            raise Unsupported("its forward computes the gradients, and its backward scales them in place")
        from quack.linear_cross_entropy import chunked_linear_cross_entropy

        return lambda: chunked_linear_cross_entropy(hidden, weight, targets, ignore_index=ignore_index).to(hidden.dtype)

    @staticmethod
    def _needs_hopper(x: Tensor) -> None:
        needs_cuda(x)
        if torch.cuda.get_device_capability(x.device) < (9, 0):
            raise Unsupported("needs sm_90 or newer")
