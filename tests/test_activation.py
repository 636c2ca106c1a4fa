"""What kernels/activation.py and kernels/geglu.py promise beyond the proof of every operator."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from bench.core import device as devices

DEVICE = devices.choose()

from kernels.activation import KINDS, activation  # noqa: E402 - whether it is interpreted is decided before
from kernels.geglu import geglu  # noqa: E402
from reference.activation import activation as textbook  # noqa: E402

EVERY_KIND = pytest.mark.parametrize("kind", KINDS)
NARROW = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])


def logistic_slope(u: Tensor) -> Tensor:
    return torch.sigmoid(u) * torch.sigmoid(-u)


def phi(x: Tensor) -> Tensor:
    return torch.erfc(-x / math.sqrt(2)) / 2


def bend(x: Tensor) -> tuple[Tensor, Tensor]:
    """The argument of the logistic function in GELU's tanh form, and its derivative."""
    return 2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3), 2 * math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * x**2)


# f and, term by term, f', none of which cancels within a term: in float64 they are exact to far more than 16 bits.
EXACT: dict[str, Callable[[Tensor], tuple[Tensor, ...]]] = {
    "sigmoid": lambda x: (torch.sigmoid(x), logistic_slope(x)),
    "tanh": lambda x: (torch.tanh(x), 4 * logistic_slope(2 * x)),
    "silu": lambda x: (x * torch.sigmoid(x), torch.sigmoid(x), x * logistic_slope(x)),
    "gelu": lambda x: (x * phi(x), phi(x), x * torch.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)),
    "gelu_tanh": lambda x: (
        x * torch.sigmoid(bend(x)[0]),
        torch.sigmoid(bend(x)[0]),
        x * logistic_slope(bend(x)[0]) * bend(x)[1],
    ),
}


def every_finite(dtype: torch.dtype) -> Tensor:
    """All numbers of a dtype of 16 bits."""
    numbers = torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype).to(DEVICE)
    return numbers[numbers.isfinite()]


def ulp(value: Tensor, dtype: torch.dtype) -> Tensor:
    """The distance to the next number of a dtype; at least the smallest normal number of fp32, which may be flushed."""
    limits = torch.finfo(dtype)
    exponent = torch.frexp(value.abs().clamp_min(limits.tiny)).exponent - 1
    return torch.ldexp(torch.full_like(value, limits.eps), exponent).clamp_min(torch.finfo(torch.float32).tiny)


def differentiated(function: Callable[[Tensor, str], Tensor], x: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """f and f'."""
    leaf = x.detach().requires_grad_()
    y = function(leaf, kind)
    (slope,) = torch.autograd.grad(y, leaf, torch.ones_like(y))
    return y.detach(), slope


def gated(x: Tensor, kind: str) -> Tensor:
    """GeGLU where `up` is 1."""
    return geglu(x, torch.ones_like(x), {"gelu": "none", "gelu_tanh": "tanh"}[kind])


@pytest.mark.parametrize(
    ("function", "kind"), [*((activation, kind) for kind in KINDS), (gated, "gelu"), (gated, "gelu_tanh")]
)
@NARROW
def test_every_number_of_16_bits_is_answered_to_one_ulp(
    function: Callable[[Tensor, str], Tensor], kind: str, dtype: torch.dtype
) -> None:
    x = every_finite(dtype)
    y, slope = differentiated(function, x, kind)
    exact, *terms = EXACT[kind](x.double())
    # x^2 overflows in fp32, as in torch, where GELU's tanh form has long been 0 or x.
    usual = x.double().abs() < 1e18
    assert ((y.double() - exact).abs() <= ulp(exact, dtype))[usual].all()
    # A sum of terms that cancel is known to the ulp of the terms.
    whole = torch.stack(terms).sum(0)
    largest = torch.stack([term.abs() for term in (whole, *terms)]).amax(0)
    assert ((slope.double() - whole).abs() <= ulp(largest, dtype))[usual].all()


@EVERY_KIND
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=["fp32", "fp16", "bf16"])
def test_nan_and_infinity_stand_where_torch_has_them(kind: str, dtype: torch.dtype) -> None:
    largest = torch.finfo(dtype).max
    x = torch.tensor(
        [math.nan, math.inf, -math.inf, 0.0, -0.0, largest, -largest, 1e4, -1e4], dtype=dtype, device=DEVICE
    )
    for ours, theirs in zip(differentiated(activation, x, kind), differentiated(textbook, x, kind), strict=True):
        assert torch.equal(ours.isnan(), theirs.isnan()), (ours, theirs)
        assert torch.equal(ours.isinf(), theirs.isinf()), (ours, theirs)
        assert torch.equal(ours.nan_to_num(), theirs.nan_to_num()), (ours, theirs)
        assert torch.equal(ours.signbit()[3:], theirs.signbit()[3:]), "zeros keep their signs"


class Copies(TorchDispatchMode):
    """Notes what torch copies inside."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.noted: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # `copy_` alone is what the interpreter does with the arguments of a launch.
        if func.overloadpacket in (torch.ops.aten.clone, torch.ops.aten._to_copy):
            self.noted.append(str(func))
        return func(*args, **kwargs or {})


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x,
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "transposed": lambda x: x.transpose(-1, -2).contiguous().transpose(-1, -2),
    "rows apart": lambda x: torch.cat([x, x], dim=-1)[..., : x.shape[-1]],
    "columns apart": lambda x: torch.cat([x, x], dim=-2).mT.contiguous()[..., : x.shape[-2]].mT,
    "without a dimension": lambda x: x[0, 0, 0, 0],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_elements_that_lie_side_by_side_are_read_where_they_are(layout: str) -> None:
    values = torch.randn(2, 3, 5, 7, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    x = LAYOUTS[layout](values).detach().requires_grad_()
    y = activation(x, "silu")
    cotangent = torch.randn_like(y)
    with Copies() as copies:
        y = activation(x, "silu")
        (dx,) = torch.autograd.grad(y, x, cotangent)
    assert not copies.noted
    dense = torch.empty_like(x).stride()
    assert y.stride() == dx.stride() == dense
    torch.testing.assert_close(y, textbook(x, "silu"))
    torch.testing.assert_close(dx, torch.autograd.grad(textbook(x, "silu"), x, cotangent)[0])


@EVERY_KIND
def test_nothing_but_the_input_is_kept_for_the_backward(kind: str) -> None:
    x = torch.ones(4, 8, device=DEVICE, dtype=torch.bfloat16).requires_grad_()
    kept = activation(x, kind).grad_fn.saved_tensors  # type: ignore[union-attr]
    assert [value.data_ptr() for value in kept] == [x.data_ptr()]


def test_the_halves_of_one_projection_are_read_where_they_are() -> None:
    projected = torch.randn(5, 2 * 24, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    gate, up = (half.detach().requires_grad_() for half in projected.split(24, dim=-1))
    cotangent = torch.ones(5, 24, device=DEVICE)
    with Copies() as copies:
        y = geglu(gate, up, "tanh")
        kept = y.grad_fn.saved_tensors  # type: ignore[union-attr]
        torch.autograd.grad(y, (gate, up), cotangent)
    assert not copies.noted
    assert [half.data_ptr() for half in kept] == [gate.data_ptr(), up.data_ptr()], "nothing else is kept"
