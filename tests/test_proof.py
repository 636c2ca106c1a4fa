"""The proof catches what it must: planted mistakes of every operator, and cheats that none should get away with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.core import device

DEVICE = device.choose()

import kernels.attention
import kernels.int8_matmul
import kernels.quantize_int8
import kernels.rms_norm
import kernels.swiglu
import reference.attention
import reference.int8_matmul
import reference.quantize_int8
import reference.rms_norm
import reference.swiglu
from bench.core.case import Inputs, Make, bf16, fp16, fp32
from bench.core.proof import Disproved, Proof, draw_cotangents, poisoned, yardsticks
from bench.core.trial import Trial


def _rows(dtype: torch.dtype = fp32) -> Inputs:
    make = Make(DEVICE)
    return {"x": make.normal(37, 127, dtype=dtype), "weight": make.normal(127, dtype=dtype)}


def _heads(causal: bool = False, dtype: torch.dtype = fp32) -> Inputs:
    make = Make(DEVICE)
    q, k, v = (make.normal(1, heads, length, 32, dtype=dtype) for heads, length in ((4, 33), (2, 65), (2, 65)))
    return {"q": q, "k": k, "v": v, "causal": causal}


def _product(dtype: torch.dtype = fp32) -> Inputs:
    make = Make(DEVICE)
    return {
        "a": make.integers(-127, 128, 17, 65, dtype=torch.int8),
        "b": make.integers(-127, 128, 33, 65, dtype=torch.int8),
        "a_scale": make.uniform(0.01, 0.1, 17, dtype=fp32),
        "b_scale": make.uniform(0.01, 0.1, 33, dtype=fp32),
        "out_dtype": dtype,
    }


def _gates(dtype: torch.dtype = fp32) -> Inputs:
    make = Make(DEVICE)
    return {"gate": make.normal(37, 127, dtype=dtype), "up": make.normal(37, 127, dtype=dtype)}


def _as_provider(function: Callable[..., Any]) -> Callable[..., Callable[[], Any]]:
    return lambda **inputs: lambda: function(**inputs)


def _prove(function: Callable[..., Any], oracle: Callable[..., Any], inputs: Inputs, mode: str = "fwd") -> Proof:
    with poisoned():
        return Trial(_as_provider(function), inputs, mode).prove(yardsticks(oracle, inputs, mode))


RIGHT = [
    (kernels.rms_norm.rms_norm, reference.rms_norm.rms_norm, _rows),
    (kernels.swiglu.swiglu, reference.swiglu.swiglu, _gates),
    (kernels.attention.attention, reference.attention.attention, _heads),
    (kernels.int8_matmul.int8_matmul, reference.int8_matmul.int8_matmul, _product),
]


@pytest.mark.parametrize(("function", "reference_function", "inputs"), RIGHT)
def test_right_answers_pass(function: Any, reference_function: Any, inputs: Callable[[], Inputs]) -> None:
    """Without this, the tests below could not tell a catch from a proof that nothing passes."""
    assert 0 < _prove(function, reference_function, inputs()).used <= 1


def _unwritten_last_column(x: Tensor, weight: Tensor) -> Tensor:
    y = torch.empty_like(x)
    y[:, :-1] = kernels.rms_norm.rms_norm(x, weight)[:, :-1]
    return y


def _unwritten_last_row(x: Tensor, weight: Tensor) -> Tensor:
    y = torch.empty_like(x)
    y[:-1] = kernels.rms_norm.rms_norm(x, weight)[:-1]
    return y


def _wrong_eps(x: Tensor, weight: Tensor) -> Tensor:
    return kernels.rms_norm.rms_norm(x, weight, eps=1e-5)


def _unmasked_tail(x: Tensor, weight: Tensor) -> Tensor:
    """The mean is taken over a block of 128 columns whose last one should have been masked out."""
    padded = torch.cat([x, x[:, :1]], dim=1)
    return x * torch.rsqrt((padded * padded).sum(1, keepdim=True) / x.shape[1] + 1e-6) * weight


def _one_bad_row(x: Tensor, weight: Tensor) -> Tensor:
    y = kernels.rms_norm.rms_norm(x, weight).clone()
    y[11] *= 1 + 1e-5
    return y


def _small_error_everywhere(x: Tensor, weight: Tensor) -> Tensor:
    return kernels.rms_norm.rms_norm(x, weight) + 6e-7


def _computed_in_half(x: Tensor, weight: Tensor) -> Tensor:
    return kernels.rms_norm.rms_norm(x.half(), weight.half()).float()


def _mutating(x: Tensor, weight: Tensor) -> Tensor:
    y = kernels.rms_norm.rms_norm(x, weight)
    x.mul_(1.0001)
    return y


WRONG_NORMS: dict[str, tuple[Callable[..., Any], str]] = {
    "unwritten last column": (_unwritten_last_column, "not finite where the reference is"),
    "unwritten last row": (_unwritten_last_row, "not finite where the reference is"),
    "wrong eps": (_wrong_eps, "expected an error"),
    "unmasked tail": (_unmasked_tail, "expected an error"),
    "one bad row": (_one_bad_row, "row 11: expected an error"),
    "small error everywhere": (_small_error_everywhere, "expected an error norm"),
    "computed in half": (_computed_in_half, "expected an error"),
    "mutated input": (_mutating, "expected inputs that stay as they were"),
    "input returned": (lambda x, weight: x, "expected an error"),
    "zeros": (lambda x, weight: torch.zeros_like(x), "expected an error"),
    "wrong shape": (lambda x, weight: kernels.rms_norm.rms_norm(x, weight)[:, :-1], "expected torch.float32 of shape"),
    "wrong dtype": (lambda x, weight: kernels.rms_norm.rms_norm(x, weight).half(), "expected torch.float32 of shape"),
}


@pytest.mark.parametrize("mistake", WRONG_NORMS)
def test_wrong_norms_are_caught(mistake: str) -> None:
    wrong, message = WRONG_NORMS[mistake]
    with pytest.raises(Disproved, match=message):
        _prove(wrong, reference.rms_norm.rms_norm, _rows())


def test_stale_output_is_caught() -> None:
    """An answer remembered by address passes once; with new values in the same memory it does not."""
    remembered: dict[int, Tensor] = {}

    def stale(x: Tensor, weight: Tensor) -> Tensor:
        return remembered.setdefault(x.data_ptr(), kernels.rms_norm.rms_norm(x, weight))

    inputs = _rows()
    trial = Trial(_as_provider(stale), inputs, "fwd")
    trial.prove(yardsticks(reference.rms_norm.rms_norm, inputs, "fwd"))
    inputs["x"].copy_(Make(DEVICE, seed=5).normal(37, 127, dtype=fp32))
    with pytest.raises(Disproved, match="expected an error"):
        trial.prove(yardsticks(reference.rms_norm.rms_norm, inputs, "fwd"))


def _dropped_scale(a: Tensor, b: Tensor, a_scale: Tensor, b_scale: Tensor, out_dtype: torch.dtype) -> Tensor:
    return kernels.int8_matmul.int8_matmul(a, b, a_scale, torch.ones_like(b_scale), out_dtype=out_dtype)


def _swapped_scale(a: Tensor, b: Tensor, a_scale: Tensor, b_scale: Tensor, out_dtype: torch.dtype) -> Tensor:
    return kernels.int8_matmul.int8_matmul(a, b, a_scale, b_scale.roll(1), out_dtype=out_dtype)


def _dropped_last_k(a: Tensor, b: Tensor, a_scale: Tensor, b_scale: Tensor, out_dtype: torch.dtype) -> Tensor:
    return kernels.int8_matmul.int8_matmul(a[:, :-1], b[:, :-1], a_scale, b_scale, out_dtype=out_dtype)


def _inexact_accumulator(a: Tensor, b: Tensor, a_scale: Tensor, b_scale: Tensor, out_dtype: torch.dtype) -> Tensor:
    product = ((a.half() / 16) @ (b.half() / 16).T).float() * 256
    return (product * a_scale[:, None] * b_scale).to(out_dtype)


@pytest.mark.parametrize("wrong", [_dropped_scale, _swapped_scale, _dropped_last_k, _inexact_accumulator])
def test_wrong_products_are_caught(wrong: Callable[..., Any]) -> None:
    with pytest.raises(Disproved, match="expected an error"):
        _prove(wrong, reference.int8_matmul.int8_matmul, _product())


def _mask_off_by(shift: int) -> Callable[..., Tensor]:
    def attend(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
        k, v = k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)
        visible = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device)
        visible = visible.tril(k.shape[2] - q.shape[2] + shift) if causal else visible
        weights: Tensor = (q @ k.mT * q.shape[-1] ** -0.5).masked_fill(~visible, float("-inf")).softmax(-1)
        return weights @ v

    return attend


@pytest.mark.parametrize("mode", ["fwd", "bwd"])
@pytest.mark.parametrize("dtype", [fp32, fp16, bf16])
def test_causal_mask_off_by_one_is_caught(mode: str, dtype: torch.dtype) -> None:
    inputs = _heads(causal=True, dtype=dtype)
    if dtype == fp32:
        _prove(_mask_off_by(0), reference.attention.attention, inputs, mode)
    for shift in (-1, 1):
        with pytest.raises(Disproved, match="expected an error"):
            _prove(_mask_off_by(shift), reference.attention.attention, inputs, mode)


WRONG_ATTENTION: dict[str, Callable[..., Tensor]] = {
    "wrong scale": lambda q, k, v: kernels.attention.attention(q, k, v, scale=1.01 * q.shape[-1] ** -0.5),
    "wrong key head": lambda q, k, v: kernels.attention.attention(q, k.roll(1, 1), v),
    "dropped last key": lambda q, k, v: kernels.attention.attention(q, k[:, :, :-1], v[:, :, :-1]),
    "computed in bf16": lambda q, k, v: kernels.attention.attention(*(x.bfloat16() for x in (q, k, v))).float(),
}


@pytest.mark.parametrize("mistake", WRONG_ATTENTION)
def test_wrong_attention_is_caught(mistake: str) -> None:
    wrong = WRONG_ATTENTION[mistake]
    with pytest.raises(Disproved, match="expected an error"):
        _prove(lambda q, k, v, causal: wrong(q, k, v), reference.attention.attention, _heads())


class _WrongBackward(torch.autograd.Function):
    """SwiGLU whose gradient of `up` forgets the sigmoid; the forward is right."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return torch.nn.functional.silu(gate) * up

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        s = torch.sigmoid(gate)
        return grad * up * s * (1 + gate * (1 - s)), grad * gate


