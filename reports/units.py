"""The one place where quantities become text."""

from __future__ import annotations

import math

TIMES = ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"), (1e-9, "ns"))
ENERGIES = ((1.0, "J"), (1e-3, "mJ"), (1e-6, "uJ"), (1e-9, "nJ"))
PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))
SIZES = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"), (1, "B"))
NOTHING = "-"


def seconds(value: float | None) -> str:
    """A duration with three digits, e.g. `1.23 ms`."""
    return _scaled(value, TIMES)


def size(value: float | None) -> str:
    """A number of bytes in binary units, e.g. `16.0 MiB`."""
    return "0 B" if value == 0 else _scaled(value, SIZES)


def joules(value: float | None) -> str:
    """An energy with three digits, e.g. `12.3 mJ`."""
    return _scaled(value, ENERGIES)


def watts(value: float | None) -> str:
    """A power, e.g. `612 W`."""
    return NOTHING if value is None or _missing(value) else f"{digits(value)} W"


def hertz(value: float | None) -> str:
    """A clock in MHz, as vendors tell it: `1755 MHz`."""
    return NOTHING if value is None or _missing(value) else f"{value / 1e6:.0f} MHz"


def degrees(value: float | None) -> str:
    """A temperature, e.g. `54 °C`."""
    return NOTHING if value is None or _missing(value) else f"{value:.0f} °C"


def whole(value: float | None) -> str:
    """A count in groups of three digits, e.g. `1,755,000`."""
    return NOTHING if value is None or _missing(value) else f"{value:,.0f}"


def per_second(value: float | None, unit: str) -> str:
    """A rate with its decimal prefix, e.g. `4.12 TB/s`, `812 TFLOP/s`."""
    return _scaled(value, tuple((scale, f"{prefix}{unit}") for scale, prefix in PREFIXES))


def rate(value: float | None, scale: float) -> str:
    """A throughput in the unit that `scale` stands for, e.g. `1.23`; the unit stands above the column."""
    return NOTHING if value is None or _missing(value) else digits(value * scale)


def ratio(value: float | None) -> str:
    """How many times, e.g. `1.23x`."""
    return NOTHING if value is None or _missing(value) else f"{digits(value)}x"


def percent(value: float | None) -> str:
    """A share, e.g. `12 %`, `0.25 %`."""
    if value is None or _missing(value):
        return NOTHING
    share = 100 * value
    return f"{share:.0f} %" if abs(share) >= 9.95 else f"{share:.2g} %"


def change(ratio: float | None) -> str:
    """A ratio of two times as the change from the one to the other, e.g. `+4.1 %`, `-0.3 %`, `+12 %`."""
    if ratio is None or _missing(ratio):
        return NOTHING
    share = 100 * (ratio - 1)
    return f"{share:+.0f} %" if abs(share) >= 9.95 else f"{share:+.1f} %"


def plain(value: float) -> str:
    """A number of a case as it stands, e.g. `131072`, `0.5`; - where there is none."""
    return NOTHING if _missing(value) else f"{value:.0f}" if value == round(value) and value < 1e9 else f"{value:.4g}"


def digits(value: float) -> str:
    """Three significant digits without an exponent, e.g. `0.0123`, `1.23`, `12.3`, `1234`."""
    if not value:
        return "0"
    value = float(f"{value:.3g}") if abs(value) < 1000 else value
    decimals = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:.{min(decimals, 9)}f}"


def _missing(value: float) -> bool:
    return math.isnan(value) or math.isinf(value)


def _scaled(value: float | None, units: tuple[tuple[float, str], ...]) -> str:
    """The value in the largest unit of which it holds at least one, once rounded: never `1000 us`, always `1.00 ms`."""
    if value is None or _missing(value):
        return NOTHING
    scale, unit = next((each for each in units if abs(value) >= 0.9995 * each[0]), units[-1])
    return f"{digits(value / scale)} {unit}"
