"""Which experts a token goes to, and with what weights: the top k of E scores, and the gradient of their weights.

h = logits + noise * softplus(spread), s = softmax(h) or sigmoid(h); e_1 ... e_k are the experts of highest h or, where
there is a bias, of highest s + bias; w_j = scale s_{e_j}, over the sum of the chosen s if renormalised. logits, noise,
spread (tokens, E), bias (E,), weights, experts (tokens, k). Experts may come in groups, of which the best are open:
those of highest score or, with a bias, of the highest sum of two. Equals are taken from the left; NaN is above all.

A program owns whole rows, at most 2048 scores, and keeps them in registers: they are read once. Scores are compared as
integers, so that a number and its place fit into 64 bits: one maximum finds the best and breaks ties. Each of k rounds
takes one out. The backward is that of `kernels._moe_router_backward`.
Source: arXiv:1701.06538 (KeepTopK), arXiv:2101.03961 (Switch), arXiv:2401.04088 (Mixtral), arXiv:2412.19437
(DeepSeek-V3).
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels._launch import FLOATS, device_of, expect, expect_device, expect_like, expect_tensor
from kernels._moe_router_backward import backward
from kernels._noisy import noisy
from kernels._order import TAKEN, best, in_best_groups, keys_of

TILE = 2048  # scores of a program: 16 of each thread of 4 warps, whose 64-bit keys fit into registers
MOST_EXPERTS = 4096
MOST_ROWS = 64  # of a program, where rows are short: few tokens are to be spread over many programs
Options = tuple[bool, bool, int, int, float]  # softmax, renormalize, groups, top_groups, scale


@triton.jit
def _forward(
    tensors, bias_ptr, weights_ptr, experts_ptr, whole_ptr, strides, size, scale,
    SOFTMAX: tl.constexpr, RENORMALIZE: tl.constexpr, TOP_K: tl.constexpr, WIDTH: tl.constexpr,
    GROUPS: tl.constexpr, TOP_GROUPS: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr,
):  # fmt: skip
    tokens, E = size
    row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)[:, None]
    col = tl.arange(0, BLOCK_COLS)[None, :]
    inside = (row < tokens) & (col < E)
    h = noisy(tensors, strides, row, col, inside, E)
    if SOFTMAX:
        top = tl.max(h, axis=1, keep_dims=True)
        score = tl.exp(h - top)
        total = tl.sum(score, axis=1, keep_dims=True)
        score /= total
    else:
        score = tl.sigmoid(h)
    choice = h
    if bias_ptr is not None:
        choice = score + tl.load(bias_ptr + col, mask=col < E, other=0.0).to(tl.float32)
    if GROUPS > 1:
        is_open = in_best_groups(choice, col, E, GROUPS, TOP_GROUPS, bias_ptr is not None)
        choice = tl.where(is_open, choice, -float("inf"))

    keys, place = keys_of(choice, col, col < E), tl.arange(0, WIDTH)[None, :]
    experts = tl.zeros((BLOCK_ROWS, WIDTH), tl.int32)
    weights = tl.zeros((BLOCK_ROWS, WIDTH), tl.float32)
    for j in range(TOP_K):
        key, value, expert = best(keys)
        if bias_ptr is not None or GROUPS > 1:
            weight = tl.sum(tl.where(keys == key, score, 0.0), axis=1, keep_dims=True)
        elif SOFTMAX:
            weight = tl.exp(value - top) / total
        else:
            weight = tl.sigmoid(value)
        experts, weights = tl.where(place == j, expert, experts), tl.where(place == j, weight, weights)
        keys = tl.where(keys == key, TAKEN, keys)
    if RENORMALIZE:
        chosen = tl.sum(weights, axis=1, keep_dims=True)
        weights /= chosen
    out = (row < tokens) & (place < TOP_K)
    tl.store(weights_ptr + row * TOP_K + place, weights * scale, mask=out)
    tl.store(experts_ptr + row * TOP_K + place, experts, mask=out)
    if whole_ptr is not None:
        tl.store(whole_ptr + row, chosen, mask=row < tokens)


def _tile(experts: int, top_k: int) -> tuple[int, dict[str, int]]:
    """The rows of a program, and all launch options that follow from sizes."""
    cols = triton.next_power_of_2(experts)
    rows = max(1, min(MOST_ROWS, TILE // cols))
    tile = {"TOP_K": top_k, "WIDTH": triton.next_power_of_2(top_k), "BLOCK_ROWS": rows, "BLOCK_COLS": cols}
    return rows, tile | {"num_warps": 8 if cols > TILE else 4}


def _rows(tensors: tuple[Tensor | None, ...]) -> tuple[tuple[Tensor | None, ...], tuple[int, ...]]:
    """Tensors whose columns lie side by side (a copy only where they do not), and how far apart their rows are."""
    found = tuple(x if x is None or 1 in (x.stride(1), x.shape[1]) else x.contiguous() for x in tensors)
    return found, tuple(0 if x is None else x.stride(0) for x in found)


def _launch(
    tensors: tuple[Tensor, Tensor | None, Tensor | None], bias: Tensor | None, top_k: int, options: Options, keep: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """weights, experts and the sum of the scores chosen, if the backward will need it."""
    softmax, renormalize, groups, top_groups, scale = options
    (tokens, experts), device = tensors[0].shape, tensors[0].device
    weights = torch.empty(tokens, top_k, dtype=torch.float32, device=device)
    chosen = torch.empty(tokens, top_k, dtype=torch.int32, device=device)
    keep = keep and renormalize and not softmax
    whole = torch.empty(tokens, dtype=torch.float32, device=device) if keep else None
    if tokens:
        rows, tile = _tile(experts, top_k)
        read, strides = _rows(tensors)
        with device_of(chosen):
            _forward[(triton.cdiv(tokens, rows),)](
                read, None if bias is None else bias.contiguous(), weights, chosen, whole, strides, (tokens, experts),
                scale, SOFTMAX=softmax, RENORMALIZE=renormalize, GROUPS=groups, TOP_GROUPS=top_groups, **tile,
            )  # fmt: skip
    return weights, chosen, whole


class _MoeRouter(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, noise: Tensor | None, spread: Tensor | None, bias: Tensor | None, top_k: int,
        options: Options,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        weights, experts, whole = _launch((logits, noise, spread), bias, top_k, options, keep=True)
        ctx.save_for_backward(logits, noise, spread, weights, experts, whole)
        ctx.mark_non_differentiable(experts)
        ctx.set_materialize_grads(False)
        ctx.options = options
        return weights, experts

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dweights: Tensor | None, _: Any) -> tuple[Tensor | None, ...]:
        if dweights is None:
            return (None,) * 6
        *tensors, weights, experts, whole = ctx.saved_tensors
        softmax, renormalize, *_, scale = ctx.options
        (tokens, count), needs = tensors[0].shape, ctx.needs_input_grad[:3]
        gradients = tuple(
            torch.empty(x.shape, dtype=x.dtype, device=x.device) if need else None
            for x, need in zip(tensors, needs, strict=True)
        )
        if tokens:
            rows, tile = _tile(count, weights.shape[1])
            read, strides = _rows(tuple(tensors))
            with device_of(weights):
                backward[(triton.cdiv(tokens, rows),)](
                    dweights.contiguous(), weights, experts, whole, read, gradients, strides, (tokens, count), scale,
                    SOFTMAX=softmax, RENORMALIZE=renormalize, **tile,
                )  # fmt: skip
        return *gradients, None, None, None


def _check_tensors(logits: Tensor, noise: Tensor | None, spread: Tensor | None, bias: Tensor | None) -> None:
    expect_tensor("logits", logits, dtypes=FLOATS, rank=2)
    experts = logits.shape[1]
    expect(1 <= experts <= MOST_EXPERTS, "logits", f"1 to {MOST_EXPERTS} columns", f"shape {tuple(logits.shape)}")
    for name, value in (("noise", noise), ("spread", spread)):
        if value is not None:
            expect_tensor(name, value, dtypes=FLOATS, rank=2)
            expect_like(name, value, "logits", logits)
            expect(value.shape == logits.shape, name, f"the shape of logits, {tuple(logits.shape)}", tuple(value.shape))
    expect(spread is None or noise is not None, "noise", "a tensor, which spread widens", noise)
    if bias is not None:
        expect_tensor("bias", bias, dtypes=FLOATS, rank=1)
        expect_device("bias", bias, "logits", logits)
        expect(len(bias) == experts, "bias", f"{experts} entries, one for each expert", len(bias))


def _options(
    logits: Tensor, top_k: int, scoring: str, pairs: bool, groups: int, top_groups: int, renormalize: bool, scale: float
) -> Options:
    for name, value in (("top_k", top_k), ("groups", groups), ("top_groups", top_groups)):
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{name}: expected an int, got {type(value).__name__}")
    expect(scoring in ("softmax", "sigmoid"), "scoring", "'softmax' or 'sigmoid'", repr(scoring))
    if not isinstance(renormalize, bool):
        raise TypeError(f"renormalize: expected a bool, got {type(renormalize).__name__}")
    if isinstance(scale, bool) or not isinstance(scale, int | float):
        raise TypeError(f"scale: expected a number, got {type(scale).__name__}")
    expect(0 < scale < math.inf, "scale", "a positive number", scale)
    experts = logits.shape[1]
    expect(groups >= 1 and experts % groups == 0, "groups", f"a divisor of the {experts} experts", groups)
    expect(not pairs or groups == 1 or experts > groups, "groups", "at least two experts in each, for the bias", groups)
    expect(1 <= top_groups <= groups, "top_groups", f"from 1 to the {groups} groups", top_groups)
    most = experts // groups * top_groups
    expect(1 <= top_k <= most, "top_k", f"from 1 to the {most} experts of top_groups", top_k)
    return scoring == "softmax", renormalize, groups, top_groups, float(scale)


def moe_router(
    logits: Tensor,
    top_k: int,
    *,
    scoring: str = "softmax",
    noise: Tensor | None = None,
    spread: Tensor | None = None,
    bias: Tensor | None = None,
    groups: int = 1,
    top_groups: int = 1,
    renormalize: bool = True,
    scale: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Return (weights fp32, experts int32), each (tokens, top_k): the experts of highest score, and their scores.

    logits: (tokens, E) fp32, fp16 or bf16, E at most 4096. noise, spread: like logits, and in their place is logits +
    noise * softplus(spread) (spread None: logits + noise). scoring: softmax or sigmoid of them. bias: (E,), fp32 or
    shorter, added to scores for the choice alone. Only the best top_groups of `groups` equal stretches of experts are
    open. renormalize: the weights of a token sum to one; then all are multiplied by scale. Any strides. Experts are
    ordered by score, equals by index. Differentiable in logits, noise and spread. Computed in fp32.
    Source: arXiv:1701.06538, arXiv:2101.03961, arXiv:2401.04088, arXiv:2412.19437.

    Raises:
        TypeError, ValueError: an argument is not as described.
    """
    _check_tensors(logits, noise, spread, bias)
    options = _options(logits, top_k, scoring, bias is not None, groups, top_groups, renormalize, scale)
    recorded = any(x is not None and x.requires_grad for x in (logits, noise, spread))
    if torch.is_grad_enabled() and recorded:
        weights, experts = _MoeRouter.apply(logits, noise, spread, bias, top_k, options)
        return weights, experts
    return _launch((logits, noise, spread), bias, top_k, options, keep=False)[:2]
