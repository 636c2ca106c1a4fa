"""Sums of rows by key, which gradients of embeddings are made of, and tokens that no table has."""

from __future__ import annotations

import pytest
import torch

from bench.core import device

DEVICE = device.choose()

# Whether kernels are interpreted is decided before they are imported.
from bench import bench_embedding_sum_norm  # noqa: E402
from bench.core.case import Make, fp32  # noqa: E402
from kernels import _segments  # noqa: E402
from kernels.embedding_sum_norm import embedding_sum_norm  # noqa: E402


@pytest.mark.parametrize(
    "runs",
    [[1] * 40, [32], [31, 1], [33], [5, 60, 3], [32, 32, 1], [1, 31, 70, 2], [300]],
    ids=str,
)
def test_runs_may_begin_and_end_anywhere(runs: list[int]) -> None:
    """Whole within a stretch, at its borders, across one and across many."""
    keys = torch.repeat_interleave(torch.arange(len(runs)), torch.tensor(runs)) * 2 + 1
    keys = keys[torch.randperm(len(keys), generator=torch.Generator().manual_seed(0))].to(DEVICE)
    # Small integers: their sums are exact in any order.
    x = Make(DEVICE).integers(-9, 9, len(keys), 5, dtype=torch.int64).float()
    expected = torch.zeros(2 * len(runs) + 3, 5, device=DEVICE).index_add_(0, keys, x)
    assert torch.equal(_segments.sum_by_key(x, keys, len(expected)), expected)


def test_keys_outside_of_the_table_are_left_out() -> None:
    keys = torch.tensor([-1, 2, 7, 0, -1, 2], device=DEVICE)
    x = torch.ones(6, 3, device=DEVICE)
    assert _segments.sum_by_key(x, keys, 3)[:, 0].tolist() == [1, 0, 2]


def test_an_unknown_token_is_nan_and_touches_no_other_row() -> None:
    inputs = bench_embedding_sum_norm.EmbeddingSumNorm().inputs(
        Make(DEVICE), shape=(1, 4), vocab_size=6, cols=8, dtype=fp32
    )
    inputs["tokens"][0, 1], inputs["token_types"][0, 2] = 6, -1
    y = embedding_sum_norm(**inputs)
    assert y.isnan().all(-1).tolist() == [[False, True, True, False]]
    assert y[0, [0, 3]].isfinite().all()
