"""loss = E sum_i f_i P_i: f_i the share of tokens that chose expert i, P_i the mean over tokens of softmax(logits)_i.

logits, dlogits (tokens, E), experts (tokens, k), loss a number. f counts, and has no gradient; with d the gradient of
loss dlogits_ti = d (E / tokens) s_ti (f_i - sum_j f_j s_tj), s = softmax(logits).

A fixed number of programs strides over the rows; each reads its logits and choices once and leaves its sums of s and
its counts, 8 bytes for each expert. One program adds those in a fixed order: no atomics. It leaves f, with which the
backward reads logits once more and writes dlogits; whole rows stay in registers in both. What lies between the launches
is small beside the logits, except at a few hundred tokens, and stays in L2.
Source: Fedus et al. 2021, Switch Transformers (arXiv:2101.03961), equations 4 to 6.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels._launch import FLOATS, device_of, expect, expect_tensor, processors
from kernels._moe_rows import expect_choices, side_by_side

TILE = 2048  # logits of a program at a time: 16 of each thread of 4 warps
MOST_ROWS = 64
MOST_EXPERTS = 4096
FEWEST_LANES = 256  # experts up to which one compiled kernel sums for all models


@triton.jit
def _softmax(logits_ptr, row, col, size, stride):
    """The probabilities of some rows; those of rows that are not there are of no use, but finite."""
    tokens, E = size
    x = tl.load(logits_ptr + row * stride + col, mask=(row < tokens) & (col < E), other=0.0).to(tl.float32)
    x = tl.where(col < E, x, -float("inf"))
    powers = tl.exp(x - tl.max(x, axis=1, keep_dims=True))
    return powers / tl.sum(powers, axis=1, keep_dims=True)


@triton.jit
def _sums(
    logits_ptr, experts_ptr, sums_ptr, counts_ptr, stride, size,
    TOP_K: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr,
):  # fmt: skip
    tokens, E = size
    col = tl.arange(0, BLOCK_COLS)[None, :]
    sums = tl.zeros((BLOCK_ROWS, BLOCK_COLS), tl.float32)
    counts = tl.zeros((BLOCK_ROWS, BLOCK_COLS), tl.int32)
    for block in range(tl.program_id(0), tl.cdiv(tokens, BLOCK_ROWS), tl.num_programs(0)):
        row = block * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS).to(tl.int64)[:, None]
        sums += tl.where(row < tokens, _softmax(logits_ptr, row, col, size, stride), 0.0)
        for j in range(TOP_K):
            expert = tl.load(experts_ptr + row * TOP_K + j, mask=row < tokens, other=-1)
            counts += (col == expert).to(tl.int32)
    at = tl.program_id(0).to(tl.int64) * E + col
    tl.store(sums_ptr + at, tl.sum(sums, axis=0, keep_dims=True), mask=col < E)
    tl.store(counts_ptr + at, tl.sum(counts, axis=0, keep_dims=True), mask=col < E)


@triton.jit
def _finish(sums_ptr, counts_ptr, loss_ptr, f_ptr, size, programs, BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr):
    tokens, E = size
    row, col = tl.arange(0, BLOCK_ROWS)[:, None], tl.arange(0, BLOCK_COLS)[None, :]
    sums = tl.zeros((BLOCK_ROWS, BLOCK_COLS), tl.float32)
    counts = tl.zeros((BLOCK_ROWS, BLOCK_COLS), tl.int32)
    for start in range(0, programs, BLOCK_ROWS):
        at, inside = (start + row) * E + col, (start + row < programs) & (col < E)
        sums += tl.load(sums_ptr + at, mask=inside, other=0.0)
        counts += tl.load(counts_ptr + at, mask=inside, other=0)
    f = tl.sum(counts, axis=0, keep_dims=True).to(tl.float32) / tokens
    tl.store(f_ptr + col, f, mask=col < E)
    tl.store(loss_ptr, tl.sum(f * (tl.sum(sums, axis=0, keep_dims=True) / tokens)) * E)


@triton.jit
def _backward(
    dloss_ptr, logits_ptr, f_ptr, dlogits_ptr, stride, size, BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr
):
    tokens, E = size
    row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)[:, None]
    col = tl.arange(0, BLOCK_COLS)[None, :]
    s = _softmax(logits_ptr, row, col, size, stride)
    f = tl.load(f_ptr + col, mask=col < E, other=0.0)
    factor = tl.load(dloss_ptr) * E / tokens
    dlogits = s * (f - tl.sum(f * s, axis=1, keep_dims=True)) * factor
    inside = (row < tokens) & (col < E)
    tl.store(dlogits_ptr + row * E + col, dlogits.to(dlogits_ptr.dtype.element_ty), mask=inside)


def _tile(experts: int) -> dict[str, int]:
    """The launch options that follow from the number of experts."""
    cols = triton.next_power_of_2(experts)
    rows = max(1, min(MOST_ROWS, TILE // cols))
    return {"BLOCK_ROWS": rows, "BLOCK_COLS": cols, "num_warps": 8 if cols > TILE else 4}


def _launch(logits: Tensor, experts: Tensor) -> tuple[Tensor, Tensor]:
    """The loss, and f."""
    (tokens, count), device = logits.shape, logits.device
    loss = torch.empty((), dtype=torch.float32, device=device)
    f = torch.empty(count, dtype=torch.float32, device=device)
    if tokens == 0:
        return loss.fill_(float("nan")), f
    tile = _tile(count)
    programs = min(triton.cdiv(tokens, tile["BLOCK_ROWS"]), 2 * processors(logits))
    sums = torch.empty(programs, count, dtype=torch.float32, device=device)
    counts = torch.empty(programs, count, dtype=torch.int32, device=device)
    with device_of(logits):
        _sums[(programs,)](
            logits, experts, sums, counts, logits.stride(0), logits.shape, TOP_K=experts.shape[1], **tile
        )
        _finish[(1,)](sums, counts, loss, f, logits.shape, programs, **_tile(max(FEWEST_LANES, count)))
    return loss, f


class _MoeBalanceLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, experts: Tensor) -> Tensor:
        loss, f = _launch(logits, experts)
        ctx.save_for_backward(logits, f)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dloss: Tensor) -> tuple[Tensor | None, ...]:
        logits, f = ctx.saved_tensors
        dlogits = torch.empty(logits.shape, dtype=logits.dtype, device=logits.device)
        if len(logits):
            tile = _tile(logits.shape[1])
            with device_of(logits):
                _backward[(triton.cdiv(len(logits), tile["BLOCK_ROWS"]),)](
                    dloss, logits, f, dlogits, logits.stride(0), logits.shape, **tile
                )
        return dlogits, None


def moe_balance_loss(logits: Tensor, experts: Tensor) -> Tensor:
    """Return E * sum_i f_i P_i in fp32: f_i the share of tokens that chose expert i, P_i its mean probability.

    logits: (tokens, E) fp32, fp16 or bf16, E at most 4096, any strides; experts: (tokens, k) int32 or int64, k at least
    1, as `moe_router` chose them (for GShard, whose loss is this over E^2, the first choice alone); what is outside [0,
    E) is not counted. NaN without tokens. Differentiable in logits, through P alone; deterministic.
    Source: arXiv:2101.03961, equations 4 to 6.

    Raises:
        TypeError, ValueError: an argument is not as described.
    """
    expect_tensor("logits", logits, dtypes=FLOATS, rank=2)
    count, shape = logits.shape[1], tuple(logits.shape)
    expect(1 <= count <= MOST_EXPERTS, "logits", f"1 to {MOST_EXPERTS} columns", f"shape {shape}")
    expect_choices("experts", experts, "logits", logits)
    expect(len(experts) == len(logits), "experts", f"{len(logits)} rows, one for each token of logits", len(experts))
    expect(experts.shape[1] >= 1, "experts", "at least 1 column", f"shape {tuple(experts.shape)}")
    logits, experts = side_by_side(logits), experts.contiguous()
    if torch.is_grad_enabled() and logits.requires_grad:
        loss: Tensor = _MoeBalanceLoss.apply(logits, experts)
        return loss
    return _launch(logits, experts)[0]
