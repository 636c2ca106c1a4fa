"""Packed documents: which of them a program works on, and where it begins. The essay stands in varlen_attention.py."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def find_document(cu_ptr, slot, documents, BLOCK: tl.constexpr):
    """The last document whose first slot is not behind this one; `documents` is what stands behind all of them.

    Document i owns the slots from cu[i] // BLOCK + i on: never fewer than it has tiles, and known without a table.
    """
    low, high = tl.cast(0, tl.int32), tl.cast(documents, tl.int32)
    while low < high:
        middle = (low + high + 1) // 2
        reached = tl.load(cu_ptr + middle) // BLOCK + middle <= slot
        low = tl.where(reached, middle, low)
        high = tl.where(reached, high, middle - 1)
    return low


@triton.jit
def bounds(cu_ptr, document, documents, rows):
    """The first row of a document, and how many it has; behind the last document, the rest."""
    first = tl.minimum(tl.load(cu_ptr + document), rows)
    stop = tl.load(cu_ptr + document + 1, document < documents, other=rows)
    return first.to(tl.int64), tl.minimum(stop, rows) - first
