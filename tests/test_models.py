"""The shape bank: figures that fit together, each with a source."""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest

from bench.models import SEQ_LENS, Model, feature_maps, models

EVERY_MODEL = pytest.mark.parametrize("model", models(), ids=str)

# Multi-head latent attention, Qwen3 and Gemma 2 choose the width of a head apart from the width of the model.
LATENT = {"deepseek-v2-lite", "deepseek-v3", "minicpm3-4b"}
FREE_HEAD_DIM = {*LATENT, "qwen3-32b", "qwen3-30b-a3b", "gemma2-9b", "gemma2-27b", "gshard-600b"}


@EVERY_MODEL
def test_figures_are_positive(model: Model) -> None:
    for field in dataclasses.fields(Model):
        value = getattr(model, field.name)
        if type(value) is int and field.default is dataclasses.MISSING:
            assert value > 0, field.name


@EVERY_MODEL
def test_query_heads_share_key_heads_evenly(model: Model) -> None:
    assert model.num_heads % model.num_kv_heads == 0


@EVERY_MODEL
def test_heads_split_the_hidden_size(model: Model) -> None:
    assert (model.num_heads * model.head_dim == model.hidden_size) == (model.name not in FREE_HEAD_DIM)


@EVERY_MODEL
def test_only_latent_attention_has_other_values_than_keys(model: Model) -> None:
    assert (model.head_dim == model.v_head_dim) == (model.name not in LATENT)


@EVERY_MODEL
def test_experts_come_with_all_their_figures(model: Model) -> None:
    figures = model.num_experts, model.experts_per_token, model.moe_intermediate_size
    assert all(figures) or not any(figures)
    assert model.experts_per_token <= model.num_experts


@EVERY_MODEL
def test_every_model_names_its_source(model: Model) -> None:
    assert "arXiv:" in model.source or "config.json of " in model.source


@pytest.mark.parametrize(
    ("name", "patch"),
    [
        ("vit-b", 16),
        ("vit-l", 16),
        ("vit-h", 14),
        ("clip-vit-b", 32),
        ("clip-vit-l", 14),
        ("clip-vit-big-g", 14),
    ],
)
def test_vision_models_see_their_patches_and_one_class_token(name: str, patch: int) -> None:
    (model,) = models(name)
    assert model.max_seq_len == (224 // patch) ** 2 + 1
    assert model.patch_size == patch
    assert model.vocab_size is None


@EVERY_MODEL
def test_pictures_are_squares_of_whole_windows(model: Model) -> None:
    if model.window_side:
        side = math.isqrt(model.max_seq_len)
        assert side**2 == model.max_seq_len
        assert side % model.window_side == 0


@pytest.mark.parametrize("name", ["swin-tiny-224", "swin-base-224", "swin-base-384"])
def test_stages_of_swin_halve_the_side_and_double_the_width(name: str) -> None:
    stages = models(*(f"{name}-stage{stage}" for stage in range(1, 5)))
    for before, after in itertools.pairwise(stages):
        assert (after.max_seq_len, after.hidden_size) == (before.max_seq_len // 4, 2 * before.hidden_size)


def test_feature_maps_halve_their_sides() -> None:
    maps = feature_maps()
    assert [each.side for each in maps] == [112, 56, 28, 14, 7]
    assert all("arXiv:" in each.source for each in maps)
    with pytest.raises(ValueError, match=r"'resnet18'.*resnet50-conv1"):
        feature_maps("resnet18")


def test_names_are_unique() -> None:
    names = [model.name for model in models()]
    assert len(set(names)) == len(names)


def test_models_come_in_the_order_asked_for() -> None:
    assert [str(model) for model in models("qwen3-8b", "llama-7b")] == ["qwen3-8b", "llama-7b"]


def test_an_unknown_name_is_named_beside_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'llama-8b'.*llama-7b, llama3-8b.*mixtral-8x7b") as caught:
        models("llama3-8b", "llama-8b")
    assert "'llama3-8b'" not in str(caught.value)


def test_sequence_lengths_double_from_512_to_32768() -> None:
    assert list(SEQ_LENS) == [512 * 2**step for step in range(7)]
