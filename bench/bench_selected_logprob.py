"""Log-probabilities of chosen tokens: checks, sweep, cost and providers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch import dtype as Dtype  # noqa: N812 - `dtype` is an axis
from torch.nn import functional

import kernels.selected_logprob
import reference.selected_logprob
from bench.core.operator import (
    Inputs,
    Make,
    Operator,
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

IGNORED = -100


class SelectedLogprob(Operator):
    """Bound by memory: logits are read once, and once more for their gradient, which is written once.

    `ignored`: the share of rows whose token is none of the policy's, as prompts and padding; they need not be read.
    """

    entry = staticmethod(kernels.selected_logprob.selected_logprob)
    reference = staticmethod(reference.selected_logprob.selected_logprob)
    # Borders of vectors, of tiles and of chunks; no rows, and none that is chosen.
    checks = (
        grid(rows=[1, 37], cols=[1, 7, 127, 1000], dtype=[fp32, fp16, bf16])
        + grid(rows=[5], cols=[8192, 8193], ignored=[0.2], dtype=[fp32])
        + grid(rows=[3], cols=[20001], dtype=[fp32, bf16])
        + grid(rows=[1], cols=[262144], dtype=[bf16])
        + grid(rows=[0, 5], cols=[33], ignored=[1.0], dtype=[fp32])
    )
    sweep = grid(
        model=models("llama-7b", "llama3-8b", "gemma2-9b", "qwen3-8b"),
        seq_len=SEQ_LENS,
        ignored=[0.0, 0.5],
        dtype=[bf16],
    )
    hostile = {"rows": 5, "cols": 40, "ignored": 0.2, "dtype": fp32}
    vast = {"rows": 2**14 + 1, "cols": 131072, "dtype": bf16}
    grad = True
    rows_of = ("logits", "tokens")

    def sizes(self, model: Model, seq_len: int, ignored: float, dtype: Dtype) -> dict[str, Any]:
        return {"rows": seq_len, "cols": model.vocab_size, "ignored": ignored, "dtype": dtype}

    def inputs(self, make: Make, rows: int, cols: int, dtype: Dtype, ignored: float = 0.0) -> Inputs:
        logits, tokens = (
            make.normal(rows, cols, dtype=dtype, scale=2.0),
            make.integers(0, cols, rows, dtype=torch.int64),
        )
        tokens[make.permutation(rows)[: round(ignored * rows)]] = IGNORED
        return {"logits": logits, "tokens": tokens, "ignore_index": IGNORED}

    def traffic(self, mode: str, rows: int, cols: int, dtype: Dtype, ignored: float = 0.0) -> int:
        """fwd: logits of chosen rows, tokens; logprob. bwd: dlogprob, logits of chosen rows, tokens; dlogits."""
        chosen = rows - round(ignored * rows)
        return {"fwd": chosen, "bwd": chosen + rows}[mode] * cols * dtype.itemsize + (8 + 4) * rows

    def flops(self, mode: str, rows: int, cols: int, dtype: Dtype, ignored: float = 0.0) -> int:
        """fwd: maximum, difference, exp, sum. bwd: difference, exp, product."""
        return {"fwd": 4, "bwd": 3}[mode] * (rows - round(ignored * rows)) * cols

    @kernel
    def triton(self, logits: Tensor, tokens: Tensor, ignore_index: int) -> Callable[[], Tensor]:
        return lambda: kernels.selected_logprob.selected_logprob(logits, tokens, ignore_index)

    @peer()
    def eager(self, logits: Tensor, tokens: Tensor, ignore_index: int) -> Callable[[], Tensor]:
        """Torch's own: an fp32 copy of the logits, and a log-softmax of it."""
        return lambda: -functional.cross_entropy(logits.float(), tokens, ignore_index=ignore_index, reduction="none")

    @peer()
    def logsumexp(self, logits: Tensor, tokens: Tensor, ignore_index: int) -> Callable[[], Tensor]:
        """As trainers write it to save the log-softmax."""

        def difference() -> Tensor:
            ignored = tokens == ignore_index
            chosen = logits.gather(1, tokens.masked_fill(ignored, 0)[:, None]).squeeze(1).float()
            return (chosen - logits.float().logsumexp(-1)).masked_fill(ignored, 0)

        return difference

    @peer(install="pip install liger-kernel")
    def liger(self, logits: Tensor, tokens: Tensor, ignore_index: int) -> Callable[[], Tensor]:
        needs_cuda(logits)
        if logits.requires_grad:
            raise Unsupported("has no backward apart from the loss of GRPO")
        if len(logits) > 65535:
            raise Unsupported("launches one program for each position along an axis that CUDA ends at 65535")
        from liger_kernel.ops.grpo_loss import _selective_log_softmax_kernel

        def launch() -> Tensor:
            # Its launcher leaves out the last position of every sequence, so its kernel is launched as that does it.
            logprob = torch.zeros(len(tokens), dtype=fp32, device=logits.device)
            mask = tokens != ignore_index
            _selective_log_softmax_kernel[(1, len(tokens))](
                logits, tokens, logprob, mask, 1.0, 0, tokens.stride(0), 0, mask.stride(0), *logits.shape,
                BLOCK_N=2048, num_stages=4, num_warps=1,
            )  # fmt: skip
            return logprob

        return launch

    @peer(install="pip install quack-kernels")
    def quack(self, logits: Tensor, tokens: Tensor, ignore_index: int) -> Callable[[], Tensor]:
        needs_cuda(logits)
        if torch.cuda.get_device_capability(logits.device) < (9, 0):
            raise Unsupported("needs sm_90 or newer")
        from quack import cross_entropy

        return lambda: -cross_entropy(logits, tokens, ignore_index=ignore_index, reduction="none")

    @peer(install="pip install flash-attn --no-build-isolation")
    def flash_attn(self, logits: Tensor, tokens: Tensor, ignore_index: int) -> Callable[[], Tensor]:
        needs_cuda(logits)
        from flash_attn.ops.triton.cross_entropy import cross_entropy_loss

        return lambda: -cross_entropy_loss(logits, tokens, ignore_index=ignore_index)[0]
