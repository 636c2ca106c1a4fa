"""Triton's interpreter, mended where it is wrong for bfloat16 and fp8 and slow for integers and calls.

It keeps bf16 as bit patterns and computes with those: dots and sums of bf16 are noise, casts to bf16 truncate and lose
subnormals (as of Triton 3.9). Here bf16 is widened, computed with in fp32 and rounded to nearest, ties to even, as
GPUs do. Dots of integers go through fp64, which is exact and uses BLAS. Dots of e4m3 look its 256 values up. Where it
patches triton.language for every function that a kernel calls, and undoes it for the kernel alone, here it does either
once in a launch.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
import triton.language as tl
from numpy.typing import NDArray
from triton.runtime import interpreter

Array = NDArray[Any]


def widened(data: Array) -> Array:
    """fp32 of the bit patterns of bf16."""
    return (data.astype(np.uint32) << np.uint32(16)).view(np.float32)


def narrowed(values: Array) -> Array:
    """The bit patterns of bf16 nearest to fp32 values, ties to even; a NaN stays one."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    quiet = (bits >> np.uint32(16)) | np.uint32(0x40)
    return np.where(np.isnan(values), quiet, rounded).astype(np.uint16).reshape(np.shape(values))


@cache
def mend() -> None:
    """Mend the interpreter of this process."""
    builder = interpreter.InterpreterBuilder
    builder.cast_impl = _cast(builder.cast_impl)
    builder.create_fp_to_fp = _convert(builder.create_fp_to_fp)
    builder.binary_op = _binary(builder.binary_op)
    builder.unary_op = _unary(builder.unary_op)
    builder.create_dot = _dot(builder.create_dot)
    interpreter._patch_lang = _Patches(interpreter._patch_lang)


class _Patches:
    """What is patched for a launch: once for each module whose functions it calls, and undone as a whole."""

    def __init__(self, stock: Callable[..., Any]) -> None:
        self._stock = stock
        self._held: dict[int, Any] = {}  # by the namespace that sees triton.language

    def __call__(self, function: Any) -> _Patches:
        namespace = id(function.__globals__)
        if namespace not in self._held:
            self._held[namespace] = self._stock(function)
        return self

    def restore(self) -> None:
        """Undo all, the latest first, for it was laid over the earlier."""
        while self._held:
            self._held.popitem()[1].restore()


def _handle(data: Array, dtype: Any) -> Any:
    return interpreter.TensorHandle(data, dtype)


def _cast(stock: Callable[..., Any]) -> Callable[..., Any]:
    def cast(self: Any, source: Any, target: Any) -> Any:
        before, after = source.dtype.scalar, target.scalar
        if tl.bfloat16 not in (before, after) or before == after:
            return stock(self, source, target)
        if before == tl.bfloat16:
            return stock(self, _handle(widened(source.data), tl.float32), target)
        return _handle(narrowed(source.data.astype(np.float32)), tl.bfloat16)

    return cast


def _convert(stock: Callable[..., Any]) -> Callable[..., Any]:
    def convert(self: Any, source: Any, target: Any, rounding: Any) -> Any:
        if {source.dtype.scalar, target.scalar} == {tl.bfloat16, tl.float32}:
            return self.cast_impl(source, target)
        return stock(self, source, target, rounding)

    return convert


def _binary(stock: Callable[..., Any]) -> Callable[..., Any]:
    def binary(self: Any, left: Any, right: Any, operation: Callable[..., Array]) -> Any:
        if left.dtype.scalar != tl.bfloat16:
            return stock(self, left, right, operation)
        result = operation(widened(left.data), widened(right.data))
        return _handle(result if result.dtype == np.bool_ else narrowed(result), tl.bfloat16)

    return binary


def _unary(stock: Callable[..., Any]) -> Callable[..., Any]:
    def unary(self: Any, value: Any, operation: Callable[..., Array]) -> Any:
        if value.dtype.scalar != tl.bfloat16:
            return stock(self, value, operation)
        return _handle(narrowed(operation(widened(value.data))), tl.bfloat16)

    return unary


def _widened_operand(x: Any) -> Any:
    if x.dtype.scalar == tl.bfloat16:
        return _handle(widened(x.data), tl.float32)
    return _handle(_e4m3()[x.data], tl.float32) if x.dtype.scalar == tl.float8e4nv else x


@cache
def _e4m3() -> Array:
    """fp32 of every bit pattern of e4m3."""
    values: Array = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float().numpy()
    return values


def _dot(stock: Callable[..., Any]) -> Callable[..., Any]:
    def dot(self: Any, a: Any, b: Any, total: Any, *options: Any) -> Any:
        if a.data.dtype.kind in "iu" and total.data.dtype.kind == "i":
            product = a.data.astype(np.float64) @ b.data.astype(np.float64)
            return _handle(product.astype(total.data.dtype) + total.data, total.dtype.scalar)
        a, b = (_widened_operand(x) for x in (a, b))
        return stock(self, a, b, total, *options)

    return dot
