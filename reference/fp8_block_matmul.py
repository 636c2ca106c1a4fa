"""A product of fp8 matrices with a scale for every block, as DeepSeek-V3 writes it: arXiv:2412.19437, section 3.3.2."""

import torch
from torch import Tensor

BLOCK = 128


def fp8_block_matmul(
    a: Tensor, b: Tensor, a_scale: Tensor, b_scale: Tensor, *, out_dtype: torch.dtype = torch.bfloat16
) -> Tensor:
    """The sum over blocks of K of a b^T times both scales, in at least fp32, cast once.

    a (M, K) by tiles of 1 x 128, b (N, K) by tiles of 128 x 128: a_scale (M, ceil(K / 128)), b_scale (ceil(N / 128),
    ceil(K / 128)) -> (M, N).
    """
    wide = torch.promote_types(a_scale.dtype, torch.float32)
    out = torch.zeros(len(a), len(b), dtype=wide, device=a.device)
    for block in range(a_scale.shape[1]):
        at = slice(block * BLOCK, (block + 1) * BLOCK)
        columns = b_scale[:, block].repeat_interleave(BLOCK)[: len(b)]
        out += a[:, at].to(wide) @ b[:, at].to(wide).T * (a_scale[:, block, None] * columns)
    return out.to(out_dtype)
