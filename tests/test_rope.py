"""RoPE where the harness does not look: in place, tables of any layout, and what all of it takes of memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bench.core import device

DEVICE = device.choose()

# Whether kernels are interpreted is decided before they are imported.
from bench import bench_rope  # noqa: E402
from bench.core.case import Case, Make  # noqa: E402
from bench.core.memory import measure  # noqa: E402
from bench.core.proof import yardsticks  # noqa: E402
from bench.core.trial import Trial  # noqa: E402
from kernels.rope import rope, rope_  # noqa: E402
from reference import rope as textbook  # noqa: E402

SIZES: dict[str, Any] = {"batch": 2, "heads": (3, 2), "tokens": 5, "head_dim": 24, "rotary_dim": 16}
BOTH = pytest.mark.parametrize("interleaved", [False, True])


def inputs(**changed: Any) -> dict[str, Any]:
    return bench_rope.Rope().inputs(Make(DEVICE), **{**SIZES, "dtype": torch.float32, **changed})


@BOTH
@pytest.mark.parametrize("layout", ["tokens_first", "heads_first", "fused"])
def test_in_place_gives_the_same_bits_and_leaves_the_rest(interleaved: bool, layout: str) -> None:
    given = inputs(interleaved=interleaved, layout=layout)
    wanted = rope(**given)
    got = rope_(**given)
    for name, before, after in zip(("q", "k"), wanted, got, strict=True):
        assert after is given[name]
        assert torch.equal(after, before)


def test_in_place_touches_nothing_of_the_projection_but_q_and_k() -> None:
    qkv = Make(DEVICE).normal(2, 5, 7, 24, dtype=torch.float32)
    q, k, v = (part.transpose(1, 2) for part in qkv.split([3, 2, 2], dim=2))
    before = v.clone()
    wanted = rope(q, k, inputs()["position_embeddings"])
    rope_(q, k, inputs()["position_embeddings"])
    assert torch.equal(v, before)
    assert torch.equal(qkv, torch.cat((*wanted, before), dim=1).transpose(1, 2))


@BOTH
def test_in_place_is_differentiable(interleaved: bool) -> None:
    given = inputs(interleaved=interleaved)
    (yardstick,) = yardsticks(textbook.rope, given, "bwd")
    q, k = leaves = [given[name].clone().requires_grad_() for name in ("q", "k")]
    outputs = rope_(q * 1, k * 1, given["position_embeddings"], interleaved)
    grads = torch.autograd.grad(outputs, leaves, yardstick.cotangents)
    yardstick.judge([*(out.detach() for out in outputs), *grads])


def test_gradients_lie_in_memory_as_q_and_k_do() -> None:
    """So that the backward of the projection takes them as they are."""
    given = inputs(layout="fused")
    q, k = leaves = [given[name].requires_grad_() for name in ("q", "k")]
    outputs = rope(q, k, given["position_embeddings"])
    grads = torch.autograd.grad(outputs, leaves, [torch.ones_like(out) for out in outputs])
    for x in (*outputs, *grads):
        assert x.transpose(1, 2).is_contiguous()


@pytest.mark.parametrize(
    "change",
    [
        lambda table: torch.stack((table, table), dim=-1)[..., 0],
        lambda table: table.T.contiguous().T,
        lambda table: torch.cat((table.new_zeros(1), table.flatten()))[1:].view(table.shape),
        lambda table: table[None],
        lambda table: table.expand(2, *table.shape),
        lambda table: table.repeat(2, 1, 1),
    ],
    ids=["strided", "transposed", "misaligned", "one_sequence", "expanded", "each_sequence"],
)
def test_a_table_may_lie_anyhow(change: Any) -> None:
    given = inputs()
    wanted = rope(**given)
    cos, sin = given.pop("position_embeddings")
    for pair in ((change(cos), change(sin)), (change(cos), sin.expand(change(cos).shape))):
        got = rope(**given, position_embeddings=pair)
        assert all(torch.equal(one, other) for one, other in zip(got, wanted, strict=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda cos, _: cos, r"a pair \(cos, sin\), got Tensor"),
        (lambda cos, sin: (cos, sin, sin), r"a pair \(cos, sin\), got tuple"),
        (lambda cos, _: (cos, None), "a torch.Tensor, got NoneType"),
        (lambda cos, sin: (cos, sin.bfloat16()), "dtype torch.float32, got torch.bfloat16"),
        (lambda cos, sin: (cos[1:], sin[1:]), r"'rotary_dim / 2'\), got shape \(4, 8\)"),
        (lambda cos, sin: (cos, sin[:, 1:]), "of one shape and dtype"),
        (lambda cos, sin: (cos.repeat(1, 2), sin.repeat(1, 2)), r"got shape \(5, 16\)"),
        (lambda cos, sin: (cos.requires_grad_(), sin), "no gradient to be asked for"),
        (lambda cos, sin: (cos.repeat(3, 1, 1), sin.repeat(3, 1, 1)), r"got shape \(3, 5, 8\)"),
    ],
    ids=["alone", "three", "missing", "dtype", "tokens", "half", "too_wide", "gradient", "batch"],
)
def test_a_wrong_table_is_named(change: Any, message: str) -> None:
    given = inputs()
    given["position_embeddings"] = change(*given["position_embeddings"])
    with pytest.raises((TypeError, ValueError), match=f"position_embeddings: expected .*{message}"):
        rope(**given)


@pytest.mark.parametrize(
    ("name", "change"),
    [("q", lambda x: x[:, :1].expand(x.shape)), ("k", lambda x: x.transpose(2, 3).contiguous().transpose(2, 3))],
    ids=["expanded", "transposed"],
)
def test_what_cannot_be_written_over_is_refused(name: str, change: Any) -> None:
    given = inputs()
    given[name] = change(given[name])
    with pytest.raises(ValueError, match=f"{name}: expected .*to be written over"):
        rope_(**given)


@pytest.mark.parametrize("mode", ["fwd", "bwd"])
def test_nothing_but_results_is_allocated(mode: str) -> None:
    sizes = {"heads": (4, 2), "tokens": 64, "head_dim": 64, "dtype": torch.float32}
    trial = bench_rope.Rope().trial("triton", Case(sizes, sizes, mode), DEVICE)
    trial.once()
    memory = measure(trial, DEVICE)
    assert memory.workspace_bytes == 0
    assert memory.saved_bytes in (0, None)


def test_in_place_allocates_nothing() -> None:
    trial = Trial(lambda **given: lambda: rope_(**given), inputs(), "fwd")
    trial.once()
    assert measure(trial, DEVICE).peak_bytes == 0
