"""n = x / sqrt(mean(x^2) + eps) weight over each head x of q and of k; then every pair (a, b) of n times (cos + i sin).

Shapes: q (batch, num_heads, tokens, head_dim), k (batch, num_kv_heads, tokens, head_dim), weights (head_dim,), cos, sin
(tokens, head_dim / 2) or (batch, tokens, head_dim / 2). Backward, with u the gradient turned back by -sin,
g = u weight, r = 1 / sqrt(mean(x^2) + eps) and h = x r:  dx = (g - h mean(g h)) r,  dweight = sum over heads of u h.

One launch for q and k, with the tiles of kernels/_rotary.py: a few tokens of 8 heads, whole heads in registers, so that
norm and rotation cost one read and one write per entry. The backward has x before it and finds r anew: nothing but the
inputs waits for it. There a fixed number of programs, shared between q and k as their tiles are, strides over tiles;
each sums its part of dweight in registers and writes it once, in fp32, then one sum goes over the programs: its order
is that of the device and sizes. Those partial sums are all that is moved beyond the floor.
Source: Qwen Team 2025, arXiv:2505.09388; Zhang & Sennrich 2019, arXiv:1910.07467; Su et al. 2021, arXiv:2104.09864.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels._launch import device_of, expect, expect_device, expect_flag, expect_tensor, processors
from kernels._positions import expect_heads, expect_table
from kernels._rotary import (
    heads_of,
    load_pairs,
    load_table,
    place,
    shape_of_tile,
    side_by_side,
    store_pairs,
    tiles_of,
    turn,
)

PROGRAMS_PER_PROCESSOR = 4  # of 4 warps with 64 bytes in flight per thread


@triton.jit
def _scale(first, second, inside, eps, HEAD_DIM: tl.constexpr):
    """1 / sqrt(mean(x^2) + eps) of each head; 0 outside, where without an eps it would be infinite."""
    mean_square = tl.sum(first * first + second * second, axis=2, keep_dims=True) / HEAD_DIM
    return tl.where(inside, tl.rsqrt(mean_square + eps), 0.0)


@triton.jit
def _norm_and_turn(
    x_ptr, weight_ptr, y_ptr, table_ptrs, x_strides, y_strides, table_strides, at, eps,
    HEAD_DIM: tl.constexpr, INTERLEAVED: tl.constexpr,
):  # fmt: skip
    batch, token, head, tokens, heads = at
    inside = (token < tokens) & (head < heads)
    x_ptrs = x_ptr + batch * x_strides[0] + head * x_strides[1] + token * x_strides[2]
    y_ptrs = y_ptr + batch * y_strides[0] + head * y_strides[1] + token * y_strides[2]
    first, second = load_pairs(x_ptrs, inside, HEAD_DIM, INTERLEAVED)
    weight = load_pairs(weight_ptr, True, HEAD_DIM, INTERLEAVED)
    cos = load_table(table_ptrs[0], table_strides, batch, token, tokens, None, HEAD_DIM)
    sin = load_table(table_ptrs[1], table_strides, batch, token, tokens, None, HEAD_DIM)
    scale = _scale(first, second, inside, eps, HEAD_DIM)
    first, second = turn(first * scale * weight[0], second * scale * weight[1], cos, sin)
    store_pairs(y_ptrs, first, second, inside, HEAD_DIM, INTERLEAVED)


@triton.jit
def _forward(
    input_ptrs, weight_ptrs, output_ptrs, table_ptrs, strides, sizes, eps,
    HEAD_DIM: tl.constexpr, INTERLEAVED: tl.constexpr, BLOCK_TOKENS: tl.constexpr, BLOCK_HEADS: tl.constexpr,
):  # fmt: skip
    tokens, num_heads, num_kv_heads = sizes
    q_chunks = tl.cdiv(num_heads, BLOCK_HEADS)
    chunks = q_chunks + tl.cdiv(num_kv_heads, BLOCK_HEADS)
    batch, token, chunk = place(tl.program_id(0), tokens, chunks, BLOCK_TOKENS)
    if chunk < q_chunks:
        _norm_and_turn(
            input_ptrs[0], weight_ptrs[0], output_ptrs[0], table_ptrs, strides[0], strides[2], strides[4],
            (batch, token, heads_of(chunk, BLOCK_HEADS), tokens, num_heads), eps, HEAD_DIM, INTERLEAVED,
        )  # fmt: skip
    else:
        _norm_and_turn(
            input_ptrs[1], weight_ptrs[1], output_ptrs[1], table_ptrs, strides[1], strides[3], strides[4],
            (batch, token, heads_of(chunk - q_chunks, BLOCK_HEADS), tokens, num_kv_heads), eps, HEAD_DIM, INTERLEAVED,
        )  # fmt: skip


@triton.jit
def _walk(
    ptrs, table_ptrs, strides, tiles, tokens, heads, eps,
    HEAD_DIM: tl.constexpr, INTERLEAVED: tl.constexpr, BLOCK_TOKENS: tl.constexpr, BLOCK_HEADS: tl.constexpr,
):  # fmt: skip
    dy_ptr, x_ptr, weight_ptr, dx_ptr, partial_ptr = ptrs
    dy_strides, x_strides, dx_strides, table_strides = strides
    start, stop, step = tiles
    HALF: tl.constexpr = triton.next_power_of_2(HEAD_DIM // 2)
    weight = load_pairs(weight_ptr, True, HEAD_DIM, INTERLEAVED)
    dfirst = tl.zeros((BLOCK_TOKENS, BLOCK_HEADS, HALF), tl.float32)
    dsecond = tl.zeros((BLOCK_TOKENS, BLOCK_HEADS, HALF), tl.float32)
    for index in range(start, stop, step):
        batch, token, chunk = place(index, tokens, tl.cdiv(heads, BLOCK_HEADS), BLOCK_TOKENS)
        head = heads_of(chunk, BLOCK_HEADS)
        inside = (token < tokens) & (head < heads)
        x_ptrs = x_ptr + batch * x_strides[0] + head * x_strides[1] + token * x_strides[2]
        dy_ptrs = dy_ptr + batch * dy_strides[0] + head * dy_strides[1] + token * dy_strides[2]
        dx_ptrs = dx_ptr + batch * dx_strides[0] + head * dx_strides[1] + token * dx_strides[2]
        first, second = load_pairs(x_ptrs, inside, HEAD_DIM, INTERLEAVED)
        u_first, u_second = load_pairs(dy_ptrs, inside, HEAD_DIM, INTERLEAVED)
        cos = load_table(table_ptrs[0], table_strides, batch, token, tokens, None, HEAD_DIM)
        sin = load_table(table_ptrs[1], table_strides, batch, token, tokens, None, HEAD_DIM)
        u_first, u_second = turn(u_first, u_second, cos, -sin)
        scale = _scale(first, second, inside, eps, HEAD_DIM)
        first, second = first * scale, second * scale
        dfirst += u_first * first
        dsecond += u_second * second
        u_first, u_second = u_first * weight[0], u_second * weight[1]
        slope = tl.sum(u_first * first + u_second * second, axis=2, keep_dims=True) / HEAD_DIM
        u_first, u_second = (u_first - first * slope) * scale, (u_second - second * slope) * scale
        store_pairs(dx_ptrs, u_first, u_second, inside, HEAD_DIM, INTERLEAVED)
    dfirst = tl.sum(tl.sum(dfirst, axis=0, keep_dims=True), axis=1, keep_dims=True)
    dsecond = tl.sum(tl.sum(dsecond, axis=0, keep_dims=True), axis=1, keep_dims=True)
    store_pairs(partial_ptr + tl.zeros((1, 1, 1), tl.int32), dfirst, dsecond, True, HEAD_DIM, INTERLEAVED)


@triton.jit
def _backward(
    gradient_ptrs, input_ptrs, weight_ptrs, output_ptrs, partials_ptr, table_ptrs, strides, sizes, eps,
    HEAD_DIM: tl.constexpr, INTERLEAVED: tl.constexpr, BLOCK_TOKENS: tl.constexpr, BLOCK_HEADS: tl.constexpr,
):  # fmt: skip
    tokens, num_heads, num_kv_heads, q_tiles, k_tiles, q_programs = sizes
    program, programs = tl.program_id(0), tl.num_programs(0)
    partial_ptr = partials_ptr + program * HEAD_DIM
    if program < q_programs:
        ptrs = (gradient_ptrs[0], input_ptrs[0], weight_ptrs[0], output_ptrs[0], partial_ptr)
        _walk(
            ptrs, table_ptrs, (strides[0], strides[2], strides[4], strides[6]), (program, q_tiles, q_programs),
            tokens, num_heads, eps, HEAD_DIM, INTERLEAVED, BLOCK_TOKENS, BLOCK_HEADS,
        )  # fmt: skip
    else:
        ptrs = (gradient_ptrs[1], input_ptrs[1], weight_ptrs[1], output_ptrs[1], partial_ptr)
        tiles = (program - q_programs, k_tiles, programs - q_programs)
        _walk(
            ptrs, table_ptrs, (strides[1], strides[3], strides[5], strides[6]), tiles,
            tokens, num_kv_heads, eps, HEAD_DIM, INTERLEAVED, BLOCK_TOKENS, BLOCK_HEADS,
        )  # fmt: skip


def _strides(*tensors: Tensor) -> tuple[tuple[int, ...], ...]:
    return tuple(x.stride()[:3] for x in tensors)


def _launch_forward(inputs: tuple[Any, ...], table: tuple[Any, ...], eps: float, interleaved: bool) -> tuple[Any, ...]:
    """q and k, normalised and turned; they lie in memory as q and k do."""
    q, k, q_weight, k_weight = inputs
    q, k = side_by_side(q), side_by_side(k)
    outputs = torch.empty_like(q), torch.empty_like(k)
    tile = shape_of_tile(q.shape[3])
    programs = tiles_of(q, tile) + tiles_of(k, tile)
    if programs:
        with device_of(q):
            _forward[(programs,)](
                (q, k), (q_weight.contiguous(), k_weight.contiguous()), outputs, table,
                _strides(q, k, *outputs, table[0]), (q.shape[2], q.shape[1], k.shape[1]), eps,
                HEAD_DIM=q.shape[3], INTERLEAVED=interleaved, **tile,
            )  # fmt: skip
    return outputs


def _launch_backward(
    gradients: tuple[Tensor, Tensor], inputs: tuple[Any, ...], table: tuple[Any, ...], eps: float, interleaved: bool
) -> tuple[Tensor, ...]:
    """The gradients of q, k and both weights."""
    q, k, q_weight, k_weight = inputs
    q, k = side_by_side(q), side_by_side(k)
    gradients = side_by_side(gradients[0]), side_by_side(gradients[1])
    outputs = torch.empty_like(q), torch.empty_like(k)
    tile = shape_of_tile(q.shape[3])
    q_tiles, k_tiles = tiles_of(q, tile), tiles_of(k, tile)
    most = min(q_tiles + k_tiles, processors(q) * PROGRAMS_PER_PROCESSOR)
    k_programs = min(k_tiles, max(1, most * k_tiles // max(1, q_tiles + k_tiles)))
    q_programs = min(q_tiles, max(1, most - k_programs))
    partials = torch.empty(q_programs + k_programs, q.shape[3], dtype=torch.float32, device=q.device)
    if len(partials):
        with device_of(q):
            _backward[(len(partials),)](
                gradients, (q, k), (q_weight.contiguous(), k_weight.contiguous()), outputs, partials, table,
                _strides(*gradients, q, k, *outputs, table[0]),
                (q.shape[2], q.shape[1], k.shape[1], q_tiles, k_tiles, q_programs), eps,
                HEAD_DIM=q.shape[3], INTERLEAVED=interleaved, **tile,
            )  # fmt: skip
    dq_weight, dk_weight = partials[:q_programs].sum(0), partials[q_programs:].sum(0)
    return *outputs, dq_weight.to(q_weight.dtype), dk_weight.to(k_weight.dtype)


class _QkNormRope(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, ...]:
        *inputs, cos, sin, eps, interleaved = arguments
        ctx.save_for_backward(*inputs, cos, sin)
        ctx.how = eps, interleaved
        return _launch_forward(tuple(inputs), (cos, sin), eps, interleaved)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dq_out: Tensor, dk_out: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, cos, sin = ctx.saved_tensors
        gradients = _launch_backward((dq_out, dk_out), tuple(inputs), (cos, sin), *ctx.how)
        return *gradients, None, None, None, None


def qk_norm_rope(
    q: Tensor, k: Tensor, q_weight: Tensor, k_weight: Tensor, position_embeddings: tuple[Tensor, Tensor],
    eps: float = 1e-6, interleaved: bool = False,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Return q and k, every head normalised by its root mean square and turned by its position; one cast, at the end.

    q, k: as in `rope`, head_dim even. q_weight, k_weight: (head_dim,), in q's dtype or fp32. position_embeddings: (cos,
    sin), each (tokens, head_dim / 2) or (1 or batch, tokens, head_dim / 2): heads are turned as a whole. Differentiable
    in all but position_embeddings. Source: arXiv:2505.09388.

    Raises:
        TypeError, ValueError: an argument is not as described, or eps is negative or not finite.
    """
    expect_heads(q, k)
    expect(q.shape[3] % 2 == 0, "q", "an even head_dim", f"shape {tuple(q.shape)}")
    for name, weight in (("q_weight", q_weight), ("k_weight", k_weight)):
        expect_tensor(name, weight, dtypes=tuple({q.dtype: 0, torch.float32: 0}), rank=1)
        expect_device(name, weight, "q", q)
        expect(len(weight) == q.shape[3], name, f"shape ({q.shape[3]},), like a head", tuple(weight.shape))
    table = expect_table(q, position_embeddings)
    half = table[0].shape[-1]
    expect(2 * half == q.shape[3], "position_embeddings", f"{q.shape[3] // 2} pairs, a whole head", half)
    if isinstance(eps, bool) or not isinstance(eps, int | float):
        raise TypeError(f"eps: expected a number, got {type(eps).__name__}")
    expect(0 <= eps < float("inf"), "eps", "a finite number that is not negative", eps)
    expect_flag("interleaved", interleaved)
    inputs = q, k, q_weight, k_weight
    if torch.is_grad_enabled() and any(value.requires_grad for value in inputs):
        recorded: tuple[Tensor, Tensor] = _QkNormRope.apply(*inputs, *table, float(eps), interleaved)
        return recorded
    q_out, k_out = _launch_forward(inputs, table, float(eps), interleaved)
    return q_out, k_out
