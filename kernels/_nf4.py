"""The 16 values of the 4-bit NormalFloat, and how a byte becomes two of them in registers.

On NVIDIA GPUs four bytes at a time are looked up by PRMT, which picks four of eight bytes by four numbers of four bits:
the tables of high bytes and of low bytes of 16-bit values are two registers for each half of the 16. Both halves are
looked up by the lower three bits of an entry, its fourth bit picks one of the results, and high and low bytes are put
together: 2.6 instructions an entry. A tree of selects takes 15, with which reading half a byte is no longer what binds.
It serves other GPUs, entries of 32 bits, and the interpreter, which knows no PTX.
Source: Dettmers et al. 2023, QLoRA, arXiv:2305.14314, appendix E.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
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
    """PTX that turns the four bytes of $4 into the values of their high ($0, $1) and of their low halves ($2, $3)."""
    bits = bits_of(dtype)
    high, low = (
        [f"0x{sum((bits[i + j] >> shift & 0xFF) << 8 * j for j in range(4)):08x}" for i in range(0, 16, 4)]
        for shift in (8, 0)
    )
    lines = [".reg .b32 at, half, lower, upper, high, low;", "and.b32 at, $4, 0x77777777;"]
    # Byte j of the lower or of the upper four, as the fourth bit of entry j says: j or j + 4.
    lines += ["shr.b32 half, $4, 1;", "and.b32 half, half, 0x44444444;", "or.b32 half, half, 0x32103210;"]
    for pair in (0, 1):
        for name, table in (("high", high), ("low", low)):
            lines += [f"prmt.b32 lower, {table[0]}, {table[1]}, at;", f"prmt.b32 upper, {table[2]}, {table[3]}, at;"]
            lines += [f"prmt.b32 {name}, lower, upper, half;"]
        # Of the bytes of two pairs of entries the second and the fourth are those of high halves.
        lines += [f"prmt.b32 ${pair}, low, high, 0x7351;", f"prmt.b32 ${pair + 2}, low, high, 0x6240;"]
        if pair == 0:
            lines += ["shr.b32 at, at, 16;", "shr.b32 half, half, 16;"]
    return "{ " + " ".join(lines) + " }"


COMPILED = tl.constexpr(not knobs.runtime.interpret)
FP32_BITS = tl.constexpr(bits_of(torch.float32))
FP16_BITS, FP16_PTX = tl.constexpr(bits_of(torch.float16)), tl.constexpr(ptx_of(torch.float16))
BF16_BITS, BF16_PTX = tl.constexpr(bits_of(torch.bfloat16)), tl.constexpr(ptx_of(torch.bfloat16))


@triton.jit
def _of_four(n, BITS: tl.constexpr, FIRST: tl.constexpr):
    low = tl.where((n & 1) == 0, BITS[FIRST], BITS[FIRST + 1])
    high = tl.where((n & 1) == 0, BITS[FIRST + 2], BITS[FIRST + 3])
    return tl.where((n & 2) == 0, low, high)


@triton.jit
def _by_selects(n, BITS: tl.constexpr):
    low = tl.where((n & 4) == 0, _of_four(n, BITS, 0), _of_four(n, BITS, 4))
    high = tl.where((n & 4) == 0, _of_four(n, BITS, 8), _of_four(n, BITS, 12))
    return tl.where((n & 8) == 0, low, high)


@triton.jit
def _by_bytes(packed, dtype: tl.constexpr, PTX: tl.constexpr):
    return tl.inline_asm_elementwise(PTX, "=r,=r,=r,=r,r", [packed], dtype=(dtype, dtype), is_pure=True, pack=4)


@triton.jit
def entries(packed, dtype: tl.constexpr):
    """The values of the high and of the low halves of bytes, on [-1, 1]."""
    even, odd = packed >> 4, packed & 15
    if dtype == tl.float32:
        even, odd = _by_selects(even, FP32_BITS), _by_selects(odd, FP32_BITS)
        even, odd = even.to(tl.float32, bitcast=True), odd.to(tl.float32, bitcast=True)
    elif COMPILED and is_cuda():
        if dtype == tl.float16:
            even, odd = _by_bytes(packed, dtype, FP16_PTX)
        else:
            even, odd = _by_bytes(packed, dtype, BF16_PTX)
    else:
        if dtype == tl.float16:
            even, odd = _by_selects(even, FP16_BITS), _by_selects(odd, FP16_BITS)
        else:
            even, odd = _by_selects(even, BF16_BITS), _by_selects(odd, BF16_BITS)
        even, odd = even.to(tl.int16).to(dtype, bitcast=True), odd.to(tl.int16).to(dtype, bitcast=True)
    return even, odd
