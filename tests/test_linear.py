"""Fused linear layers keep for their backward what they say, and need nothing but their output without one."""

from __future__ import annotations

import gc
from typing import Any

import pytest
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from bench.core import device

DEVICE = device.choose()

from bench import (  # noqa: E402 - whether it is interpreted is decided before
    bench_lora_linear,
    bench_low_rank_linear,
    bench_nf4_linear,
    bench_swiglu_linear,
)
from bench.core import memory  # noqa: E402
from bench.core.case import Make, bf16  # noqa: E402
from bench.core.operator import Operator  # noqa: E402
from bench.core.trial import Trial  # noqa: E402
from kernels.nf4_linear import nf4_linear  # noqa: E402

ROWS, COLS, DEPTH, RANK = 64, 512, 64, 8
ROUNDED_UP = 4 * 512  # bytes that allocators add to a few small tensors
ADAPTER: dict[str, Any] = {"rank": RANK, "bias": False}

# What is kept of a row: gate and up; h in 16 bits; the partial sums of h in 32 (a K this short is not shared out).
LAYERS: list[tuple[type[Operator], dict[str, Any], int]] = [
    (bench_swiglu_linear.SwiGluLinear, {}, 4 * COLS),
    (bench_low_rank_linear.LowRankLinear, ADAPTER, 2 * RANK),
    (bench_lora_linear.LoraLinear, ADAPTER, 4 * RANK),
    (bench_nf4_linear.Nf4Linear, {"bias": False}, 0),
]
EVERY_LAYER = pytest.mark.parametrize(
    ("operator", "more", "bytes_a_row"), LAYERS, ids=[operator.name() for operator, *_ in LAYERS]
)


@EVERY_LAYER
def test_training_keeps_what_the_essay_says(operator: type[Operator], more: dict[str, Any], bytes_a_row: int) -> None:
    declared, kept = operator(), dict[int, int]()
    inputs = declared.inputs(Make(DEVICE), m=ROWS, n=COLS, k=DEPTH, dtype=bf16, **more)

    def keep(value: Tensor) -> Tensor:
        kept[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
        return value

    trial = Trial(declared.provider("triton"), inputs, "bwd")
    with saved_tensors_hooks(keep, lambda value: value):
        outputs = trial.forward()
    given = {value.untyped_storage().data_ptr() for value in inputs.values() if isinstance(value, Tensor)}
    assert outputs[0].shape == (ROWS, COLS)
    assert sum(size for at, size in kept.items() if at not in given) == bytes_a_row * ROWS


@EVERY_LAYER
def test_inference_needs_its_output_alone(operator: type[Operator], more: dict[str, Any], bytes_a_row: int) -> None:
    declared = operator()
    inputs = declared.inputs(Make(DEVICE), m=ROWS, n=COLS, k=DEPTH, dtype=bf16, **more)
    trial = Trial(declared.provider("triton"), inputs, "fwd")
    trial.once()
    # What an interpreted call leaves in cycles would be given back in the middle of the next, which is measured.
    gc.collect()
    peak = memory.measure(trial, DEVICE).peak_bytes
    sums = bytes_a_row * ROWS if operator is bench_lora_linear.LoraLinear else 0
    assert 2 * ROWS * COLS <= peak <= 2 * ROWS * COLS + sums + ROUNDED_UP


def test_a_weight_of_4_bits_is_never_made_as_a_whole() -> None:
    declared, n, k = bench_nf4_linear.Nf4Linear(), 128, 512
    trial = Trial(declared.provider("triton"), declared.inputs(Make(DEVICE), 8, n, k, bias=False, dtype=bf16), "bwd")
    trial.once()
    gc.collect()
    # A copy in 16 bits would take twice as much.
    assert memory.measure(trial, DEVICE).workspace_bytes < n * k


def test_a_weight_of_4_bits_is_not_trained_and_a_bias_is_without_x() -> None:
    inputs = bench_nf4_linear.Nf4Linear().inputs(Make(DEVICE), 3, 20, 64, bias=True, dtype=bf16)
    inputs["x"] = inputs["x"].view(3, 1, 64)
    bias = inputs["bias"].requires_grad_()
    nf4_linear(**inputs).sum().backward()
    assert bias.grad is not None
    assert bool((bias.grad == 3).all())
    inputs["absmax"].requires_grad_()
    with pytest.raises(ValueError, match=r"^absmax: expected no gradient"):
        nf4_linear(**inputs)
