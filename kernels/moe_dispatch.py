"""Tokens in the order of the experts that they chose: rows[slots[t, j]] = x[t], the rows of expert e up to ends[e].

x (tokens, cols), experts, slots (tokens, k), ends (E,), rows (tokens * k, cols). Rows are sorted by expert, then by
token or, where choices have priority, by j, then by token: the first choices of all tokens before any second one. An
expert takes the first `capacity` choices of it in that order; rows of the rest (tokens over capacity) stand behind the
last end, sorted likewise, and last of all those of experts that do not exist. So slots are a permutation, and every row
is written.

Two launches. In the first, a program owns an expert and walks over all choices twice, a few bytes each that stay in L2:
a histogram says where its rows begin, then a running count, in the order of rows, gives each choice of it its place.
Integers alone: no choice of a place depends on timing. In the second, a program owns a stretch of one token, reads it
once and writes it k times. Backward: dx[t] is the sum of drows at the slots of t, each read once, in the order of j.
Source: Lepikhin et al. 2020, GShard (arXiv:2006.16668), section 2.2 and algorithm 1, where choices have priority; Gale
et al. 2022, MegaBlocks (arXiv:2211.15841), where tokens do.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels import _moe_rows
from kernels._launch import device_of, expect

CHUNK = 8192  # choices that a program looks at together: 32 for each thread of 8 warps
FEWEST_LANES = 256  # experts up to which one compiled kernel serves all models
MOST_EXPERTS = 4096


@triton.jit
def _load(experts_ptr, at, inside, experts):
    """The expert of each choice; `experts` where there is no such expert."""
    chosen = tl.load(experts_ptr + at, mask=inside, other=-1)
    return tl.where((chosen >= 0) & (chosen < experts), chosen, experts).to(tl.int32)


@triton.jit
def _place(
    experts_ptr, slots_ptr, ends_ptr, tokens, top_k, experts, capacity,
    BY_CHOICE: tl.constexpr, EXPERTS: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    mine, lane, choices = tl.program_id(0), tl.arange(0, EXPERTS), tokens * top_k
    total = tl.zeros((EXPERTS,), tl.int32)
    for start in range(0, choices, CHUNK):
        at = start + tl.arange(0, CHUNK)
        chosen = _load(experts_ptr, at, at < choices, experts)
        total += tl.histogram(chosen, EXPERTS, chosen < experts)
    taken = tl.minimum(total, capacity)
    room = tl.sum(tl.where(lane == mine, taken, 0), 0)
    begin = tl.sum(tl.where(lane < mine, taken, 0), 0)
    behind = tl.sum(taken, 0) + tl.sum(tl.where(lane < mine, total - taken, 0), 0)
    tl.store(ends_ptr + mine, begin + room, mask=mine < experts)
    earlier = 0
    for start in range(0, choices, CHUNK):
        turn = start + tl.arange(0, CHUNK)
        at = turn % tokens * top_k + turn // tokens if BY_CHOICE else turn
        is_mine = (_load(experts_ptr, at, turn < choices, experts) == mine) & (turn < choices)
        position = earlier + tl.cumsum(is_mine.to(tl.int32), 0) - 1
        slot = tl.where(position < room, begin + position, behind + position - room)
        tl.store(slots_ptr + at, slot, mask=is_mine)
        earlier += tl.sum(is_mine.to(tl.int32), 0)


def _slots(experts: Tensor, num_experts: int, capacity: int | None, by_choice: bool) -> tuple[Tensor, Tensor]:
    """ends and slots."""
    ends = torch.empty(num_experts, dtype=torch.int32, device=experts.device)
    slots = torch.empty(experts.shape, dtype=torch.int32, device=experts.device)
    with device_of(experts):
        # One program more places the choices of experts that do not exist.
        _place[(num_experts + 1,)](
            experts.contiguous(), slots, ends, *experts.shape, num_experts,
            experts.numel() if capacity is None else capacity, BY_CHOICE=by_choice,
            EXPERTS=max(FEWEST_LANES, triton.next_power_of_2(num_experts)), CHUNK=CHUNK, num_warps=8,
        )  # fmt: skip
    return ends, slots


class _MoeDispatch(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, experts: Tensor, num_experts: int, capacity: int | None, by_choice: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        ends, slots = _slots(experts, num_experts, capacity, by_choice)
        ctx.save_for_backward(slots)
        ctx.mark_non_differentiable(ends, slots)
        ctx.set_materialize_grads(False)
        return _moe_rows.spread(x, slots), ends, slots

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, drows: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
        dx = None if drows is None else _moe_rows.gather(drows, ctx.saved_tensors[0], None)
        return dx, None, None, None, None


def moe_dispatch(
    x: Tensor, experts: Tensor, num_experts: int, capacity: int | None = None, priority: str = "token"
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (rows, ends int32, slots int32): a copy of a token for each of its experts, sorted by expert, then token.

    x: (tokens, cols) fp32, fp16 or bf16, any strides; experts: (tokens, k) int32 or int64, k at least 1, as the router
    chose them; num_experts: from 1 to 4096. rows (tokens * k, cols): rows[slots[t, j]] = x[t]; ends (num_experts,):
    where the rows of each expert end, as `grouped_matmul` wants it; slots (tokens, k): as `moe_combine` does. capacity:
    the most rows of an expert, the first ones of it; those over it, and those of experts outside [0, num_experts),
    stand behind the last end, which `grouped_matmul` answers with zero. priority: "token", or "choice" as in GShard,
    where rows of an expert are those of first choices, then of second ones, each by token. Differentiable in x;
    deterministic; the host never waits.
    Source: arXiv:2006.16668; arXiv:2211.15841.

    Raises:
        TypeError, ValueError: an argument is not as described.
    """
    _moe_rows.expect_rows("x", x)
    _moe_rows.expect_choices("experts", experts, "x", x)
    expect(len(experts) == len(x), "experts", f"{len(x)} rows, one for each token of x", len(experts))
    expect(experts.shape[1] >= 1, "experts", "at least 1 column", f"shape {tuple(experts.shape)}")
    for name, value in (("num_experts", num_experts), ("capacity", 0 if capacity is None else capacity)):
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{name}: expected an int, got {type(value).__name__}")
    expect(1 <= num_experts <= MOST_EXPERTS, "num_experts", f"from 1 to {MOST_EXPERTS}", num_experts)
    expect(capacity is None or 0 <= capacity < 2**31, "capacity", "a number of rows, or None", capacity)
    expect(priority in ("token", "choice"), "priority", "'token' or 'choice'", repr(priority))
    by_choice = priority == "choice"
    if torch.is_grad_enabled() and x.requires_grad:
        rows, ends, slots = _MoeDispatch.apply(x, experts, num_experts, capacity, by_choice)
        return rows, ends, slots
    ends, slots = _slots(experts, num_experts, capacity, by_choice)
    return _moe_rows.spread(x, slots), ends, slots
