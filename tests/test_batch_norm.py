"""Batch norm with channels that a program holds, and with the same ones split: both withstand what the other does."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bench.core import device

DEVICE = device.choose()

# Whether kernels are interpreted is decided before they are imported.
import kernels.batch_norm  # noqa: E402
from bench import bench_batch_norm  # noqa: E402
from bench.core.case import Make, bf16, fp32  # noqa: E402
from bench.core.hazards import HAZARDS  # noqa: E402
from kernels._channels import tiles  # noqa: E402
from kernels._whole_channels import BACKWARD, FORWARD, whole  # noqa: E402


@pytest.fixture(params=["whole", "split"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Whole where channels fit, as shipped; split: as if none did."""
    if request.param == "split":
        monkeypatch.setattr(kernels.batch_norm, "FORWARD", 0)
        monkeypatch.setattr(kernels.batch_norm, "BACKWARD", 0)
    return str(request.param)


def _holds(shape: tuple[int, ...], dtype: torch.dtype, channels_last: bool, limit: int) -> bool:
    x = torch.empty(shape, dtype=dtype, device="meta")
    x = x.to(memory_format=torch.channels_last) if channels_last else x
    last, size, *_ = tiles(x)
    return whole(x, last, size, limit) is not None


def test_the_rule_is_a_limit_of_elements() -> None:
    """At the limit and one beyond it, by layout: pictures and pixels rounded up, or positions times a sector."""
    assert _holds((8, 3, 64, 64), bf16, False, FORWARD)
    assert not _holds((8, 3, 64, 65), bf16, False, FORWARD)
    assert not _holds((9, 3, 64, 64), bf16, False, FORWARD)
    assert _holds((41, 2048, 7, 7), bf16, True, FORWARD)
    assert not _holds((42, 2048, 7, 7), bf16, True, FORWARD)
    assert not _holds((41, 2048, 7, 7), bf16, True, BACKWARD)
    assert _holds((20, 2048, 7, 7), bf16, True, BACKWARD)
    # Less than 16 channels take less room; offsets have 32 bits.
    assert _holds((32, 1, 32, 32), bf16, True, FORWARD)
    assert _holds((2, 2**20 - 1, 32, 32), bf16, False, FORWARD)
    assert not _holds((2, 2**20, 32, 32), bf16, False, FORWARD)


def test_the_checks_take_both_ways_at_their_borders() -> None:
    """Each layout: at the backward's limit, at the forward's, beyond both."""
    for last in (True, False):
        shapes = [
            axes["shape"]
            for axes in bench_batch_norm.BatchNorm.checks
            if "mean" in axes and axes["channels_last"] == last
        ]
        held = [tuple(_holds(shape, fp32, last, limit) for limit in (FORWARD, BACKWARD)) for shape in shapes]
        assert held == [(True, True), (True, False), (False, False)]


HOSTILE = [(name, mode) for name, hazard in HAZARDS.items() for mode in hazard.modes]


@pytest.mark.parametrize(("hazard", "mode"), HOSTILE)
def test_split_channels_withstand_hostile_inputs(hazard: str, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels.batch_norm, "FORWARD", 0)
    monkeypatch.setattr(kernels.batch_norm, "BACKWARD", 0)
    bench_batch_norm.BatchNorm().test_withstands(hazard, mode, "triton", DEVICE)


def _gradients(dy: Tensor, inputs: dict[str, Tensor], *names: str) -> list[Tensor]:
    leaves = {name: inputs[name].detach().requires_grad_() for name in names}
    y = kernels.batch_norm.batch_norm(**inputs | leaves)[0]  # type: ignore[arg-type]
    return list(torch.autograd.grad(y, list(leaves.values()), dy))


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.usefixtures("way")
def test_gradients_neither_depend_on_where_dy_lies_nor_on_which_are_asked_for(channels_last: bool) -> None:
    make = Make(DEVICE)
    inputs = bench_batch_norm.BatchNorm().inputs(make, shape=(3, 5, 4, 7), channels_last=channels_last, dtype=fp32)
    dy = make.normal(3, 5, 4, 7, dtype=fp32)
    names = ("x", "weight", "bias")
    expected = _gradients(dy, inputs, *names)
    for got, wanted in zip(_gradients(dy.to(memory_format=torch.channels_last), inputs, *names), expected, strict=True):
        torch.testing.assert_close(got, wanted)
    for got, wanted in zip(_gradients(dy, inputs, "weight", "bias"), expected[1:], strict=True):
        torch.testing.assert_close(got, wanted)


@pytest.mark.usefixtures("way")
def test_without_gradients_the_answer_is_the_same() -> None:
    """What is saved for a backward is not written where there is none."""
    inputs = bench_batch_norm.BatchNorm().inputs(Make(DEVICE), shape=(3, 5, 4, 7), dtype=fp32)
    expected = kernels.batch_norm.batch_norm(**inputs)
    got = kernels.batch_norm.batch_norm(**inputs | {"x": inputs["x"].detach().requires_grad_()})
    for one, other in zip(got, expected, strict=True):
        assert torch.equal(one, other)
