"""Patches of a picture as tokens, as the paper writes it: Dosovitskiy et al. 2020, arXiv:2010.11929, section 3.1."""

from __future__ import annotations

from torch import Tensor


def patch_embed(pixels: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Each P x P patch, flattened, times a matrix, plus bias: equation 1 without class token and positions.

    pixels (B, C, H, W), H and W multiples of P, weight (E, C, P, P), bias (E,) -> tokens (B, H / P * W / P, E), row by
    row.
    """
    size = weight.shape[2]
    patches = pixels.unfold(2, size, size).unfold(3, size, size)  # (B, C, H / P, W / P, P, P)
    patches = patches.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)
    tokens = patches @ weight.flatten(1).T
    return tokens if bias is None else tokens + bias
