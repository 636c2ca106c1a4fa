"""What windows and patches of pictures need: no score, mask, bias or patch is stored beside what is asked for."""

from __future__ import annotations

import pytest
import torch

from bench.core import device

DEVICE = device.choose()

# Whether kernels are interpreted is decided before they are imported.
import kernels._window_backward  # noqa: E402
import kernels._window_tiles  # noqa: E402
import kernels.patch_embed  # noqa: E402
import kernels.window_attention  # noqa: E402
from bench import bench_patch_embed, bench_window_attention  # noqa: E402
from bench.core import memory  # noqa: E402
from bench.core.case import Blank, Make, bf16, fp32  # noqa: E402
from bench.core.operator import Operator  # noqa: E402
from bench.core.trial import Trial  # noqa: E402
from bench.models import models  # noqa: E402
from tests.memory_of import NotLaunched, measured  # noqa: E402

ROUNDED_UP = 6 * 512  # bytes that allocators add to a few tensors
TOKENS = 8192


@pytest.fixture
def not_launched(monkeypatch: pytest.MonkeyPatch) -> None:
    """No kernel runs, and memory is that of a GPU as large as an H100: there are as many parts of a sum as programs."""
    for module, name in [
        (kernels.window_attention, "FORWARD"),
        (kernels.window_attention, "FORWARD_LONG"),
        (kernels._window_backward, "BACKWARD"),
        (kernels._window_backward, "_collect"),
        (kernels.patch_embed, "FORWARD"),
    ]:
        monkeypatch.setattr(module, name, NotLaunched())
    monkeypatch.setattr(kernels._window_tiles, "processors", lambda _: 132)


def _needs(operator: type[Operator], mode: str, model: str) -> memory.Memory:
    declared = operator()
    sizes = declared.sizes(*models(model), TOKENS, bf16)
    trial = Trial(declared.provider("triton"), declared.inputs(Blank(DEVICE), **sizes), mode)
    return measured(trial)


@pytest.mark.parametrize("model", ["swin-base-224-stage1", "swin-base-224-stage3", "swin-base-384-stage3"])
@pytest.mark.usefixtures("not_launched")
def test_windows_need_nothing_but_their_output(model: str) -> None:
    needs = _needs(bench_window_attention.WindowAttention, "fwd", model)
    assert 0 < needs.least_bytes <= needs.peak_bytes <= needs.least_bytes + ROUNDED_UP


@pytest.mark.parametrize("model", ["swin-base-224-stage1", "swin-base-224-stage3", "qwen2.5-vl-vision"])
@pytest.mark.usefixtures("not_launched")
def test_training_with_windows_needs_a_tenth_beyond_its_results(model: str) -> None:
    needs = _needs(bench_window_attention.WindowAttention, "bwd", model)
    assert needs.least_bytes <= needs.peak_bytes <= 1.1 * needs.least_bytes
    assert needs.saved_bytes is not None
    assert needs.saved_bytes <= ROUNDED_UP, "expected nothing but inputs to wait for the backward"


@pytest.mark.usefixtures("not_launched")
def test_patches_are_not_stored() -> None:
    needs = _needs(bench_patch_embed.PatchEmbed, "fwd", "vit-l")
    assert 0 < needs.least_bytes <= needs.peak_bytes <= needs.least_bytes + ROUNDED_UP


@pytest.mark.parametrize(("window", "shift"), [(2, 1), (3, 2)])
def test_a_token_reaches_its_window_and_no_farther(window: int, shift: int) -> None:
    """Behind the gradient of one output, v has one exactly where a window holds both, on the same side of the roll."""
    inputs = bench_window_attention.WindowAttention().inputs(
        Make(DEVICE), size=(1, 2 * window, 2 * window), window=window, shift=shift, heads=1, head_dim=4, dtype=fp32
    )
    v = inputs["v"].detach().requires_grad_()
    o = kernels.window_attention.window_attention(**inputs | {"v": v})
    place = torch.arange(2 * window, device=DEVICE)
    # Windows begin at `shift`: what lies before is a part of its own.
    part = torch.where(place < shift, -1, (place - shift) // window)
    for y, x in ((0, 0), (window, 0), (2 * window - 1, window)):
        (dv,) = torch.autograd.grad(o[0, y, x].sum(), v, retain_graph=True)
        expected = (part == part[y])[:, None] & (part == part[x])[None, :]
        assert torch.equal(dv[0, :, :, 0].abs().sum(-1) > 0, expected)


def test_views_of_one_projection_give_the_bits_of_copies() -> None:
    inputs = bench_window_attention.WindowAttention().inputs(
        Make(DEVICE), size=(1, 4, 4), window=2, shift=1, heads=2, head_dim=8, dtype=fp32
    )
    assert not inputs["q"].is_contiguous()
    copies = inputs | {name: inputs[name].contiguous() for name in ("q", "k", "v")}
    function = kernels.window_attention.window_attention
    assert torch.equal(function(**inputs), function(**copies))


@pytest.mark.parametrize(("window", "shift", "argument"), [(0, 0, "window"), (17, 0, "window"), (2, 2, "shift")])
def test_windows_and_shifts_have_bounds(window: int, shift: int, argument: str) -> None:
    q = Make(DEVICE).normal(1, 4, 4, 1, 8, dtype=fp32)
    with pytest.raises(ValueError, match=f"{argument}: expected .*, got "):
        kernels.window_attention.window_attention(q, q, q, window=window, shift=shift)
