"""A mixture of experts put together: router, dispatch, grouped product and combine are those of a loop over experts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from bench.core import device

DEVICE = device.choose()

import kernels.moe_dispatch
import reference.moe_dispatch
from bench import bench_grouped_matmul, bench_moe_router
from bench.core.case import Make, fp32
from bench.core.trial import Trial
from kernels.grouped_matmul import grouped_matmul
from kernels.moe_combine import moe_combine
from kernels.moe_dispatch import moe_dispatch
from kernels.moe_router import moe_router

TOKENS, COLS, EXPERTS, TOP_K = 23, 16, 5, 2


def _layer(x: Tensor, logits: Tensor, weight: Tensor, capacity: int | None = None) -> Tensor:
    weights, experts = moe_router(logits, TOP_K)
    rows, ends, slots = moe_dispatch(x, experts, EXPERTS, capacity)
    return moe_combine(grouped_matmul(rows, weight, ends), slots, weights)


def _loop(x: Tensor, logits: Tensor, weight: Tensor, capacity: int = TOKENS) -> Tensor:
    best = logits.topk(TOP_K)
    shares = best.values.softmax(-1)
    y = torch.zeros_like(x)
    for expert in range(EXPERTS):
        chosen = best.indices == expert
        token = chosen.any(1).nonzero().squeeze(1)[:capacity]
        share = (shares * chosen).sum(1)[token]
        y = y.index_add(0, token, share[:, None] * (x[token] @ weight[expert].T))
    return y


@pytest.mark.parametrize("capacity", [None, 4, 0])
def test_a_layer_is_the_loop_over_its_experts(capacity: int | None) -> None:
    make = Make(DEVICE)
    shapes = (TOKENS, COLS), (TOKENS, EXPERTS), (EXPERTS, COLS, COLS)
    x, logits, weight = inputs = [make.normal(*shape, dtype=fp32).requires_grad_() for shape in shapes]
    y = _layer(x, logits, weight, capacity)
    expected = _loop(x, logits, weight, TOKENS if capacity is None else capacity)
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)
    seed = make.normal(TOKENS, COLS, dtype=fp32)
    for got, wanted in zip(
        torch.autograd.grad(y, inputs, seed), torch.autograd.grad(expected, inputs, seed), strict=True
    ):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("priority", ["token", "choice"])
@pytest.mark.parametrize("capacity", [None, 3])
@pytest.mark.parametrize("chunk", [4, 16])
def test_places_do_not_depend_on_how_many_choices_are_looked_at_together(
    chunk: int, capacity: int | None, priority: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels.moe_dispatch, "CHUNK", chunk)
    monkeypatch.setattr(kernels.moe_dispatch, "FEWEST_LANES", 4)
    make = Make(DEVICE)
    x, experts = make.normal(11, 3, dtype=fp32), make.integers(0, 5, 11, 2, dtype=torch.int64)
    got = moe_dispatch(x, experts, 5, capacity, priority)
    for mine, wanted in zip(got, reference.moe_dispatch.moe_dispatch(x, experts, 5, capacity, priority), strict=True):
        assert torch.equal(mine, wanted)


def _places(experts: list[list[int]], capacity: int) -> list[list[tuple[int, int] | None]]:
    """GShard's algorithm 1 in plain loops: the expert of each choice and its place there, None where it is full."""
    taken = [0] * EXPERTS
    places: list[list[tuple[int, int] | None]] = [[None] * TOP_K for _ in experts]
    for j in range(TOP_K):
        for token, chosen in enumerate(experts):
            expert = chosen[j]
            if taken[expert] < capacity:
                places[token][j] = expert, taken[expert]
                taken[expert] += 1
    return places


@pytest.mark.parametrize("capacity", [0, 1, 4, 2 * TOKENS])
def test_first_choices_of_all_tokens_take_places_before_second_ones(capacity: int) -> None:
    experts = Make(DEVICE).uniform(0, 1, TOKENS, EXPERTS, dtype=fp32).argsort(-1)[:, :TOP_K]
    x = Make(DEVICE).normal(TOKENS, 3, dtype=fp32)
    _, ends, slots = moe_dispatch(x, experts, EXPERTS, capacity, priority="choice")
    begins = [0, *ends.tolist()]
    wanted = _places(experts.tolist(), capacity)
    for places, found in zip(wanted, slots.tolist(), strict=True):
        for place, slot in zip(places, found, strict=True):
            assert slot == begins[place[0]] + place[1] if place else slot >= begins[-1]
    assert sum(place is not None for places in wanted for place in places) == begins[-1]


