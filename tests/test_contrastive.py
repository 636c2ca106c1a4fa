"""The contrastive loss stores no logits, sums what lies far apart, and gives the same gradients in chunks."""

# ruff: noqa: E402 - whether kernels are interpreted is decided before they are imported

from __future__ import annotations

from typing import Any

import pytest
import torch

from bench.core import device

DEVICE = device.choose()

import kernels._bands
import kernels._chunked
import kernels.info_nce
import reference.info_nce
from bench import bench_info_nce
from bench.core import memory
from bench.core.case import Blank, Make, bf16, fp32
from bench.core.trial import Trial
from tests.memory_of import ROUNDED_UP, NotLaunched, measured

PAIRS, DEPTH = 32768, 768  # CLIP ViT-L/14, and the batch that it was trained on
LOGITS = 2 * PAIRS * PAIRS
info_nce = kernels.info_nce.info_nce


@pytest.fixture
def not_launched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels.info_nce, "_join_kernel", NotLaunched())
    for module in (kernels._chunked, kernels.info_nce):
        monkeypatch.setattr(module, "launch_tiles", lambda *_, **__: None)


def _inputs(pairs: int, depth: int, dtype: torch.dtype, make: type[Make] = Make) -> dict[str, Any]:
    return bench_info_nce.InfoNce().inputs(make(DEVICE), pairs, depth, dtype)


def _needs(mode: str, inputs: dict[str, Any]) -> memory.Memory:
    trial = Trial(bench_info_nce.InfoNce().provider("triton"), inputs, mode)
    return measured(trial)


def _gradients(inputs: dict[str, Any], function: Any = info_nce) -> tuple[torch.Tensor, ...]:
    leaves = [value.detach().requires_grad_() for value in inputs.values()]
    return torch.autograd.grad(function(*leaves), leaves)


@pytest.mark.usefixtures("not_launched")
@pytest.mark.parametrize("depth", [512, 768, 1280])
@pytest.mark.parametrize("pairs", [8192, PAIRS])
def test_training_needs_a_tenth_more_than_its_gradients(pairs: int, depth: int) -> None:
    needs = _needs("bwd", _inputs(pairs, depth, bf16, Blank))
    assert needs.least_bytes >= 4 * pairs * depth, "expected both gradients among what is needed"
    assert needs.peak_bytes <= 1.1 * needs.least_bytes
    assert needs.saved_bytes is not None
    assert needs.saved_bytes <= 16 * pairs + ROUNDED_UP


class _Alone(Trial):
    """A backward for the sake of one input."""

    def __init__(self, inputs: dict[str, Any], name: str) -> None:
        super().__init__(bench_info_nce.InfoNce().provider("triton"), inputs, "bwd")
        for leaf in self.leaves:
            leaf.requires_grad_(leaf is self.inputs[name])
        self.leaves = [self.inputs[name]]


@pytest.mark.usefixtures("not_launched")
@pytest.mark.parametrize("name", ["image", "text"])
def test_one_gradient_needs_a_tenth_more_than_itself(name: str) -> None:
    pairs, depth = 8192, 1280
    trial = _Alone(_inputs(pairs, depth, bf16, Blank), name)
    assert 2 * pairs * depth < memory.measure(trial, DEVICE).peak_bytes <= 1.1 * 2 * pairs * depth


