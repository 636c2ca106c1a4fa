"""What optimisers share: many tensors of different sizes as one launch, and stochastic rounding.

A program owns BLOCK consecutive entries of one tensor, in every role (parameter, gradient, states) that the tensor has.
Two small tables on the device lead it there: `owner` names the tensor of each program; a row of `rows` holds the
tensor's first program, its size and, for each role, how many entries it lies behind the role's first tensor. These are
differences of addresses, so that tensors may lie anywhere, and pointers keep their types and alignment. The tables say
nothing but where memory is, so they are kept: whoever comes again with the same addresses finds them on the device.

Whole blocks whose places are multiples of 8 entries take 128-bit accesses and no masks; the others take masks.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels._launch import device_of, expect, expect_device, expect_like, expect_tensor

BLOCK = 2048  # 16 entries, two to four 128-bit accesses for each thread of 4 warps, and per role
COLUMNS = tl.constexpr(6)
PARAMETERS = torch.float32, torch.bfloat16
Places = tuple[tuple[int, ...], ...]


@triton.jit
def place(table_ptrs, BLOCK: tl.constexpr):
    """The tensor of a program; where its block begins in each of four roles; the entries from there to its end."""
    owner_ptr, rows_ptr, _ = table_ptrs
    owner = tl.load(owner_ptr + tl.program_id(0))
    row_ptr = rows_ptr + owner.to(tl.int64) * COLUMNS
    begun = (tl.program_id(0) - tl.load(row_ptr)) * BLOCK
    places = (
        tl.load(row_ptr + 2) + begun, tl.load(row_ptr + 3) + begun,
        tl.load(row_ptr + 4) + begun, tl.load(row_ptr + 5) + begun,
    )  # fmt: skip
    return owner, places, tl.load(row_ptr + 1) - begun


@triton.jit
def is_whole(places, left, BLOCK: tl.constexpr):
    """Whether a block is full and lies, in every role, where 128-bit accesses may go."""
    return (left >= BLOCK) & ((places[0] | places[1] | places[2] | places[3]) % 8 == 0)


@triton.jit
def read(x_ptr, at, left, WHOLE: tl.constexpr, BLOCK: tl.constexpr):
    """A block in fp32."""
    lane = tl.arange(0, BLOCK)
    if WHOLE:
        # The compiler cannot know from a table that `at` is a multiple of 8; of this product it does.
        x = tl.load(x_ptr + (at // 8 * 8 + lane))
    else:
        x = tl.load(x_ptr + (at + lane), mask=lane < left, other=0.0)
    return x.to(tl.float32)


@triton.jit
def write(x_ptr, x, at, left, key, ROLE: tl.constexpr, WHOLE: tl.constexpr, BLOCK: tl.constexpr):
    """Store a block, rounded to nearest, or to bf16 at random where there is a key."""
    if key is not None and x_ptr.dtype.element_ty == tl.bfloat16:
        x = _one_of_both(x, key, ROLE, BLOCK)
    lane = tl.arange(0, BLOCK)
    if WHOLE:
        tl.store(x_ptr + (at // 8 * 8 + lane), x.to(x_ptr.dtype.element_ty))
    else:
        tl.store(x_ptr + (at + lane), x.to(x_ptr.dtype.element_ty), mask=lane < left)


@triton.jit
def _one_of_both(x, key, ROLE: tl.constexpr, BLOCK: tl.constexpr):
    # Of the 65536 values that 16 random bits take, as many carry into the upper half as the lower half says: the mean
    # is x. One call of Philox makes the 128 bits of 8 entries.
    group = tl.program_id(0) * (BLOCK // 8) + tl.arange(0, BLOCK // 8)
    zero = group * 0
    first, second, third, fourth = tl.philox(key, group, zero + ROLE, zero, zero)
    words = tl.join(tl.join(first, second), tl.join(third, fourth))
    noise = tl.reshape(tl.join(words & 0xFFFF, words >> 16), (BLOCK,))
    rounded = (x.to(tl.uint32, bitcast=True) + noise) >> 16 << 16
    # The payload of a NaN may carry into its sign.
    return tl.where(x == x, rounded.to(tl.float32, bitcast=True), x)


@lru_cache(maxsize=256)
def _table(
    sizes: tuple[int, ...], places: Places, decays: tuple[float, ...], device: torch.device
) -> tuple[int, tuple[Tensor, ...]]:
    """How many programs there are, and on the device: `owner`, `rows`, and the weight decay of each tensor."""
    blocks = [triton.cdiv(size, BLOCK) for size in sizes]
    owner = array("i")
    for tensor, count in enumerate(blocks):
        owner.extend(array("i", [tensor]) * count)
    rows, firsts = array("q"), accumulate(blocks, initial=0)
    for first, size, *at in zip(firsts, sizes, *places, strict=False):
        rows.extend((first, size, *at, *[0] * (4 - len(at))))
    parts = (owner, torch.int32), (rows, torch.int64), (array("f", decays), torch.float32)
    # Of buffers, since torch.tensor would be counted as a launch where it makes what a kernel is told.
    return len(owner), tuple(torch.frombuffer(values, dtype=dtype).to(device) for values, dtype in parts if len(values))


def update(
    kernel: Any, roles: Sequence[Tensor], outputs: Sequence[Tensor], sizes: tuple[int, ...], places: Places,
    decays: tuple[float, ...], hyper: tuple[float, ...], key: int | None, **constants: Any,
) -> None:  # fmt: skip
    """Run kernel(*roles, outputs, tables, hyper, key) over all blocks of tensors of these sizes at these places."""
    if not any(sizes):
        return
    device = roles[0].device
    programs, table = _table(sizes, places, decays, device)
    with device_of(roles[0]):
        kernel[(programs,)](*roles, tuple(outputs), table, hyper, key, **constants, BLOCK=BLOCK, num_warps=4)


def update_flat(
    kernel: Any, names: Sequence[str], given: Sequence[Tensor], written: Sequence[int], sizes: tuple[int, ...],
    weight_decay: object, hyper: tuple[float, ...], seed: object, **constants: Any,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Update parameters that lie one behind the other; new tensors for the roles that are written."""
    sizes = expect_flat(names, given, sizes)
    decays, key = decays_of(weight_decay, len(sizes)), key_of(seed)
    roles = [tensor.contiguous() for tensor in given]
    outputs = tuple(torch.empty_like(roles[at]) for at in written)
    update(kernel, roles, outputs, sizes, flat_places(sizes, len(roles)), decays, hyper, key, **constants)
    return outputs


