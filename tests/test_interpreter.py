"""The mended interpreter computes with bf16 as torch does, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bench.core.interpreter import narrowed, widened


def _values() -> torch.Tensor:
    """fp32 of every magnitude, halfway cases, subnormals, infinities."""
    bits = torch.randint(-(2**31), 2**31, (100_000,), generator=torch.Generator().manual_seed(0), dtype=torch.int64)
    random = bits.to(torch.int32).view(torch.float32)
    halfway = torch.tensor([0x3F808000, 0x3F818000, 0x00008000, 0x00018000, 0x7F7F8000], dtype=torch.int32)
    special = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, 1e-40, -1e-40, 3.4e38])
    values = torch.cat([random, halfway.view(torch.float32), special])
    return values[~values.isnan()]


def test_narrowing_rounds_to_nearest_even() -> None:
    values = _values()
    expected = values.to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
    assert np.array_equal(narrowed(values.numpy()), expected)


def test_widening_is_exact() -> None:
    every = torch.arange(2**16, dtype=torch.int32).to(torch.uint16).view(torch.bfloat16)
    expected = every.float().numpy()
    got = widened(every.view(torch.int16).numpy().view(np.uint16))
    assert np.array_equal(got, expected, equal_nan=True)


@pytest.mark.parametrize("bits", [0x7F800001, 0x7FC00000, 0xFFFFFFFF, 0xFF800001])
def test_a_nan_stays_one(bits: int) -> None:
    value = np.array([bits], np.uint32).view(np.float32)
    assert np.isnan(widened(narrowed(value))).all()


def test_shapes_survive() -> None:
    assert narrowed(np.array(1.5, np.float32)).shape == ()
    assert narrowed(np.ones((2, 3), np.float32)[:, ::2]).shape == (2, 2)
