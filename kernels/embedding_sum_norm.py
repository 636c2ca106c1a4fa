"""y = LayerNorm(word[tokens] + position + token_type[token_types]): what BERT makes of its input, in one pass.

Shapes: tokens, token_types (B, S) integers; word (V, C), position (P, C), P at least S, token_type (1 or 2, C), weight,
bias (C,), y (B, S, C). LayerNorm as in layer_norm.py: x the sum, m = (x - mean) rstd, y = m weight + bias.
Backward, with g = dy weight:  dx = (g - mean(g) - m mean(g m)) rstd, the gradient of the three rows of a token; a table
sums it over the tokens that have taken a row: dword by token, dposition over the batch, dtoken_type by type.

Forward: a program owns whole tokens, several if rows are short, and gathers three rows into registers, where they are
summed in fp32: the sum never reaches memory. y moves once, so does a row of word for each token.
Backward: x is gathered anew, nothing of its size is saved. A program owns some positions and walks over the batch, so
that it holds its rows of position in registers, and sums dposition in them; and, over all its tokens, dweight, dbias
and the gradients of the types, one part for each program, which torch adds in a fixed order. dx is written and read
once, by the sums over equal tokens (_segments.py): it and the parts are all that moves beyond the floor, and the zeros
under those rows of dword that have a token.
Source: Devlin et al. 2018, arXiv:1810.04805; Ba, Kiros & Hinton 2016, arXiv:1607.06450.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels._launch import FLOATS, device_of, expect, expect_device, expect_like, expect_tensor
from kernels._rows import as_rows, tile_of
from kernels._segments import sum_by_key

WIDEST = 8192  # columns of which the backward keeps five sums in registers


@triton.jit
def _row(table_ptr, stride, index, count, col, cols):
    """Rows of a table by their indices, in fp32; NaN for an index that the table does not have."""
    known = (index >= 0) & (index < count)
    row_ptr = table_ptr + tl.where(known, index, 0).to(tl.int64) * stride + col
    row = tl.load(row_ptr, mask=known & (col < cols), other=0.0).to(tl.float32)
    return tl.where(known, row, float("nan"))


@triton.jit
def _forward(
    ids, tables, weight_ptr, bias_ptr, y_ptr, stats_ptr, strides, size, eps,
    BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr,
):  # fmt: skip
    tokens, length, cols, words, types = size
    token = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)[:, None]
    col = tl.arange(0, BLOCK_COLS)[None, :]
    # One behind the last reads what the last one reads, and is not stored.
    last = tl.minimum(token, tokens - 1)
    x = _row(tables[0], strides[0], tl.load(ids[0] + last), words, col, cols)
    x += _row(tables[1], strides[1], last % length, length, col, cols)
    x += _row(tables[2], strides[2], tl.load(ids[1] + last), types, col, cols)
    mean = tl.sum(tl.where(col < cols, x, 0.0), axis=1, keep_dims=True) / cols
    x = tl.where(col < cols, x - mean, 0.0)
    rstd = tl.rsqrt(tl.sum(x * x, axis=1, keep_dims=True) / cols + eps)
    if stats_ptr is not None:
        tl.store(stats_ptr + token, mean, mask=token < tokens)
        tl.store(stats_ptr + tokens + token, rstd, mask=token < tokens)
    weight = tl.load(weight_ptr + col, mask=col < cols, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + col, mask=col < cols, other=0.0).to(tl.float32)
    y = (x * rstd * weight + bias).to(y_ptr.dtype.element_ty)
    tl.store(y_ptr + token * cols + col, y, mask=(token < tokens) & (col < cols))


@triton.jit
def _backward(
    dy_ptr, ids, tables, weight_ptr, stats_ptr, grad_ptrs, strides, size,
    BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr,
):  # fmt: skip
    tokens, length, cols, words, types = size
    dx_ptr, dposition_ptr, partials_ptr = grad_ptrs
    row = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)[:, None]
    col = tl.arange(0, BLOCK_COLS)[None, :]
    inside = (row < length) & (col < cols)
    position = _row(tables[1], strides[1], tl.minimum(row, length - 1), length, col, cols)
    weight = tl.load(weight_ptr + col, mask=col < cols, other=0.0)
    dposition, dweight = tl.zeros((BLOCK_ROWS, BLOCK_COLS), tl.float32), tl.zeros((BLOCK_ROWS, BLOCK_COLS), tl.float32)
    dbias, dsecond = tl.zeros((BLOCK_ROWS, BLOCK_COLS), tl.float32), tl.zeros((BLOCK_ROWS, BLOCK_COLS), tl.float32)
    dfirst = tl.zeros((BLOCK_ROWS, BLOCK_COLS), tl.float32)
    for first in range(0, tokens, length):
        token = first + tl.minimum(row, length - 1).to(tl.int64)
        kind = tl.load(ids[1] + token)
        mean, rstd = tl.load(stats_ptr + token), tl.load(stats_ptr + tokens + token)
        x = _row(tables[0], strides[0], tl.load(ids[0] + token), words, col, cols)
        # In the order of the forward, whose mean has rounded in that order.
        x = x + position + _row(tables[2], strides[2], kind, types, col, cols)
        x = tl.where(inside, (x - mean) * rstd, 0.0)
        dy = tl.load(dy_ptr + token * cols + col, mask=inside, other=0.0).to(tl.float32)
        dweight += dy * x
        dbias += dy
        dy *= weight.to(tl.float32)
        slope = tl.sum(dy * x, axis=1, keep_dims=True) / cols
        dx = tl.where(inside, (dy - tl.sum(dy, axis=1, keep_dims=True) / cols - x * slope) * rstd, 0.0)
        tl.store(dx_ptr + token * cols + col, dx.to(dx_ptr.dtype.element_ty), mask=inside)
        dposition += dx
        dfirst += tl.where(kind == 0, dx, 0.0)
        dsecond += tl.where(kind == 1, dx, 0.0)
    tl.store(dposition_ptr + row.to(tl.int64) * cols + col, dposition.to(dposition_ptr.dtype.element_ty), mask=inside)
    partial_ptr = partials_ptr + tl.program_id(0).to(tl.int64) * cols + col
    apart = tl.num_programs(0).to(tl.int64) * cols
    tl.store(partial_ptr, tl.sum(dweight, axis=0, keep_dims=True), mask=col < cols)
    tl.store(partial_ptr + apart, tl.sum(dbias, axis=0, keep_dims=True), mask=col < cols)
    tl.store(partial_ptr + 2 * apart, tl.sum(dfirst, axis=0, keep_dims=True), mask=col < cols)
    tl.store(partial_ptr + 3 * apart, tl.sum(dsecond, axis=0, keep_dims=True), mask=col < cols)


def _launch_forward(
    ids: tuple[Tensor, ...], tables: tuple[Tensor, ...], weight: Tensor, bias: Tensor, eps: float, keep: bool
) -> tuple[Tensor, Tensor | None]:
    """y, and the statistics of the tokens (None unless they are to be kept for a backward)."""
    (batch, length), cols = ids[0].shape, len(weight)
    tokens = batch * length
    y = torch.empty(batch, length, cols, dtype=tables[0].dtype, device=weight.device)
    stats = torch.empty(2, tokens, dtype=torch.float32, device=y.device) if keep else None
    if tokens:
        flat, strides = as_rows(*tables)
        block_rows, tile = tile_of(cols)
        with device_of(y):
            _forward[(triton.cdiv(tokens, block_rows),)](
                tuple(each.contiguous() for each in ids), tuple(flat), weight.contiguous(), bias.contiguous(), y, stats,
                strides, (tokens, length, cols, len(tables[0]), len(tables[2])), eps, **tile,
            )  # fmt: skip
    return y, stats


class _EmbeddingSumNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tokens: Tensor, token_types: Tensor, *arguments: Any) -> Tensor:
        *tables, weight, bias, eps = arguments
        y, stats = _launch_forward((tokens, token_types), tuple(tables), weight, bias, eps, keep=True)
        ctx.save_for_backward(tokens, token_types, *tables, weight, stats)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        *ids, word, position, token_type, weight, stats = ctx.saved_tensors
        (batch, length), cols, types = ids[0].shape, len(weight), len(token_type)
        block_rows, tile = tile_of(cols)
        # Five sums beside the rows: half as many of each for a thread.
        tile["num_warps"] = min(16, 2 * tile["num_warps"])
        programs = triton.cdiv(length, block_rows)
        dx = torch.empty(batch * length, cols, dtype=dy.dtype, device=dy.device)
        dposition = torch.empty(position.shape, dtype=dy.dtype, device=dy.device)
        dposition[length:].zero_()
        partials = torch.empty(4, programs, cols, dtype=torch.float32, device=dy.device)
        if dx.numel():
            flat, strides = as_rows(word, position, token_type)
            size = (batch * length, length, cols, len(word), types)
            with device_of(dy):
                _backward[(programs,)](
                    dy.contiguous(), tuple(each.contiguous() for each in ids), tuple(flat), weight.contiguous(), stats,
                    (dx, dposition, partials), strides, size, **tile,
                )  # fmt: skip
        else:
            dposition.zero_()
            partials.zero_()
        dweight, dbias, *dtypes = partials.sum(1)
        dword = sum_by_key(dx, ids[0].reshape(-1), len(word)) if ctx.needs_input_grad[2] else None
        dtoken_type = torch.stack(dtypes[:types]).to(dy.dtype)
        return None, None, dword, dposition, dtoken_type, dweight.to(weight.dtype), dbias.to(weight.dtype), None


def _check(
    ids: dict[str, Tensor], tables: dict[str, Tensor], weight: Tensor, bias: Tensor, eps: float
) -> None:  # fmt: skip
    for name, table in tables.items():
        expect_tensor(name, table, dtypes=FLOATS, rank=2)
        expect_like(name, table, "word", tables["word"])
        expect(table.shape[0] >= 1, name, "at least 1 row", f"shape {tuple(table.shape)}")
        cols = tables["word"].shape[1]
        expect(table.shape[1] == cols, name, f"{cols} columns, as word has", f"shape {tuple(table.shape)}")
    expect(1 <= cols <= WIDEST, "word", f"rows of 1 to {WIDEST} columns", f"shape {tuple(tables['word'].shape)}")
    types = len(tables["token_type"])
    expect(types <= 2, "token_type", "1 or 2 rows", f"shape {tuple(tables['token_type'].shape)}")
    for name, value in ids.items():
        expect_tensor(name, value, dtypes=(torch.int64, torch.int32), rank=2)
        expect_device(name, value, "word", tables["word"])
        shape = ids["tokens"].shape
        expect(value.shape == shape, name, f"the shape of tokens, {tuple(shape)}", f"shape {tuple(value.shape)}")
    length = ids["tokens"].shape[1]
    fits = len(tables["position"]) >= length
    expect(fits, "position", f"at least {length} rows, one for each token", len(tables["position"]))
    expect_tensor("weight", weight, dtypes=tuple({tables["word"].dtype: 0, torch.float32: 0}), rank=1)
    expect_tensor("bias", bias, dtypes=(weight.dtype,), rank=1)
    for name, value in (("weight", weight), ("bias", bias)):
        expect_device(name, value, "word", tables["word"])
        expect(len(value) == cols, name, f"shape ({cols},), like a row of word", tuple(value.shape))
    if isinstance(eps, bool) or not isinstance(eps, int | float):
        raise TypeError(f"eps: expected a number, got {type(eps).__name__}")
    expect(0 <= eps < float("inf"), "eps", "a finite number that is not negative", eps)


def embedding_sum_norm(
    tokens: Tensor,
    token_types: Tensor,
    word: Tensor,
    position: Tensor,
    token_type: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float = 1e-12,
) -> Tensor:
    """LayerNorm(word[tokens] + position[0 .. S - 1] + token_type[token_types]), in fp32 with one cast at the end.

    tokens, token_types: (B, S) int64 or int32; word: (V, C), position: (P, C), P at least S, token_type: (1 or 2, C),
    fp32, fp16 or bf16, C up to 8192; weight, bias: (C,), in the dtype of word or fp32; any strides. Returns (B, S, C);
    differentiable in the tables, weight and bias, deterministic. A token or type that its table does not have makes its
    row NaN. arXiv:1810.04805.

    Raises:
        TypeError, ValueError: an argument is not as described, or eps is negative or not finite.
    """
    tables = {"word": word, "position": position, "token_type": token_type}
    _check({"tokens": tokens, "token_types": token_types}, tables, weight, bias, eps)
    values = (word, position, token_type, weight, bias)
    if torch.is_grad_enabled() and any(value.requires_grad for value in values):
        y: Tensor = _EmbeddingSumNorm.apply(tokens, token_types, *values, float(eps))
        return y
    return _launch_forward((tokens, token_types), values[:3], weight, bias, float(eps), keep=False)[0]
