"""SGD with momentum, classical or Nesterov's, dampening and weight decay.

    d = g + decay p,   b' = momentum b + (1 - dampening) d   (b' = d in the first step),
    p' = p - lr b',   or with Nesterov's momentum   p' = p - lr (d + momentum b')

Shapes: any number of parameters p of any sizes, each with g and b of its own, and a weight decay; seen as flat. One
launch updates them all: a program owns 2048 entries of one parameter, which tables on the device name (kernels/
_tensors.py), reads p, g and b once (b not in the first step) and writes p and b once. All in fp32; what is stored in
bf16 is rounded to nearest or, given a seed, stochastically.

Source: Sutskever, Martens, Dahl & Hinton 2013, "On the importance of initialization and momentum in deep learning",
section 2, with the velocity of PyTorch: the gradient is added to it before lr multiplies both.
"""

from __future__ import annotations

from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor

from kernels._launch import expect_flag
from kernels._tensors import expect_step, is_whole, number, place, read, update_flat, update_lists, write

ROLES, WRITTEN = ("params", "grads", "momentum_buffers"), (0, 2)


@triton.jit
def _step(
    pointers, out_ptrs, places, left, decay, hyper, key,
    FIRST: tl.constexpr, NESTEROV: tl.constexpr, WHOLE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    lr, momentum, take = hyper
    param = read(pointers[0], places[0], left, WHOLE, BLOCK)
    change = read(pointers[1], places[1], left, WHOLE, BLOCK) + decay * param
    buffer = change
    if not FIRST:
        buffer = momentum * read(pointers[2], places[2], left, WHOLE, BLOCK) + take * change
    if NESTEROV:
        param -= lr * (change + momentum * buffer)
    else:
        param -= lr * buffer
    write(out_ptrs[0], param, places[0], left, key, 0, WHOLE, BLOCK)
    write(out_ptrs[1], buffer, places[2], left, key, 1, WHOLE, BLOCK)


@triton.jit(do_not_specialize=["key"])
def _sgd(
    param_ptr, grad_ptr, buffer_ptr, out_ptrs, table_ptrs, hyper, key,
    FIRST: tl.constexpr, NESTEROV: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    pointers = (param_ptr, grad_ptr, buffer_ptr)
    owner, places, left = place(table_ptrs, BLOCK)
    decay = tl.load(table_ptrs[2] + owner)
    if is_whole(places, left, BLOCK):
        _step(pointers, out_ptrs, places, left, decay, hyper, key, FIRST, NESTEROV, True, BLOCK)
    else:
        _step(pointers, out_ptrs, places, left, decay, hyper, key, FIRST, NESTEROV, False, BLOCK)


def _hyper(lr: object, momentum: object, dampening: object) -> tuple[float, ...]:
    return number("lr", lr), number("momentum", momentum), 1 - number("dampening", dampening)


def _constants(step: object, nesterov: object) -> dict[str, object]:
    expect_flag("nesterov", nesterov)
    return {"FIRST": expect_step(step) == 1, "NESTEROV": nesterov}


def sgd(
    params: Tensor, grads: Tensor, momentum_buffers: Tensor, step: int, lr: float = 1e-3, momentum: float = 0.9,
    dampening: float = 0.0, weight_decay: float | tuple[float, ...] = 0.0, nesterov: bool = False,
    sizes: tuple[int, ...] = (), seed: int | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Return parameters and momentum after a step of SGD on parameters that lie one behind the other.

    params (n,): fp32 or bf16; grads and momentum_buffers (n,): that dtype or fp32 each; any strides. step: counts from
    1; in the first, momentum_buffers are not read. sizes: those of the parameters within n (default: one parameter);
    weight_decay: one for all or one for each. seed: rounds what is stored in bf16 stochastically; another one for each
    step. Returns tensors like params and momentum_buffers; `sgd_` writes over them instead. Source: Sutskever et al.
    2013.

    Raises:
        TypeError, ValueError: an argument is not as described.
    """
    given = params, grads, momentum_buffers
    hyper, constants = _hyper(lr, momentum, dampening), _constants(step, nesterov)
    updated, velocity = update_flat(_sgd, ROLES, given, WRITTEN, sizes, weight_decay, hyper, seed, **constants)
    return updated, velocity


def sgd_(
    params: Sequence[Tensor], grads: Sequence[Tensor], momentum_buffers: Sequence[Tensor], step: int, lr: float = 1e-3,
    momentum: float = 0.9, dampening: float = 0.0, weight_decay: float | tuple[float, ...] = 0.0,
    nesterov: bool = False, seed: int | None = None,
) -> None:  # fmt: skip
    """A step of SGD over lists of tensors of any shapes, written over params and momentum_buffers: one launch.

    The tensors of a list are contiguous and of one dtype; weight_decay: one for all or one for each; everything else,
    and what is raised, as in `sgd`.
    """
    lists = params, grads, momentum_buffers
    hyper, constants = _hyper(lr, momentum, dampening), _constants(step, nesterov)
    update_lists(_sgd, ROLES, lists, WRITTEN, weight_decay, hyper, seed, **constants)
