"""What is known of one row beyond the columns of its table, as text under names."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pandas as pd

from reports import units
from reports.read.clocked import Mark, Opinion, Telemetry, Throttle, Tuned

DEVICE: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("SM clock", "sm_clock_hz", units.hertz),
    ("memory clock", "memory_clock_hz", units.hertz),
    ("temperature", "temperature_c", units.degrees),
    ("power", "power_w", units.watts),
    ("load of the machine", "load", units.percent),
    ("other processes", "foreign_processes", units.whole),
    ("memory of others", "foreign_bytes", units.size),
)
MEMORY = (
    ("peak above inputs", "peak_bytes"), ("outputs", "output_bytes"), ("workspace", "workspace_bytes"),
    ("saved for backward", "saved_bytes"), ("least that results need", "least_bytes"),
)  # fmt: skip


@dataclass(frozen=True)
class Details:
    """glance: what fits on a line; facts: names and texts; marks: doubts, which nothing may hide."""

    glance: str
    facts: list[tuple[str, str]]
    marks: list[Mark]


def details(row: pd.Series) -> Details:
    """All that a row's table has no column for; no facts for a row of which only its columns are known."""
    facts = [*_time(row), *_energy(row), *_device(row.telemetry), *_memory(row), *_tuned(row.tuned)]
    if row.opinion is not None:
        facts.append(("second opinion", _opinion(row.opinion)))
    if facts or _known(row.compile_s):
        facts.append(("first call", _first_call(row)))
    if row.telemetry.unavailable:
        why = "; ".join(f"{_words(name)}: {reason}" for name, reason in row.telemetry.unavailable.items())
        facts.append(("not read", why))
    return Details(_glance(row), facts, row.marks)


def _glance(row: pd.Series) -> str:
    parts = [tell(row[column]) for _, column, tell in DEVICE[:4] if column != "memory_clock_hz" and _known(row[column])]
    if _known(row.joules_per_call):
        parts.append(f"{units.joules(row.joules_per_call)} a call")
    return ", ".join(parts) or "details"


def _time(row: pd.Series) -> Iterator[tuple[str, str]]:
    if _known(row.warm_s):
        cold, warm = units.seconds(row.median_s), units.seconds(row.warm_s)
        yield "cold and warm caches", f"{cold} and {warm}: {units.ratio(row.cold_over_warm)}"
    if _known(row.of_roof):
        yield "roof", f"{units.percent(row.of_roof)}: {row.roof} allows {units.seconds(row.least_s)}"
    if _known(row.bootstrap_low_s) and _known(row.bootstrap_high_s):
        stop = f"{row.rounds:.0f} rounds, stopped: {row.stopped or 'no reason given'}"
        low, high = units.seconds(row.bootstrap_low_s), units.seconds(row.bootstrap_high_s)
        half = f", +- {units.percent(row.half_width)}" if _known(row.half_width) else ""
        yield "rounds", f"{stop}; bootstrapped 95 % interval {low} to {high}{half}"
    if len(row.modes) > 1:
        heaps = (f"{units.seconds(mode.median_s)} ({units.percent(mode.share)})" for mode in row.modes)
        yield f"{len(row.modes)} modes", ", ".join(heaps)
    if _known(row.cycles):
        yield "cycles", f"{units.whole(row.cycles)} at the median SM clock"


def _energy(row: pd.Series) -> Iterator[tuple[str, str]]:
    if not _known(row.joules_per_call):
        return
    over = f"{units.whole(row.calls)} calls in {units.seconds(row.energy_s)}" if _known(row.calls) else ""
    parts = [f"resolved to {units.joules(row.resolution_j)}" if _known(row.resolution_j) else "", over, row.counter]
    how = ", ".join(part for part in parts if part)
    yield "energy a call", units.joules(row.joules_per_call) + (f" ({how})" if how else "")
    if _known(row.energy_per_token_j):
        yield "energy a token", units.joules(row.energy_per_token_j)


def _device(telemetry: Telemetry) -> Iterator[tuple[str, str]]:
    """Medians over the rounds, with the ends where they tell more."""
    for name, column, tell in DEVICE:
        if values := telemetry.readings.get(column):
            middle, low, high = (tell(value) for value in (pd.Series(values).median(), min(values), max(values)))
            yield name, middle if low == high else f"{middle} ({low} to {high})"
    if telemetry.throttled:
        yield "throttled", "; ".join(map(_throttle, telemetry.throttled))
    if telemetry.monitor:
        yield "read by", telemetry.monitor


def _throttle(throttle: Throttle) -> str:
    first, last = (f"{number:.0f}" for number in (throttle.first_round, throttle.last_round))
    rounds = f"round {first}" if first == last else f"rounds {first} to {last}"
    return f"{rounds}: {', '.join(throttle.reasons) or 'no reason given'}"


def _memory(row: pd.Series) -> Iterator[tuple[str, str]]:
    """All figures together; nothing where peak and outputs are all that is known."""
    if not any(_known(row[column]) for _, column in MEMORY[2:]):
        return
    parts = [f"{name} {units.size(row[column])}" for name, column in MEMORY if _known(row[column])]
    most = f"; the peak is {units.ratio(row.peak_over_least)} the least" if _known(row.peak_over_least) else ""
    yield "memory", ", ".join(parts) + most


def _tuned(tuned: list[Tuned]) -> Iterator[tuple[str, str]]:
    for each in tuned:
        config = ", ".join(f"{name}={value}" for name, value in each.config.items()) or "no configuration"
        key = f"; key {', '.join(each.key)}" if each.key else ""
        yield f"configuration of {each.kernel}", f"{config}{key}; {each.source}"


def _opinion(opinion: Opinion) -> str:
    if not _known(opinion.seconds):
        return f"{opinion.by} has none: {opinion.reason or 'no reason given'}"
    verdict = {True: "agrees", False: "DISAGREES", None: "neither agrees nor disagrees"}[opinion.agrees]
    against = f"{opinion.against or 'the clock'} {units.seconds(opinion.against_s)}"
    spread = f" +- {units.seconds(opinion.spread_s)}" if _known(opinion.spread_s) else ""
    why = f": {opinion.reason}" if opinion.reason else ""
    return f"{opinion.by} {units.seconds(opinion.seconds)} against {against}{spread}: {verdict}{why}"


def _first_call(row: pd.Series) -> str:
    parts = [f"compiling {units.seconds(row.compile_s)}"] if _known(row.compile_s) else []
    if _known(row.compiled):
        cached = f", {row.cache_hits:.0f} from the cache" if _known(row.cache_hits) and row.cache_hits else ""
        parts.append(f"{row.compiled:.0f} {'kernel' if row.compiled == 1 else 'kernels'}{cached}")
    if _known(row.tune_s):
        parts.append(f"tuning {units.seconds(row.tune_s)}")
    whole = units.seconds(row.setup_s)
    return f"{whole}, of which {'; '.join(parts)}" if parts else whole


def _words(name: str) -> str:
    """The name of a field without its unit, e.g. `sm clock` for `sm_clock_hz`."""
    words = name.split("_")
    return " ".join(words[:-1] if len(words) > 1 and words[-1] in ("hz", "c", "w", "j", "s") else words)


def _known(value: float) -> bool:
    return value == value
