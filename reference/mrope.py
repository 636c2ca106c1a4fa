"""Multimodal rotary position embeddings as the paper writes them: a position has a time, a height and a width.

Wang et al. 2024, "Qwen2-VL", arXiv:2409.12191, section 2.1; the rotation is that of Su et al. 2021, arXiv:2104.09864.
"""

import torch
from torch import Tensor

from reference.rope import rotate


def mrope(
    q: Tensor, k: Tensor, position_embeddings: tuple[Tensor, Tensor], mrope_section: tuple[int, int, int]
) -> tuple[Tensor, Tensor]:
    """q and k turned by (cos, sin), each (3, ..., tokens, half): `mrope_section` pairs by time, by height, by width."""
    cos, sin = (
        torch.cat([part[axis] for axis, part in enumerate(table.split(mrope_section, dim=-1))], dim=-1)
        for table in position_embeddings
    )
    return rotate(q, cos, sin, interleaved=False), rotate(k, cos, sin, interleaved=False)
