"""The contrastive loss stores no logits, sums what lies far apart, and gives the same gradients in chunks."""

# ruff: noqa: E402 - whether kernels are interpreted is decided before they are imported

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch

from bench.core import device

DEVICE = device.choose()

import kernels._chunked
import kernels.info_nce
import reference.info_nce
from bench import bench_info_nce
from bench.core import memory
from bench.core.case import Make, bf16, fp32
from bench.core.trial import Trial
from tests.test_losses import ROUNDED_UP, _NotLaunched, _Unwritten

PAIRS, DEPTH = 32768, 768  # CLIP ViT-L/14, and the batch that it was trained on
LOGITS = 2 * PAIRS * PAIRS
info_nce = kernels.info_nce.info_nce


@pytest.fixture
def not_launched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels.info_nce, "_join_kernel", _NotLaunched())
    for module in (kernels._chunked, kernels.info_nce):
        monkeypatch.setattr(module, "launch_tiles", lambda *_, **__: None)


def _inputs(pairs: int, depth: int, dtype: torch.dtype, make: type[Make] = Make) -> dict[str, Any]:
    return bench_info_nce.InfoNce().inputs(make(DEVICE), pairs, depth, dtype)


def _needs(mode: str, inputs: dict[str, Any]) -> memory.Memory:
    trial = Trial(bench_info_nce.InfoNce().provider("triton"), inputs, mode)
    trial.once()
    gc.collect()
    return memory.measure(trial, DEVICE)


def _gradients(inputs: dict[str, Any], function: Any = info_nce) -> tuple[torch.Tensor, ...]:
    leaves = [value.detach().requires_grad_() for value in inputs.values()]
    return torch.autograd.grad(function(*leaves), leaves)


