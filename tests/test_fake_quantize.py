"""Fake quantisation where the harness does not look: what it saves, what it leaves out, and the limits themselves."""

from __future__ import annotations

import pytest
import torch

from bench.core import device

DEVICE = device.choose()

# Whether kernels are interpreted is decided before they are imported.
from bench import bench_fake_quantize  # noqa: E402
from bench.core import memory  # noqa: E402
from bench.core.case import Make, fp32  # noqa: E402
from bench.core.trial import Trial  # noqa: E402
from kernels.fake_quantize import fake_quantize  # noqa: E402

ROUNDED_UP = 4 * 512  # bytes that allocators add to a few small tensors


@pytest.mark.parametrize("axis", [None, 0, 1])
def test_training_saves_nothing_but_x(axis: int | None) -> None:
    declared = bench_fake_quantize.FakeQuantize()
    inputs = declared.inputs(Make(DEVICE), shape=(96, 128), axis=axis, dtype=fp32)
    trial = Trial(declared.provider("triton"), inputs, "bwd")
    trial.once()
    needs = memory.measure(trial, DEVICE)
    assert needs.saved_bytes is not None
    assert needs.saved_bytes <= ROUNDED_UP


def test_limits_belong_to_what_is_passed_through() -> None:
    x = torch.tensor([-2.4, -1.6, 0.5, 1.5, 2.4, 2.6], device=DEVICE, requires_grad=True)
    scale = torch.ones((), device=DEVICE, requires_grad=True)
    y = fake_quantize(x, scale, quant_min=-2, quant_max=2)
    dx, dscale = torch.autograd.grad(y.sum(), (x, scale))
    assert y.tolist() == [-2, -2, 0, 2, 2, 2], "expected ties to go to even levels"
    assert dx.tolist() == [1, 1, 1, 1, 1, 0], "expected 2.6, which rounds to 3, to be held back alone"
    torch.testing.assert_close(dscale, (y - x)[:5].sum().detach() + 2)


def test_what_needs_no_gradient_gets_none() -> None:
    x, scale = torch.randn(5, 7, device=DEVICE), torch.full((), 0.1, device=DEVICE)
    assert fake_quantize(x, scale).grad_fn is None
    wanted = fake_quantize(x, scale)
    for leaf in (x.clone().requires_grad_(), scale.clone().requires_grad_()):
        y = fake_quantize(leaf, scale) if leaf.ndim else fake_quantize(x, leaf)
        assert torch.equal(y, wanted)
        (grad,) = torch.autograd.grad(y.sum(), leaf)
        assert grad.shape == leaf.shape
