"""LayerNorm: checks, sweep, cost and providers."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch import dtype as Dtype  # noqa: N812 - `dtype` is an axis
from torch.nn import functional

import kernels.layer_norm
import reference.layer_norm
from bench.core.operator import Inputs, Make, Operator, Unsupported, bf16, fp16, fp32, grid, kernel, needs_cuda, peer
from bench.models import SEQ_LENS, Model, models

# The rows that apex's FastLayerNorm is compiled for: apex/contrib/csrc/layer_norm/ln_fwd_cuda_kernel.cu.
FAST_WIDTHS = (
    768, 1024, 1536, 2048, 2304, 3072, 3840, 4096, 5120, 6144, 8192, 10240, 12288, 12800, 14336, 15360, 16384, 18432,
    20480, 24576, 25600, 30720, 32768, 40960, 49152, 65536,
)  # fmt: skip
APEX = "pip install -v --no-build-isolation git+https://github.com/NVIDIA/apex"


def needs_hopper(x: Tensor) -> None:
    """Raise `Unsupported` unless quack is made for the device of `x`."""
    needs_cuda(x)
    if torch.cuda.get_device_capability(x.device) < (9, 0):
        raise Unsupported("needs sm_90 or newer")


class LayerNorm(Operator):
    """LayerNorm is bound by memory: one read and one write per element."""

    entry = staticmethod(kernels.layer_norm.layer_norm)
    reference = staticmethod(reference.layer_norm.layer_norm)
    # Borders of tiles, of what registers hold and of chunks; more rows than programs stride over them; no rows. In one
    # column x is its own mean: y is the bias. A large mean is what a variance of raw squares would drown in.
    checks = (
        grid(rows=[1, 37], cols=[1, 127, 128, 1000], dtype=[fp32, fp16, bf16])
        + grid(rows=[37], cols=[1000], dtype=[fp16, bf16], weight_dtype=[fp32])
        + grid(rows=[0, 300], cols=[129], dtype=[fp32])
        + grid(rows=[9], cols=[100, 40000], dtype=[fp32], mean=[1000.0])
        + grid(rows=[9], cols=[4097, 8192, 8193], dtype=[fp32])
        + grid(rows=[2], cols=[16384, 16385], dtype=[fp32])
        + grid(rows=[2], cols=[32768, 32769], dtype=[bf16])
        + grid(rows=[1], cols=[131072], dtype=[fp32])
    )
    # Widths 1600, 768, 1280 and 1024: GPT-2 XL, BERT and ViT-B, ViT-H, BERT-large and ViT-L.
    sweep = grid(model=models("gpt2-xl", "bert-base", "vit-h", "vit-l"), seq_len=SEQ_LENS, dtype=[bf16])
    hostile = {"rows": 5, "cols": 40, "dtype": fp32}
    vast = {"rows": 2**19 + 1, "cols": 4096, "dtype": bf16}
    grad = True
    rows_of = ("x",)
    prepared = ("weight", "bias")

    def sizes(self, model: Model, seq_len: int, dtype: Dtype) -> dict[str, Any]:
        """Rows are tokens: of one text, or of the images of a batch."""
        return {"rows": seq_len, "cols": model.hidden_size, "dtype": dtype}

    def inputs(
        self, make: Make, rows: int, cols: int, dtype: Dtype, weight_dtype: Dtype | None = None, mean: float = 0.0
    ) -> Inputs:
        x = make.normal(rows, cols, dtype=dtype) + mean
        weight, bias = (make.normal(cols, dtype=weight_dtype or dtype) for _ in range(2))
        return {"x": x, "weight": weight, "bias": bias, "eps": 1e-5}

    def traffic(
        self, mode: str, rows: int, cols: int, dtype: Dtype, weight_dtype: Dtype | None = None, **_: Any
    ) -> int:
        """fwd: x, weight, bias; y. bwd: dy, x, weight; dx, dweight, dbias."""
        tensors, weights = {"fwd": (2, 2), "bwd": (3, 3)}[mode]
        return tensors * rows * cols * dtype.itemsize + weights * cols * (weight_dtype or dtype).itemsize

    def flops(self, mode: str, rows: int, cols: int, **_: Any) -> int:
        """fwd: mean, difference, square, sum, two products, bias.

        bwd: n (2), g and its sum, dot (2), dx (4), dweight (2), dbias.
        """
        return {"fwd": 7, "bwd": 13}[mode] * rows * cols

    @kernel
    def triton(self, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Callable[[], Tensor]:
        return lambda: kernels.layer_norm.layer_norm(x, weight, bias, eps)

    @peer()
    def eager(self, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Callable[[], Tensor]:
        if x.requires_grad and not x.is_cuda and x.dtype != fp32:
            # Proven: at 512 rows of 1600 columns its dweight is off by 1.36 of 51.7 in bf16, where 1.33 is allowed.
            raise Unsupported("torch's kernel for CPUs sums the gradients of weight and bias in low precision")
        return lambda: functional.layer_norm(x, x.shape[-1:], weight, bias, eps)

    @peer(install="pip install liger-kernel")
    def liger(self, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Callable[[], Tensor]:
        needs_cuda(x)
        from liger_kernel.ops import LigerLayerNormFunction

        return lambda: LigerLayerNormFunction.apply(x, weight, bias, eps)

    @peer(install="pip install quack-kernels")
    def quack(self, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Callable[[], Tensor]:
        needs_hopper(x)
        from quack.rmsnorm import layernorm_bwd, layernorm_fwd

        # Its forward takes weights in fp32 only, and it brings no autograd.Function: this is the least that joins them.
        wide = weight.detach().float(), bias.detach().float()

        class Joined(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, x: Tensor, weight: Tensor, _bias: Tensor) -> Any:
                y, rstd, mean = layernorm_fwd(x, *wide, eps, return_rstd=True, return_mean=True)
                ctx.save_for_backward(x, weight, rstd, mean)
                return y

            @staticmethod
            def backward(ctx: Any, dy: Tensor) -> Any:
                x, weight, rstd, mean = ctx.saved_tensors
                return layernorm_bwd(x, weight, dy, rstd, mean)

        if x.requires_grad:
            return partial(Joined.apply, x, weight, bias)
        return lambda: layernorm_fwd(x, *wide, eps)

    @peer(install=f"APEX_CPP_EXT=1 APEX_CUDA_EXT=1 {APEX}")
    def apex(self, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Callable[[], Tensor]:
        needs_cuda(x)
        from apex.normalization.fused_layer_norm import fused_layer_norm_affine

        importlib.import_module("fused_layer_norm_cuda")  # which apex itself imports no sooner than it runs
        return lambda: fused_layer_norm_affine(x, weight, bias, list(x.shape[-1:]), eps)

    @peer(install=f"APEX_CPP_EXT=1 APEX_CUDA_EXT=1 APEX_FAST_LAYER_NORM=1 {APEX}")
    def apex_fast(self, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Callable[[], Tensor]:
        needs_cuda(x)
        if x.shape[-1] not in FAST_WIDTHS:
            raise Unsupported(f"is not compiled for rows of {x.shape[-1]} columns")
        from apex.contrib.layer_norm.layer_norm import FastLayerNormFN

        return lambda: FastLayerNormFN.apply(x, weight, bias, eps)