def test_a_second_choice_loses_its_place_to_the_first_choice_of_a_later_token() -> None:
    experts = torch.tensor([[1, 0], [0, 1]], device=DEVICE)
    x = torch.zeros(2, 1, device=DEVICE)
    assert moe_dispatch(x, experts, 2, 1)[2].tolist() == [[1, 0], [2, 3]]
    assert moe_dispatch(x, experts, 2, 1, priority="choice")[2].tolist() == [[1, 2], [0, 3]]


def test_choices_of_experts_that_do_not_exist_stand_behind_all_others() -> None:
    x = Make(DEVICE).normal(4, 3, dtype=fp32)
    experts = torch.tensor([[-1, 1], [2, 0], [1, 2**31 - 1], [0, 1]], device=DEVICE)
    rows, ends, slots = moe_dispatch(x, experts, 2)
    assert ends.tolist() == [2, 5]
    assert slots.tolist() == [[5, 2], [6, 0], [3, 7], [1, 4]]
    assert torch.equal(rows[slots.long()], x[:, None].expand(4, 2, 3))


def test_more_experts_than_one_kernel_serves() -> None:
    make = Make(DEVICE)
    x, weight = make.normal(7, 5, dtype=fp32), make.normal(259, 3, 5, dtype=fp32)
    chosen = torch.tensor([0, 3, 3, 100, 255, 256, 258], device=DEVICE)
    ends = torch.searchsorted(chosen, torch.arange(259, device=DEVICE), right=True)
    got = grouped_matmul(x, weight, ends)
    torch.testing.assert_close(got, torch.einsum("rk,rnk->rn", x, weight[chosen]))


@pytest.mark.parametrize("ends", [[-3, 2, 4], [3, 1, 9], [9, 9, 9], [0, 0, 0]])
def test_ends_that_make_no_sense_reach_no_memory_outside_of_the_rows(ends: list[int]) -> None:
    x, weight = torch.ones(4, 3, device=DEVICE), torch.ones(3, 2, 3, device=DEVICE)
    y = grouped_matmul(x, weight, torch.tensor(ends, device=DEVICE))
    assert y.shape == (4, 2)


@pytest.mark.parametrize("scoring", ["softmax", "sigmoid"])
def test_equals_are_taken_from_the_left(scoring: str) -> None:
    logits = torch.tensor([[0.0, 2.0, -0.0, 2.0, 0.0, float("-inf")]], device=DEVICE)
    assert moe_router(logits, 6, scoring=scoring, renormalize=False)[1].tolist() == [[1, 3, 0, 2, 4, 5]]
    bias = torch.zeros(6, device=DEVICE)
    assert moe_router(torch.zeros(1, 6, device=DEVICE), 4, scoring=scoring, bias=bias, groups=3, top_groups=2)[
        1
    ].tolist() == [[0, 1, 2, 3]]


def test_logits_and_bias_of_the_bench_stand_further_apart_than_fp32_rounds() -> None:
    """What is chosen by them can be proven: no two scores, and no two sums of a pair in other groups, are close."""
    inputs = bench_moe_router.MoeRouter().inputs(Make("cpu"), 4, 256, 8, fp32, scoring="sigmoid", biased=True, groups=8)
    choice = inputs["logits"].double().sigmoid() + inputs["bias"].double()
    pairs = choice.unflatten(-1, (8, 32)).topk(2, -1).values.sum(-1)
    for scores in (choice, pairs):
        assert (scores.sort(-1).values.diff(dim=-1) > 8 * torch.finfo(fp32).eps).all()


@pytest.mark.parametrize("mode", ["fwd", "bwd"])
def test_a_sample_of_rows_proves_a_product_whatever_experts_they_ask_for(mode: str) -> None:
    operator = bench_grouped_matmul.GroupedMatmul()
    sizes: dict[str, Any] = {"rows": 300, "n": 20, "k": 12, "experts": 5, "dtype": fp32}
    samples = operator.samples(operator.inputs(Make(DEVICE), **sizes), seed=3)
    trial = Trial(operator.provider("triton"), operator.inputs(Make(DEVICE, seed=9), **sizes), mode)
    trial.prove(operator.yardsticks(trial.inputs, mode, samples))
    wrong = trial.inputs | {"ends": trial.inputs["ends"] - 1}
    with pytest.raises(AssertionError, match="output 0"):
        trial.prove(operator.yardsticks(wrong, mode, samples))