@pytest.mark.usefixtures("not_launched")
def test_the_gradient_of_the_scale_alone_needs_a_number_for_each_tile() -> None:
    inputs = _inputs(PAIRS, 512, bf16, Blank)
    forward = _needs("fwd", inputs)
    needs = memory.measure(_Alone(inputs, "logit_scale"), DEVICE)
    assert needs.peak_bytes <= forward.peak_bytes + 16 * PAIRS + ROUNDED_UP, "expected the forward to need the most"
    assert forward.peak_bytes > 4 * (PAIRS // 128) ** 2


@pytest.mark.usefixtures("not_launched")
def test_evaluation_needs_two_sums_of_a_column_and_128_rows() -> None:
    needs = _needs("fwd", _inputs(PAIRS, DEPTH, bf16, Blank))
    assert 0 < needs.peak_bytes <= LOGITS / 32 + 8 * kernels.info_nce.SPLITS * PAIRS + 8 * PAIRS + ROUNDED_UP


@pytest.mark.parametrize("mode", ["fwd", "bwd"])
def test_what_runs_needs_no_more_than_what_is_not_launched(mode: str) -> None:
    pairs, depth = 70, 64
    needs = _needs(mode, _inputs(pairs, depth, bf16))
    gradients = 4 * pairs * depth + 2 * pairs * 128 if mode == "bwd" else 0
    assert gradients < needs.peak_bytes <= gradients + 24 * pairs + 2 * ROUNDED_UP


@pytest.mark.parametrize(("pairs", "dtype"), [(140, fp32), (270, bf16)], ids=["fp32", "bf16"])
@pytest.mark.parametrize("names", [["image", "text", "logit_scale"], ["image"], ["text"]], ids="+".join)
def test_gradients_in_bands_are_those_at_once(
    names: list[str], pairs: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of bf16 to half an ulp, since what it rounds away between chunks is kept."""
    inputs = _inputs(pairs, 24, dtype)
    leaves = [inputs[name].requires_grad_() for name in names]
    whole = torch.autograd.grad(info_nce(**inputs), leaves)
    chunks: list[torch.Size] = []
    add_left = kernels._chunked.add_left

    def noted(slopes: torch.Tensor, *arguments: Any) -> None:
        chunks.append(slopes.shape)
        add_left(slopes, *arguments)

    monkeypatch.setattr(kernels._bands, "AT_ONCE", 1)
    monkeypatch.setattr(kernels._bands, "LEAST_SPARE", 1)
    monkeypatch.setattr(kernels._chunked, "add_left", noted)
    banded = torch.autograd.grad(info_nce(**inputs), leaves)
    assert chunks[:2] == [(128, 128)] * 2, "expected bands of several chunks"
    for one, other in zip(whole, banded, strict=True):
        torch.testing.assert_close(one, other, rtol=torch.finfo(one.dtype).eps, atol=1e-8)


@pytest.mark.parametrize(("pairs", "depth"), [(8192, 768), (PAIRS, 512), (5000, 1000), (4097, 1), (4100, 8200)])
@pytest.mark.parametrize("dtype", [fp32, bf16], ids=["fp32", "bf16"])
def test_slopes_and_what_is_rounded_away_lie_in_nothing_that_is_still_needed(
    pairs: int, depth: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every entry of slopes is made once for each gradient, and no chunk is in made rows, its band or its rest."""
    left, right = (torch.empty(pairs, depth, dtype=dtype, device=DEVICE) for _ in range(2))
    made: list[tuple[int, int]] = []
    entries = [0]

    def bytes_of(x: torch.Tensor) -> tuple[int, int]:
        return x.data_ptr(), x.data_ptr() + x.numel() * x.element_size()

    def make(slopes: torch.Tensor, first_row: int, first: int, width: int) -> None:
        assert first_row % 128 == first % 128 == slopes.shape[1] % 128 == 0
        entries[0] += len(slopes) * width

    def add(slopes: torch.Tensor, *arguments: Any) -> None:
        band, rest = arguments[3:5]
        kept = [band] if rest is None else [band, rest]
        spans = [bytes_of(x) for x in kept] + made
        begin, end = bytes_of(slopes)
        assert all(end <= start or stop <= begin for start, stop in spans)
        if bytes_of(band) not in made:
            made.append(bytes_of(band))

    monkeypatch.setattr(kernels._chunked, "add_left", add)
    kernels._bands.gradients(make, make, left, right, torch.ones((), device=DEVICE), (True, True))
    assert entries[0] == 2 * pairs * pairs
    assert sum(stop - start for start, stop in made) == 2 * pairs * depth * dtype.itemsize


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
