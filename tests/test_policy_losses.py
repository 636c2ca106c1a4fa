"""Losses on the log-probabilities of tokens: what they keep, whom they pass by, and what they say of known cases."""

# ruff: noqa: E402 - whether kernels are interpreted is decided before they are imported

from __future__ import annotations

import gc
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.core import device

DEVICE = device.choose()

from bench import bench_dpo_loss, bench_grpo_loss
from bench.core import memory
from bench.core.case import Make, fp32
from bench.core.operator import Operator
from bench.core.trial import Trial
from kernels.dpo_loss import dpo_loss
from kernels.grpo_loss import grpo_loss
from tests.memory_of import ROUNDED_UP

# Sizes of each loss, and the bytes that it may need for each 1024 tokens beside the gradients.
LOSSES: list[tuple[type[Operator], dict[str, Any], int]] = [
    (bench_dpo_loss.DpoLoss, {"pairs": 3, "cols": 8192, "dtype": fp32}, 4),
    (bench_grpo_loss.GrpoLoss, {"rows": 6, "cols": 8192, "dtype": fp32}, 16),
]
EVERY_LOSS = pytest.mark.parametrize(("operator", "sizes", "kept"), LOSSES, ids=["dpo_loss", "grpo_loss"])
TOKENS = 6 * 8192


@EVERY_LOSS
@pytest.mark.parametrize("mode", ["fwd", "bwd"])
def test_nothing_as_large_as_the_tokens_is_stored_but_gradients(
    operator: type[Operator], sizes: dict[str, Any], kept: int, mode: str
) -> None:
    declared = operator()
    trial = Trial(declared.provider("triton"), declared.inputs(Make(DEVICE), **sizes), mode)
    trial.once()
    gc.collect()
    needs = memory.measure(trial, DEVICE)
    assert 0 < needs.peak_bytes <= needs.least_bytes + kept * TOKENS // 1024 + ROUNDED_UP
    if mode == "bwd":
        assert needs.least_bytes >= 4 * TOKENS
        assert needs.peak_bytes <= 1.1 * needs.least_bytes


@pytest.mark.parametrize(("operator", "sizes"), [loss[:2] for loss in LOSSES], ids=["dpo_loss", "grpo_loss"])
def test_tokens_that_do_not_count_are_not_looked_at(operator: type[Operator], sizes: dict[str, Any]) -> None:
    inputs = operator().inputs(Make(DEVICE), **sizes | {"cols": 40})
    expected = operator.entry(**inputs)
    leaf = inputs["logprob"].masked_fill(~inputs["mask"], float("nan")).requires_grad_()
    loss = operator.entry(**inputs | {"logprob": leaf})
    (gradient,) = torch.autograd.grad(loss, leaf)
    assert torch.equal(loss.detach(), expected)
    assert gradient[~inputs["mask"]].count_nonzero() == 0
    assert gradient[inputs["mask"]].isfinite().all()


def test_policies_that_agree_prefer_nothing() -> None:
    logprob = Make(DEVICE).normal(4, 9, dtype=fp32)
    mask = torch.ones(4, 9, dtype=torch.bool, device=DEVICE)
    assert float(dpo_loss(logprob, logprob.clone(), mask)) == pytest.approx(math.log(2))


@pytest.mark.parametrize("margin", [50.0, 500.0])
def test_a_margin_however_large_is_exact(margin: float) -> None:
    """The loss of a pair that is ordered right is e^-margin, not the rounding of log(1 + e^-margin)."""
    logprob = torch.tensor([[margin], [0.0]], device=DEVICE)
    mask = torch.ones(2, 1, dtype=torch.bool, device=DEVICE)
    right = dpo_loss(logprob, torch.zeros_like(logprob), mask, beta=1.0)
    wrong = dpo_loss(-logprob, torch.zeros_like(logprob), mask, beta=1.0)
    assert float(right) == pytest.approx(math.exp(-margin), rel=1e-5, abs=1e-38)
    assert float(wrong) == pytest.approx(margin)


def _answers() -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities of two answers, of which 4 and 2 tokens of 5 count, and advantages 1 and -2."""
    logprob = Make(DEVICE).normal(2, 5, dtype=fp32)
    mask = torch.tensor([[1, 1, 1, 1, 0], [1, 1, 0, 0, 0]], device=DEVICE)
    return logprob, mask, torch.tensor([1.0, -2.0], device=DEVICE)


@pytest.mark.parametrize(
    ("weight", "loss"),
    [("sequence", -(1 - 2) / 2), ("token", -(4 * 1 - 2 * 2) / 6), ("constant", -(4 * 1 - 2 * 2) / 10)],
)
def test_a_policy_that_has_not_moved_is_weighted_by_its_advantages(weight: str, loss: float) -> None:
    logprob, mask, advantages = _answers()
    rollout = logprob.clone(), logprob.clone(), advantages
    assert float(grpo_loss(logprob, mask, rollout, weight=weight)) == pytest.approx(loss, abs=1e-6)


@pytest.mark.parametrize("moved", [-0.5, 0.5])
def test_what_is_clipped_has_no_gradient(moved: float) -> None:
    """Answers with advantages 1 and -2: a policy that goes too far their way is held, one that goes back is not."""
    logprob, mask, advantages = _answers()
    leaf = logprob.clone().requires_grad_()
    rollout = logprob - moved, logprob.clone(), advantages
    (gradient,) = torch.autograd.grad(grpo_loss(leaf, mask, rollout, beta=0.0), leaf)
    held = [bool(row[counts != 0].count_nonzero() == 0) for row, counts in zip(gradient, mask, strict=True)]
    assert held == [moved > 0, moved < 0]


@pytest.mark.parametrize(("name", "value"), [("epsilon", (0.2, -0.1)), ("weight", "batch"), ("beta", float("inf"))])
def test_an_option_that_means_nothing_is_refused(name: str, value: object) -> None:
    logprob, mask, advantages = _answers()
    options: dict[str, Any] = {name: value}
    with pytest.raises(ValueError, match=f"{name}: expected .*, got "):
        grpo_loss(logprob, mask, (logprob.clone(), logprob.clone(), advantages), **options)
