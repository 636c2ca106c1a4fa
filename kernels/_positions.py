"""What the kernels that turn queries and keys are given, checked: q and k, and the table of their positions."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels._launch import FLOATS, expect, expect_device, expect_inference, expect_like, expect_tensor

WIDEST = 1024


def expect_heads(q: object, k: object) -> None:
    """Raise unless q (batch, num_heads, tokens, head_dim) and k, with heads of its own, can be turned together."""
    expect_tensor("q", q, dtypes=FLOATS, rank=4)
    expect_tensor("k", k, dtypes=FLOATS, rank=4)
    assert isinstance(q, Tensor)
    assert isinstance(k, Tensor)
    expect_like("k", k, "q", q)
    expect(2 <= q.shape[3] <= WIDEST, "q", f"a head_dim of 2 to {WIDEST}", f"shape {tuple(q.shape)}")
    batch, _, tokens, head_dim = q.shape
    fits = (k.shape[0], *k.shape[2:]) == (batch, tokens, head_dim)
    expect(fits, "k", f"shape ({batch}, num_kv_heads, {tokens}, {head_dim}), like q", f"shape {tuple(k.shape)}")


def expect_table(q: Tensor, position_embeddings: object, axes: tuple[int, ...] = ()) -> tuple[Tensor, Tensor]:
    """cos and sin as (axes, batch, tokens, half), with equal strides and `half` side by side; or raise.

    They come as (*axes, tokens, half) or (*axes, 1 or batch, tokens, half), in fp32 or the dtype of q.
    """
    name, dtypes = "position_embeddings", tuple({q.dtype: 0, torch.float32: 0})
    if not isinstance(position_embeddings, tuple | list) or len(position_embeddings) != 2:
        raise TypeError(f"{name}: expected a pair (cos, sin), got {type(position_embeddings).__name__}")
    batch, _, tokens, head_dim = q.shape
    for table in position_embeddings:
        expect_tensor(name, table, dtypes=dtypes)
        expect_device(name, table, "q", q)
        expect_inference(name, table)
        half = table.shape[-1] if table.ndim else 0
        shapes = [(*axes, *rows, tokens, half) for rows in ((), (1,), (batch,))]
        wanted = (
            f"cos and sin of shape {(*axes, tokens, 'rotary_dim / 2')} or {(*axes, batch, tokens, 'rotary_dim / 2')}"
        )
        expect(table.shape in shapes and 1 <= half <= head_dim // 2, name, wanted, f"shape {tuple(table.shape)}")
    cos, sin = position_embeddings
    alike = cos.shape == sin.shape and cos.dtype == sin.dtype
    expect(alike, name, "cos and sin of one shape and dtype", f"{tuple(cos.shape)} and {tuple(sin.shape)}")
    if cos.stride() != sin.stride() or cos.stride(-1) != 1:
        cos, sin = cos.contiguous(), sin.contiguous()
    if cos.ndim == 2 + len(axes):
        cos, sin = cos.unsqueeze(-3), sin.unsqueeze(-3)
    shape = (*(axes or (1,)), batch, tokens, cos.shape[-1])
    return cos.expand(shape), sin.expand(shape)
