"""Rows of tokens in the order of the experts that they go to, as GShard's Algorithm 1 and its followers have it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def moe_dispatch(
    x: Tensor, experts: Tensor, num_experts: int, capacity: int | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """(rows, ends, slots): a copy of a token for each of its experts, sorted by expert, then by token.

    x (tokens, cols), experts (tokens, k) -> rows (tokens * k, cols) with rows[slots[t, j]] = x[t], slots (tokens, k),
    and ends (num_experts,), where the rows of each expert end. An expert takes the first `capacity` that chose it. The
    rest are dropped: their rows stand behind the last end, ordered likewise, and last those of experts that do not
    exist. Lepikhin et al. 2020, GShard (arXiv:2006.16668), section 2.2 (expert capacity, position in expert); without a
    capacity: Gale et al. 2022, MegaBlocks (arXiv:2211.15841).
    """
    chosen = experts.flatten().long()
    chosen = torch.where((chosen >= 0) & (chosen < num_experts), chosen, num_experts)
    one_hot = functional.one_hot(chosen, num_experts + 1)
    position = one_hot.cumsum(0).gather(1, chosen[:, None]).squeeze(1) - 1
    taken = chosen < num_experts
    if capacity is not None:
        taken &= position < capacity
    order = torch.where(taken, chosen, chosen + num_experts).argsort(stable=True)
    ends = (one_hot * taken[:, None]).sum(0).cumsum(0)[:num_experts]
    rows = x[order // max(1, experts.shape[1])]
    return rows, ends.int(), order.argsort().int().view(experts.shape)
