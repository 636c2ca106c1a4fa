"""Rows of tokens in the order of the experts that they go to, as GShard's Algorithm 1 and its followers have it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def moe_dispatch(
    x: Tensor, experts: Tensor, num_experts: int, capacity: int | None = None, priority: str = "token"
) -> tuple[Tensor, Tensor, Tensor]:
    """(rows, ends, slots): a copy of a token for each of its experts, sorted by expert, then by the order of claims.

    x (tokens, cols), experts (tokens, k) -> rows (tokens * k, cols) with rows[slots[t, j]] = x[t], slots (tokens, k),
    and ends (num_experts,), where the rows of each expert end. Claims to a place come token by token, as in Gale et al.
    2022, MegaBlocks (arXiv:2211.15841), or, where choices have priority, first choices of all tokens before second
    ones, as in the two loops of Lepikhin et al. 2020, GShard (arXiv:2006.16668), algorithm 1. An expert takes the first
    `capacity` claims (GShard, section 2.2: expert capacity, position in expert). The rest are dropped: their rows stand
    behind the last end, ordered likewise, and last those of experts that do not exist.
    """
    token = torch.arange(len(x), device=x.device)[:, None].expand(experts.shape)
    if priority == "choice":
        experts, token = experts.T, token.T
    chosen = experts.flatten().long()
    chosen = torch.where((chosen >= 0) & (chosen < num_experts), chosen, num_experts)
    one_hot = functional.one_hot(chosen, num_experts + 1)
    position = one_hot.cumsum(0).gather(1, chosen[:, None]).squeeze(1) - 1
    taken = chosen < num_experts
    if capacity is not None:
        taken &= position < capacity
    order = torch.where(taken, chosen, chosen + num_experts).argsort(stable=True)
    ends = (one_hot * taken[:, None]).sum(0).cumsum(0)[:num_experts]
    slots = order.argsort().int().view(experts.shape)
    return x[token.flatten()[order]], ends.int(), slots.T if priority == "choice" else slots
