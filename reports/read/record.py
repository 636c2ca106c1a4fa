"""One record of a results file as one flat row, every value of the kind that it should be; nothing is guessed."""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Sequence
from typing import Any

from reports import units

TEXTS = (
    "run", "id", "operator", "mode", "case", "case_id", "provider", "role", "status", "reason", "remedy", "timer",
    "proven", "stopped", "command",
)  # fmt: skip
MEMORY = ("peak_bytes", "output_bytes", "workspace_bytes", "saved_bytes", "least_bytes")
NUMBERS = ("traffic_bytes", "flops", "error", "budget", *MEMORY, "setup_s", "rounds")
OBJECTS = ("point", "samples_s")

STATUSES = ("measured", "absent", "failed", "invalid")
ROLES = ("reference", "kernel", "peer")


class NotOurs(ValueError):  # noqa: N818 - it reads as the verdict
    """A file or a row that cannot be read as results; says why."""


def flat(record: Any, samples: Any, run: str) -> dict[str, Any]:
    """A record of today's schema and its raw samples (seconds per call) as a row. Raises `NotOurs`.

    Only a measured row keeps its samples.
    """
    case = axes(record)
    proof, memory, stop = (optional_mapping(record, name) for name in ("proof", "memory", "stop"))
    row: dict[str, Any] = {"run": run, "point": case, "case": label(case), "case_id": json.dumps(case, sort_keys=True)}
    row |= {name: text(record, name) for name in ("id", "operator", "mode", "provider", "command")}
    row |= {name: text(record, name, default="") for name in ("reason", "remedy", "timer")}
    row |= {"role": _one_of(record, "role", ROLES), "status": _one_of(record, "status", STATUSES)}
    row |= {name: number(record, name) for name in ("traffic_bytes", "flops")}
    row |= {name: number(proof, name, default=math.nan) for name in ("error", "budget")}
    row |= {name: number(memory, name, default=math.nan) for name in MEMORY}
    row |= {"proven": text(proof, "rows", default=""), "stopped": text(stop, "reason", default="")}
    row["setup_s"] = number(record, "setup_s", default=math.nan)
    found = times(samples)
    row["rounds"] = number(stop, "rounds", default=float(len(found)))
    row["samples_s"] = found if row["status"] == "measured" else []
    if row["status"] == "measured" and (flaw := _flaw(row, proven=bool(proof))):
        row |= {"status": "failed", "reason": flaw, "samples_s": []}
    return row


def axes(source: Any) -> dict[str, Any]:
    """The case of a record. Raises `NotOurs`."""
    return {clean(name): _axis_value(name, value) for name, value in mapping(source, "case").items()}


def label(case: dict[str, Any]) -> str:
    """A case as a reader wants it, e.g. `llama3-8b, bf16, causal, 2048`: the sequence length bare and last."""
    ordered = sorted(case.items(), key=lambda axis: axis[0] == "seq_len")
    return ", ".join(_axis(name, value) for name, value in ordered)


def entry(source: Any, name: str) -> Any:
    """What an object holds under a name."""
    if not isinstance(source, dict):
        raise NotOurs(f"{name}: expected an object that holds it, got {shown(source)}")
    if name not in source:
        raise NotOurs(f"{name}: missing")
    return source[name]


def text(source: Any, name: str, default: str | None = None) -> str:
    """Text, made harmless; `default` where it is missing or null."""
    value = source.get(name) if default is not None else entry(source, name)
    if value is None and default is not None:
        return default
    if not isinstance(value, str):
        raise NotOurs(f"{name}: expected text, got {shown(value)}")
    return clean(value)


def number(source: Any, name: str, default: float | None = None) -> float:
    """A number that is not negative; `default` where it is missing or null. Only proofs may hold NaN or infinity."""
    value = source.get(name) if default is not None else entry(source, name)
    if value is None and default is not None:
        return default
    found = _float(value)
    if found is None or found < 0 or not (math.isfinite(found) or name in ("error", "budget")):
        raise NotOurs(f"{name}: expected a number from 0, got {shown(value)}")
    return found


