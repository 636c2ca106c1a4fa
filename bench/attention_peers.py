"""What declarations of attention share: torch's own attention and flash-attn, and how many pairs a mask leaves."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor
from torch.backends import cuda
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.bias import causal_lower_right

from bench.core.operator import Provider, Unsupported, needs_cuda, peer

Run = Callable[[], Tensor]
Function = Callable[..., Any]

# The versions of flash-attn: the module that each is imported from, and the command that brings it.
FLASH = {
    "flash_attn": "pip install flash-attn --no-build-isolation",
    "flash_attn_interface": (
        "git clone https://github.com/Dao-AILab/flash-attention && pip install ./flash-attention/hopper"
    ),
    "flash_attn.cute": "pip install --pre flash-attn-4",
}


def visible_pairs(q_len: int, k_len: int, causal: bool, window: int | None) -> int:
    """How many pairs of a query and a key that it sees there are in one head."""
    at = torch.arange(q_len) + k_len - q_len
    reach = q_len + k_len if window is None else window
    first, stop = at - reach + 1, at + (1 if causal else reach)
    return int((stop.clamp(0, k_len) - first.clamp(0, k_len)).sum())


def narrow(window: int | None, q_len: int, k_len: int) -> int | None:
    """The window, unless it hides nothing."""
    return None if window is None or window >= max(q_len, k_len) else window


def window_size(causal: bool, window: int | None) -> dict[str, tuple[int, int]]:
    """The window as flash-attn takes it: so many keys to the left, so many to the right."""
    return {} if window is None else {"window_size": (window - 1, 0 if causal else window - 1)}


def mask_of(q: Tensor, k: Tensor, causal: bool, window: int | None) -> Tensor | None:
    """What torch's own needs beside `is_causal`, which is aligned to the top left."""
    q_len, k_len = q.shape[2], k.shape[2]
    window = narrow(window, q_len, k_len)
    if window is None:
        return causal_lower_right(q_len, k_len) if causal and q_len != k_len else None
    shift = k_len - q_len
    visible = torch.ones(q_len, k_len, dtype=torch.bool, device=q.device).triu(shift - window + 1)
    return visible.tril(shift if causal else shift + window - 1)


def sdpa(q: Tensor, k: Tensor, v: Tensor, causal: bool, window: int | None, scale: float | None) -> Run:
    """Torch's own; a window is a mask of all pairs, made in advance."""
    mask, grouped = mask_of(q, k, causal, window), q.shape[1] != k.shape[1]
    return lambda: functional.scaled_dot_product_attention(
        q, k, v, mask, is_causal=causal and mask is None, scale=scale, enable_gqa=grouped
    )


def forced(backend: SDPBackend, q: Tensor, k: Tensor, v: Tensor, causal: bool, window: int | None, **rest: Any) -> Run:
    """Torch's own through one backend, or `Unsupported` where torch would not let it run."""
    can: dict[SDPBackend, Callable[..., bool]] = {
        SDPBackend.MATH: lambda _: True,
        SDPBackend.FLASH_ATTENTION: cuda.can_use_flash_attention,
        SDPBackend.EFFICIENT_ATTENTION: cuda.can_use_efficient_attention,
        SDPBackend.CUDNN_ATTENTION: cuda.can_use_cudnn_attention,
    }
    if backend in (SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION):
        needs_cuda(q)
    window = narrow(window, q.shape[2], k.shape[2])
    if window is not None and backend == SDPBackend.FLASH_ATTENTION:
        raise Unsupported("takes no mask, and has no window")
    if not q.is_cuda and backend == SDPBackend.FLASH_ATTENTION and q.shape[3] != v.shape[3]:
        raise Unsupported("needs values as wide as queries on a CPU")
    mask = None if window is None else q.new_empty(q.shape[2], k.shape[2], dtype=torch.bool)
    parameters = cuda.SDPAParams(q, k, v, mask, 0.0, causal and mask is None, q.shape[1] != k.shape[1])
    if q.is_cuda and not can[backend](parameters):
        raise Unsupported("torch does not let this backend run on these inputs")
    run = sdpa(q, k, v, causal, window, **rest)

    def run_forced() -> Tensor:
        with sdpa_kernel(backend):
            return run()

    return run_forced


