"""The device's own roofs, measured by the run itself: what no row can beat.

copy, triad and read move bytes, gemm_* multiply, special takes exp2, launch does nothing. Inputs are random: on zeros
chips run faster.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, field
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from bench.core.clocks import FLUSH_MULTIPLE, cache_bytes

REPEATS = 10
FEWEST = 3
CAP_S = {"cpu": 0.4, "cuda": 1.0}
STREAM_BYTES = {"cpu": 256 << 20, "cuda": 1 << 30}  # of one array
GEMM = {"cpu": 1024, "cuda": 8192}
LAUNCHES = 200
STREAMS = ("copy", "triad", "read")
SPECIALS = 1 << 16  # fp32 values: 256 KiB, which stay in the second-level cache of a CPU
WIDTHS = {"int8": 1, "fp8": 1, "fp16": 2, "bf16": 2, "tf32": 4, "fp32": 4}
Work = tuple[Callable[[], object], float]  # a call, and what it moves or computes


@dataclass(frozen=True)
class Roof:
    """unit: `byte/s`, `op/s` or `s`; values: one per repetition, all of them; reason: why there are none."""

    name: str
    unit: str
    values: list[float] = field(default_factory=list)
    reason: str = ""

    @property
    def best(self) -> float | None:
        """The largest rate, or the smallest time."""
        return (min if self.unit == "s" else max)(self.values, default=None)

    @property
    def lenient(self) -> float | None:
        """The best rate, and as much above it as the median lies below: what a badly measured roof may have missed."""
        if not self.values or self.best is None:
            return None
        middle = statistics.median(self.values)
        return self.best**2 / middle

    def as_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)


@dataclass(frozen=True)
class Bound:
    """The least time that the measured roofs allow, and in words what takes it."""

    seconds: float
    words: str


def measure(device: torch.device) -> list[Roof]:
    """All roofs of a device. One that cannot be had costs itself only, and says why."""
    makers: dict[str, tuple[str, Callable[[torch.device], Work]]] = {
        "copy": ("byte/s", _copy),
        "triad": ("byte/s", _triad),
        "read": ("byte/s", _read),
        "gemm_bf16": ("op/s", lambda device: _gemm(device, torch.bfloat16)),
        "gemm_fp16": ("op/s", lambda device: _gemm(device, torch.float16)),
        "gemm_fp32": ("op/s", lambda device: _gemm(device, torch.float32)),
        "gemm_int8": ("op/s", _gemm_int8),
        "gemm_fp8": ("op/s", _gemm_fp8),
        "special": ("op/s", _special),
    }
    found = [_roof(name, unit, make, device) for name, (unit, make) in makers.items()]
    if device.type == "cuda":
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("high")
        try:
            found.append(_roof("gemm_tf32", "op/s", makers["gemm_fp32"][1], device))
        finally:
            torch.set_float32_matmul_precision(before)
    return [*found, _roof("launch", "s", _launches, device)]


def bound_s(
    traffic_bytes: int, flops: int, dtypes: Collection[str], cache_bytes: int, roofs: Sequence[Roof]
) -> Bound | None:
    """The least time that a case can take here; None if nothing is known.

    Only what the last-level cache cannot hold has to move: writes may be left there. Operations may run in the fastest
    unit that any input's dtype, or a narrower float that is as exact inside (tf32), could be given to.
    """
    rates = {roof.name: roof.lenient for roof in roofs if roof.lenient}
    bounds = []
    streams = [rates[name] for name in STREAMS if rates.get(name)]
    if streams and (moved := max(0, traffic_bytes - cache_bytes)):
        bounds.append(Bound(moved / max(streams), f"{moved} bytes at {max(streams):.4g} byte/s"))
    named = {name for name in WIDTHS if name in dtypes}
    units = named | ({"tf32"} if "fp32" in named else set())
    narrowest = min((WIDTHS[unit] for unit in units), default=None)
    computes = [rates[f"gemm_{unit}"] for unit in WIDTHS if rates.get(f"gemm_{unit}") and _may(unit, units, narrowest)]
    if computes and named <= {unit for unit in WIDTHS if f"gemm_{unit}" in rates}:
        bounds.append(Bound(flops / max(computes), f"{flops} operations at {max(computes):.4g} op/s"))
    launch = next((roof for roof in roofs if roof.name == "launch" and roof.values), None)
    if launch is not None and launch.lenient:
        bounds.append(Bound(launch.lenient, f"one launch takes {launch.lenient:.3g} s"))
    return max(bounds, key=lambda bound: bound.seconds, default=None)


def implausible(high_s: float, bound: Bound) -> str:
    """Why a time is impossible, if the upper end of its median's interval lies below a bound; else empty."""
    if high_s >= bound.seconds:
        return ""
    return (
        f"above the roof: at most {high_s:.3g} s, where this device needs {bound.seconds:.3g} s at least "
        f"({bound.words}, the best that this run has measured)"
    )


