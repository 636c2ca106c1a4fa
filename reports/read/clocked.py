"""What a record tells beyond its samples: other clocks, first call, tuning, telemetry, energy, opinion, marks."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from reports.read.record import (
    NotOurs,
    clean,
    mapping,
    number,
    optional_items,
    optional_mapping,
    shown,
    text,
    texts,
    times,
)

FIRST_CALL = {"compile_s": "compile_s", "tune_s": "tune_s", "compiled": "kernels", "cache_hits": "cache_hits"}
ENERGY = {
    "joules_per_call": "joules_per_call",
    "resolution_j": "resolution_j",
    "energy_s": "window_s",
    "calls": "calls",
}
INTERVAL = {"bootstrap_low_s": "low_s", "bootstrap_high_s": "high_s"}
READINGS = (
    "sm_clock_hz", "memory_clock_hz", "temperature_c", "power_w", "load", "foreign_processes", "foreign_bytes",
)  # fmt: skip

TEXTS = ("counter",)
NUMBERS = (*FIRST_CALL, *ENERGY, *INTERVAL, "half_width")
OBJECTS = ("dtypes", "others_s", "tuned", "modes", "telemetry", "opinion", "marks")


@dataclass(frozen=True)
class Tuned:
    """The configuration that a kernel of the row ran in, for which key, and where it comes from."""

    kernel: str
    key: list[str]
    config: dict[str, str]
    source: str


@dataclass(frozen=True)
class Mode:
    """One of the heaps that samples fall into: its median and its share of them."""

    median_s: float
    share: float


@dataclass(frozen=True)
class Throttle:
    """Rounds in which the device held itself back, and why."""

    first_round: float
    last_round: float
    reasons: list[str]


@dataclass(frozen=True)
class Telemetry:
    """readings: by what was read, all values that were had; unavailable: by what was not, why."""

    monitor: str = ""
    readings: dict[str, list[float]] = field(default_factory=dict)
    throttled: list[Throttle] = field(default_factory=list)
    unavailable: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Opinion:
    """What a second timer says of the same calls; seconds NaN and agrees None where it could not say."""

    by: str
    seconds: float
    against: str
    against_s: float
    spread_s: float
    agrees: bool | None
    reason: str


@dataclass(frozen=True)
class Mark:
    """A doubt that stands beside the row's figures."""

    kind: str
    text: str


def clocked(record: dict[str, Any]) -> dict[str, Any]:
    """The columns of TEXTS, NUMBERS and OBJECTS of a record; what it lacks is NaN or empty. Raises `NotOurs`."""
    first, energy, stop = (optional_mapping(record, name) for name in ("compiling", "energy", "stop"))
    found: dict[str, Any] = {"counter": text(energy, "counter", default="")}
    for names, source in ((FIRST_CALL, first), (ENERGY, energy), (INTERVAL, stop)):
        found |= {column: number(source, name, default=math.nan) for column, name in names.items()}
    return found | {
        "dtypes": texts(record, "dtypes"),
        "half_width": number(stop, "half_width", default=math.nan),
        "others_s": {clean(clock): _others(record, clock) for clock in optional_mapping(record, "other_samples_s")},
        "tuned": [_tuned(each) for each in optional_items(record, "tuned")],
        "modes": [Mode(number(each, "median_s"), number(each, "share")) for each in optional_items(stop, "modes")],
        "telemetry": _telemetry(optional_mapping(record, "telemetry")),
        "opinion": _opinion(record),
        "marks": [Mark(text(each, "kind"), text(each, "text")) for each in optional_items(record, "marks")],
    }


def _others(record: dict[str, Any], clock: str) -> list[float]:
    """The samples of a further clock."""
    samples = record["other_samples_s"][clock]
    if not (found := times(samples)) and samples != []:
        raise NotOurs(f"other_samples_s: expected positive times of {clean(clock)}, got {shown(samples)}")
    return found


def _tuned(found: Any) -> Tuned:
    config = mapping(found, "config")
    for name, value in config.items():
        if not (value is None or isinstance(value, str | int | float)):
            raise NotOurs(f"config: expected text, a number or null for {shown(name)}, got {shown(value)}")
    told = {clean(name): clean(value) if isinstance(value, str) else shown(value) for name, value in config.items()}
    return Tuned(text(found, "kernel"), texts(found, "key"), told, text(found, "source"))


def _telemetry(found: dict[str, Any]) -> Telemetry:
    if not found:
        return Telemetry()
    readings: dict[str, list[float]] = {name: [] for name in READINGS}
    for reading in optional_items(found, "readings"):
        for name, values in readings.items():
            # A reading that is no object fails here, and with it the row.
            if not math.isnan(value := number(_object(reading), name, default=math.nan)):
                values.append(value)
    why = optional_mapping(found, "unavailable")
    return Telemetry(
        monitor=text(found, "monitor"),
        readings=readings,
        throttled=[
            Throttle(number(each, "first_round"), number(each, "last_round"), texts(each, "reasons"))
            for each in optional_items(found, "throttled")
        ],
        unavailable={clean(name): text(why, name) for name in why},
    )


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise NotOurs(f"readings: expected objects, got {shown(value)}")
    return value


def _opinion(record: dict[str, Any]) -> Opinion | None:
    if not (found := optional_mapping(record, "opinion")):
        return None
    agrees = found.get("agrees")
    if not (agrees is None or isinstance(agrees, bool)):
        raise NotOurs(f"agrees: expected true, false or null, got {shown(agrees)}")
    return Opinion(
        by=text(found, "by"),
        seconds=number(found, "seconds", default=math.nan),
        against=text(found, "against", default=""),
        against_s=number(found, "against_s", default=math.nan),
        spread_s=number(found, "spread_s", default=math.nan),
        agrees=agrees,
        reason=text(found, "reason", default=""),
    )