def flash(
    function: Function, q: Tensor, k: Tensor, v: Tensor, causal: bool, window: int | None, scale: float | None
) -> Run:
    """One of the flash-attn family: (batch, length, heads, dimension), and some versions return lse as well."""
    if q.dtype == torch.float32:
        raise Unsupported("needs fp16 or bf16")
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    options = {"softmax_scale": scale, "causal": causal, **window_size(causal, window)}

    def run() -> Tensor:
        found = function(q, k, v, **options)
        out: Tensor = found[0] if isinstance(found, tuple) else found
        return out.transpose(1, 2)

    return run


def flash_varlen(
    function: Function, q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor, **options: Any
) -> Run:
    """One of the flash-attn family on packed documents; the longest are known to the host, as they ask for them."""
    if q.dtype == torch.float32:
        raise Unsupported("needs fp16 or bf16")
    bounds = {"cu_seqlens_q": cu_seqlens_q, "cu_seqlens_k": cu_seqlens_k}
    longest = {"max_seqlen_q": int(cu_seqlens_q.diff().max()), "max_seqlen_k": int(cu_seqlens_k.diff().max())}
    causal = options["causal"]
    sight = {"softmax_scale": options["scale"], "causal": causal, **window_size(causal, options["window"])}

    def run() -> Tensor:
        found = function(q, k, v, **bounds, **longest, **sight)
        out: Tensor = found[0] if isinstance(found, tuple) else found
        return out

    return run


def flash_peer(module: str, attend: Callable[..., Run], name: str = "flash_attn_func") -> Provider:
    """A version of flash-attn as a provider: `attend` is given its function of this name, and an operator's inputs."""

    def prepare(_: object, **inputs: Any) -> Run:
        needs_cuda(inputs["v"])
        version = import_module(module)
        if not hasattr(version, name):
            raise ImportError(f"cannot import name {name!r} from {module!r}")
        return attend(getattr(version, name), **inputs)

    return peer(install=FLASH[module])(prepare)


def xformers(q: Tensor, k: Tensor, v: Tensor, causal: bool, window: int | None, scale: float | None) -> Run:
    """Memory-efficient attention of xformers, which picks one of its kernels."""
    needs_cuda(q)
    from xformers.ops.fmha import attn_bias as biases

    window = narrow(window, q.shape[2], k.shape[2])
    bias: Any = biases.LowerTriangularFromBottomRightMask() if causal else None
    if window is not None and causal:
        bias = bias.make_local_attention(window)
    elif window is not None:
        bias = biases.LocalAttentionFromBottomRightMask(window - 1, window - 1)
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    run = _memory_efficient(q, k, v, bias, scale)
    return lambda: run().transpose(1, 2)


def xformers_varlen(q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor, **options: Any) -> Run:
    """The same on packed documents, whose lengths are known to the host, as it asks for them."""
    needs_cuda(q)
    from xformers.ops.fmha.attn_bias import BlockDiagonalMask

    q_lens, k_lens = cu_seqlens_q.diff().tolist(), cu_seqlens_k.diff().tolist()
    causal, window = options["causal"], narrow(options["window"], max(q_lens), max(k_lens))
    if window is not None and not causal:
        raise Unsupported("has no window in both directions for packed documents")
    bias = BlockDiagonalMask.from_seqlens(q_lens, k_lens, device=q.device)
    if window is not None:
        bias = bias.make_local_attention_from_bottomright(window)
    elif causal:
        bias = bias.make_causal_from_bottomright()
    run = _memory_efficient(q[None], k[None], v[None], bias, options["scale"])
    return lambda: run()[0]


def _memory_efficient(q: Tensor, k: Tensor, v: Tensor, bias: Any, scale: float | None) -> Run:
    """On (batch, length, heads, dimension). Its kernels share key heads that are expanded, in the forward."""
    from xformers.ops import memory_efficient_attention

    heads = k.shape[2]
    if q.shape[2] == heads:
        return lambda: memory_efficient_attention(q, k, v, bias, scale=scale)
    if q.requires_grad:
        raise Unsupported("its key heads are shared in the forward alone")
    each = q.unflatten(2, (heads, -1))
    k, v = (x.unsqueeze(3).expand(*x.shape[:3], each.shape[3], x.shape[3]) for x in (k, v))
    return lambda: memory_efficient_attention(each, k, v, bias, scale=scale).flatten(2, 3)
