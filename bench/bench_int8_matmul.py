"""Products of int8 matrices and LLM.int8(): checks, sweep, cost and providers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch import dtype as Dtype  # noqa: N812 - `dtype` is an axis

import kernels.int8_matmul
import reference.int8_matmul
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


def needs_int_mm(a: Tensor, b: Tensor) -> None:
    """Raise `Unsupported` unless torch._int_mm takes a @ b.T on their device."""
    if a.is_cuda and (len(a) <= 16 or a.shape[1] % 8 or len(b) % 8):
        raise Unsupported("torch._int_mm needs M > 16 and multiples of 8 as N and K on a GPU")


def dequantize(total: Tensor, a_scale: Tensor, b_scale: Tensor, bias: Tensor | None) -> Tensor:
    """Integer sums times their scales in fp32, with as little memory as torch allows."""
    out = total.float().mul_(a_scale[:, None]).mul_(b_scale)
    return out if bias is None else out.add_(bias)


class Int8Matmul(Operator):
    """Many rows are bound by int8 tensor cores, a handful by reading b. The layers are up and down of an MLP."""

    entry = staticmethod(kernels.int8_matmul.int8_matmul)
    reference = staticmethod(reference.int8_matmul.int8_matmul)
    # One element, one more than a tile in each direction, several tiles, K even and not; nothing along each dimension.
    checks = (
        grid(m=[1, 37], n=[1, 70], k=[1, 130], bias=[False, True], dtype=[fp32, bf16])
        + grid(m=[129], n=[257], k=[128, 384], bias=[True], dtype=[fp32, fp16])
        + grid(m=[0, 5], n=[0, 7], k=[0, 9], bias=[True], dtype=[fp32])
        + grid(m=[1200], n=[140], k=[16], bias=[False], dtype=[bf16])
    )
    sweep = grid(
        model=models("bert-base", "llama3-8b", "llama3-70b"), seq_len=SEQ_LENS, layer=["up", "down"], dtype=[bf16]
    )
    hostile = {"m": 7, "n": 20, "k": 40, "bias": True, "dtype": fp32}
    vast = {"m": 2**19 + 1, "n": 4104, "k": 4096, "bias": False, "dtype": bf16}
    rows_of = ("a", "a_scale")
    prepared = ("a_scale", "b", "b_scale")

    def sizes(self, model: Model, seq_len: int, layer: str, dtype: Dtype) -> dict[str, Any]:
        narrow, wide = model.hidden_size, model.intermediate_size
        n, k = (wide, narrow) if layer == "up" else (narrow, wide)
        return {"m": seq_len, "n": n, "k": k, "bias": False, "dtype": dtype}

    def inputs(self, make: Make, m: int, n: int, k: int, bias: bool, dtype: Dtype) -> Inputs:
        a = make.integers(-128, 128, m, k, dtype=torch.int8)
        b = make.integers(-128, 128, n, k, dtype=torch.int8)
        scales = [make.uniform(0.005, 0.02, size, dtype=fp32) for size in (m, n)]
        inputs = {"a": a, "b": b, "a_scale": scales[0], "b_scale": scales[1]}
        return inputs | ({"bias": make.normal(n, dtype=dtype)} if bias else {}) | {"out_dtype": dtype}

    def traffic(self, mode: str, m: int, n: int, k: int, bias: bool, dtype: Dtype) -> int:
        """Both matrices and their scales, the bias, out."""
        return m * k + n * k + 4 * (m + n) + (m * n + bias * n) * dtype.itemsize

    def flops(self, mode: str, m: int, n: int, k: int, **_: Any) -> int:
        """A product and a sum."""
        return 2 * m * n * k

    @kernel
    def triton(self, **inputs: Any) -> Callable[[], Tensor]:
        return lambda: kernels.int8_matmul.int8_matmul(**inputs)

    @peer()
    def int_mm(
        self, a: Tensor, b: Tensor, a_scale: Tensor, b_scale: Tensor, out_dtype: Dtype, bias: Tensor | None = None
    ) -> Callable[[], Tensor]:
        needs_int_mm(a, b)
        return lambda: dequantize(torch._int_mm(a, b.T), a_scale, b_scale, bias).to(out_dtype)

    @peer(install="pip install bitsandbytes")
    def bitsandbytes(
        self, a: Tensor, b: Tensor, a_scale: Tensor, b_scale: Tensor, out_dtype: Dtype, bias: Tensor | None = None
    ) -> Callable[[], Tensor]:
        needs_cuda(a)
        if out_dtype == fp32:
            raise Unsupported("dequantises to fp16")
        from bitsandbytes.functional import int8_linear_matmul, int8_mm_dequant

        # Its scales are absolute maxima. In bf16 it takes the same way, with a cast behind it.
        row_max, col_max = a_scale * 127, b_scale * 127
        return lambda: int8_mm_dequant(int8_linear_matmul(a, b), row_max, col_max, bias=bias).to(out_dtype)

    @peer(install="pip install torchao")
    def torchao(
        self, a: Tensor, b: Tensor, a_scale: Tensor, b_scale: Tensor, out_dtype: Dtype, bias: Tensor | None = None
    ) -> Callable[[], Tensor]:
        needs_cuda(a)
        if bias is not None:
            raise Unsupported("adds no bias")
        from torchao.prototype.quantized_training.int8_mm import scaled_int8_mm

        return lambda: scaled_int8_mm(a, b.T, a_scale, b_scale).to(out_dtype)

    @peer(install="pip install vllm")
    def vllm(
        self, a: Tensor, b: Tensor, a_scale: Tensor, b_scale: Tensor, out_dtype: Dtype, bias: Tensor | None = None
    ) -> Callable[[], Tensor]:
        needs_cuda(a)
        if out_dtype == fp32:
            raise Unsupported("writes fp16 and bf16 only")
        from vllm import _custom_ops

        return lambda: _custom_ops.cutlass_scaled_mm(a, b.T, a_scale[:, None], b_scale[None], out_dtype, bias)


class Int8Linear(Operator):
    """What LLM.int8() adds to the product: two reads of x, a write of its int8, and a few columns at a higher price.

    Inputs have outlier channels as in section 3 of the paper, 20 times as large as the rest, which is cut at 5: every
    sample of rows holds the same outlier columns.
    """

    entry = staticmethod(kernels.int8_matmul.int8_linear)
    reference = staticmethod(reference.int8_matmul.int8_linear)
    # Outlier columns: none, some, more than one step of the loop over them takes, from two steps of gathering, all;
    # an entry at the threshold, or next to one that dtype cannot hold.
    checks = (
        grid(m=[1, 37], n=[1, 70], k=[130], outliers=[0, 3], bias=[True], dtype=[fp32, fp16, bf16])
        + grid(m=[129], n=[130], k=[128], outliers=[1, 33], bias=[False], dtype=[fp32, fp16])
        + grid(m=[5], n=[7], k=[40], outliers=[40], bias=[True], dtype=[fp32, fp16, bf16])
        + grid(
            m=[5],
            n=[7],
            k=[40],
            outliers=[2],
            bias=[True],
            dtype=[fp32, fp16, bf16],
            threshold=[0.0, 6.0, 6.1, math.inf],
        )
        + grid(m=[2], n=[3], k=[5000], outliers=[40], bias=[True], dtype=[fp16])
        + grid(m=[0, 5], n=[0, 7], k=[0, 9], outliers=[0], bias=[True], dtype=[fp32])
    )
    sweep = Int8Matmul.sweep
    hostile = {"m": 7, "n": 20, "k": 40, "outliers": 2, "bias": True, "dtype": fp32}
    rows_of, prepared = ("x",), ("weight_int8", "weight_scale")

    def sizes(self, model: Model, seq_len: int, layer: str, dtype: Dtype) -> dict[str, Any]:
        sizes = Int8Matmul().sizes(model, seq_len, layer, dtype)
        return sizes | {"outliers": sizes["k"] // 512}

    def inputs(
        self,
        make: Make,
        m: int,
        n: int,
        k: int,
        outliers: int,
        bias: bool,
        dtype: Dtype,
        threshold: float | None = None,
    ) -> Inputs:
        x = make.normal(m, k, dtype=dtype).clamp_(-5, 5)
        x[:, make.permutation(k)[:outliers]] *= 20
        if threshold is None:
            threshold = 6.0
        elif threshold < math.inf:
            x[:1, :1] = threshold
        weight = make.integers(-127, 128, n, k, dtype=torch.int8)
        # As of weights that keep the variance of x.
        scale = make.uniform(0.01, 0.02, n, dtype=fp32) / math.sqrt(max(1, k))
        inputs = {"x": x, "weight_int8": weight, "weight_scale": scale, "threshold": threshold}
        return inputs | ({"bias": make.normal(n, dtype=dtype)} if bias else {})

    def traffic(self, mode: str, m: int, n: int, k: int, bias: bool, dtype: Dtype, **_: Any) -> int:
        """x, the weight and its scale, the bias, out."""
        return n * k + 4 * n + (m * k + m * n + bias * n) * dtype.itemsize

    def flops(self, mode: str, m: int, n: int, k: int, **_: Any) -> int:
        """A product and a sum."""
        return 2 * m * n * k

    @kernel
    def triton(self, **inputs: Any) -> Callable[[], Tensor]:
        return lambda: kernels.int8_matmul.int8_linear(**inputs)

    @peer()
    def int_mm(
        self, x: Tensor, weight_int8: Tensor, weight_scale: Tensor, threshold: float, bias: Tensor | None = None
    ) -> Callable[[], Tensor]:
        needs_int_mm(x, weight_int8)
        largest = torch.full((), 127.0, device=x.device)

        def linear() -> Tensor:
            outlier = torch.linalg.vector_norm(x, torch.inf, 0) >= threshold
            columns = outlier.nonzero().squeeze(1)
            rest = x.float().masked_fill_(outlier, 0)
            scale = torch.linalg.vector_norm(rest, torch.inf, -1) / largest
            q = rest.div_(scale[:, None]).round_().to(torch.int8)
            out = dequantize(torch._int_mm(q, weight_int8.T), scale, weight_scale, bias).to(x.dtype)
            weight = (weight_int8[:, columns] * weight_scale[:, None]).to(x.dtype)
            return out.addmm_(x[:, columns], weight.T)

        return linear

    @peer(install="pip install bitsandbytes")
    def bitsandbytes(
        self, x: Tensor, weight_int8: Tensor, weight_scale: Tensor, threshold: float, bias: Tensor | None = None
    ) -> Callable[[], Tensor]:
        needs_cuda(x)
        if x.dtype != bf16 or threshold == 0:
            raise Unsupported("its row maxima include outlier columns, which only bf16 hides; threshold 0 means none")
        import bitsandbytes

        state = bitsandbytes.MatmulLtState()
        state.CB, state.SCB, state.has_fp16_weights, state.is_training = weight_int8, weight_scale * 127, False, False
        return lambda: bitsandbytes.matmul(x, weight_int8, state=state, threshold=threshold, bias=bias)