def mapping(source: Any, name: str) -> dict[str, Any]:
    """An object (its names are text: JSON knows no others)."""
    value = entry(source, name)
    if not isinstance(value, dict):
        raise NotOurs(f"{name}: expected an object, got {shown(value)}")
    return value


def optional_mapping(source: Any, name: str) -> dict[str, Any]:
    """An object; empty where it is missing or null."""
    return {} if source.get(name) is None else mapping(source, name)


def items(source: Any, name: str) -> Sequence[Any]:
    """A list."""
    value = entry(source, name)
    if not isinstance(value, list):
        raise NotOurs(f"{name}: expected a list, got {shown(value)}")
    return value


def optional_items(source: Any, name: str) -> Sequence[Any]:
    """A list; empty where it is missing or null."""
    return () if source.get(name) is None else items(source, name)


def texts(source: Any, name: str) -> list[str]:
    """A list of texts, made harmless; empty where it is missing or null."""
    found = optional_items(source, name)
    if not all(isinstance(each, str) for each in found):
        raise NotOurs(f"{name}: expected a list of texts, got {shown(found)}")
    return [clean(each) for each in found]


def clean(value: str) -> str:
    """Text without what would steer a terminal, turn the reading direction or not survive UTF-8."""
    if value.isprintable():
        return value
    return "".join(
        "\N{REPLACEMENT CHARACTER}" if unicodedata.category(letter) in ("Cc", "Cf", "Cs") and letter != "\n" else letter
        for letter in value.replace("\r\n", "\n").replace("\t", "    ")
    )


def shown(value: Any) -> str:
    """A value as JSON, short enough for a message."""
    try:
        whole = json.dumps(value)
    except (ValueError, RecursionError):  # integers beyond the limit of digits, or nested too deep
        return f"a vast {type(value).__name__}"
    return clean(whole if len(whole) <= 40 else whole[:37] + "...")


def _one_of(record: Any, name: str, allowed: tuple[str, ...]) -> str:
    value = text(record, name)
    if value not in allowed:
        raise NotOurs(f"{name}: expected one of {', '.join(allowed)}, got {shown(value)}")
    return value


def _axis_value(name: str, value: Any) -> str | float | bool:
    if value is None:  # as the axis of what is quantised as a whole
        return "none"
    if isinstance(value, str):
        return clean(value)
    if not isinstance(value, bool) and _float(value) is None:
        raise NotOurs(f"case: expected text, a number, a flag or null for {shown(name)}, got {shown(value)}")
    checked: float | bool = value
    return checked


def _axis(name: str, value: str | float | bool) -> str:
    if isinstance(value, bool):
        return name if value else f"not {name}"
    bare = (isinstance(value, str) and value != "none") or name == "seq_len"
    return str(value) if bare else f"{name} {value}"


def _float(value: Any) -> float | None:
    """A number as float; None for anything else and for integers that no float can hold."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def times(samples: Any) -> list[float]:
    """The samples if every one of them is a time, else none: part of a sample would be another sample."""
    numbers = [_float(sample) for sample in samples] if isinstance(samples, list) else []
    found = [time for time in numbers if time is not None and 0 < time < math.inf]
    return found if len(found) == len(numbers) else []


def _flaw(row: dict[str, Any], *, proven: bool) -> str:
    """Why a row that claims to be measured is not to be believed; empty if it is."""
    if not row["samples_s"]:
        return "claims to be measured, but its samples are missing or are not positive times"
    if proven and not row["error"] <= row["budget"]:
        error, budget = (units.digits(row[name]) if math.isfinite(row[name]) else "NaN" for name in ("error", "budget"))
        return f"was timed, but its error {error} is not within its budget {budget}"
    return ""
