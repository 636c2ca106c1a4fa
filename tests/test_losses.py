"""Losses over a vocabulary store nothing of its size but the gradient, and keep what they say of targets."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bench.core import device

DEVICE = device.choose()

import kernels._logprob
import kernels.cross_entropy
import kernels.selected_logprob
import reference.cross_entropy
from bench import bench_cross_entropy, bench_selected_logprob
from bench.core.case import Blank, Make, bf16, fp32
from bench.core.operator import Operator
from bench.core.trial import Trial
from tests.memory_of import ROUNDED_UP, NotLaunched, needed_by

LONG: dict[str, Any] = {"rows": 8192, "cols": 131072, "dtype": bf16}
SMALL: dict[str, Any] = {"rows": 48, "cols": 1000, "dtype": bf16}
LOSSES = [bench_cross_entropy.CrossEntropy, bench_selected_logprob.SelectedLogprob]
EVERY_LOSS = pytest.mark.parametrize("operator", LOSSES, ids=lambda operator: operator.name())


@pytest.fixture
def not_launched(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in [
        (kernels._logprob, "_forward"),
        (kernels._logprob, "_backward"),
        (kernels.cross_entropy, "_mean"),
    ]:
        monkeypatch.setattr(module, name, NotLaunched())


@EVERY_LOSS
@pytest.mark.usefixtures("not_launched")
def test_training_needs_the_gradient_and_12_bytes_a_row_at_vocabulary_128k_and_length_8k(
    operator: type[Operator],
) -> None:
    needs = needed_by(operator, "bwd", LONG, Blank)
    assert needs.least_bytes >= 2 * LONG["rows"] * LONG["cols"], "expected the gradient to be among what is needed"
    assert needs.peak_bytes <= needs.least_bytes + 12 * LONG["rows"] + ROUNDED_UP
    assert needs.peak_bytes <= 1.1 * needs.least_bytes
    assert needs.saved_bytes is not None
    assert needs.saved_bytes <= 12 * LONG["rows"] + ROUNDED_UP


@EVERY_LOSS
@pytest.mark.usefixtures("not_launched")
def test_evaluation_needs_4_bytes_a_row_at_vocabulary_128k_and_length_8k(operator: type[Operator]) -> None:
    needs = needed_by(operator, "fwd", LONG, Blank)
    assert 0 < needs.peak_bytes <= 4 * LONG["rows"] + ROUNDED_UP


@EVERY_LOSS
@pytest.mark.parametrize(("mode", "bytes_a_row"), [("fwd", 4), ("bwd", 12)])
def test_what_runs_needs_no_more_than_what_is_not_launched(
    operator: type[Operator], mode: str, bytes_a_row: int
) -> None:
    needs = needed_by(operator, mode, SMALL, Make)
    gradient = 2 * SMALL["rows"] * SMALL["cols"] if mode == "bwd" else 0
    assert gradient < needs.peak_bytes <= gradient + bytes_a_row * SMALL["rows"] + ROUNDED_UP


@pytest.mark.parametrize("target", [-1, 7, 2**31 - 1, -(2**31), 2**40])
def test_a_target_outside_of_the_row_is_nan_and_touches_no_other_row(target: int) -> None:
    logits = Make(DEVICE).normal(3, 7, dtype=fp32).requires_grad_()
    tokens = torch.tensor([0, target, 6], device=DEVICE)
    logprob = kernels.selected_logprob.selected_logprob(logits, tokens)
    (dlogits,) = torch.autograd.grad(logprob.sum(), logits)
    assert logprob.isnan().tolist() == [False, True, False]
    assert dlogits.isnan().all(-1).tolist() == [False, True, False]
    assert dlogits[::2].isfinite().all()
    assert kernels.cross_entropy.cross_entropy(logits, tokens).isnan()


def test_logits_of_ignored_rows_are_not_looked_at() -> None:
    logits = Make(DEVICE).normal(4, 50, dtype=fp32)
    logits[1] = float("nan")
    leaf = logits.requires_grad_()
    loss = kernels.cross_entropy.cross_entropy(leaf, torch.tensor([3, 5, 7, 5], device=DEVICE), ignore_index=5)
    (dlogits,) = torch.autograd.grad(loss, leaf)
    assert loss.isfinite()
    assert torch.equal(dlogits[[1, 3]], torch.zeros(2, 50, device=DEVICE))


@pytest.mark.parametrize("rows", [7, 8, 9, 30])
def test_the_mean_takes_as_many_steps_as_rows_need(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels.cross_entropy, "BLOCK_ROWS", 8)
    inputs = bench_cross_entropy.CrossEntropy().inputs(Make(DEVICE), rows=rows, cols=9, ignored=0.4, dtype=fp32)
    expected = reference.cross_entropy.cross_entropy(**inputs)
    torch.testing.assert_close(kernels.cross_entropy.cross_entropy(**inputs), expected)


def test_targets_may_be_int32() -> None:
    inputs = bench_cross_entropy.CrossEntropy().inputs(Make(DEVICE), rows=9, cols=33, ignored=0.3, dtype=fp32)
    narrow = inputs | {"targets": inputs["targets"].int()}
    assert torch.equal(kernels.cross_entropy.cross_entropy(**narrow), kernels.cross_entropy.cross_entropy(**inputs))


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_label_smoothing_is_a_share(value: float) -> None:
    inputs = bench_cross_entropy.CrossEntropy().inputs(Make(DEVICE), rows=2, cols=3, dtype=fp32)
    with pytest.raises(ValueError, match=r"label_smoothing: expected a number within \[0, 1\], got "):
        kernels.cross_entropy.cross_entropy(**inputs | {"label_smoothing": value})


@pytest.mark.parametrize("mode", ["fwd", "bwd"])
def test_a_sample_of_rows_proves_the_loss_of_all(mode: str) -> None:
    """At sizes that are clocked, gradients are proven on some rows, the loss on all."""
    operator = bench_cross_entropy.CrossEntropy()
    trial = Trial(operator.provider("triton"), operator.inputs(Make(DEVICE), 400, 5, bf16, ignored=0.3), mode)
    samples = operator.samples(trial.inputs, seed=3)
    assert [len(sample.views["logits"]) < 400 for sample in samples] == [True]
    trial.prove(operator.yardsticks(trial.inputs, mode, samples))


def test_a_wrong_row_outside_of_the_sample_is_found_in_the_loss() -> None:
    operator = bench_cross_entropy.CrossEntropy()
    inputs = operator.inputs(Make(DEVICE), 400, 5, fp32)
    samples = operator.samples(inputs, seed=3)
    yardsticks = operator.yardsticks(inputs, "fwd", samples)
    outside = next(row for row in range(400) if row not in samples[0].views["logits"])

    def wrong(logits: torch.Tensor, targets: torch.Tensor, **options: Any) -> Any:
        moved = targets.clone()
        moved[outside] = (moved[outside] + 1) % 5
        return lambda: reference.cross_entropy.cross_entropy(logits, moved, **options)

    with pytest.raises(AssertionError, match="output 0"):
        Trial(wrong, inputs, "fwd").prove(yardsticks)
