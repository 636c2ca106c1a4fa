"""Decoding needs no memory but the parts of its splits, looks at nothing beyond a sequence, and fills the GPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bench.core import device

DEVICE = device.choose()

# ruff: noqa: E402 - whether kernels are interpreted is decided before they are imported
import kernels._split_kv
import kernels.decode_attention
import kernels.mla_decode
from bench import bench_decode_attention, bench_mla_decode
from bench.core import memory
from bench.core.case import Blank, Make, bf16, fp32
from bench.core.compile import PROCESSORS, standing_in
from bench.core.operator import Operator
from bench.core.trial import Trial
from kernels._split_kv import split_count
from tests.memory_of import NotLaunched

ROUNDED_UP = 3 * 512  # bytes that allocators add to a few small tensors
OPERATORS = [bench_decode_attention.DecodeAttention, bench_mla_decode.MlaDecode]
EVERY_OPERATOR = pytest.mark.parametrize("operator", OPERATORS, ids=lambda operator: operator.name())
LONG: dict[str, dict[str, Any]] = {
    "decode_attention": {"heads": (32, 8), "seq_len": 8192, "head_dim": 128, "page_size": 16, "dtype": bf16},
    "mla_decode": {"heads": 128, "seq_len": 8192, "dims": (512, 64), "page_size": 64, "dtype": bf16},
}
CACHES = {"decode_attention": ("k_cache", "v_cache"), "mla_decode": ("kv_cache",)}


def _small(operator: type[Operator], **axes: Any) -> dict[str, Any]:
    return operator().inputs(Make(DEVICE), **operator.hostile | axes)


@EVERY_OPERATOR
@pytest.mark.parametrize("batch", [1, 8, 132])
def test_decoding_needs_the_parts_of_its_splits_and_nothing_else_at_length_8k(
    operator: type[Operator], batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = {"decode_attention": kernels.decode_attention, "mla_decode": kernels.mla_decode}[operator.name()]
    monkeypatch.setattr(module, "KERNELS", dict.fromkeys(module.KERNELS, NotLaunched()))
    monkeypatch.setattr(kernels._split_kv, "_combine", NotLaunched())
    inputs = operator().inputs(Blank(DEVICE), batch=batch, **LONG[operator.name()])
    with standing_in():
        trial = Trial(operator().provider("triton"), inputs, "fwd")
        (o,) = trial.once()
        needs = memory.measure(trial, DEVICE)
    programs, resident = (8, 2) if operator.name() == "decode_attention" else (2, 1)
    splits = split_count(batch * programs, 8192, resident * PROCESSORS)
    rows, width = o.numel() // o.shape[-1], o.shape[-1]
    combined = splits > 1 or operator.name() == "mla_decode"
    parts = rows * splits * (4 * width + 8) if combined else 0
    assert (splits == 1) == (batch == 132)
    assert needs.least_bytes == 2 * rows * width
    assert needs.least_bytes + parts <= needs.peak_bytes <= 1.1 * (needs.least_bytes + parts) + ROUNDED_UP


@EVERY_OPERATOR
def test_nothing_beyond_a_sequence_is_looked_at(operator: type[Operator]) -> None:
    inputs = _small(operator, page_size=4, q_len=1)
    expected = operator.entry(**inputs)
    pages, used = inputs["block_table"].clone(), -(-inputs["seq_lens"] // 4)
    pages[torch.arange(pages.shape[1], device=DEVICE) >= used[:, None]] = 2**31 - 1
    caches = {name: inputs[name].clone() for name in CACHES[operator.name()]}
    for b, length in enumerate(inputs["seq_lens"].tolist()):
        for cache in caches.values():
            for token in range(length, -(-length // 4) * 4):
                cache[inputs["block_table"][b, token // 4], token % 4] = float("nan")
    assert any(cache.isnan().any() for cache in caches.values())
    assert torch.equal(operator.entry(**inputs | caches | {"block_table": pages}), expected)


@EVERY_OPERATOR
def test_queries_side_by_side_answer_as_one_after_the_other(operator: type[Operator]) -> None:
    inputs = _small(operator, q_len=3, dtype=fp32)
    together = operator.entry(**inputs)
    for i in range(3):
        alone = inputs | {"q": inputs["q"][:, i : i + 1], "seq_lens": inputs["seq_lens"] - 2 + i}
        torch.testing.assert_close(together[:, i : i + 1], operator.entry(**alone))


@EVERY_OPERATOR
def test_a_length_ends_at_what_the_cache_can_hold_and_may_be_int64(operator: type[Operator]) -> None:
    inputs = _small(operator, ragged=False)
    longer = {"seq_lens": inputs["seq_lens"].long() + 2**40, "block_table": inputs["block_table"].long()}
    full = {"seq_lens": torch.full_like(inputs["seq_lens"], 24)}  # three pages of eight
    assert torch.equal(operator.entry(**inputs | longer), operator.entry(**inputs | full))


@EVERY_OPERATOR
@pytest.mark.parametrize("splits", [1, 2, 5])
def test_splits_give_what_one_gives(operator: type[Operator], splits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = _small(operator, seq_len=200, page_size=16)
    expected = operator.reference(**inputs)
    monkeypatch.setattr(kernels._split_kv, "split_count", lambda *_: splits)
    torch.testing.assert_close(operator.entry(**inputs), expected)


@pytest.mark.parametrize(
    ("programs", "tokens", "slots", "fewest"),
    [(8, 4096, 264, 31), (8, 1024, 264, 8), (300, 8192, 264, 6), (8, 32768, 132, 16), (1, 1 << 20, 132, 122)],
)
def test_splits_are_the_fewest_that_fill_the_gpu(programs: int, tokens: int, slots: int, fewest: int) -> None:
    assert split_count(programs, tokens, slots) == fewest
    waves = -(-programs * fewest // slots)
    assert programs * fewest / slots / waves >= 0.92 or fewest == tokens // kernels._split_kv.SPLIT_TOKENS


@pytest.mark.parametrize(("programs", "tokens"), [(264, 1 << 20), (1, 255), (4096, 4096)])
def test_one_split_where_programs_fill_the_gpu_or_tokens_are_few(programs: int, tokens: int) -> None:
    assert split_count(programs, tokens, 264) == 1


@pytest.mark.parametrize("value", [None, True, "0.1"])
def test_the_scale_of_latent_attention_is_a_number(value: Any) -> None:
    with pytest.raises(TypeError, match="scale: expected a number"):
        kernels.mla_decode.mla_decode(**_small(bench_mla_decode.MlaDecode) | {"scale": value})
