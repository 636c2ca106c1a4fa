"""Optimisers where the harness does not look: over lists, in place, and rounded at random."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.core import device

DEVICE = device.choose()

# Whether kernels are interpreted is decided before they are imported.
import kernels._tensors as tensors  # noqa: E402
from bench.core.case import Make, bf16, fp32  # noqa: E402
from bench.models import models  # noqa: E402
from bench.optimizers import parameters_of  # noqa: E402
from kernels.adamw import adamw, adamw_  # noqa: E402
from kernels.sgd import sgd, sgd_  # noqa: E402

SHAPES = [(3, 5), (2048,), (), (0,), (7,), (4, 1024)]
OPTIMISERS: dict[str, tuple[Callable[..., Any], Callable[..., None], int]] = {
    "adamw": (adamw, adamw_, 4),
    "sgd": (sgd, sgd_, 3),
}
EVERY = pytest.mark.parametrize("name", OPTIMISERS)
DECAYS = tuple(0.1 * at for at in range(len(SHAPES)))


def lists(roles: int, dtype: torch.dtype = fp32) -> list[list[Tensor]]:
    """Tensors of every shape for each role, each in memory of its own."""
    make = Make(DEVICE)
    return [[make.uniform(0.1, 1, *shape, dtype=dtype) for shape in SHAPES] for _ in range(roles)]


@EVERY
@pytest.mark.parametrize("dtype", [fp32, bf16])
def test_lists_in_place_get_the_bits_that_flat_tensors_get(name: str, dtype: torch.dtype) -> None:
    flat_update, update_, roles = OPTIMISERS[name]
    given = lists(roles, dtype)
    flat = [torch.cat([tensor.reshape(-1) for tensor in role]) for role in given]
    sizes = tuple(tensor.numel() for tensor in given[0])
    wanted = flat_update(*flat, 2, weight_decay=DECAYS, sizes=sizes)
    grads = [grad.clone() for grad in given[1]]
    update_(*given, 2, weight_decay=DECAYS)
    for role, expected in zip([given[0], *given[2:]], wanted, strict=True):
        assert torch.equal(torch.cat([tensor.reshape(-1) for tensor in role]), expected)
    assert all(torch.equal(*pair) for pair in zip(given[1], grads, strict=True))


@EVERY
def test_a_list_is_one_launch_and_tells_autograd(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, update_, roles = OPTIMISERS[name]
    launches = []
    monkeypatch.setattr(
        f"kernels.{name}._{name}",
        type("Launched", (), {"__getitem__": lambda _, grid: lambda *a, **k: launches.append(grid)})(),
    )
    given = lists(roles)
    before = [tensor._version for tensor in given[0]]
    update_(*given, 1)
    assert launches == [(sum(-(-tensor.numel() // tensors.BLOCK) for tensor in given[0]),)]
    assert all(tensor._version > version for tensor, version in zip(given[0], before, strict=True))
    update_(*[[] for _ in range(roles)], 1)
    assert len(launches) == 1


def test_a_step_is_that_of_torch() -> None:
    params, grads, momenta = lists(3)
    theirs = [param.clone().requires_grad_() for param in params]
    optimiser = torch.optim.SGD(theirs, lr=0.1, momentum=0.9, dampening=0.5, weight_decay=0.01)
    for step in (1, 2):
        for param, grad in zip(theirs, grads, strict=True):
            param.grad = grad.clone()
        optimiser.step()
        sgd_(params, grads, momenta, step, lr=0.1, momentum=0.9, dampening=0.5, weight_decay=0.01)
    for ours, param in zip(params, theirs, strict=True):
        torch.testing.assert_close(ours, param.detach())


@EVERY
@pytest.mark.parametrize(
    ("change", "error", "named"),
    [
        (lambda given: given[1].pop(), ValueError, "grads"),
        (lambda given: given[1].__setitem__(0, given[1][0].T), ValueError, "grads"),
        (lambda given: given[0].__setitem__(0, given[0][0].bfloat16()), TypeError, "params"),
        (lambda given: given[2].__setitem__(5, given[2][5].T.contiguous().T), ValueError, "exp_avgs|momentum_buffers"),
        (lambda given: given[1].__setitem__(0, 1.0), TypeError, "grads"),
    ],
    ids=["too few", "other shape", "other dtype", "strided", "a number"],
)
def test_lists_that_do_not_match_are_refused(
    name: str, change: Callable[[Any], Any], error: type[Exception], named: str
) -> None:
    _, update_, roles = OPTIMISERS[name]
    given = lists(roles)
    change(given)
    with pytest.raises(error, match=rf"^({named}): expected .*, got "):
        update_(*given, 1)


def stepped(value: float, seed: int, n: int = 8192) -> Tensor:
    """bf16 parameters of 1 that a gradient moves to `value`, stochastically rounded."""
    params, grads = torch.ones(n, device=DEVICE, dtype=bf16), torch.full((n,), 1 - value, device=DEVICE)
    return sgd(params, grads, torch.zeros_like(grads), 1, lr=1.0, seed=seed)[0]


def test_stochastic_rounding_takes_either_neighbour_and_its_mean_is_exact() -> None:
    ulp = 2.0**-7  # of bf16 above 1
    for part in (0.25, 0.5, 0.9375):
        got = stepped(1 + part * ulp, seed=5).double()
        up = got == 1 + ulp
        assert bool((up | (got == 1)).all()), "expected either neighbour"
        # Five standard deviations of a binomial; the seed is fixed, so that this holds always or never.
        assert abs(float(up.double().mean()) - part) <= 5 * (part * (1 - part) / len(got)) ** 0.5


def test_what_bf16_holds_is_not_moved_by_rounding() -> None:
    assert bool((stepped(1.5, seed=5) == 1.5).all())
    assert bool(stepped(float("nan"), seed=5).isnan().all())
    assert bool((stepped(float("inf"), seed=5) == float("inf")).all())


def test_seeds_decide_and_entries_and_roles_are_independent() -> None:
    value = 1 + 2.0**-8
    first, again, other = (stepped(value, seed) for seed in (1, 1, 2**40))
    assert torch.equal(first, again)
    for one, two in ((first, other), (first[:4096], first[4096:]), (first[::2], first[1::2]), (first[:-8], first[8:])):
        agree = float((one == two).double().mean())
        assert abs(agree - 0.5) <= 5 * 0.5 / len(one) ** 0.5
    params, half = torch.ones(4096, device=DEVICE, dtype=bf16), 1 - 2.0**-9  # the middle of two neighbours
    updated, momentum = sgd(params, params * 0, params, 2, lr=2.0**-9 / half, momentum=half, seed=1)
    agree = float(((updated == 1) == (momentum == 1)).double().mean())
    assert abs(agree - 0.5) <= 5 * 0.5 / len(params) ** 0.5


def test_small_steps_move_bf16_parameters_on_average_only_with_a_seed() -> None:
    moved = torch.ones(2048, device=DEVICE, dtype=bf16)
    stuck, grads, still = moved.clone(), torch.full((2048,), 2.0**-10, device=DEVICE), torch.zeros(2048, device=DEVICE)
    for step in range(8):
        moved = sgd(moved, grads, still, 1, lr=1.0, seed=step)[0]
        stuck = sgd(stuck, grads, still, 1, lr=1.0)[0]
    assert bool((stuck == 1).all())
    assert abs(float(moved.double().mean()) - (1 - 8 * 2.0**-10)) < 2e-4


def test_a_layer_has_the_parameters_of_its_model() -> None:
    bert, llama = models("bert-base", "llama3-8b")
    assert sum(size for size, _ in parameters_of(bert, 1)) == 7087872
    assert sum(size for size, _ in parameters_of(llama, 1)) == 218112000
    assert len(parameters_of(bert, 12)) == 12 * 16