def _wrong_backward(gate: Tensor, up: Tensor) -> Any:
    return _WrongBackward.apply(gate, up)  # type: ignore[no-untyped-call]


def _detached(gate: Tensor, up: Tensor) -> Tensor:
    return (torch.nn.functional.silu(gate) * up).detach()


def test_wrong_gradient_behind_a_right_answer_is_caught_by_name() -> None:
    with pytest.raises(Disproved, match="gradient of up, row"):
        _prove(_wrong_backward, reference.swiglu.swiglu, _gates(), "bwd")


def test_detached_answer_is_caught() -> None:
    with pytest.raises(Disproved, match="expected outputs that are differentiable"):
        _prove(_detached, reference.swiglu.swiglu, _gates(), "bwd")


def test_integers_must_be_equal() -> None:
    inputs = {"x": Make(DEVICE).normal(9, 100, dtype=fp32)}

    def one_off(x: Tensor) -> tuple[Tensor, Tensor]:
        q, scale = kernels.quantize_int8.quantize_int8(x)
        q[3, 7] += 1
        return q, scale

    _prove(kernels.quantize_int8.quantize_int8, reference.quantize_int8.quantize_int8, inputs)
    with pytest.raises(Disproved, match="got 1 of 900 unequal"):
        _prove(one_off, reference.quantize_int8.quantize_int8, inputs)