@pytest.mark.usefixtures("not_launched")
@pytest.mark.parametrize("pairs", [8192, PAIRS])
def test_training_needs_its_gradients_and_one_chunk_with_its_rest(pairs: int) -> None:
    needs = _needs("bwd", _inputs(pairs, DEPTH, bf16, _Unwritten))
    assert needs.least_bytes >= 4 * pairs * DEPTH, "expected both gradients among what is needed"
    chunk, rest, of_scale = 2 * pairs * kernels._chunked.LEAST_COLS, 2 * pairs * DEPTH, 4 * (pairs // 64) ** 2
    assert needs.peak_bytes <= needs.least_bytes + chunk + rest + of_scale + 16 * pairs + ROUNDED_UP
    assert needs.saved_bytes is not None
    assert needs.saved_bytes <= 16 * pairs + ROUNDED_UP


@pytest.mark.usefixtures("not_launched")
def test_training_on_the_batch_of_clip_needs_beside_its_gradients_a_tenth_of_the_logits() -> None:
    needs = _needs("bwd", _inputs(PAIRS, DEPTH, bf16, _Unwritten))
    assert needs.peak_bytes - needs.least_bytes <= LOGITS / 10


@pytest.mark.usefixtures("not_launched")
def test_evaluation_needs_two_sums_of_a_column_and_128_rows() -> None:
    needs = _needs("fwd", _inputs(PAIRS, DEPTH, bf16, _Unwritten))
    assert 0 < needs.peak_bytes <= LOGITS / 32 + 8 * kernels.info_nce.SPLITS * PAIRS + 8 * PAIRS + ROUNDED_UP


@pytest.mark.parametrize("mode", ["fwd", "bwd"])
def test_what_runs_needs_no_more_than_what_is_not_launched(mode: str) -> None:
    pairs, depth = 70, 64
    needs = _needs(mode, _inputs(pairs, depth, bf16))
    gradients = 4 * pairs * depth + 2 * pairs * 128 if mode == "bwd" else 0
    assert gradients < needs.peak_bytes <= gradients + 24 * pairs + 2 * ROUNDED_UP


@pytest.mark.parametrize(("pairs", "dtype"), [(140, fp32), (270, bf16)], ids=["fp32", "bf16"])
def test_gradients_in_chunks_are_those_at_once(pairs: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of bf16 to half an ulp, since what it rounds away between chunks is kept."""
    inputs = _inputs(pairs, 24, dtype)
    whole = _gradients(inputs)
    monkeypatch.setattr(kernels._chunked, "CHUNK", 1)
    monkeypatch.setattr(kernels._chunked, "LEAST_COLS", 128)
    for one, other in zip(whole, _gradients(inputs), strict=True):
        torch.testing.assert_close(one, other, rtol=torch.finfo(one.dtype).eps, atol=1e-8)


def test_parts_are_joined_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = _inputs(140, 16, fp32)
    expected = float(info_nce(**inputs))
    monkeypatch.setattr(kernels.info_nce, "JOINED", 2)
    monkeypatch.setattr(kernels.info_nce, "LEAST_SPLIT", 64)
    assert float(info_nce(**inputs)) == pytest.approx(expected, rel=1e-6)
    assert expected == pytest.approx(float(reference.info_nce.info_nce(**inputs)), rel=1e-6)


def test_rows_and_columns_may_lie_further_apart_than_fp32_reaches() -> None:
    inputs = _inputs(40, 16, fp32)
    inputs["text"][::2] *= 1e2
    inputs["image"][::3] *= 1e-2
    exact = reference.info_nce.info_nce(**{name: value.double() for name, value in inputs.items()})
    assert float(exact) > 200, "expected logits whose powers leave fp32"
    assert float(info_nce(**inputs)) == pytest.approx(float(exact), rel=1e-6)


def test_pairs_that_are_certain_have_nothing_to_learn() -> None:
    image = torch.eye(20, device=DEVICE)
    loss = info_nce(image, image, torch.tensor(1000.0, device=DEVICE))
    gradients = _gradients({"image": image, "text": image, "logit_scale": torch.tensor(1000.0, device=DEVICE)})
    assert float(loss) == 0
    assert [int(gradient.count_nonzero()) for gradient in gradients] == [0, 0, 0]


@pytest.mark.parametrize("name", ["image", "text", "logit_scale"])
def test_each_has_its_gradient_without_the_others(name: str) -> None:
    inputs = _inputs(9, 16, fp32)
    leaf = inputs[name].requires_grad_()
    (gradient,) = torch.autograd.grad(info_nce(**inputs), leaf)
    (expected,) = torch.autograd.grad(reference.info_nce.info_nce(**inputs), leaf)
    torch.testing.assert_close(gradient, expected)


def test_the_scale_may_have_another_precision() -> None:
    inputs = _inputs(9, 16, fp32)
    inputs["logit_scale"] = torch.tensor(14.0, dtype=bf16, device=DEVICE)
    *ours, dscale = _gradients(inputs)
    *theirs, expected = _gradients(inputs, reference.info_nce.info_nce)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(dscale, expected)
    assert dscale.dtype == bf16


def test_a_batch_of_no_pairs_has_gradients_of_no_pairs() -> None:
    inputs = _inputs(0, 16, fp32)
    assert info_nce(**inputs).isnan()
    dimage, dtext, dscale = _gradients(inputs)
    assert dimage.shape == dtext.shape == (0, 16)
    assert float(dscale) == 0


@pytest.mark.parametrize("mode", ["fwd", "bwd"])
def test_blocks_of_rows_and_of_columns_prove_what_the_whole_does(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    operator = bench_info_nce.InfoNce()
    inputs = _inputs(37, 16, fp32)
    (whole,) = operator.yardsticks(inputs, mode)
    monkeypatch.setattr(bench_info_nce, "PROVABLE_LOGITS", 400)
    (blocks,) = operator.yardsticks(inputs, mode)
    torch.testing.assert_close(blocks.oracle, whole.oracle)
    Trial(operator.provider("triton"), inputs, mode).prove([blocks])
