"""What every launcher does before its kernel runs: check the arguments, pick the device, choose the tuning grid."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import triton
from triton import knobs
from triton.runtime.driver import driver

FLOATS = (torch.float32, torch.float16, torch.bfloat16)


def tune(configs: Sequence[triton.Config], key: Sequence[str] = ()) -> Any:
    """`triton.autotune` over at most 16 configurations and 3 keys, the best default first.

    The interpreter has no clock to tune by, so only the first configuration is used there.
    """
    if not 1 <= len(configs) <= 16:
        raise ValueError(f"configs: expected 1 to 16 configurations, got {len(configs)}")
    if len(key) > 3:
        raise ValueError(f"key: expected at most 3 names, got {list(key)}")
    return triton.autotune(configs=list(configs)[: 1 if knobs.runtime.interpret else None], key=list(key))


def expect(condition: bool, argument: str, expected: str, got: object) -> None:
    """Raise the `ValueError` every launcher raises: the argument, what was expected, what came."""
    if not condition:
        raise ValueError(f"{argument}: expected {expected}, got {got}")


def expect_flag(argument: str, value: object) -> None:
    """Raise `TypeError` unless `value` is a bool."""
    if not isinstance(value, bool):
        raise TypeError(f"{argument}: expected a bool, got {type(value).__name__}")


def expect_tensor(argument: str, value: object, *, dtypes: Sequence[torch.dtype], rank: int | None = None) -> None:
    """Raise unless `value` is a tensor of one of `dtypes` (`TypeError`) and of `rank` dimensions (`ValueError`)."""
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{argument}: expected a torch.Tensor, got {type(value).__name__}")
    if value.dtype not in dtypes:
        names = " or ".join(str(dtype) for dtype in dtypes)
        raise TypeError(f"{argument}: expected dtype {names}, got {value.dtype}")
    if rank is not None:
        expect(value.ndim == rank, argument, f"{rank} dimensions", f"shape {tuple(value.shape)}")
    if not (value.is_cuda or knobs.runtime.interpret):
        _expect_reachable(argument, value)
    elif not (value.is_cuda or value.is_cpu):
        raise ValueError(f"{argument}: expected a tensor with data on a GPU or CPU, got device {value.device}")


def expect_like(argument: str, value: torch.Tensor, like: str, other: torch.Tensor) -> None:
    """Raise unless `value` has the dtype (`TypeError`) and device (`ValueError`) of `other`, the argument `like`."""
    if value.dtype != other.dtype:
        raise TypeError(f"{argument}: expected the dtype of {like}, {other.dtype}, got {value.dtype}")
    expect_device(argument, value, like, other)


def expect_device(argument: str, value: torch.Tensor, like: str, other: torch.Tensor) -> None:
    """Raise `ValueError` unless `value` lives where `other`, the argument named `like`, does."""
    expect(value.device == other.device, argument, f"the device of {like}, {other.device}", value.device)


def expect_inference(argument: str, value: torch.Tensor) -> None:
    """Raise `ValueError` if autograd would record `value`: what has no gradient must not drop it silently."""
    recorded = value.requires_grad and torch.is_grad_enabled()
    expect(
        not recorded,
        argument,
        "no gradient to be asked for (detach it or call under torch.no_grad())",
        "requires_grad=True",
    )


def device_of(x: torch.Tensor) -> AbstractContextManager[object]:
    """The context in which kernels launch on the GPU that holds `x`, whichever GPU is current."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()


def processors(x: torch.Tensor) -> int:
    """Multiprocessors (compute units) of the GPU that holds `x`, or of the one that Triton compiles or counts for.

    Where there is neither, a few, so that programs have more than one row each to stride over.
    """
    if x.is_cuda:
        return torch.cuda.get_device_properties(x.device).multi_processor_count
    try:
        return int(driver.active.utils.get_device_properties(0)["multiprocessor_count"])
    except RuntimeError:
        return 4


def _expect_reachable(argument: str, value: torch.Tensor) -> None:
    """Raise unless Triton's active driver (a GPU's, or a compiler's stand-in for one) can reach `value`."""
    try:
        reachable = driver.active.get_active_torch_device().type
    except RuntimeError:
        reachable = "cuda"
    expect(
        value.device.type == reachable,
        argument,
        f"a tensor on device {reachable} (or TRITON_INTERPRET=1, set before the kernels are imported)",
        f"device {value.device}",
    )
