"""Window attention: o = softmax(q k^T * scale + bias) v within windows of a picture, which may be shifted (Swin).

q, k, v, o (B, H, W, heads, D), H and W multiples of the window; bias_table ((2 window - 1)^2, heads) or none. The
picture is not rolled and no mask is stored: a program reads the tokens of a window where they lie, and two of them see
each other if their places on the rolled picture lie on the same side of its last `shift` rows and columns. Three
tensors rather than one, because models turn q and k by their positions first (Qwen2.5-VL); views of one projection are
read as they are.

A program owns one head and strides over windows (and owns a tile of their queries, where a window has more than BLOCK_M
tokens), so that the biases of the head are gathered once and stay in registers: a tile of scores is all that there is
of heads x N x N. A row of scores is whole, so that its softmax needs no second look: q, k, v and o move once. In 16
bits and windows of more than 128 tokens it is not: it would not fit in registers, and _window_long.py walks over keys.
Backward, with p computed anew: ds = p (do v^T - rowsum(p do v^T)), dv = p^T do, dk = scale ds^T q, dq = scale ds k. A
program walks over the queries of a window with its dk and dv in registers: do, q, k, v and dq, dk, dv move once and
nothing but the inputs is saved. It sums the ds of all its windows, in registers if a window is one tile, else in its
own part of `partials`; a second kernel adds, for each entry of the table, the pairs of tokens that stand so to each
other, in a fixed order and so without atomics. The sums are all that moves beyond the floor, 8 N^2 bytes for each
program, which owns at least ten windows if there are as many.
Source: Liu et al. 2021, arXiv:2103.14030; Qwen2.5-VL: arXiv:2502.13923.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels._attention_tiles import dot
from kernels._launch import FLOATS, device_of, expect, expect_device, expect_like, expect_tensor
from kernels._window_backward import backward
from kernels._window_long import FORWARD_LONG, MAX_SCORES
from kernels._window_tiles import (
    LEAST_FORWARD,
    divided,
    load_bias,
    load_tokens,
    parts,
    shape_of,
    store_tokens,
    tokens,
    tuned,
    weights,
)

MAX_WINDOW, MAX_HEAD_DIM = 16, 128
MAX_KEYS_OF_A_TILE = 16384  # entries of the keys of a window, padded: what shared memory holds beside the values


@triton.jit
def _forward(
    q_ptr, k_ptr, v_ptr, table_ptr, o_ptr, strides, size, counts, scale,
    DIM: tl.constexpr, WINDOW: tl.constexpr, SHIFTED: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    TILES: tl.constexpr = triton.cdiv(WINDOW * WINDOW, BLOCK_M)
    windows, heads = counts
    head, group = tl.program_id(0) % heads, tl.program_id(0) // heads
    first = group % TILES * BLOCK_M
    bias = load_bias(table_ptr, strides[4], head, first, 0, WINDOW, BLOCK_M, BLOCK_N)
    query_part, key_part = parts(first, size[2], WINDOW, BLOCK_M, 0), parts(0, size[2], WINDOW, BLOCK_N, 4)
    for window in tl.range(group // TILES, windows, tl.num_programs(0) // (heads * TILES)):
        at_keys, there = tokens(window, 0, size, WINDOW, BLOCK_N)
        at, inside = tokens(window, first, size, WINDOW, BLOCK_M)
        q = load_tokens(q_ptr, strides[0], head, at, inside, DIM)
        k = load_tokens(k_ptr, strides[1], head, at_keys, there, DIM)
        v = load_tokens(v_ptr, strides[2], head, at_keys, there, DIM)
        divide = divided(window, size, WINDOW)
        p = weights(q, k, bias, scale, query_part, key_part, divide, SHIFTED, WINDOW)
        store_tokens(o_ptr, dot(p.to(v.dtype), v, None), strides[3], head, at, inside, DIM)


FORWARD = tuned(_forward, (4, 2), (4, 3))


def _launch_forward(
    q: Tensor, k: Tensor, v: Tensor, table: Tensor | None, window: int, shift: int, scale: float
) -> Tensor:
    o = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    if o.numel():
        sizes, constants, wide, tiles, groups = shape_of(q, window, shift, LEAST_FORWARD if table is not None else 1)
        run = FORWARD[wide]
        if constants["BLOCK_M"] * constants["BLOCK_N"] > MAX_SCORES:
            run = FORWARD_LONG
            del constants["BLOCK_N"]
        strides = (q.stride(), k.stride(), v.stride(), o.stride(), () if table is None else table.stride())
        with device_of(q):
            run[(q.shape[3] * tiles * groups,)](q, k, v, table, o, strides, *sizes, scale, **constants)
    return o


class _WindowAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, table: Tensor | None, *options: Any) -> Tensor:
        ctx.save_for_backward(q, k, v, table)
        ctx.options = options
        return _launch_forward(q, k, v, table, *options)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, do: Tensor) -> tuple[Tensor | None, ...]:
        window, shift, scale = ctx.options
        grads = backward(ctx.saved_tensors, do, window, shift, scale, ctx.needs_input_grad[3])
        return *grads, None, None, None


def _check(q: Tensor, k: Tensor, v: Tensor, table: Tensor | None, window: int, shift: int, scale: float | None) -> None:
    for name, x in (("q", q), ("k", k), ("v", v)):
        expect_tensor(name, x, dtypes=FLOATS, rank=5)
        expect_like(name, x, "q", q)
        expect(x.shape == q.shape, name, f"the shape of q, {tuple(q.shape)}", tuple(x.shape))
    for name, number in (("window", window), ("shift", shift)):
        if isinstance(number, bool) or not isinstance(number, int):
            raise TypeError(f"{name}: expected an int, got {type(number).__name__}")
    expect(1 <= window <= MAX_WINDOW, "window", f"1 to {MAX_WINDOW} tokens", window)
    expect(0 <= shift < window, "shift", f"at least 0 and less than the window, {window}", shift)
    fits = q.shape[1] % window == 0 and q.shape[2] % window == 0
    expect(fits, "q", f"a height and a width that are multiples of the window, {window}", f"shape {tuple(q.shape)}")
    most = min(MAX_HEAD_DIM, MAX_KEYS_OF_A_TILE // triton.next_power_of_2(window**2))
    expect(1 <= q.shape[4] <= most, "q", f"a head dimension from 1 to {most} in windows of {window}", q.shape[4])
    if table is not None:
        expect_tensor("bias_table", table, dtypes=tuple({q.dtype: 0, torch.float32: 0}), rank=2)
        expect_device("bias_table", table, "q", q)
        shape = ((2 * window - 1) ** 2, q.shape[3])
        expect(table.shape == shape, "bias_table", f"shape {shape}", tuple(table.shape))
    if scale is not None and (isinstance(scale, bool) or not isinstance(scale, int | float)):
        raise TypeError(f"scale: expected a number or None, got {type(scale).__name__}")
    finite = scale is None or abs(scale) <= torch.finfo(torch.float32).max
    expect(finite, "scale", "a number that is finite in float32", scale)


def window_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias_table: Tensor | None = None,
    *,
    window: int,
    shift: int = 0,
    scale: float | None = None,
) -> Tensor:
    """softmax(q k^T * scale + bias) v within windows of window x window tokens; differentiable, deterministic.

    q, k, v: (B, H, W, heads, D), float32, float16 or bfloat16, any strides; H and W multiples of window (1 to 16), D up
    to 128 (64 where window > 11). bias_table: ((2 window - 1)^2, heads), in q's dtype or fp32, a bias for every
    difference of two positions, as Swin lays it out; or None. shift: the tokens by which windows are moved down and to
    the right; what they hold of the other side of the picture is not seen. Returns (B, H, W, heads, D), contiguous.

    Raises:
        TypeError, ValueError: an argument is not as described, or scale is not finite in float32.
    """
    _check(q, k, v, bias_table, window, shift, scale)
    return _WindowAttention.apply(
        q, k, v, bias_table, window, shift, q.shape[4] ** -0.5 if scale is None else float(scale)
    )
