"""RMSNorm of every head of queries and keys, and their rotation: checks, sweep, cost and providers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch import dtype as Dtype  # noqa: N812 - `dtype` is an axis
from torch.nn import functional

import kernels.qk_norm_rope
import reference.qk_norm_rope
from bench import bench_rope
from bench.bench_rope import Pair
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


class QkNormRope(Operator):
    """Bound by memory as RoPE alone is: the norm rides along. The backward reads q and k as well."""

    entry = staticmethod(kernels.qk_norm_rope.qk_norm_rope)
    reference = staticmethod(reference.qk_norm_rope.qk_norm_rope)
    # Chunks and tiles that are full, begun and empty; more tiles than programs stride over them; heads of a width that
    # is no power of two; no tokens, no batch.
    checks = (
        grid(heads=[(3, 1), (9, 8)], tokens=[1, 5], head_dim=[64], interleaved=[False, True], dtype=[fp32, fp16, bf16])
        + grid(heads=[(4, 2)], tokens=[7], head_dim=[2, 80, 128], interleaved=[False, True], dtype=[fp32])
        + grid(batch=[2], heads=[(9, 2)], tokens=[67], head_dim=[40], layout=["fused"], each=[True], dtype=[fp32])
        + grid(heads=[(2, 1)], tokens=[3], head_dim=[256], eps=[0.5], weight_dtype=[fp32], dtype=[bf16])
        + grid(heads=[(2, 1)], tokens=[3], head_dim=[40], eps=[0.0], dtype=[fp32])
        + grid(batch=[0, 2], heads=[(2, 1)], tokens=[0, 1], head_dim=[16], dtype=[fp32])
    )
    sweep = grid(model=models("qwen3-8b", "qwen3-32b"), seq_len=SEQ_LENS, dtype=[bf16])
    hostile = {"batch": 2, "heads": (3, 2), "tokens": 5, "head_dim": 24, "layout": "heads_first", "dtype": fp32}
    vast = bench_rope.Rope.vast
    grad = True
    prepared = ("position_embeddings",)

    def sizes(self, model: Model, seq_len: int, dtype: Dtype) -> dict[str, Any]:
        heads = (model.num_heads, model.num_kv_heads)
        return {"heads": heads, "tokens": seq_len, "head_dim": model.head_dim, "dtype": dtype}

    def inputs(
        self,
        make: Make,
        head_dim: int,
        dtype: Dtype,
        weight_dtype: Dtype | None = None,
        eps: float = 1e-6,
        **sizes: Any,
    ) -> Inputs:
        turned = bench_rope.Rope().inputs(make, head_dim=head_dim, dtype=dtype, **sizes)
        q_weight, k_weight = (make.normal(head_dim, dtype=weight_dtype or dtype) for _ in range(2))
        q, k = turned.pop("q"), turned.pop("k")
        return {"q": q, "k": k, "q_weight": q_weight, "k_weight": k_weight, "eps": eps, **turned}

    def samples(self, inputs: Inputs, seed: int = 0) -> list[Sample]:
        return bench_rope.some_heads(inputs["q"], inputs["k"], seed)

    def traffic(self, mode: str, head_dim: int, dtype: Dtype, weight_dtype: Dtype | None = None, **sizes: Any) -> int:
        """fwd: q, k, the weights, cos, sin; both results. bwd: q and k besides, and the gradients of the weights."""
        turned = bench_rope.Rope().traffic(mode, head_dim=head_dim, dtype=dtype, **sizes)
        weights = 2 * head_dim * (weight_dtype or dtype).itemsize
        if mode == "fwd":
            return turned + weights
        entries: int = sizes.get("batch", 1) * sizes["tokens"] * sum(sizes["heads"]) * head_dim
        return turned + entries * dtype.itemsize + 2 * weights

    def flops(self, mode: str, head_dim: int, **sizes: Any) -> int:
        """Per entry: the rotation (3); fwd: square, sum, two products. bwd: those of RMSNorm's, and squares and sum."""
        turned = bench_rope.Rope().flops(mode, head_dim=head_dim, **sizes)
        return turned + {"fwd": 4, "bwd": 11}[mode] * (turned // 3)

    @kernel
    def triton(self, **inputs: Any) -> Callable[[], Pair]:
        return lambda: kernels.qk_norm_rope.qk_norm_rope(**inputs)

    @peer()
    def eager(
        self, q: Tensor, k: Tensor, q_weight: Tensor, k_weight: Tensor, position_embeddings: Pair, eps: float,
        interleaved: bool,
    ) -> Callable[[], Pair]:  # fmt: skip
        whole, turned = bench_rope.whole, bench_rope.as_transformers_does
        cos, sin = (whole(table, interleaved).to(q.dtype).unsqueeze(-3) for table in position_embeddings)

        def run(x: Tensor, weight: Tensor) -> Tensor:
            return turned(functional.rms_norm(x, x.shape[-1:], weight, eps), cos, sin, interleaved)

        return lambda: (run(q, q_weight), run(k, k_weight))

    @peer(install="pip install liger-kernel")
    def liger(
        self, q: Tensor, k: Tensor, q_weight: Tensor, k_weight: Tensor, position_embeddings: Pair, eps: float,
        interleaved: bool,
    ) -> Callable[[], Pair]:  # fmt: skip
        needs_cuda(q)
        if interleaved:
            raise Unsupported("pairs entries across halves only")
        from liger_kernel.ops import LigerRMSNormFunction, LigerRopeFunction

        cos, sin = (bench_rope.whole(table, interleaved) for table in position_embeddings)

        def norm(x: Tensor, weight: Tensor) -> Any:
            return LigerRMSNormFunction.apply(x.transpose(1, 2), weight, eps, 0.0, "gemma", False).transpose(1, 2)

        # The rotation writes over what the norm has made, not over q and k.
        return lambda: LigerRopeFunction.apply(norm(q, q_weight), norm(k, k_weight), cos, sin)

    @peer(install="pip install flashinfer-python")
    def flashinfer(
        self, q: Tensor, k: Tensor, q_weight: Tensor, k_weight: Tensor, position_embeddings: Pair, eps: float,
        interleaved: bool,
    ) -> Callable[[], Pair]:  # fmt: skip
        needs_cuda(q)
        if q.requires_grad:
            raise Unsupported("has no backward")
        if q.dtype == fp32 or q_weight.dtype != q.dtype:
            raise Unsupported("needs fp16 or bf16, weights too")
        # Its fused_qk_rmsnorm_rope takes the mean over all heads, which is another function.
        from flashinfer import rmsnorm

        turn = bench_rope.flashinfer_rope(q, position_embeddings, interleaved)

        def norm(x: Tensor, weight: Tensor) -> Tensor:
            rows: Tensor = rmsnorm(x.transpose(1, 2).flatten(0, 1), weight, eps)
            return rows.view(len(x), -1, *rows.shape[1:]).transpose(1, 2)

        return lambda: turn(norm(q, q_weight), norm(k, k_weight))

    @peer()
    def vllm(self, q: Tensor, **_: Any) -> Callable[[], Pair]:
        reason = f"fused_qk_norm_rope {bench_rope.IN_PLACE}"
        raise Unsupported("has no backward" if q.requires_grad else reason)
