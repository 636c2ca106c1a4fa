"""The shape bank: real models, each with the source of its figures, and the sequence lengths of every sweep."""

from __future__ import annotations

from dataclasses import dataclass

SEQ_LENS = (512, 1024, 2048, 4096, 8192, 16384, 32768)


@dataclass(frozen=True, kw_only=True)
class Model:
    """The figures of one transformer from which operators derive their sizes.

    `head_dim` is that of queries and keys; `v_head_dim` differs from it in multi-head latent attention only.
    `intermediate_size` belongs to the dense feed-forward layers, `moe_intermediate_size` to one expert.
    `max_seq_len` is the longest context that the model was published for: a sweep may drop what lies beyond it. That of
    a vision model is its number of patches and one class token, the only length that it ever sees. `window` belongs to
    its layers of local attention: queries see the keys less than that many tokens away.
    """

    name: str
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    v_head_dim: int
    num_layers: int
    vocab_size: int | None  # None: the model reads pixels, or its source does not say
    max_seq_len: int
    causal: bool
    source: str
    num_experts: int = 0
    experts_per_token: int = 0
    moe_intermediate_size: int = 0
    rotary_dim: int = 0  # of head_dim, where position embeddings turn a part of it only
    mrope_section: tuple[int, ...] = ()  # pairs of a head turned by time, by height and by width
    patch_size: int = 0  # pixels along each side of what becomes one token
    num_queries: int = 0  # of cross attention to a picture of max_seq_len tokens
    window_side: int = 0  # of windows of so many tokens squared that attention keeps to; max_seq_len is a picture then
    window: int | None = None
    projection_dim: int = 0  # of the space that its pictures share with texts

    def __str__(self) -> str:
        return self.name


def _huggingface(repository: str) -> str:
    return f"Hugging Face config.json of {repository}"


def _vision(name: str) -> str:
    return f"arXiv:2010.11929; {name} of google-research/vision_transformer vit_jax/configs/models.py, 224 x 224 pixels"


def _swin(name: str, stage: int, embed_dim: int, depth: int, heads: int, window: int = 7, pixels: int = 224) -> Model:
    """One stage of a Swin Transformer: it halves the side of the picture and doubles the width of the one before."""
    width, side = embed_dim * 2 ** (stage - 1), pixels // 4 // 2 ** (stage - 1)
    file = f"{name.replace('-', '_')}_patch4_window{window}_{pixels}{'' if pixels == 224 else '_finetune'}.yaml"
    return Model(
        name=f"{name}-{pixels}-stage{stage}",
        hidden_size=width,
        intermediate_size=4 * width,
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=32,
        v_head_dim=32,
        num_layers=depth,
        vocab_size=None,
        max_seq_len=side * side,
        causal=False,
        window_side=window,
        source=f"arXiv:2103.14030; configs/swin/{file} of microsoft/Swin-Transformer",
    )


