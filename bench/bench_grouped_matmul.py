"""Grouped matrix products of a mixture of experts: checks, sweep, cost and providers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch import dtype as Dtype  # noqa: N812 - `dtype` is an axis
from torch.nn import functional

import kernels.grouped_matmul
import reference.grouped_matmul
from bench.core.operator import (
    SAMPLED_ROWS,
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

SAMPLED_EXPERTS = 4
WORKSPACE_BYTES = 128 << 20  # what flashinfer encourages


def ends_of(make: Make, rows: int, experts: int) -> Tensor:
    """Where the rows of each expert end if every row has chosen its expert at random."""
    chosen = make.integers(0, experts, rows, dtype=torch.int32).sort().values
    return torch.searchsorted(chosen, torch.arange(experts, dtype=torch.int32, device=chosen.device), right=True).int()


def needs_16_bits(x: Tensor) -> None:
    """Raise `Unsupported` unless `x` has 16 bits and whole vectors of 16 bytes in a row."""
    if x.element_size() != 2 or x.shape[1] % 8:
        raise Unsupported("takes fp16 and bf16 of multiples of 8 columns only")


class GroupedMatmul(Operator):
    """Many rows of each expert are bound by tensor cores, a few by reading every expert's weights.

    `unrouted`: rows behind the last end.
    """

    entry = staticmethod(kernels.grouped_matmul.grouped_matmul)
    reference = staticmethod(reference.grouped_matmul.grouped_matmul)
    # One of everything; experts of no row and of several tiles; K of whole steps and not; rows of no expert; nothing.
    checks = (
        grid(rows=[1], n=[1], k=[1], experts=[1], dtype=[fp32])
        + grid(rows=[150], n=[70], k=[37], experts=[2], dtype=[fp32])
        + grid(rows=[300], n=[40], k=[64], experts=[2], unrouted=[20], dtype=[bf16])
        + grid(rows=[60], n=[40], k=[64], experts=[5], unrouted=[20], dtype=[fp32, fp16])
        + grid(rows=[2], n=[5], k=[9], experts=[4], dtype=[bf16])
        + grid(rows=[0, 5], n=[0, 7], k=[0, 9], experts=[2], dtype=[fp32])
    )
    # Switch is trained on 2^20 tokens at once; at fewer than 2048 its experts would share next to nothing.
    sweep = (
        grid(model=models("v-moe-s32"), seq_len=SEQ_LENS, layer=["up", "down"], dtype=[bf16])
        + grid(model=models("switch-base-8"), seq_len=SEQ_LENS[2:], layer=["up", "down"], dtype=[bf16])
        + grid(
            model=models("qwen3-30b-a3b", "mixtral-8x7b", "deepseek-v3"),
            seq_len=SEQ_LENS,
            layer=["up", "down"],
            dtype=[bf16],
        )
    )
    hostile = {"rows": 9, "n": 20, "k": 12, "experts": 3, "dtype": fp32}
    vast = {"rows": 2**19 + 1, "n": 4104, "k": 512, "experts": 5, "dtype": bf16}
    grad = True
    prepared = ("weight",)

    def sizes(self, model: Model, seq_len: int, layer: str, dtype: Dtype) -> dict[str, Any]:
        narrow, wide = model.hidden_size, model.moe_intermediate_size
        n, k = (wide, narrow) if layer == "up" else (narrow, wide)
        rows = seq_len * model.experts_per_token
        return {"rows": rows, "n": n, "k": k, "experts": model.num_experts, "dtype": dtype}

    def inputs(self, make: Make, rows: int, n: int, k: int, experts: int, dtype: Dtype, unrouted: int = 0) -> Inputs:
        x = make.normal(rows, k, dtype=dtype)
        weight = make.normal(experts, n, k, dtype=dtype, scale=max(1, k) ** -0.5)
        return {"x": x, "weight": weight, "ends": ends_of(make, rows - unrouted, experts)}

    def traffic(self, mode: str, rows: int, n: int, k: int, experts: int, dtype: Dtype, **_: Any) -> int:
        """fwd: x, the weights, ends; y. bwd: dy, x, the weights, ends; dx, dweight."""
        columns = {"fwd": k + n, "bwd": n + 2 * k}[mode]
        matrices = {"fwd": 1, "bwd": 2}[mode]
        return (rows * columns + matrices * experts * n * k) * dtype.itemsize + 4 * experts

    def flops(self, mode: str, rows: int, n: int, k: int, unrouted: int = 0, **_: Any) -> int:
        """A product and a sum; twice that for the gradients of both."""
        return {"fwd": 2, "bwd": 4}[mode] * (rows - unrouted) * n * k

    def samples(self, inputs: Inputs, seed: int = 0) -> list[Sample]:
        """The first, the last and random rows, and a few experts, whether or not these rows are theirs."""
        rows, experts = len(inputs["x"]), len(inputs["weight"])
        if rows <= SAMPLED_ROWS:
            return []
        quarter, generator = SAMPLED_ROWS // 4, torch.Generator().manual_seed(seed)
        scattered = torch.randint(rows, (SAMPLED_ROWS // 2,), generator=generator)
        at = torch.cat([torch.arange(quarter), scattered, torch.arange(rows - quarter, rows)]).unique()
        picked = torch.randint(experts, (SAMPLED_EXPERTS,), generator=generator).unique()
        device = inputs["x"].device
        return [Sample({"x": at.to(device), "weight": picked.to(device)}, at.to(device))]

    def yardsticks(self, inputs: Inputs, mode: str, samples: Sequence[Sample] = ()) -> list[Yardstick]:
        """Of a sample: its rows, each times the matrix of its expert, a constant unless the expert was picked."""
        if not samples:
            return super().yardsticks(inputs, mode)
        inputs, (sample,) = detached(inputs), samples
        chosen = torch.searchsorted(inputs["ends"].to(torch.int64), sample.views["x"], right=True)
        place = {expert: i for i, expert in enumerate(sample.views["weight"].tolist())}
        experts = [expert for expert in chosen.unique().tolist() if expert < len(inputs["ends"])]

        def sampled(x: Tensor, weight: Tensor, **_: Any) -> Tensor:
            y = x.new_zeros(len(x), weight.shape[1])
            for expert in experts:
                matrix = weight[place[expert]] if expert in place else inputs["weight"][expert].to(weight.dtype)
                y = y.index_put((chosen == expert,), x[chosen == expert] @ matrix.T)
            return y

        return yardsticks(sampled, inputs, mode, samples)

    @kernel
    def triton(self, x: Tensor, weight: Tensor, ends: Tensor) -> Callable[[], Tensor]:
        return lambda: kernels.grouped_matmul.grouped_matmul(x, weight, ends)

    @peer()
    def eager(self, x: Tensor, weight: Tensor, ends: Tensor) -> Callable[[], Tensor]:
        if not hasattr(functional, "grouped_mm"):
            raise Unsupported("torch.nn.functional.grouped_mm came with torch 2.10", "pip install -U torch")
        if x.is_cuda and x.dtype != bf16:
            raise Unsupported("takes bf16 only")
        return lambda: functional.grouped_mm(x, weight.mT, offs=ends)

    @peer(install="pip install quack-kernels")
    def quack(self, x: Tensor, weight: Tensor, ends: Tensor) -> Callable[[], Tensor]:
        needs_cuda(x)
        needs_16_bits(x)
        if x.requires_grad:
            raise Unsupported("its gemm has no gradients")
        if torch.cuda.get_device_capability(x.device)[0] < 9:
            raise Unsupported("needs sm_90 or newer")
        from quack.gemm_interface import gemm

        return lambda: gemm(x, weight.mT, cu_seqlens_m=functional.pad(ends, (1, 0)))

    @peer(install="pip install flashinfer-python")
    def flashinfer(self, x: Tensor, weight: Tensor, ends: Tensor) -> Callable[[], Tensor]:
        needs_cuda(x)
        needs_16_bits(x)
        if x.requires_grad:
            raise Unsupported("its segment GEMM has no gradients")
        from flashinfer import SegmentGEMMWrapper

        segments = SegmentGEMMWrapper(torch.empty(WORKSPACE_BYTES, dtype=torch.int8, device=x.device))
        experts = len(weight)
        return lambda: segments.run(x, weight, experts, True, seg_indptr=functional.pad(ends, (1, 0)).long())

    @peer()
    def deep_gemm(self, x: Tensor, weight: Tensor, ends: Tensor) -> Callable[[], Tensor]:
        # m_grouped_bf16_gemm_nt_contiguous: padding x would be another layout of rows, not another way to multiply.
        raise Unsupported("wants every expert's rows to begin at a multiple of 128")

    @peer(install="pip install liger-kernel")
    def liger(self, x: Tensor, weight: Tensor, ends: Tensor) -> Callable[[], Tensor]:
        raise Unsupported("has its grouped products inside of a whole expert layer (LigerFusedMoEFunction) only")
