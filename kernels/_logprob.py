"""The log-probability of one chosen entry of each row of logits, and its gradient: what losses over a vocabulary share.

With t the target of a row x of V logits and s the label smoothing (0 where there is none)

    logprob = (1 - s) (x_t - lse) + s mean(x - lse),   lse = log(sum exp(x)) = top + log(total),  top = max(x)
    dx_j = g ((1 - s) [j = t] + s / V - exp(x_j - top) / total),   g the gradient of logprob

logits, dlogits (rows, V), targets, logprob, dlogprob (rows,), stats (rows, 2): top and total, in fp32. A row whose
target is ignore_index has logprob 0 and gradient 0, and its logits are not read; a target outside of the row is NaN.

Forward: one program owns a row and walks over it in chunks, reading each logit once. A thread keeps its own maximum and
sum for each 128-bit vector that it owns of a chunk, so that chunks need no exchange between threads, and there is one
exponential per logit and one per vector: the special functions stay far below what memory delivers. Backward: one
program owns a chunk of a row, reads it and writes its gradient: nothing but dlogits is as large as the logits.
Source: Milakov and Gimelshein 2018, arXiv:1805.02867; label smoothing: Szegedy et al. 2015, arXiv:1512.00567.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels._launch import FLOATS, device_of, expect, expect_device, expect_tensor

LOG2E = tl.constexpr(math.log2(math.e))
LOWEST = tl.constexpr(torch.finfo(torch.float32).min)
# 32 logits for each thread, which are four 128-bit accesses of bf16 in flight, and at most 8 warps.
CHUNK_COLS, COLS_OF_A_WARP = 8192, 1024


@triton.jit
def _forward(
    logits_ptr, targets_ptr, logprob_ptr, stats_ptr, row_stride, cols, ignore_index, label_smoothing,
    SMOOTHED: tl.constexpr, BLOCK_COLS: tl.constexpr,
):  # fmt: skip
    VECTOR: tl.constexpr = 128 // logits_ptr.dtype.element_ty.primitive_bitwidth
    row = tl.program_id(0).to(tl.int64)
    x_ptr = logits_ptr + row * row_stride
    target = tl.load(targets_ptr + row)
    kept = target != ignore_index
    known = (target >= 0) & (target < cols)
    chosen = tl.load(x_ptr + target, mask=kept & known, other=float("nan")).to(tl.float32)
    lane = tl.arange(0, BLOCK_COLS // VECTOR)[:, None] * VECTOR + tl.arange(0, VECTOR)[None, :]
    # Begun at a finite number: behind a first -inf, -inf - peak would be NaN.
    peak = tl.full((BLOCK_COLS // VECTOR, 1), LOWEST, tl.float32)
    total = tl.zeros((BLOCK_COLS // VECTOR, 1), tl.float32)
    plain = tl.zeros((BLOCK_COLS // VECTOR, 1), tl.float32)
    for start in range(0, tl.where(kept, cols, 0), BLOCK_COLS):
        col = start + lane
        x = tl.load(x_ptr + col, mask=col < cols, other=-float("inf")).to(tl.float32)
        before = peak
        peak = tl.maximum(peak, tl.max(x, axis=1, keep_dims=True))
        # Subtract, then scale: in a fused multiply-add the rounded product of a huge peak would be off by more than 1.
        powers = tl.exp2((x - peak) * LOG2E)
        total = total * tl.exp2((before - peak) * LOG2E) + tl.sum(powers, axis=1, keep_dims=True)
        if SMOOTHED:
            plain += tl.sum(tl.where(col < cols, x, 0.0), axis=1, keep_dims=True)
    top = tl.max(peak)
    whole = tl.sum(total * tl.exp2((peak - top) * LOG2E))
    lse = tl.log(whole)
    logprob = (chosen - top) - lse
    if SMOOTHED:
        logprob = (1 - label_smoothing) * logprob + label_smoothing * ((tl.sum(plain) / cols - top) - lse)
    tl.store(logprob_ptr + row, tl.where(kept, logprob, 0.0))
    if stats_ptr is not None:
        tl.store(stats_ptr + row * 2, tl.where(known, top, float("nan")))
        tl.store(stats_ptr + row * 2 + 1, whole)


@triton.jit
def _backward(
    dlogprob_ptr, factor_ptr, logits_ptr, targets_ptr, stats_ptr, dlogits_ptr, size, ignore_index, label_smoothing,
    BLOCK_COLS: tl.constexpr,
):  # fmt: skip
    cols = size[0]
    chunks = tl.cdiv(cols, BLOCK_COLS)
    row = (tl.program_id(0) // chunks).to(tl.int64)
    col = tl.program_id(0) % chunks * BLOCK_COLS + tl.arange(0, BLOCK_COLS)
    target = tl.load(targets_ptr + row)
    kept = target != ignore_index
    # Of an ignored row nothing is read: its powers are 0, whatever stats hold.
    stop = tl.where(kept, cols, 0)
    x = tl.load(logits_ptr + row * size[1] + col, mask=col < stop, other=-float("inf")).to(tl.float32)
    top = tl.load(stats_ptr + row * 2, mask=kept, other=0.0)
    total = tl.load(stats_ptr + row * 2 + 1, mask=kept, other=1.0)
    g = tl.load(dlogprob_ptr + row * size[2]).to(tl.float32)
    if factor_ptr is not None:
        g *= tl.load(factor_ptr)
    g = tl.where(kept, g, 0.0)
    dx = g * label_smoothing / cols - tl.exp2((x - top) * LOG2E) * (g / total)
    dx += tl.where(col == target, g * (1 - label_smoothing), 0.0)
    tl.store(dlogits_ptr + row * cols + col, dx.to(dlogits_ptr.dtype.element_ty), mask=col < cols)


def _tile(cols: int) -> dict[str, int]:
    """The launch options of a kernel that takes rows of so many columns chunk by chunk."""
    block_cols = min(CHUNK_COLS, max(16, triton.next_power_of_2(cols)))
    return {"BLOCK_COLS": block_cols, "num_warps": max(1, block_cols // COLS_OF_A_WARP)}


def _as_rows(logits: Tensor) -> Tensor:
    """Logits whose columns lie side by side: a copy only where they do not."""
    return logits if 1 in (logits.stride(1), logits.shape[1]) else logits.contiguous()


def check(logits: Tensor, name: str, targets: Tensor, ignore_index: int) -> None:
    """Raise unless logits are (rows, V), targets, called `name`, (rows,) integers, and ignore_index one too."""
    expect_tensor("logits", logits, dtypes=FLOATS, rank=2)
    expect(logits.shape[1] >= 1, "logits", "at least 1 column", f"shape {tuple(logits.shape)}")
    expect_tensor(name, targets, dtypes=(torch.int64, torch.int32), rank=1)
    expect_device(name, targets, "logits", logits)
    expect(len(targets) == len(logits), name, f"shape ({len(logits)},), one for each row", tuple(targets.shape))
    if isinstance(ignore_index, bool) or not isinstance(ignore_index, int):
        raise TypeError(f"ignore_index: expected an int, got {type(ignore_index).__name__}")


def forward(
    logits: Tensor, targets: Tensor, ignore_index: int, label_smoothing: float, keep: bool
) -> tuple[Tensor, Tensor | None]:
    """logprob, and stats if they are to be kept for a backward. Arguments are not checked."""
    rows, cols = logits.shape
    logprob = torch.empty(rows, dtype=torch.float32, device=logits.device)
    stats = torch.empty(rows, 2, dtype=torch.float32, device=logits.device) if keep else None
    if rows:
        logits = _as_rows(logits)
        with device_of(logits):
            _forward[(rows,)](
                logits, targets.contiguous(), logprob, stats, logits.stride(0), cols, ignore_index, label_smoothing,
                SMOOTHED=label_smoothing > 0, **_tile(cols),
            )  # fmt: skip
    return logprob, stats


def backward(
    dlogprob: Tensor, factor: Tensor | None, logits: Tensor, targets: Tensor, stats: Tensor,
    ignore_index: int, label_smoothing: float,
) -> Tensor:  # fmt: skip
    """dlogits for g = dlogprob (rows,), or one number for all rows, times the number `factor` if there is one."""
    rows, cols = logits.shape
    dlogits = torch.empty(rows, cols, dtype=logits.dtype, device=logits.device)
    if rows:
        logits, tile = _as_rows(logits), _tile(cols)
        size = cols, logits.stride(0), dlogprob.stride(0) if dlogprob.ndim else 0
        with device_of(logits):
            _backward[(rows * triton.cdiv(cols, tile["BLOCK_COLS"]),)](
                dlogprob, factor, logits, targets.contiguous(), stats, dlogits, size, ignore_index, label_smoothing,
                **tile,
            )  # fmt: skip
    return dlogits
