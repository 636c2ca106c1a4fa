"""Group Relative Policy Optimization as the papers write it.

Shao et al. 2024, "DeepSeekMath", arXiv:2402.03300: equation 3, and the estimator of the divergence in equation 4. The
weights of tokens are those of GRPO, of Yu et al. 2025, "DAPO", arXiv:2503.14476, equation 8, and of Liu et al. 2025,
"Understanding R1-Zero-Like Training" (Dr. GRPO), arXiv:2503.20783.
"""

import torch
from torch import Tensor


def grpo_loss(
    logprob: Tensor,
    mask: Tensor,
    rollout: tuple[Tensor, Tensor, Tensor],
    epsilon: tuple[float, float] = (0.2, 0.2),
    beta: float = 0.04,
    weight: str = "sequence",
) -> Tensor:
    """-mean(min(r A, clip(r, 1 - low, 1 + high) A) - beta D), r = exp(logprob - old), D = exp(k) - k - 1, in >= fp32.

    logprob, mask (n, L), rollout: (old, reference) log-probabilities, k = reference - logprob, and advantages A (n,).
    """
    wide, counts = torch.promote_types(logprob.dtype, torch.float32), mask != 0
    old, reference, advantages = (value.to(wide) for value in rollout)
    policy = torch.where(counts, logprob.to(wide), 0)
    ratio = torch.where(counts, policy - old, 0).exp()
    k = torch.where(counts, reference - policy, 0)
    gain = torch.minimum(ratio * advantages[:, None], ratio.clamp(1 - epsilon[0], 1 + epsilon[1]) * advantages[:, None])
    loss = torch.where(counts, -gain + beta * (k.exp() - k - 1), 0)
    if weight == "sequence":
        return (loss.sum(-1) / counts.sum(-1).clamp_min(1)).sum() / max(1, len(loss))
    return loss.sum() / (counts.sum().clamp_min(1) if weight == "token" else max(1, loss.numel()))