_BANK = (
    Model(
        name="llama-7b",
        hidden_size=4096,
        intermediate_size=11008,
        num_heads=32,
        num_kv_heads=32,
        head_dim=128,
        v_head_dim=128,
        num_layers=32,
        vocab_size=32000,
        max_seq_len=2048,
        causal=True,
        source=f"arXiv:2302.13971; {_huggingface('huggyllama/llama-7b')}",
    ),
    Model(
        name="llama3-8b",
        hidden_size=4096,
        intermediate_size=14336,
        num_heads=32,
        num_kv_heads=8,
        head_dim=128,
        v_head_dim=128,
        num_layers=32,
        vocab_size=128256,
        max_seq_len=131072,
        causal=True,
        source=f"arXiv:2407.21783; {_huggingface('meta-llama/Llama-3.1-8B')}",
    ),
    Model(
        name="llama3-70b",
        hidden_size=8192,
        intermediate_size=28672,
        num_heads=64,
        num_kv_heads=8,
        head_dim=128,
        v_head_dim=128,
        num_layers=80,
        vocab_size=128256,
        max_seq_len=131072,
        causal=True,
        source=f"arXiv:2407.21783; {_huggingface('meta-llama/Llama-3.1-70B')}",
    ),
    Model(
        name="llama3-405b",
        hidden_size=16384,
        intermediate_size=53248,
        num_heads=128,
        num_kv_heads=8,
        head_dim=128,
        v_head_dim=128,
        num_layers=126,
        vocab_size=128256,
        max_seq_len=131072,
        causal=True,
        source=f"arXiv:2407.21783, table 3; {_huggingface('meta-llama/Llama-3.1-405B')}",
    ),
    Model(
        name="qwen2.5-7b",
        hidden_size=3584,
        intermediate_size=18944,
        num_heads=28,
        num_kv_heads=4,
        head_dim=128,
        v_head_dim=128,
        num_layers=28,
        vocab_size=152064,
        max_seq_len=131072,
        causal=True,
        source=_huggingface("Qwen/Qwen2.5-7B"),
    ),
    Model(
        name="qwen3-8b",
        hidden_size=4096,
        intermediate_size=12288,
        num_heads=32,
        num_kv_heads=8,
        head_dim=128,
        v_head_dim=128,
        num_layers=36,
        vocab_size=151936,
        max_seq_len=40960,
        causal=True,
        source=_huggingface("Qwen/Qwen3-8B"),
    ),
    Model(
        name="qwen3-32b",
        hidden_size=5120,
        intermediate_size=25600,
        num_heads=64,
        num_kv_heads=8,
        head_dim=128,
        v_head_dim=128,
        num_layers=64,
        vocab_size=151936,
        max_seq_len=40960,
        causal=True,
        source=_huggingface("Qwen/Qwen3-32B"),
    ),
    Model(
        name="qwen2-vl-7b",
        hidden_size=3584,
        intermediate_size=18944,
        num_heads=28,
        num_kv_heads=4,
        head_dim=128,
        v_head_dim=128,
        num_layers=28,
        vocab_size=152064,
        max_seq_len=32768,
        causal=True,
        mrope_section=(16, 24, 24),
        source=f"arXiv:2409.12191; {_huggingface('Qwen/Qwen2-VL-7B-Instruct')}",
    ),
    Model(
        name="qwen2.5-vl-72b",
        hidden_size=8192,
        intermediate_size=29568,
        num_heads=64,
        num_kv_heads=8,
        head_dim=128,
        v_head_dim=128,
        num_layers=80,
        vocab_size=152064,
        max_seq_len=128000,
        causal=True,
        mrope_section=(16, 24, 24),
        source=f"arXiv:2502.13923; {_huggingface('Qwen/Qwen2.5-VL-72B-Instruct')}",
    ),
    Model(
        name="smollm2-135m",
        hidden_size=576,
        intermediate_size=1536,
        num_heads=9,
        num_kv_heads=3,
        head_dim=64,
        v_head_dim=64,
        num_layers=30,
        vocab_size=49152,
        max_seq_len=8192,
        causal=True,
        source=f"arXiv:2502.02737; {_huggingface('HuggingFaceTB/SmolLM2-135M')}",
    ),
    Model(
        name="smollm2-360m",
        hidden_size=960,
        intermediate_size=2560,
        num_heads=15,
        num_kv_heads=5,
        head_dim=64,
        v_head_dim=64,
        num_layers=32,
        vocab_size=49152,
        max_seq_len=8192,
        causal=True,
        source=f"arXiv:2502.02737; {_huggingface('HuggingFaceTB/SmolLM2-360M')}",
    ),
    Model(
        name="gpt2-xl",
        hidden_size=1600,
        intermediate_size=6400,
        num_heads=25,
        num_kv_heads=25,
        head_dim=64,
        v_head_dim=64,
        num_layers=48,
        vocab_size=50257,
        max_seq_len=1024,
        causal=True,
        source=f"{_huggingface('openai-community/gpt2-xl')} (n_inner null: 4 * n_embd)",
    ),
    Model(
        name="gpt-j-6b",
        hidden_size=4096,
        intermediate_size=16384,
        num_heads=16,
        num_kv_heads=16,
        head_dim=256,
        v_head_dim=256,
        num_layers=28,
        vocab_size=50400,
        max_seq_len=2048,
        causal=True,
        rotary_dim=64,
        source=f"{_huggingface('EleutherAI/gpt-j-6b')} (n_inner null: 4 * n_embd)",
    ),
    Model(
        name="bert-tiny",
        hidden_size=128,
        intermediate_size=512,
        num_heads=2,
        num_kv_heads=2,
        head_dim=64,
        v_head_dim=64,
        num_layers=2,
        vocab_size=30522,
        max_seq_len=512,
        causal=False,
        source=f"arXiv:1908.08962; {_huggingface('google/bert_uncased_L-2_H-128_A-2')}",
    ),
    Model(
        name="bert-mini",
        hidden_size=256,
        intermediate_size=1024,
        num_heads=4,
        num_kv_heads=4,
        head_dim=64,
        v_head_dim=64,
        num_layers=4,
        vocab_size=30522,
        max_seq_len=512,
        causal=False,
        source=f"arXiv:1908.08962; {_huggingface('google/bert_uncased_L-4_H-256_A-4')}",
    ),
    Model(
        name="bert-base",
        hidden_size=768,
        intermediate_size=3072,
        num_heads=12,
        num_kv_heads=12,
        head_dim=64,
        v_head_dim=64,
        num_layers=12,
        vocab_size=30522,
        max_seq_len=512,
        causal=False,
        source=f"arXiv:1810.04805; {_huggingface('google-bert/bert-base-uncased')}",
    ),
    Model(
        name="bert-large",
        hidden_size=1024,
        intermediate_size=4096,
        num_heads=16,
        num_kv_heads=16,
        head_dim=64,
        v_head_dim=64,
        num_layers=24,
        vocab_size=30522,
        max_seq_len=512,
        causal=False,
        source=f"arXiv:1810.04805; {_huggingface('google-bert/bert-large-uncased')}",
    ),
    Model(
        name="modernbert-large",
        hidden_size=1024,
        intermediate_size=2624,  # of the gate and of up: the projection to both is 5248 wide
        num_heads=16,
        num_kv_heads=16,
        head_dim=64,
        v_head_dim=64,
        num_layers=28,
        vocab_size=50368,
        max_seq_len=8192,
        causal=False,
        window=65,  # local_attention 128: 64 tokens to either side, and its own
        source=f"arXiv:2412.13663; {_huggingface('answerdotai/ModernBERT-large')}",
    ),
    Model(
        name="gemma2-9b",
        hidden_size=3584,
        intermediate_size=14336,
        num_heads=16,
        num_kv_heads=8,
        head_dim=256,
        v_head_dim=256,
        num_layers=42,
        vocab_size=256000,
        max_seq_len=8192,
        causal=True,
        window=4096,  # every other layer
        source=f"arXiv:2408.00118; {_huggingface('google/gemma-2-9b')}",
    ),
    Model(
        name="gemma2-27b",
        hidden_size=4608,
        intermediate_size=36864,
        num_heads=32,
        num_kv_heads=16,
        head_dim=128,
        v_head_dim=128,
        num_layers=46,
        vocab_size=256000,
        max_seq_len=8192,
        causal=True,
        window=4096,  # every other layer
        source=f"arXiv:2408.00118; {_huggingface('google/gemma-2-27b')}",
    ),
    Model(
        name="vit-b",
        hidden_size=768,
        intermediate_size=3072,
        num_heads=12,
        num_kv_heads=12,
        head_dim=64,
        v_head_dim=64,
        num_layers=12,
        vocab_size=None,
        max_seq_len=197,
        causal=False,
        patch_size=16,
        source=_vision("ViT-B/16"),
    ),
    Model(
        name="vit-l",
        hidden_size=1024,
        intermediate_size=4096,
        num_heads=16,
        num_kv_heads=16,
        head_dim=64,
        v_head_dim=64,
        num_layers=24,
        vocab_size=None,
        max_seq_len=197,
        causal=False,
        patch_size=16,
        source=_vision("ViT-L/16"),
    ),
    Model(
        name="vit-h",
        hidden_size=1280,
        intermediate_size=5120,
        num_heads=16,
        num_kv_heads=16,
        head_dim=80,
        v_head_dim=80,
        num_layers=32,
        vocab_size=None,
        max_seq_len=257,
        causal=False,
        patch_size=14,
        source=_vision("ViT-H/14"),
    ),
    Model(
        name="clip-vit-b",
        hidden_size=768,
        intermediate_size=3072,
        num_heads=12,
        num_kv_heads=12,
        head_dim=64,
        v_head_dim=64,
        num_layers=12,
        vocab_size=None,
        max_seq_len=50,
        causal=False,
        patch_size=32,
        projection_dim=512,
        source=f"arXiv:2103.00020; vision_config of {_huggingface('openai/clip-vit-base-patch32')}",
    ),
    Model(
        name="clip-vit-l",
        hidden_size=1024,
        intermediate_size=4096,
        num_heads=16,
        num_kv_heads=16,
        head_dim=64,
        v_head_dim=64,
        num_layers=24,
        vocab_size=None,
        max_seq_len=257,
        causal=False,
        patch_size=14,
        projection_dim=768,
        source=f"arXiv:2103.00020; vision_config of {_huggingface('openai/clip-vit-large-patch14')}",
    ),
    Model(
        name="clip-vit-big-g",
        hidden_size=1664,
        intermediate_size=8192,
        num_heads=16,
        num_kv_heads=16,
        head_dim=104,
        v_head_dim=104,
        num_layers=48,
        vocab_size=None,
        max_seq_len=257,
        causal=False,
        patch_size=14,
        projection_dim=1280,
        source=f"arXiv:2212.07143; vision_config of {_huggingface('laion/CLIP-ViT-bigG-14-laion2B-39B-b160k')}",
    ),
    Model(
        name="blip2-qformer",
        hidden_size=768,
        intermediate_size=3072,
        num_heads=12,
        num_kv_heads=12,
        head_dim=64,
        v_head_dim=64,
        num_layers=12,
        vocab_size=30522,
        max_seq_len=257,  # of ViT-g/14 at 224 x 224 pixels
        causal=False,
        num_queries=32,
        source=f"arXiv:2301.12597; qformer_config of {_huggingface('Salesforce/blip2-opt-2.7b')}",
    ),
    Model(
        name="deepseek-v2-lite",
        hidden_size=2048,
        intermediate_size=10944,
        num_heads=16,
        num_kv_heads=16,
        head_dim=192,  # qk_nope_head_dim 128 + qk_rope_head_dim 64
        rotary_dim=64,
        v_head_dim=128,
        num_layers=27,
        vocab_size=102400,
        max_seq_len=32768,
        causal=True,
        num_experts=64,
        experts_per_token=6,
        moe_intermediate_size=1408,
        source=f"arXiv:2405.04434, appendix B; {_huggingface('deepseek-ai/DeepSeek-V2-Lite')}",
    ),
    Model(
        name="minicpm3-4b",
        hidden_size=2560,
        intermediate_size=6400,
        num_heads=40,
        num_kv_heads=40,
        head_dim=96,  # qk_nope_head_dim 64 + qk_rope_head_dim 32
        rotary_dim=32,
        v_head_dim=64,
        num_layers=62,
        vocab_size=73448,
        max_seq_len=32768,
        causal=True,
        source=_huggingface("openbmb/MiniCPM3-4B"),
    ),
    Model(
        name="deepseek-v3",
        hidden_size=7168,
        intermediate_size=18432,
        num_heads=128,
        num_kv_heads=128,
        head_dim=192,  # qk_nope_head_dim 128 + qk_rope_head_dim 64
        rotary_dim=64,
        v_head_dim=128,
        num_layers=61,
        vocab_size=129280,
        max_seq_len=163840,
        causal=True,
        num_experts=256,
        experts_per_token=8,
        moe_intermediate_size=2048,
        source=f"arXiv:2412.19437; {_huggingface('deepseek-ai/DeepSeek-V3')}; also DeepSeek-R1 (arXiv:2501.12948)",
    ),
    Model(
        name="mistral-7b",
        hidden_size=4096,
        intermediate_size=14336,
        num_heads=32,
        num_kv_heads=8,
        head_dim=128,
        v_head_dim=128,
        num_layers=32,
        vocab_size=32000,
        max_seq_len=32768,
        causal=True,
        window=4096,
        source=f"arXiv:2310.06825; {_huggingface('mistralai/Mistral-7B-v0.1')}",
    ),
    Model(
        name="mixtral-8x7b",
        hidden_size=4096,
        intermediate_size=14336,
        num_heads=32,
        num_kv_heads=8,
        head_dim=128,
        v_head_dim=128,
        num_layers=32,
        vocab_size=32000,
        max_seq_len=32768,
        causal=True,
        num_experts=8,
        experts_per_token=2,
        moe_intermediate_size=14336,
        source=f"arXiv:2401.04088; {_huggingface('mistralai/Mixtral-8x7B-v0.1')}",
    ),
    Model(
        name="gshard-600b",
        hidden_size=1024,
        intermediate_size=8192,
        num_heads=16,
        num_kv_heads=16,
        head_dim=128,
        v_head_dim=128,
        num_layers=36,
        vocab_size=None,
        max_seq_len=1024,  # assumed: the source does not say
        causal=False,
        num_experts=2048,
        experts_per_token=2,
        moe_intermediate_size=8192,
        source="arXiv:2006.16668, MoE(2048E, 36L): 18 layers of 2048 experts of 2 x 1024 x 8192 weights make its 600B",
    ),
    Model(
        name="qwen3-30b-a3b",
        hidden_size=2048,
        intermediate_size=6144,
        num_heads=32,
        num_kv_heads=4,
        head_dim=128,
        v_head_dim=128,
        num_layers=48,
        vocab_size=151936,
        max_seq_len=40960,
        causal=True,
        num_experts=128,
        experts_per_token=8,
        moe_intermediate_size=768,
        source=_huggingface("Qwen/Qwen3-30B-A3B"),
    ),
    Model(
        name="switch-base-8",
        hidden_size=768,
        intermediate_size=3072,
        num_heads=12,
        num_kv_heads=12,
        head_dim=64,
        v_head_dim=64,
        num_layers=12,  # of the encoder, and as many of the decoder
        vocab_size=32128,
        max_seq_len=512,
        causal=False,
        num_experts=8,
        experts_per_token=1,
        moe_intermediate_size=3072,
        source=f"arXiv:2101.03961, which trains on 512 tokens; {_huggingface('google/switch-base-8')}",
    ),
    Model(
        name="v-moe-s32",
        hidden_size=512,
        intermediate_size=2048,
        num_heads=8,
        num_kv_heads=8,
        head_dim=64,
        v_head_dim=64,
        num_layers=8,
        vocab_size=None,
        max_seq_len=50,
        causal=False,
        num_experts=8,
        experts_per_token=2,
        moe_intermediate_size=2048,
        source="arXiv:2106.05974; vmoe_s32_last2_ilsvrc2012_randaug_light1 of google-research/vmoe, 224 x 224 pixels",
    ),
    Model(
        name="qwen2.5-vl-vision",
        hidden_size=1280,
        intermediate_size=3420,
        num_heads=16,
        num_kv_heads=16,
        head_dim=80,
        v_head_dim=80,
        num_layers=32,
        vocab_size=None,
        max_seq_len=65536,  # max_pixels 12845056 of preprocessor_config.json, patches of 14 x 14
        causal=False,
        patch_size=14,
        window_side=8,  # window_size 112 pixels
        source=f"arXiv:2502.13923; vision_config of {_huggingface('Qwen/Qwen2.5-VL-7B-Instruct')}",
    ),
    *(_swin("swin-tiny", stage, 96, *figures) for stage, figures in enumerate(((2, 3), (2, 6), (6, 12), (2, 24)), 1)),
    *(_swin("swin-base", stage, 128, *figures) for stage, figures in enumerate(((2, 4), (2, 8), (18, 16), (2, 32)), 1)),
    *(
        _swin("swin-base", stage, 128, *figures, window=12, pixels=384)
        for stage, figures in enumerate(((2, 4), (2, 8), (18, 16), (2, 32)), 1)
    ),
)