@pytest.mark.parametrize("planted", [float("nan"), float("inf"), float("-inf")])
def test_swallowed_nonfinite_values_are_caught(planted: float) -> None:
    """A kernel that turns NaN into a number is wrong, and so is one that makes NaN of a number."""
    inputs = _gates()
    inputs["up"][5, 5] = planted

    def swallowing(gate: Tensor, up: Tensor) -> Tensor:
        return torch.nan_to_num(kernels.swiglu.swiglu(gate, up))

    _prove(kernels.swiglu.swiglu, reference.swiglu.swiglu, inputs)
    with pytest.raises(Disproved, match="not finite where the reference is, or finite where it is not"):
        _prove(swallowing, reference.swiglu.swiglu, inputs)


def test_poison_fills_what_nobody_writes_and_goes_away() -> None:
    with poisoned():
        assert torch.empty(5).isnan().all()
    assert not torch.are_deterministic_algorithms_enabled()


def test_cotangents_lie_like_outputs_and_have_the_same_values() -> None:
    plain = torch.empty(2, 3, 4, 5, device=DEVICE)
    last = torch.empty(2, 3, 4, 5, device=DEVICE, memory_format=torch.channels_last)
    (seed,), (other,) = draw_cotangents([plain]), draw_cotangents([last])
    assert torch.equal(seed, other)
    assert (seed.stride(), other.stride()) == (plain.stride(), last.stride())


def test_number_of_outputs_counts() -> None:
    inputs = _rows()
    with pytest.raises(Disproved, match="expected 1 outputs, got 2"):
        yardsticks(reference.rms_norm.rms_norm, inputs, "fwd")[0].judge([inputs["x"], inputs["x"]])
