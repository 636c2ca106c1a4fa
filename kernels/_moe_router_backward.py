"""The gradient of the router's weights.

With d_j = dw_j - [renormalised] sum(w dw) / scale, dh is w_j d_j (softmax) or w_j d_j (1 - s_{e_j}) (sigmoid; the sum
of the row's chosen s was kept) at each expert e_j that was chosen, and 0 elsewhere. Of scores that are not renormalised
softmax takes s sum(w dw) away from all, for which logits are read again. dlogits = dh, dnoise = dh softplus(spread),
dspread = dh noise sigmoid(spread). A program owns whole rows and writes them once.
"""

from __future__ import annotations

import triton
import triton.language as tl

from kernels._noisy import noisy, softplus


@triton.jit
def backward(
    dweights_ptr, weights_ptr, experts_ptr, whole_ptr, tensors, gradients, strides, size, scale,
    SOFTMAX: tl.constexpr, RENORMALIZE: tl.constexpr, TOP_K: tl.constexpr, WIDTH: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr,
):  # fmt: skip
    tokens, E = size
    row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)[:, None]
    col, place = tl.arange(0, BLOCK_COLS)[None, :], tl.arange(0, WIDTH)[None, :]
    inside, chosen = (row < tokens) & (col < E), (row < tokens) & (place < TOP_K)
    dweights = tl.load(dweights_ptr + row * TOP_K + place, mask=chosen, other=0.0)
    weights = tl.load(weights_ptr + row * TOP_K + place, mask=chosen, other=0.0)
    experts = tl.load(experts_ptr + row * TOP_K + place, mask=chosen, other=-1)
    slope = weights * dweights
    if RENORMALIZE:
        # sum(w) = scale, so dw_j - sum(w dw) / scale = sum over i of w_i (dw_j - dw_i) / scale, which does not cancel.
        slope = tl.zeros((BLOCK_ROWS, WIDTH), tl.float32)
        for i in range(TOP_K):
            weight = tl.sum(tl.where(place == i, weights, 0.0), axis=1, keep_dims=True)
            slope += weight * (dweights - tl.sum(tl.where(place == i, dweights, 0.0), axis=1, keep_dims=True))
        slope *= weights / scale
    if not SOFTMAX:
        whole = tl.load(whole_ptr + row, mask=row < tokens, other=1.0) if RENORMALIZE else 1.0
        slope *= 1.0 - weights * (whole / scale)
    dh = tl.zeros((BLOCK_ROWS, BLOCK_COLS), tl.float32)
    for j in range(TOP_K):
        expert = tl.sum(tl.where(place == j, experts, 0), axis=1, keep_dims=True)
        dh += tl.where(col == expert, tl.sum(tl.where(place == j, slope, 0.0), axis=1, keep_dims=True), 0.0)
    if SOFTMAX and not RENORMALIZE:
        h = noisy(tensors, strides, row, col, inside, E)
        score = tl.exp(h - tl.max(h, axis=1, keep_dims=True))
        dh -= score * (tl.sum(slope, axis=1, keep_dims=True) / tl.sum(score, axis=1, keep_dims=True))
    dlogits_ptr, dnoise_ptr, dspread_ptr = gradients
    if dlogits_ptr is not None:
        tl.store(dlogits_ptr + row * E + col, dh.to(dlogits_ptr.dtype.element_ty), mask=inside)
    if tensors[2] is not None:
        noise = tl.load(tensors[1] + row * strides[1] + col, mask=inside, other=0.0).to(tl.float32)
        spread = tl.load(tensors[2] + row * strides[2] + col, mask=inside, other=0.0).to(tl.float32)
        if dspread_ptr is not None:
            dspread = dh * noise * tl.sigmoid(spread)
            tl.store(dspread_ptr + row * E + col, dspread.to(dspread_ptr.dtype.element_ty), mask=inside)
        dh *= softplus(spread)
    if dnoise_ptr is not None:
        tl.store(dnoise_ptr + row * E + col, dh.to(dnoise_ptr.dtype.element_ty), mask=inside)
