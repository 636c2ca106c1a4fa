"""The 16 values of the 4-bit NormalFloat, and how two bytes become four of them in registers.

Bytes are read two at a time: with the two words of a thread that tensor cores want beside each other they fill a
register, which comes from shared memory as it is. On NVIDIA GPUs its eight entries are looked up by PRMT, which picks
four of eight bytes by four numbers of four bits: the tables of high bytes and of low bytes of 16-bit values are two
registers for each half of the 16. Both halves are looked up by the lower three bits of an entry, its fourth bit picks
one of the results, and high and low bytes are put together: 2.75 instructions an entry. A tree of selects takes 15,
with which it is no longer reading half a byte that binds. It serves other GPUs, entries of 32 bits, and the
interpreter, which knows no PTX.
Source: Dettmers et al. 2023, QLoRA, arXiv:2305.14314, appendix E.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton import knobs
from triton.language.target_info import is_cuda

VALUES = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip


def bits_of(dtype: torch.dtype) -> tuple[int, ...]:
    """The 16 values in a floating dtype, as signed integers of the same bits."""
    integer = {2: torch.int16, 4: torch.int32}[dtype.itemsize]
    return tuple(torch.tensor(VALUES).to(dtype).view(integer).tolist())


def ptx_of(dtype: torch.dtype) -> str:
    """PTX that looks up the entries of two words in $4: the first, second, third and fourth of both in $0 to $3."""
    bits = bits_of(dtype)
    high, low = (
        [f"0x{sum((bits[i + j] >> shift & 0xFF) << 8 * j for j in range(4)):08x}" for i in range(0, 16, 4)]
        for shift in (8, 0)
    )
    # First bytes of both words beside each other, then second bytes: entries 1, 0, 1, 0, 3, 2, 3, 2 from below.
    lines = [".reg .b32 at, half, lower, upper, high, low;", "prmt.b32 at, $4, $4, 0x3120;"]
    # Byte j of the lower or of the upper four, as the fourth bit of an entry says: j or j + 4.
    lines += ["shr.b32 half, at, 1;", "and.b32 half, half, 0x44444444;", "or.b32 half, half, 0x32103210;"]
    lines += ["and.b32 at, at, 0x77777777;"]
    for pair in (0, 2):
        if pair == 2:
            lines += ["shr.b32 at, at, 16;", "shr.b32 half, half, 16;"]
        for name, table in (("high", high), ("low", low)):
            lines += [f"prmt.b32 lower, {table[0]}, {table[1]}, at;", f"prmt.b32 upper, {table[2]}, {table[3]}, at;"]
            lines += [f"prmt.b32 {name}, lower, upper, half;"]
        lines += [f"prmt.b32 ${pair}, low, high, 0x7351;", f"prmt.b32 ${pair + 1}, low, high, 0x6240;"]
    return "{ " + " ".join(lines) + " }"


COMPILED = tl.constexpr(not knobs.runtime.interpret)
FP32_BITS = tl.constexpr(bits_of(torch.float32))
FP16_BITS, FP16_PTX = tl.constexpr(bits_of(torch.float16)), tl.constexpr(ptx_of(torch.float16))
BF16_BITS, BF16_PTX = tl.constexpr(bits_of(torch.bfloat16)), tl.constexpr(ptx_of(torch.bfloat16))


@triton.jit
def _of_four(even, lower, BITS: tl.constexpr, FIRST: tl.constexpr):
    low = tl.where(even, BITS[FIRST], BITS[FIRST + 1])
    high = tl.where(even, BITS[FIRST + 2], BITS[FIRST + 3])
    return tl.where(lower, low, high)


@triton.jit
def _by_selects(n, BITS: tl.constexpr):
    even, lower, first = (n & 1) == 0, (n & 2) == 0, (n & 4) == 0
    low = tl.where(first, _of_four(even, lower, BITS, 0), _of_four(even, lower, BITS, 4))
    high = tl.where(first, _of_four(even, lower, BITS, 8), _of_four(even, lower, BITS, 12))
    return tl.where((n & 8) == 0, low, high)


@triton.jit
def _by_bytes(words, HALF: tl.constexpr):
    # Types are written out: those that come as an argument are no types to inline assembly.
    if HALF:
        found = tl.inline_asm_elementwise(
            FP16_PTX, "=r,=r,=r,=r,r", [words],
            dtype=(tl.float16, tl.float16, tl.float16, tl.float16), is_pure=True, pack=2,
        )  # fmt: skip
    else:
        found = tl.inline_asm_elementwise(
            BF16_PTX, "=r,=r,=r,=r,r", [words],
            dtype=(tl.bfloat16, tl.bfloat16, tl.bfloat16, tl.bfloat16), is_pure=True, pack=2,
        )  # fmt: skip
    return found


@triton.jit
def _value(n, dtype: tl.constexpr):
    if dtype == tl.float32:
        value = _by_selects(n, FP32_BITS).to(tl.float32, bitcast=True)
    elif dtype == tl.float16:
        value = _by_selects(n, FP16_BITS).to(tl.int16).to(tl.float16, bitcast=True)
    else:
        value = _by_selects(n, BF16_BITS).to(tl.int16).to(tl.bfloat16, bitcast=True)
    return value


@triton.jit
def entries(words, dtype: tl.constexpr):
    """The values of the four entries of int16 words, each in a tensor of its own, on [-1, 1]."""
    if dtype != tl.float32 and (COMPILED and is_cuda()):
        a, b, c, d = _by_bytes(words, dtype == tl.float16)
    else:
        a, b = _value(words >> 4, dtype), _value(words, dtype)
        c, d = _value(words >> 12, dtype), _value(words >> 8, dtype)
    return a, b, c, d


def by_words(packed: Tensor) -> Tensor:
    """The same bytes, two in an int16: a view, or of a copy where they do not lie in pairs."""
    if packed.numel() == 0:
        return packed.to(torch.int16)
    paired = packed.stride(1) == 1 and packed.stride(0) % 2 == 0 and packed.data_ptr() % 2 == 0
    return (packed if paired else packed.clone(memory_format=torch.contiguous_format)).view(torch.int16)
