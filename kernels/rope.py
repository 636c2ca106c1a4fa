"""Rotary position embeddings: (a + i b) (cos + i sin) for every pair (a, b) of entries of every head of q and k.

Shapes: q, q' (batch, num_heads, tokens, head_dim), k, k' (batch, num_kv_heads, tokens, head_dim), cos, sin (tokens,
rotary_dim / 2) or (batch, tokens, rotary_dim / 2). Of a head the first rotary_dim entries are turned, in pairs of one
entry of each half or of two neighbours; the others are copied. Backward: the gradients, turned by -sin instead of sin.

One launch turns q and k. A program owns a few tokens (2 at rotary_dim 128) of 8 heads, so that every thread has two
128-bit accesses in flight and cos and sin, kept in registers, serve 8 heads; chunks of heads of the same tokens are
neighbours in the grid and find them in L2. Entries are read and written once each, whatever the order of batch, heads
and tokens in memory: q and k may be views into one projection, results and gradients lie as q and k do. In place what
is not turned is not touched. Nothing but cos and sin waits for the backward.
Source: Su et al. 2021, arXiv:2104.09864; pairs across halves as in GPT-NeoX and LLaMA, neighbours as in GPT-J.
"""

from __future__ import annotations

from torch import Tensor

from kernels._launch import expect, expect_flag
from kernels._positions import expect_heads, expect_table
from kernels._rotary import Rotation, apply


def rope(
    q: Tensor, k: Tensor, position_embeddings: tuple[Tensor, Tensor], interleaved: bool = False
) -> tuple[Tensor, Tensor]:
    """Return q and k turned by their positions, in fp32 with one cast at the end.

    q: (batch, num_heads, tokens, head_dim), head_dim 2 to 1024, fp32, fp16 or bf16, any strides; k: the same with heads
    of its own. position_embeddings: (cos, sin), each (tokens, half) or (1 or batch, tokens, half), half at most
    head_dim / 2, in q's dtype or fp32; they have no gradient. interleaved: pairs are neighbours (GPT-J), not an entry
    of each half (GPT-NeoX, LLaMA). Differentiable in q and k. Source: arXiv:2104.09864.

    Raises:
        TypeError, ValueError: an argument is not as described.
    """
    expect_heads(q, k)
    expect_flag("interleaved", interleaved)
    table = expect_table(q, position_embeddings)
    turned: tuple[Tensor, Tensor] = apply(q, k, table, None, interleaved)
    return turned


def rope_(
    q: Tensor, k: Tensor, position_embeddings: tuple[Tensor, Tensor], interleaved: bool = False
) -> tuple[Tensor, Tensor]:
    """`rope` written over q and k, which are returned: no memory is taken. Differentiable as in-place operations are.

    The entries of a head must lie side by side, and no two entries in one place; otherwise, and what is raised, as in
    `rope`.
    """
    expect_heads(q, k)
    expect_flag("interleaved", interleaved)
    for name, x in (("q", q), ("k", k)):
        expect(x.stride(-1) == 1, name, "entries of a head side by side, to be written over", f"strides {x.stride()}")
        repeated = any(size > 1 and not stride for size, stride in zip(x.shape, x.stride(), strict=True))
        expect(not repeated, name, "no expanded dimension, to be written over", f"strides {x.stride()}")
    table = expect_table(q, position_embeddings)
    turned: tuple[Tensor, Tensor] = Rotation.apply(q, k, *table, None, interleaved, True)
    return turned
