"""What else changed where a row changed, the likeliest first, in words with figures. Beside a change, not proven.

Likeliest is a clock that explains most of the move, then what the row's own kernels take and do, then how they were
tuned, then who else was at work, then the libraries that the row is made of, then all else that the run tells.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from reports import units
from reports.judge.changes import Change
from reports.judge.counted import counted
from reports.judge.sides import object_of
from reports.read.committed import Ledger, no_ledger
from reports.read.record import clean
from reports.read.summary import History

# Of an explanation; the least is told first.
CLOCK, COUNTED, TUNED, COMPANY, OWN, DEVICE, HOW, OTHERS, WEAK = range(9)
# Clocks and temperatures wander; less than this is no change of theirs.
STEADY, WARMER_C, SHARE = 0.01, 5.0, 0.05
Told = tuple[int, str]


def explained(history: History, found: Sequence[Change], ledger: Ledger = no_ledger) -> list[Change]:
    """The changes, each with its causes."""
    history = history.of([run for each in found for run in (each.before, each.run)])
    return [replace(each, causes=causes(history, each.before, each.run, each.row, ledger)) for each in found]


def causes(history: History, before: int, run: int, row: str = "", ledger: Ledger = no_ledger) -> list[str]:
    """What is known to have changed from one run to another for a row (for the whole device if it is empty).

    ledger: gives the counts as committed at a commit. Where nothing has changed that was recorded, that is what is
    said. Raises `ValueError` for a run that the history lacks.
    """
    one, two = _run(history, "before", before), _run(history, "run", run)
    rows = _rows(history, before, run, row)
    told: list[Told] = [*_clocks(rows), *_company(rows), *_heat(rows)]
    if row and len(rows):
        told += [*_counted(rows.iloc[0], one, two, ledger), *_tuned(rows.iloc[0])]
    provider = str(rows.provider.iloc[0]) if row and len(rows) else ""
    told += [*_versions(one, two, provider), *_facts(one, two)]
    ordered = [" ".join(clean(text).split()) for _, text in sorted(told, key=lambda each: each[0])]
    return ordered or [_nothing(one, two)]


def _run(history: History, name: str, number: int) -> pd.Series:
    found = history.runs[history.runs.run == number]
    if not len(found):
        raise ValueError(f"{name}: expected the number of a run in the history, got {number}")
    return found.iloc[0]


def _rows(history: History, before: int, run: int, row: str) -> pd.DataFrame:
    """The rows that both runs measured, side by side: columns as they are, and with `_behind` for the later run."""
    rows = history.rows[history.rows.status == "measured"]
    if row:
        rows = rows[rows.row == row]
    one, two = (
        rows[rows.run == each].astype({"row": str}).drop_duplicates("row", keep="last") for each in (before, run)
    )
    return one.merge(two, on="row", suffixes=("", "_behind"))


def _medians(rows: pd.DataFrame, column: str) -> tuple[float, float]:
    both = rows[[column, f"{column}_behind"]].astype("float64").dropna()
    return float(both[column].median()), float(both[f"{column}_behind"].median())


def _clocks(rows: pd.DataFrame) -> Iterator[Told]:
    """A clock explains up to its own change, inverted: what is bound by it takes as many cycles as before."""
    observed = math.log((rows.median_s_behind / rows.median_s).median()) if len(rows) else math.nan
    bandwidth = len(rows) > 0 and bool((rows.roof == "bandwidth").mean() > 1 / 2)
    for name, column, binds in (("SM", "sm_clock_hz", not bandwidth), ("memory", "memory_clock_hz", bandwidth)):
        one, two = _medians(rows, column)
        if not (one > 0 and two > 0) or abs(two / one - 1) < STEADY:
            continue
        share = math.log(one / two) / observed if observed else 0.0
        effect = f"which alone makes what is bound by it {_slower(one / two)}"
        text = f"{name} clock {units.hertz(one).removesuffix(' MHz')} -> {units.hertz(two)} ({units.change(two / one)})"
        yield (CLOCK if binds and share >= 1 / 2 else COMPANY if share > 0 else WEAK), f"{text}, {effect}"


def _slower(ratio: float) -> str:
    """So much slower or faster in time: `12.8 % slower`."""
    return f"{units.digits(100 * abs(ratio - 1))} % {'slower' if ratio > 1 else 'faster'}"


def _company(rows: pd.DataFrame) -> Iterator[Told]:
    """Throttling, other processes and other load; a relief is told as well, since it makes rows faster."""
    one, two = _medians(rows, "throttled")
    if abs(two - one) >= SHARE:
        yield COMPANY, f"the device held itself back in {units.percent(one)} -> {units.percent(two)} of the rounds"
    one, two = _medians(rows, "foreign_processes")
    if one != two and not math.isnan(one + two):
        yield COMPANY, f"other processes on the device {units.plain(one)} -> {units.plain(two)}"
    one, two = _medians(rows, "load")
    if abs(two - one) >= SHARE:
        yield COMPANY, f"load of the processors by others {units.percent(one)} -> {units.percent(two)}"


def _heat(rows: pd.DataFrame) -> Iterator[Told]:
    one, two = _medians(rows, "temperature_c")
    if abs(two - one) >= WARMER_C:
        yield WEAK, f"temperature {units.degrees(one).removesuffix(' °C')} -> {units.degrees(two)}"


def _counted(row: pd.Series, before: pd.Series, behind: pd.Series, ledger: Ledger) -> Iterator[Told]:
    if row.role != "kernel" or before.commit == behind.commit:
        return
    one, two = ledger(str(before.commit)), ledger(str(behind.commit))
    if one is not None and two is not None:
        capability = str(object_of(behind.facts).get("capability", ""))
        target = f"sm_{re.sub('[^0-9]', '', capability)}"
        yield from ((COUNTED, text) for text in counted(one, two, row, target))


def _tuned(row: pd.Series) -> Iterator[Told]:
    one, two = str(row.tuned or ""), str(row.tuned_behind or "")
    if one != two:
        yield TUNED, f"configuration {one or 'unknown'} -> {two or 'unknown'}"


def _versions(before: pd.Series, behind: pd.Series, provider: str) -> Iterator[Told]:
    one, two = object_of(before.versions), object_of(behind.versions)
    told = list(_differences(one, two))
    if one and two:
        told += [(name, f"{name} {one[name]} is gone") for name in one if name not in two]
        told += [(name, f"{name} {two[name]} is new") for name in two if name not in one]
    for name, text in told:
        yield (OWN if _is_own(name, provider) else OTHERS), text


def _is_own(package: str, provider: str) -> bool:
    """Whether a provider's speed follows from a package: one of its name, or torch and triton, which all rest on."""
    words = [re.split(r"[^a-z0-9]+", name.lower()) for name in (package, provider)]
    return package in ("torch", "triton") or (bool(provider) and words[0][0] == words[1][0])