def update_lists(
    kernel: Any, names: Sequence[str], lists: Sequence[Sequence[Tensor]], written: Sequence[int],
    weight_decay: object, hyper: tuple[float, ...], seed: object, **constants: Any,
) -> None:  # fmt: skip
    """Update lists of tensors: one launch writes over those of the roles that are written, and autograd is told."""
    expect_lists(names, lists)
    decays, key = decays_of(weight_decay, len(lists[0])), key_of(seed)
    if lists[0]:
        first = [tensors[0] for tensors in lists]
        sizes, outputs = tuple(tensor.numel() for tensor in lists[0]), [first[at] for at in written]
        update(kernel, first, outputs, sizes, list_places(*lists), decays, hyper, key, **constants)
        torch.autograd.graph.increment_version([tensor for at in written for tensor in lists[at]])


def flat_places(sizes: tuple[int, ...], roles: int) -> Places:
    """Where tensors begin that lie one behind the other, in as many roles."""
    return (tuple(accumulate(sizes[:-1], initial=0)),) * roles if sizes else ((),) * roles


def list_places(*lists: Sequence[Tensor]) -> Places:
    """How many entries the tensors of each list lie behind the first."""
    return tuple(tuple((x.data_ptr() - xs[0].data_ptr()) // x.element_size() for x in xs) for xs in lists)


def expect_flat(names: Sequence[str], tensors: Sequence[Tensor], sizes: object) -> tuple[int, ...]:
    """The sizes of the parameters that flat tensors are made of. Raises unless parameters and all else fit them."""
    for name, tensor in zip(names, tensors, strict=True):
        expect_tensor(name, tensor, dtypes=PARAMETERS, rank=1)
        expect_device(name, tensor, names[0], tensors[0])
        recorded = tensor.requires_grad and torch.is_grad_enabled()
        expect(not recorded, name, "no gradient to be asked for (call under torch.no_grad())", "requires_grad=True")
        expect(len(tensor) == len(tensors[0]), name, f"the {len(tensors[0])} entries of {names[0]}", len(tensor))
    if not isinstance(sizes, tuple) or not all(type(size) is int for size in sizes):
        raise TypeError(f"sizes: expected a tuple of integers, got {sizes!r}")
    expect(all(size >= 0 for size in sizes), "sizes", "sizes that are not negative", sizes)
    found = sizes or (len(tensors[0]),)
    expect(sum(found) == len(tensors[0]), names[0], f"{sum(found)} entries, the sum of sizes", len(tensors[0]))
    _expect_dtypes(names, tensors)
    return found


def expect_lists(names: Sequence[str], lists: Sequence[Any]) -> None:
    """Raise unless each list holds a tensor for each parameter, as it is (by role) and where it can be written over."""
    for name, tensors in zip(names, lists, strict=True):
        if isinstance(tensors, Tensor) or not isinstance(tensors, Sequence):
            raise TypeError(f"{name}: expected a sequence of tensors, got {type(tensors).__name__}")
        expect(len(tensors) == len(lists[0]), name, f"{len(lists[0])} tensors, as in {names[0]}", len(tensors))
        for tensor, parameter in zip(tensors, lists[0], strict=True):
            expect_tensor(name, tensor, dtypes=PARAMETERS)
            expect_like(name, tensor, f"the first of {name}", tensors[0])
            expect(tensor.shape == parameter.shape, name, f"shape {tuple(parameter.shape)}", tuple(tensor.shape))
            expect(tensor.is_contiguous(), name, "contiguous tensors", f"strides {tensor.stride()}")
    if lists[0]:
        _expect_dtypes(names, [tensors[0] for tensors in lists])


def _expect_dtypes(names: Sequence[str], tensors: Sequence[Tensor]) -> None:
    for name, tensor in zip(names, tensors, strict=True):
        if tensor.dtype not in (tensors[0].dtype, torch.float32):
            raise TypeError(f"{name}: expected the dtype of {names[0]} or torch.float32, got {tensor.dtype}")
        expect_device(name, tensor, names[0], tensors[0])


def number(name: str, value: object, low: float = 0.0, high: float = math.inf) -> float:
    """A finite number in [low, high), or what every launcher raises."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name}: expected a number, got {type(value).__name__}")
    expect(low <= value < high, name, f"a number in [{low:g}, {high:g})", value)
    return float(value)


def expect_step(step: object) -> int:
    """The number of a step, from 1 on, or what every launcher raises."""
    if type(step) is not int:
        raise TypeError(f"step: expected an integer, got {type(step).__name__}")
    expect(step >= 1, "step", "an integer from 1 on", step)
    return step


def decays_of(weight_decay: object, count: int) -> tuple[float, ...]:
    """The weight decay of each of `count` parameters: one for all, or a tuple."""
    if not isinstance(weight_decay, tuple):
        return (number("weight_decay", weight_decay),) * count
    expect(len(weight_decay) == count, "weight_decay", f"one number or {count}, one a parameter", len(weight_decay))
    return tuple(number("weight_decay", value) for value in weight_decay)


def key_of(seed: object) -> int | None:
    """The key of the random bits. Bit 62 makes it int64 whatever the seed, so that no seed compiles anew."""
    if seed is None:
        return None
    if type(seed) is not int:
        raise TypeError(f"seed: expected an integer or None, got {type(seed).__name__}")
    expect(0 <= seed < 1 << 62, "seed", "an integer in [0, 2^62)", seed)
    return seed | 1 << 62
