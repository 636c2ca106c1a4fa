"""AdamW: Adam with bias correction, and weight decay that is no part of the gradient.

    m' = beta1 m + (1 - beta1) g,   v' = beta2 v + (1 - beta2) g^2,
    p' = p (1 - lr decay) - lr (m' / (1 - beta1^step)) / (sqrt(v' / (1 - beta2^step)) + eps)

Shapes: any number of parameters p of any sizes, each with g, m and v of its own, and a weight decay; seen as flat. One
launch updates them all: a program owns 2048 entries of one parameter, which tables on the device name (kernels/
_tensors.py), reads p, g, m and v once and writes p, m and v once. All in fp32, with what is stored in bf16 rounded to
nearest, or, given a seed, up or down at random so that the mean is exact: a bf16 parameter moves by less than half an
ulp in most steps of training, and rounded to nearest would not move at all. Random bits are Philox's, counted by place.

Source: Loshchilov & Hutter 2019, arXiv:1711.05101, algorithm 2 (the schedule multiplies lr, and lr the decay, as in
PyTorch); stochastic rounding: Zamirai et al. 2020, arXiv:2010.06192.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor

from kernels._tensors import expect_step, is_whole, number, place, read, update_flat, update_lists, write

ROLES, WRITTEN = ("params", "grads", "exp_avgs", "exp_avg_sqs"), (0, 2, 3)


@triton.jit
def _step(pointers, out_ptrs, places, left, decay, hyper, key, WHOLE: tl.constexpr, BLOCK: tl.constexpr):
    lr, keep, take, keep_sq, take_sq, step_size, correction, eps = hyper
    param = read(pointers[0], places[0], left, WHOLE, BLOCK)
    grad = read(pointers[1], places[1], left, WHOLE, BLOCK)
    exp_avg = read(pointers[2], places[2], left, WHOLE, BLOCK)
    exp_avg_sq = read(pointers[3], places[3], left, WHOLE, BLOCK)
    exp_avg = keep * exp_avg + take * grad
    exp_avg_sq = keep_sq * exp_avg_sq + take_sq * (grad * grad)
    param = param * (1.0 - lr * decay) - step_size * (exp_avg / (tl.sqrt(exp_avg_sq) * correction + eps))
    write(out_ptrs[0], param, places[0], left, key, 0, WHOLE, BLOCK)
    write(out_ptrs[1], exp_avg, places[2], left, key, 1, WHOLE, BLOCK)
    write(out_ptrs[2], exp_avg_sq, places[3], left, key, 2, WHOLE, BLOCK)


@triton.jit(do_not_specialize=["key"])
def _adamw(
    param_ptr, grad_ptr, exp_avg_ptr, exp_avg_sq_ptr, out_ptrs, table_ptrs, hyper, key, BLOCK: tl.constexpr
):  # fmt: skip
    pointers = (param_ptr, grad_ptr, exp_avg_ptr, exp_avg_sq_ptr)
    owner, places, left = place(table_ptrs, BLOCK)
    decay = tl.load(table_ptrs[2] + owner)
    if is_whole(places, left, BLOCK):
        _step(pointers, out_ptrs, places, left, decay, hyper, key, True, BLOCK)
    else:
        _step(pointers, out_ptrs, places, left, decay, hyper, key, False, BLOCK)


def _hyper(step: object, lr: object, betas: object, eps: object) -> tuple[float, ...]:
    """What the kernel multiplies with, each worked out in fp64 and rounded once."""
    if not isinstance(betas, tuple) or len(betas) != 2:
        raise TypeError(f"betas: expected a tuple of two numbers, got {betas!r}")
    rate, first, second = number("lr", lr), number("betas", betas[0], high=1.0), number("betas", betas[1], high=1.0)
    count = expect_step(step)
    correction = 1 / math.sqrt(1 - second**count)
    return (
        rate, first, 1 - first, second, 1 - second, rate / (1 - first**count), correction, number("eps", eps),
    )  # fmt: skip


def adamw(
    params: Tensor, grads: Tensor, exp_avgs: Tensor, exp_avg_sqs: Tensor, step: int, lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, weight_decay: float | tuple[float, ...] = 1e-2,
    sizes: tuple[int, ...] = (), seed: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Return parameters and both moments after a step of AdamW on parameters that lie one behind the other.

    params (n,): fp32 or bf16; grads, exp_avgs and exp_avg_sqs (n,): that dtype or fp32 each; any strides. step: counts
    from 1. sizes: those of the parameters within n (default: one parameter); weight_decay: one for all or one for each.
    seed: rounds what is stored in bf16 stochastically; another one for each step. Returns tensors like params,
    exp_avgs and exp_avg_sqs; `adamw_` writes over them instead. Source: arXiv:1711.05101.

    Raises:
        TypeError, ValueError: an argument is not as described.
    """
    given, hyper = (params, grads, exp_avgs, exp_avg_sqs), _hyper(step, lr, betas, eps)
    updated, first, second = update_flat(_adamw, ROLES, given, WRITTEN, sizes, weight_decay, hyper, seed)
    return updated, first, second


def adamw_(
    params: Sequence[Tensor], grads: Sequence[Tensor], exp_avgs: Sequence[Tensor], exp_avg_sqs: Sequence[Tensor],
    step: int, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
    weight_decay: float | tuple[float, ...] = 1e-2, seed: int | None = None,
) -> None:  # fmt: skip
    """A step of AdamW over lists of tensors of any shapes, written over params, exp_avgs and exp_avg_sqs: one launch.

    The tensors of a list are contiguous and of one dtype; weight_decay: one for all or one for each; everything else,
    and what is raised, as in `adamw`.
    """
    lists, hyper = (params, grads, exp_avgs, exp_avg_sqs), _hyper(step, lr, betas, eps)
    update_lists(_adamw, ROLES, lists, WRITTEN, weight_decay, hyper, seed)
