"""What no interpreter runs of 4-bit NormalFloats: the PTX that looks entries up, held against the values themselves."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kernels import _nf4
from reference import nf4_linear

WORDS = torch.arange(1 << 16)


def permuted(low: Tensor, high: Tensor, places: Tensor) -> Tensor:
    """PTX's prmt.b32: byte j is the one of eight that bits 4 j to 4 j + 2 name; bit 4 j + 3 would repeat its sign."""
    eight, found = low | high << 32, torch.zeros_like(places)
    for j in range(4):
        place = places >> 4 * j & 15
        assert bool((place < 8).all()), "expected a byte to be picked as it is"
        found |= (eight >> 8 * place & 0xFF) << 8 * j
    return found


def run(ptx: str, given: Tensor) -> list[Tensor]:
    """The outputs $0 to $3 of straight-line PTX on 32-bit numbers, for $4 as given."""
    registers = {"$4": given}

    def value(name: str) -> Tensor:
        return registers[name] if name in registers else torch.full_like(given, int(name, 0))

    for line in ptx.strip("{ }").split(";"):
        operation, _, rest = line.strip().partition(" ")
        if operation in ("", ".reg"):
            continue
        target, *names = (name.strip() for name in rest.split(","))
        a, b, *more = map(value, names)
        meaning = {"and.b32": a & b, "or.b32": a | b, "shr.b32": a >> b.clamp(0, 31)}
        registers[target] = permuted(a, b, *more) if operation == "prmt.b32" else meaning[operation]
    return [registers[f"${i}"] for i in range(4)]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("partner", [0x0000, 0x5A3C, 0xFFFF])
def test_ptx_finds_every_entry_of_two_words(dtype: torch.dtype, partner: int) -> None:
    values = torch.tensor(nf4_linear.VALUES).to(dtype)
    bytes_of = torch.stack([WORDS & 0xFF, WORDS >> 8], -1)
    expected = values[torch.stack([bytes_of >> 4, bytes_of & 15], -1).flatten(1)]
    # The word in the lower half of the register, then in the upper half.
    for at, given in ((0, WORDS | partner << 16), (16, WORDS << 16 | partner)):
        found = torch.stack([out >> at & 0xFFFF for out in run(_nf4.ptx_of(dtype), given)], -1)
        assert torch.equal(found.to(torch.int16).view(dtype), expected)


def test_values_are_those_of_the_reference() -> None:
    assert _nf4.VALUES == nf4_linear.VALUES
    assert list(_nf4.VALUES) == sorted(_nf4.VALUES)
