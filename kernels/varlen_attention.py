"""Attention within packed documents: softmax(q k^T * scale + mask) v of each for itself, forward and backward.

q (Tq, Hq, D), k (Tk, Hkv, D), v (Tk, Hkv, Dv) -> o (Tq, Hq, Dv): documents stand one behind another, number i from row
cu[i] to row cu[i + 1]. No padding is computed and no mask of Tq x Tk stored: documents are known by their bounds alone.

The kernels are those of attention.py, and so is what they keep: o and lse. A program here finds its tile itself, since
the lengths of documents never leave the GPU. With tiles of BLOCK rows, document i owns the slots from
cu[i] // BLOCK + i on, at least as many as it has tiles, and a bisection of cu finds whose slot a program has.
T // BLOCK + documents + 1 slots are launched, the last for rows behind all documents, which are zero; a slot without a
tile walks over nothing. However unequal the documents, every tile is a program of its own, as in attention.

Sources: Dao, FlashAttention-2 (arXiv:2307.08691); Zeng et al., Boosting Distributed Training Performance of the
Unpadded BERT Model (arXiv:2208.08124); document masks: The Llama 3 Herd of Models (arXiv:2407.21783), section 3.2.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels._attention_tiles import Seen
from kernels._launch import expect, expect_device, expect_tensor
from kernels.attention import Attention, expect_heads, expect_options, factor_of


def _expect_documents(cu_seqlens_q: Tensor, cu_seqlens_k: Tensor, q: Tensor) -> None:
    for name, cu in (("cu_seqlens_q", cu_seqlens_q), ("cu_seqlens_k", cu_seqlens_k)):
        expect_tensor(name, cu, dtypes=(torch.int32,), rank=1)
        expect_device(name, cu, "q", q)
        expect(len(cu) > 0, name, "the bounds of documents, a zero at least", "nothing")
    alike = len(cu_seqlens_q) == len(cu_seqlens_k)
    expect(alike, "cu_seqlens_k", f"as many bounds as cu_seqlens_q, {len(cu_seqlens_q)}", len(cu_seqlens_k))


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
    """softmax(q k^T * scale) v within each document, differentiable in q, k and v; deterministic.

    q (Tq, Hq, D), k (Tk, Hkv, D), v (Tk, Hkv, Dv) -> (Tq, Hq, Dv), contiguous; float32, float16 or bfloat16, of any
    strides. Document i has the queries from cu_seqlens_q[i] to cu_seqlens_q[i + 1] and the keys likewise; both int32,
    never falling, the first of them 0; what exceeds Tq or Tk is cut off. They are not looked at on the host. A document
    may be empty. Queries behind the last document see nothing. Heads, `causal`, `window` and `scale` are as in
    `attention`, within a document. A row that sees nothing is zero, and so are its gradients.

    Raises:
        TypeError: an argument is of the wrong type or dtype.
        ValueError: shapes that do not go together, a head dimension above 256, a window of no keys, an infinite scale,
            another device.
    """
    expect_heads(q, k, v, rank=3)
    _expect_documents(cu_seqlens_q, cu_seqlens_k, q)
    expect_options(causal, window, scale)
    seen = Seen(causal, window, (cu_seqlens_q.contiguous(), cu_seqlens_k.contiguous()))
    heads_first = (x.transpose(0, 1)[None] for x in (q, k, v))
    o: Tensor = Attention.apply(*heads_first, seen, factor_of(q.shape[2], window, scale))
    return o.squeeze(0).transpose(0, 1)
