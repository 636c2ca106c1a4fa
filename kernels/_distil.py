"""What distillation from hidden states shares: an online softmax in splits, the teacher's arguments, autograd.

hidden (rows, K) and weight (V, K) are the student's, teacher_hidden (rows, L) and teacher_weight (V, L) the teacher's,
s = hidden @ weight^T and t = teacher_hidden @ teacher_weight^T their logits, which no kernel stores. One program owns
BLOCK_M rows and SPLIT columns of the vocabulary, walks over them with the maximum of each row and the sum of its
powers, and leaves both; a second launch joins the splits of a row. Losses are means over rows; their gradients, of the
student alone, are made by `kernels._chunked` from slopes, a chunk of the vocabulary at a time.
Source: Milakov and Gimelshein 2018, arXiv:1805.02867; Wijmans et al. 2024, arXiv:2411.09009 (splits).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels._chunked import EVEN, as_matrix, gradients
from kernels._launch import FLOATS, expect, expect_inference, expect_like, expect_tensor
from kernels._logprob import LOG2E, LOWEST

SPLIT = 2048  # columns of a program
JOINED = 32  # rows of a program that joins splits

Pair = tuple[Tensor, Tensor]
Launch = Callable[..., tuple[Tensor, Tensor | None]]
Fill = Callable[..., None]


@triton.jit
def joined(peak_ptr, rows, inside):
    """Of the splits of each row the largest peak, how far each fades beside it, and the sum of their totals."""
    peak = tl.load(peak_ptr, mask=inside, other=LOWEST)
    top = tl.max(peak, 0)
    fade = tl.exp2((peak - top[None, :]) * LOG2E)
    return top, fade, tl.sum(tl.load(peak_ptr + rows, mask=inside, other=0.0) * fade, 0)


def strides_of(*pairs: Pair) -> tuple[tuple[int, int], ...]:
    """How far the rows of hidden states and of weights lie apart, pair by pair."""
    return tuple((hidden.stride(0), weight.stride(0)) for hidden, weight in pairs)


def even(student: Pair, teacher: Pair) -> dict[str, bool]:
    """Whether tiles divide the depths of both."""
    return {"EVEN_K": student[0].shape[1] % EVEN == 0, "EVEN_L": teacher[0].shape[1] % EVEN == 0}


class _Distilled(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, teacher: Pair, launch: Launch, fill: Fill, options: tuple[float, ...],
        scale: float,
    ) -> Tensor:  # fmt: skip
        loss, stats = launch((as_matrix(hidden), as_matrix(weight)), teacher, *options, keep=True)
        ctx.save_for_backward(hidden, weight, *teacher, stats)
        ctx.fill, ctx.options, ctx.scale = fill, options, scale
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dloss: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, *teacher, stats = ctx.saved_tensors
        student = as_matrix(hidden), as_matrix(weight)
        factor = dloss.float() * (ctx.scale / max(1, len(hidden)))
        fill = partial(ctx.fill, student, tuple(teacher), stats, *ctx.options)
        return *gradients(fill, *student, None, factor, ctx.needs_input_grad[:2]), None, None, None, None, None


def distilled(
    launch: Launch, fill: Fill, hidden: Tensor, weight: Tensor, teacher: Pair, options: tuple[float, ...], scale: float
) -> Tensor:
    """The loss that `launch` makes of student, teacher and options, differentiable in hidden and weight.

    `launch` gives the loss and, if it is to keep them, the sums that `fill` makes the slopes from; scale: what the mean
    of the slopes over rows is to be multiplied by.
    """
    teacher = as_matrix(teacher[0]), as_matrix(teacher[1])
    if torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad):
        loss: Tensor = _Distilled.apply(hidden, weight, teacher, launch, fill, options, scale)
        return loss
    return launch((as_matrix(hidden), as_matrix(weight)), teacher, *options, keep=False)[0]


def check(hidden: Tensor, weight: Tensor, teacher: Any, temperature: float) -> None:
    """Raise unless these are a student, a teacher of its rows and vocabulary, and a temperature."""
    _check_pair(("hidden", "weight"), hidden, weight)
    _check_teacher(hidden, weight, teacher)
    expect_number("temperature", temperature)
    expect(0 < temperature < float("inf"), "temperature", "a positive finite number", temperature)


def expect_number(argument: str, value: object) -> None:
    """Raise `TypeError` unless `value` is a number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{argument}: expected a number, got {type(value).__name__}")


def _check_pair(names: tuple[str, str], hidden: Tensor, weight: Tensor) -> None:
    for name, value in zip(names, (hidden, weight), strict=True):
        expect_tensor(name, value, dtypes=FLOATS, rank=2)
    expect_like(names[1], weight, names[0], hidden)
    depth, shape = hidden.shape[1], f"shape {tuple(weight.shape)}"
    expect(weight.shape[1] == depth, names[1], f"{depth} columns, as {names[0]} has", shape)
    expect(min(weight.shape) >= 1, names[1], "at least 1 row and 1 column", shape)


def _check_teacher(hidden: Tensor, weight: Tensor, teacher: Any) -> None:
    if not isinstance(teacher, tuple) or len(teacher) != 2:
        raise TypeError(f"teacher: expected a tuple of two tensors, got {type(teacher).__name__}")
    _check_pair(("teacher", "teacher"), *teacher)
    expect_like("teacher", teacher[0], "hidden", hidden)
    sizes = tuple(len(value) for value in teacher)
    expected = len(hidden), len(weight)
    expect(sizes == expected, "teacher", f"{expected[0]} and {expected[1]} rows, as the student has", sizes)
    for value in teacher:
        expect_inference("teacher", value)
