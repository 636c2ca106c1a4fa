"""Attention within packed documents, as the textbook writes it: one document after another."""

from __future__ import annotations

from torch import Tensor

from reference.attention import attention


def varlen_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    *,
    causal: bool = False,
    window: int | None = None,
    scale: float | None = None,
) -> Tensor:
    """softmax(q k^T * scale) v of each document: queries from cu_seqlens_q[i] to cu_seqlens_q[i + 1], keys likewise.

    q (Tq, Hq, D), k (Tk, Hkv, D), v (Tk, Hkv, Dv) -> (Tq, Hq, Dv); what belongs to no document is zero.
    The Llama 3 Herd of Models (arXiv:2407.21783), section 3.2; Vaswani et al. (arXiv:1706.03762), equation 1.
    """
    o = q.new_zeros(*q.shape[:2], v.shape[2])
    of_q, of_k = cu_seqlens_q.tolist(), cu_seqlens_k.tolist()
    for rows, keys in zip(map(slice, of_q, of_q[1:]), map(slice, of_k, of_k[1:]), strict=True):
        heads_first = (x.transpose(0, 1)[None] for x in (q[rows], k[keys], v[keys]))
        o[rows] = attention(*heads_first, causal=causal, window=window, scale=scale)[0].transpose(0, 1)
    return o