def _facts(before: pd.Series, behind: pd.Series) -> Iterator[Told]:
    """Facts of the device and its machine, then how the run was made."""
    for column, rank in (("facts", DEVICE), ("conditions", HOW), ("options", HOW)):
        for _, text in _differences(object_of(before[column]), object_of(behind[column])):
            yield rank, text
    if str(before.profile) != str(behind.profile):
        yield HOW, f"profile {before.profile} -> {behind.profile}"


def _differences(one: dict[str, Any], two: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """By name what differs, as words. A fact that only one side tells is no change: older runs tell less."""
    for name, value in one.items():
        if name in two and value != two[name]:
            words = re.sub(r"_(bytes|s|hz)$", "", name).replace("_", " ")
            yield name, f"{words} {_value(name, value)} -> {_value(name, two[name])}"


def _value(name: str, value: Any) -> str:
    """A fact in the unit that its name ends with."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        for suffix, told in (("_bytes", units.size), ("_s", units.seconds), ("_hz", units.hertz)):
            if name.endswith(suffix):
                return told(value)
        return units.plain(value)
    return "none" if value is None else str(value)


def _nothing(before: pd.Series, behind: pd.Series) -> str:
    if str(before.commit) == str(behind.commit):
        return "nothing that was recorded has changed, not even the commit"
    return f"nothing that was recorded has changed but the commit, {before.commit[:12]} -> {behind.commit[:12]}"
