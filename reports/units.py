"""The one place where quantities become text."""

from __future__ import annotations

import math

TIMES = ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"), (1e-9, "ns"))
SIZES = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"), (1, "B"))
NOTHING = "-"


def seconds(value: float | None) -> str:
    """A duration with three digits, e.g. `1.23 ms`."""
    return _scaled(value, TIMES)


def size(value: float | None) -> str:
    """A number of bytes in binary units, e.g. `16.0 MiB`."""
    return "0 B" if value == 0 else _scaled(value, SIZES)


def rate(value: float | None, scale: float, unit: str) -> str:
    """A throughput, e.g. `1.23 TFLOP/s`."""
    return NOTHING if _missing(value) else f"{_digits(float(value or 0) * scale)} {unit}"


def ratio(value: float | None) -> str:
    """How many times, e.g. `1.23x`."""
    return NOTHING if _missing(value) else f"{value:.2f}x"


def percent(value: float | None) -> str:
    """A share, e.g. `12 %`."""
    return NOTHING if _missing(value) else f"{100 * float(value or 0):.2g} %"


def _missing(value: float | None) -> bool:
    return value is None or math.isnan(value) or math.isinf(value)


def _scaled(value: float | None, units: tuple[tuple[float, str], ...]) -> str:
    if value is None or _missing(value):
        return NOTHING
    scale, unit = next((each for each in units if abs(value) >= each[0]), units[-1])
    return f"{_digits(value / scale)} {unit}"


def _digits(value: float) -> str:
    """Three significant digits without an exponent."""
    decimals = max(0, 2 - math.floor(math.log10(abs(value)))) if value else 0
    return f"{value:.{min(decimals, 6)}f}"