def _may(unit: str, units: Collection[str], narrowest: int | None) -> bool:
    """Whether operations on inputs of `units` may run in `unit`: it is one of them, or at least as wide as all."""
    return unit in units or (narrowest is not None and WIDTHS[unit] >= narrowest)


def _roof(name: str, unit: str, make: Callable[[torch.device], Work], device: torch.device) -> Roof:
    try:
        call, amount = make(device)
        times = _times(call, device)
    except Exception as error:  # noqa: BLE001 - as `measure` says
        lines = str(error).strip().splitlines() or [""]
        return Roof(name, unit, [], f"{type(error).__name__}: {lines[0][:200]}")
    finally:
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return Roof(name, unit, [amount * seconds if unit == "s" else amount / seconds for seconds in times])


def _times(call: Callable[[], object], device: torch.device) -> list[float]:
    """Seconds of up to ten calls behind two that are not counted; fewer where they take long."""
    seconds, began = [], 0.0
    clock = _on_cuda if device.type == "cuda" else _on_cpu
    for i in range(REPEATS + 2):
        if i == 2:
            began = perf_counter()
        seconds.append(clock(call))
        if i >= 1 + FEWEST and perf_counter() - began > CAP_S[device.type]:
            break
    return seconds[2:]


def _on_cpu(call: Callable[[], object]) -> float:
    began = perf_counter()
    call()
    return perf_counter() - began


def _on_cuda(call: Callable[[], object]) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    call()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) * 1e-3


def _array(device: torch.device) -> Tensor:
    """Random values, several times the last-level cache; less if the device is short of memory."""
    wanted = max(STREAM_BYTES[device.type], FLUSH_MULTIPLE * 4 * cache_bytes(device))
    if device.type == "cuda":
        wanted = min(wanted, torch.cuda.mem_get_info(device)[0] // 8)
    else:
        wanted = min(wanted, 2 * STREAM_BYTES["cpu"])
    return torch.rand(wanted // 4, device=device)


def _copy(device: torch.device) -> Work:
    source = _array(device)
    target = torch.empty_like(source)
    return lambda: target.copy_(source), 2 * source.nbytes


def _triad(device: torch.device) -> Work:
    b = _array(device)
    c, a = b.flip(0), torch.empty_like(b)
    return lambda: torch.add(b, c, alpha=3.0, out=a), 3 * b.nbytes


def _read(device: torch.device) -> Work:
    """Reading alone is faster than copying: a bus need not turn around, and a CPU reads what it writes, too."""
    x = _array(device)
    out = torch.empty((), device=device)
    return lambda: torch.sum(x, 0, out=out), x.nbytes


def _gemm(device: torch.device, dtype: torch.dtype) -> Work:
    n = _side(device)
    if device.type == "cpu" and dtype == torch.float16:
        n //= 2  # most CPUs have no instructions for it, and take seconds
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    return lambda: torch.mm(a, b, out=out), 2.0 * n**3


def _gemm_int8(device: torch.device) -> Work:
    n = _side(device)
    a, b = (torch.randint(-128, 128, (n, n), device=device, dtype=torch.int8) for _ in range(2))
    return lambda: torch._int_mm(a, b.T), 2.0 * n**3


def _gemm_fp8(device: torch.device) -> Work:
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 9):
        raise NotImplementedError("fp8 products need sm_89 or newer")
    n, one = _side(device), torch.ones((), device=device)
    a, b = (torch.randn(n, n, device=device).to(torch.float8_e4m3fn) for _ in range(2))

    def call() -> Tensor:
        # Sums that are exact to fewer bits are faster on sm_89 and sm_90, and kernels may keep such.
        return torch._scaled_mm(a, b.T, scale_a=one, scale_b=one, out_dtype=torch.bfloat16, use_fast_accum=True)

    return call, 2.0 * n**3


def _side(device: torch.device) -> int:
    """Of the matrices; half as long if four of them in fp32 would take a quarter of the free memory."""
    n = GEMM[device.type]
    if device.type == "cuda" and torch.cuda.mem_get_info(device)[0] < 16 * 4 * n * n:
        n //= 2
    return n


def _special(device: torch.device) -> Work:
    if device.type == "cuda":
        from bench.core.probe import exponentials

        return exponentials(device)
    x = torch.rand(SPECIALS)
    y = torch.empty_like(x)
    return lambda: torch.exp2(x, out=y), float(SPECIALS)


def _launches(device: torch.device) -> Work:
    """Seconds per launch: of a graph of the smallest kernels there are, or of the host's calls."""
    x = torch.zeros(1, device=device)

    def many() -> None:
        for _ in range(LAUNCHES):
            x.add_(1)

    if device.type != "cuda":
        return many, 1 / LAUNCHES
    many()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        many()
    return graph.replay, 1 / LAUNCHES
