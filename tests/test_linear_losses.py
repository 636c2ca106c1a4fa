"""Losses of a linear layer's outputs store no outputs, pass ignored rows by, and give the same gradients in chunks."""

# ruff: noqa: E402 - whether kernels are interpreted is decided before they are imported

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from bench.core import device

DEVICE = device.choose()

import kernels._chunked
import kernels.cross_entropy
import kernels.distill_jsd
import kernels.distill_kl
import kernels.linear_cross_entropy
import reference.linear_cross_entropy
from bench import bench_distill_jsd, bench_distill_kl, bench_linear_cross_entropy
from bench.core.case import Blank, Make, bf16, fp32
from bench.core.operator import Operator
from tests.memory_of import ROUNDED_UP, NotLaunched, needed_by

LONG: dict[str, Any] = {"rows": 8192, "cols": 131072, "depth": 4096, "dtype": bf16}
LOGITS = 2 * LONG["rows"] * LONG["cols"]
# Of a row the forward keeps: how many sums for each split of 2048 columns, how many bytes until its end, and after it.
KEPT: dict[type[Operator], tuple[int, int, int]] = {
    bench_linear_cross_entropy.LinearCrossEntropy: (2, 12, 12),
    bench_distill_kl.DistillKl: (5, 4, 16),
    bench_distill_jsd.DistillJsd: (4, 24, 20),
}
EVERY_LOSS = pytest.mark.parametrize("operator", KEPT, ids=lambda operator: operator.name())
linear_cross_entropy = kernels.linear_cross_entropy.linear_cross_entropy


