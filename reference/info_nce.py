"""CLIP's contrastive loss as its paper writes it.

Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision", arXiv:2103.00020, figure
3: InfoNCE (van den Oord et al. 2018, arXiv:1807.03748, equation 4) of pictures given texts and of texts given pictures.
"""

import torch
from torch import Tensor

from reference.cross_entropy import cross_entropy


def info_nce(image: Tensor, text: Tensor, logit_scale: Tensor) -> Tensor:
    """The mean of the cross-entropies of the rows and of the columns of the logits, whose targets are the diagonal.

    image, text (n, K), of unit length where they come from CLIP, logit_scale a number -> a number.
    """
    wide = torch.promote_types(image.dtype, torch.float32)
    logits = logit_scale * (image @ text.T).to(wide)
    labels = torch.arange(len(image), device=image.device)
    return ((cross_entropy(logits, labels) + cross_entropy(logits.T, labels)) / 2).to(image.dtype)
