"""Attention stores no score and visits no tile that masks hide: what it allocates, and what it computes."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch

from bench.core import device

DEVICE = device.choose()

import kernels._attention_backward
import kernels._mla_backward
import kernels.attention
import kernels.mla_attention
from bench import bench_attention, bench_mla_attention, bench_varlen_attention
from bench.core.case import Blank, Make, bf16, fp32
from bench.core.count import counting
from bench.core.operator import Operator
from bench.core.trial import Trial
from kernels._attention_backward import KEY, QUERY
from kernels.attention import FORWARD
from tests.memory_of import ROUNDED_UP, NotLaunched, needed_by

HEADS: dict[str, Any] = {"num_heads": 32, "num_kv_heads": 8, "head_dim": 128, "dtype": bf16, "causal": True}
FEW: dict[str, Any] = {"num_heads": 2, "num_kv_heads": 1, "head_dim": 16, "dtype": bf16, "causal": True}
EVERY_OPERATOR = pytest.mark.parametrize(
    ("operator", "lengths"),
    [
        pytest.param(bench_attention.Attention, {"q_len": 8192, "k_len": 8192}, id="attention"),
        pytest.param(bench_varlen_attention.VarlenAttention, {"q_lens": (4096, 96, 4000)}, id="varlen_attention"),
    ],
)


@pytest.fixture
def not_launched(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (kernels.attention, kernels._attention_backward, kernels.mla_attention, kernels._mla_backward):
        monkeypatch.setattr(module, "launch", lambda *_, **__: None)
    monkeypatch.setattr(kernels._attention_backward, "_delta_kernel", NotLaunched())


@EVERY_OPERATOR
@pytest.mark.usefixtures("not_launched")
def test_training_on_8k_tokens_keeps_one_number_a_row_and_needs_two(
    operator: type[Operator], lengths: dict[str, Any]
) -> None:
    needs, rows = needed_by(operator, "bwd", HEADS | lengths, Blank), 32 * 8192
    assert needs.least_bytes == 2 * 128 * 8192 * (2 * 32 + 2 * 8), "expected o, dq, dk and dv to be what is needed"
    assert needs.peak_bytes - needs.least_bytes <= 1.1 * 2 * 4 * rows
    assert needs.saved_bytes is not None
    assert needs.saved_bytes <= 1.1 * 4 * rows


@pytest.mark.usefixtures("not_launched")
@pytest.mark.parametrize("heads", [16, 128])
def test_training_with_latent_heads_on_8k_tokens_needs_a_tenth_beyond_its_results(heads: int) -> None:
    sizes = {"num_heads": heads, "q_len": 8192, "k_len": 8192, "head_dim": 128, "rope_dim": 64, "dtype": bf16}
    needs = needed_by(bench_mla_attention.MlaAttention, "bwd", sizes | {"causal": True}, Blank)
    o_dq_dk_dv = 2 * heads * 8192 * (128 + 192 + 128 + 128)
    assert needs.least_bytes == o_dq_dk_dv + 2 * 8192 * 64, "expected one gradient of k_rope for all heads"
    assert needs.peak_bytes <= 1.1 * needs.least_bytes
    assert needs.saved_bytes is not None
    assert needs.saved_bytes <= 1.1 * 4 * heads * 8192


@EVERY_OPERATOR
@pytest.mark.usefixtures("not_launched")
def test_inference_on_8k_tokens_needs_one_number_a_row(operator: type[Operator], lengths: dict[str, Any]) -> None:
    needs = needed_by(operator, "fwd", HEADS | lengths, Blank)
    assert needs.least_bytes == 2 * 128 * 8192 * 32
    assert 4 * 32 * 8192 <= needs.peak_bytes - needs.least_bytes <= 1.1 * 4 * 32 * 8192


@pytest.mark.parametrize(("mode", "numbers"), [("fwd", 1), ("bwd", 2)])
@pytest.mark.parametrize(
    ("operator", "lengths"),
    [
        pytest.param(bench_attention.Attention, {"q_len": 40, "k_len": 40}, id="attention"),
        pytest.param(bench_varlen_attention.VarlenAttention, {"q_lens": (30, 10)}, id="varlen_attention"),
    ],
)
def test_what_runs_needs_no_more_than_what_is_not_launched(
    operator: type[Operator], lengths: dict[str, Any], mode: str, numbers: int
) -> None:
    needs = needed_by(operator, mode, FEW | lengths, Make)
    assert 0 < needs.peak_bytes - needs.least_bytes <= numbers * 4 * 2 * 40 + ROUNDED_UP


def _tiles(tuned: Any, causal: bool, windowed: bool) -> tuple[int, int]:
    tile = tuned[causal, windowed, 4, 256].configs[0].kwargs
    return tile["BLOCK_M"], tile["BLOCK_N"]


def _seen(q_len: int, k_len: int, causal: bool, window: int | None, block_m: int, block_n: int) -> int:
    """Tiles in which some query sees some key."""
    at = torch.arange(q_len)[:, None] + k_len - q_len
    key = torch.arange(k_len)[None, :]
    visible = ((key <= at) | (not causal)) & ((key - at).abs() < (window or q_len + k_len))
    return sum(bool(part.any()) for rows in visible.split(block_m) for part in rows.split(block_n, 1))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("causal", "window"), [(True, None), (True, 1), (True, 20), (False, 20)], ids=str)
def test_tiles_out_of_sight_are_not_computed(causal: bool, window: int | None, packed: bool) -> None:
    bounds = (0, 7, 7, 70) if packed else (0, 90)
    lengths = [(stop - start, stop - start + 2) for start, stop in pairwise(bounds)]
    sizes: dict[str, Any] = {"num_heads": 1, "num_kv_heads": 1, "head_dim": 256, "dtype": fp32}
    if packed:
        sizes |= {"q_lens": tuple(q for q, _ in lengths), "k_lens": tuple(k for _, k in lengths)}
    else:
        sizes |= dict(zip(("q_len", "k_len"), lengths[0], strict=True))
    declared = bench_varlen_attention.VarlenAttention() if packed else bench_attention.Attention()
    inputs = declared.inputs(Make(DEVICE), causal=causal, window=window, **sizes)
    trial = Trial(declared.provider("triton"), inputs, "bwd")
    with counting() as launches:
        trial.once()
    for kernel, tuned, products in (("_forward", FORWARD, 2), ("_key", KEY, 4), ("_query", QUERY, 3)):
        block_m, block_n = _tiles(tuned, causal, window is not None)
        tiles = sum(_seen(q_len, k_len, causal, window, block_m, block_n) for q_len, k_len in lengths)
        (launch,) = (launch for launch in launches if launch.kernel == f"{kernel}_kernel")
        assert dict(launch.dots) == {"fp32": 2 * products * tiles * block_m * block_n * 256}, kernel