@pytest.fixture
def not_launched(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in [
        (kernels._chunked, "_order_kernel"),
        (kernels.distill_jsd, "_join_sums_kernel"),
        (kernels.distill_jsd, "_join_divergences_kernel"),
        (kernels.distill_kl, "_join_kernel"),
        (kernels.linear_cross_entropy, "_join_kernel"),
        (kernels.cross_entropy, "_mean"),
    ]:
        monkeypatch.setattr(module, name, NotLaunched())
    for module in (kernels._chunked, kernels.distill_jsd, kernels.distill_kl, kernels.linear_cross_entropy):
        monkeypatch.setattr(module, "launch_tiles", lambda *_, **__: None)


@EVERY_LOSS
@pytest.mark.usefixtures("not_launched")
def test_training_needs_a_tenth_more_than_its_gradients_at_vocabulary_128k_and_length_8k(
    operator: type[Operator],
) -> None:
    needs = needed_by(operator, "bwd", LONG, Blank)
    rows, depth = LONG["rows"], LONG["depth"]
    assert needs.least_bytes >= 2 * depth * (rows + LONG["cols"]), "expected both gradients among what is needed"
    chunk, rest = 2 * kernels._chunked.CHUNK, 2 * rows * depth
    assert needs.peak_bytes <= needs.least_bytes + chunk + rest + KEPT[operator][2] * rows + ROUNDED_UP
    assert needs.peak_bytes <= 1.1 * needs.least_bytes
    assert needs.saved_bytes is not None
    assert needs.saved_bytes <= KEPT[operator][2] * rows + ROUNDED_UP


@EVERY_LOSS
@pytest.mark.usefixtures("not_launched")
def test_evaluation_needs_a_few_sums_of_a_row_and_2048_columns(operator: type[Operator]) -> None:
    needs = needed_by(operator, "fwd", LONG, Blank)
    sums, kept, _ = KEPT[operator]
    assert 0 < needs.peak_bytes <= sums * LOGITS / 1024 + kept * LONG["rows"] + ROUNDED_UP


@EVERY_LOSS
@pytest.mark.parametrize("mode", ["fwd", "bwd"])
def test_what_runs_needs_no_more_than_what_is_not_launched(operator: type[Operator], mode: str) -> None:
    rows, cols, depth = 48, 300, 64
    needs = needed_by(operator, mode, {"rows": rows, "cols": cols, "depth": depth, "dtype": bf16}, Make)
    gradients = 2 * (rows + cols) * depth + 2 * rows * 384 if mode == "bwd" else 0
    assert gradients < needs.peak_bytes <= gradients + 44 * rows + 2 * ROUNDED_UP


@EVERY_LOSS
@pytest.mark.parametrize("dtype", [fp32, bf16], ids=["fp32", "bf16"])
def test_gradients_in_chunks_are_those_at_once(
    operator: type[Operator], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of bf16 to half an ulp, since what it rounds away between chunks is kept."""
    inputs = operator().inputs(Make(DEVICE), rows=37, cols=520, depth=24, dtype=dtype)
    leaves = [inputs[name].requires_grad_() for name in ("hidden", "weight")]
    whole = torch.autograd.grad(operator.entry(**inputs), leaves)
    monkeypatch.setattr(kernels._chunked, "CHUNK", 1)
    monkeypatch.setattr(kernels._chunked, "LEAST_COLS", 256)
    chunked = torch.autograd.grad(operator.entry(**inputs), leaves)
    for one, other in zip(whole, chunked, strict=True):
        torch.testing.assert_close(one, other, rtol=torch.finfo(dtype).eps, atol=1e-8)


def test_rows_that_do_not_count_are_not_looked_at() -> None:
    hidden, weight = Make(DEVICE).normal(70, 16, dtype=fp32), Make(DEVICE).normal(40, 16, dtype=fp32)
    targets = torch.arange(70, device=DEVICE) % 40
    targets[::2] = -100
    expected = linear_cross_entropy(hidden[1::2], weight, targets[1::2])
    hidden[::2] = float("nan")
    leaves = [hidden.requires_grad_(), weight.requires_grad_()]
    loss = linear_cross_entropy(hidden, weight, targets)
    dhidden, dweight = torch.autograd.grad(loss, leaves)
    torch.testing.assert_close(loss, expected)  # the mean sums in another order
    assert torch.equal(dhidden[::2], torch.zeros(35, 16, device=DEVICE))
    assert dweight.isfinite().all()


@pytest.mark.parametrize("rows", [1, 7, 8, 9, 30])
def test_rows_that_count_come_first_in_their_order(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels._chunked, "BLOCK_ROWS", 8)
    targets = Make(DEVICE).integers(0, 3, rows, dtype=torch.int64)
    order = kernels._chunked.order_of(targets, 0).tolist()
    counting = [row for row in range(rows) if targets[row] != 0]
    assert order[-1] == len(counting)
    assert order[: len(counting)] == counting
    assert sorted(order[:-1]) == list(range(rows))


@pytest.mark.parametrize("target", [-1, 40, 2**31 - 1, 2**40])
def test_a_target_outside_of_the_vocabulary_is_nan(target: int) -> None:
    hidden, weight = Make(DEVICE).normal(3, 16, dtype=fp32).requires_grad_(), Make(DEVICE).normal(40, 16, dtype=fp32)
    loss = linear_cross_entropy(hidden, weight, torch.tensor([0, target, 39], device=DEVICE))
    (dhidden,) = torch.autograd.grad(loss, hidden)
    assert loss.isnan()
    assert dhidden.isnan().all(-1).tolist() == [False, True, False]


@pytest.mark.parametrize("frozen", ["hidden", "weight"])
def test_what_is_frozen_has_no_gradient(frozen: str) -> None:
    inputs = bench_linear_cross_entropy.LinearCrossEntropy().inputs(Make(DEVICE), 9, 40, 16, fp32)
    (name,) = {"hidden", "weight"} - {frozen}
    leaf = inputs[name].requires_grad_()
    (gradient,) = torch.autograd.grad(linear_cross_entropy(**inputs), leaf)
    (expected,) = torch.autograd.grad(reference.linear_cross_entropy.linear_cross_entropy(**inputs), leaf)
    torch.testing.assert_close(gradient, expected)


EVERY_DISTILLATION = pytest.mark.parametrize(
    "distill", [kernels.distill_jsd.distill_jsd, kernels.distill_kl.distill_kl], ids=lambda distill: distill.__name__
)


@EVERY_DISTILLATION
def test_a_student_like_its_teacher_has_nothing_to_learn(distill: Callable[..., torch.Tensor]) -> None:
    hidden, weight = Make(DEVICE).normal(9, 16, dtype=fp32), Make(DEVICE).normal(40, 16, dtype=fp32)
    leaves = [hidden.clone().requires_grad_(), weight.clone().requires_grad_()]
    loss = distill(leaves[0], leaves[1], (hidden, weight), temperature=0.5)
    assert float(loss.detach()) == pytest.approx(0, abs=1e-6)
    for gradient in torch.autograd.grad(loss, leaves):
        assert gradient.count_nonzero() == 0


@EVERY_DISTILLATION
def test_a_teacher_that_asks_for_a_gradient_is_refused(distill: Callable[..., torch.Tensor]) -> None:
    hidden, weight = Make(DEVICE).normal(9, 16, dtype=fp32), Make(DEVICE).normal(40, 16, dtype=fp32)
    with pytest.raises(ValueError, match="teacher: expected no gradient"):
        distill(hidden, weight, (hidden.clone().requires_grad_(), weight))


@EVERY_DISTILLATION
@pytest.mark.parametrize("temperature", [0.0, -1.0, float("inf")])
def test_a_temperature_is_positive_and_finite(distill: Callable[..., torch.Tensor], temperature: float) -> None:
    hidden, weight = Make(DEVICE).normal(2, 16, dtype=fp32), Make(DEVICE).normal(3, 16, dtype=fp32)
    with pytest.raises(ValueError, match="temperature: expected a positive finite number, got "):
        distill(hidden, weight, (hidden, weight), temperature=temperature)


@pytest.mark.parametrize("beta", [0, 1, 0.0, 1.0, -0.5, float("nan")])
def test_a_mixture_is_of_both(beta: float) -> None:
    hidden, weight = Make(DEVICE).normal(2, 16, dtype=fp32), Make(DEVICE).normal(3, 16, dtype=fp32)
    with pytest.raises(ValueError, match="beta: expected a number between 0 and 1, neither of them, got "):
        kernels.distill_jsd.distill_jsd(hidden, weight, (hidden, weight), beta)


@pytest.mark.parametrize("beta", [0.01, 0.25, 0.5])
def test_a_divergence_is_its_mirror_image(beta: float) -> None:
    """JSD_beta(p || q) = JSD_(1 - beta)(q || p)."""
    inputs = bench_distill_jsd.DistillJsd().inputs(Make(DEVICE), 9, 40, 16, fp32, teacher_depth=24, beta=beta)
    student, teacher = (inputs["hidden"], inputs["weight"]), (inputs["teacher"][0], inputs["teacher"][1])
    distill_jsd = kernels.distill_jsd.distill_jsd
    torch.testing.assert_close(distill_jsd(*student, teacher, beta), distill_jsd(*teacher, student, 1 - beta))


def test_a_divergence_of_distributions_that_share_nothing_is_the_entropy_of_the_mixture() -> None:
    """-beta log(beta) - (1 - beta) log(1 - beta), the most that it can be; and nothing overflows on the way."""
    weight = torch.eye(3, 16, device=DEVICE)
    student, teacher = 1e6 * torch.eye(2, 16, device=DEVICE), 1e6 * torch.eye(3, 16, device=DEVICE)[1:]
    leaf = student.requires_grad_()
    loss = kernels.distill_jsd.distill_jsd(leaf, weight, (teacher, weight), beta=0.1)
    (gradient,) = torch.autograd.grad(loss, leaf)
    assert float(loss.detach()) == pytest.approx(-0.1 * math.log(0.1) - 0.9 * math.log(0.9), rel=1e-6)
    assert gradient.count_nonzero() == 0


@pytest.mark.parametrize("forward", [True, False])
def test_towards_its_ends_a_divergence_is_that_of_kullback_and_leibler(forward: bool) -> None:
    """Of 1/4096 of the mixture; the next term is of the order of the mixture."""
    inputs = bench_distill_kl.DistillKl().inputs(Make(DEVICE), 9, 40, 16, fp32, teacher_depth=24)
    student, teacher = (inputs["hidden"] / 8, inputs["weight"]), (inputs["teacher"][0] / 8, inputs["teacher"][1])
    share = 2**-12
    jsd = kernels.distill_jsd.distill_jsd(*student, teacher, share if forward else 1 - share) / share
    taught = (*student, teacher) if forward else (*teacher, student)
    torch.testing.assert_close(jsd, kernels.distill_kl.distill_kl(*taught), rtol=2e-3, atol=0)