def models(*names: str) -> list[Model]:
    """Return the models of those names in that order, or the whole bank when no name is given.

    Raises:
        ValueError: a name that the bank does not hold.
    """
    known = {model.name: model for model in _BANK}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"unknown model {', '.join(map(repr, unknown))}; the bank holds {', '.join(known)}")
    return [known[name] for name in names or known]


@dataclass(frozen=True, kw_only=True)
class FeatureMaps:
    """What a stage of a convolutional network hands on: `channels` maps of `side` x `side` for each picture."""

    name: str
    channels: int
    side: int
    source: str

    def __str__(self) -> str:
        return self.name


_MAPS = tuple(
    FeatureMaps(name=f"resnet50-{stage}", channels=channels, side=side, source=f"arXiv:1512.03385, table 1: {stage}")
    for stage, channels, side in (
        ("conv1", 64, 112), ("conv2", 256, 56), ("conv3", 512, 28), ("conv4", 1024, 14), ("conv5", 2048, 7),
    )
)  # fmt: skip


def feature_maps(*names: str) -> list[FeatureMaps]:
    """Return the feature maps of those names in that order, or all when no name is given.

    Raises:
        ValueError: a name that the bank does not hold.
    """
    known = {maps.name: maps for maps in _MAPS}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"unknown feature maps {', '.join(map(repr, unknown))}; the bank holds {', '.join(known)}")
    return [known[name] for name in names or known]
