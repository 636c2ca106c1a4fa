"""Multimodal rotary position embeddings: RoPE whose pairs are turned by time, height or width, section by section.

Shapes: q, q' (batch, num_heads, tokens, head_dim), k, k' (batch, num_kv_heads, tokens, head_dim), cos, sin (3, tokens,
half) or (3, batch, tokens, half): a table for each of the three axes; pairs are of one entry of each half. Backward:
the gradients, turned by -sin instead of sin.

The kernel is RoPE's (kernels/rope.py says who owns which tile): each pair is given the address of its own axis, so that
of the three tables a third is read, and nothing is gathered into a table beforehand. Entries are read and written once.
Source: Wang et al. 2024, Qwen2-VL, arXiv:2409.12191; Su et al. 2021, arXiv:2104.09864.
"""

from __future__ import annotations

from torch import Tensor

from kernels._launch import expect
from kernels._positions import expect_heads, expect_table
from kernels._rotary import apply


def _sections(mrope_section: object, half: int) -> tuple[int, int]:
    """The pairs at which the sections of height and of width begin; or raise."""
    if not isinstance(mrope_section, tuple | list) or any(type(pairs) is not int for pairs in mrope_section):
        raise TypeError(f"mrope_section: expected three numbers of pairs, got {mrope_section!r}")
    fits = len(mrope_section) == 3 and min(mrope_section) >= 0 and sum(mrope_section) == half
    expect(fits, "mrope_section", f"three numbers of pairs, {half} in all", mrope_section)
    return mrope_section[0], mrope_section[0] + mrope_section[1]


def mrope(
    q: Tensor, k: Tensor, position_embeddings: tuple[Tensor, Tensor], mrope_section: tuple[int, int, int]
) -> tuple[Tensor, Tensor]:
    """Return q and k turned by their times, heights and widths, in fp32 with one cast at the end.

    q, k: as in `rope`. position_embeddings: (cos, sin), each (3, tokens, half) or (3, 1 or batch, tokens, half), half
    at most head_dim / 2, in q's dtype or fp32; they have no gradient. mrope_section: how many pairs belong to each
    axis, half in all. Differentiable in q and k. Source: arXiv:2409.12191.

    Raises:
        TypeError, ValueError: an argument is not as described.
    """
    expect_heads(q, k)
    cos, sin = expect_table(q, position_embeddings, axes=(3,))
    sections = _sections(mrope_section, cos.shape[-1])
    turned: tuple[Tensor, Tensor] = apply(q, k, (cos, sin), sections, interleaved=False)
    return turned
