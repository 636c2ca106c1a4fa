"""Tuned configurations as results files hold them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

Value = float | str | None
Facts = dict[str, Value]
Place = tuple[str, str, tuple[str, ...]]  # row id, kernel, key

# What a `triton.Config` holds beside meta-parameters and may be taken from a file.
LAUNCH = ("num_warps", "num_stages", "num_ctas", "maxnreg")


def load_configs(path: Path) -> dict[Place, Facts]:
    """The tuned configurations of a results file by row id, kernel and key; empty ones where it has several.

    Raises `ValueError` where the file is none of this suite's or holds none.
    """
    found: dict[Place, Facts] = {}
    try:
        for benchmark in json.loads(path.read_text(encoding="utf-8"))["benchmarks"]:
            for place, facts in _entries(benchmark["extra_info"]["record"]):
                found[place] = facts if found.get(place, facts) == facts else {}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"--config-from: expected a results file of this suite, got {path}: {error!r}") from error
    if not found:
        raise ValueError(f"--config-from: expected a results file with tuned configurations, got {path} without any")
    return found


loaded = cache(load_configs)  # results files are never edited, and every provider asks for the same one


def _entries(record: dict[str, Any]) -> Iterator[tuple[Place, Facts]]:
    """The configurations of a record. Raises `ValueError` and its like where it is not built as one."""
    from bench.core.record import SCHEMA  # not above: it imports the messages, which may carry a Plan

    if record["schema"] != SCHEMA:
        raise ValueError(f"expected records of schema {SCHEMA}, got {record['schema']!r}")
    for each in record.get("tuned") or ():
        row, kernel, key, facts = record["id"], each["kernel"], each["key"], each["config"]
        if not (
            isinstance(key, list)
            and all(isinstance(text, str) for text in (row, kernel, *key))
            and isinstance(facts, dict)
            and facts
            and all(plain(value) is value for value in facts.values())
            and all(type(facts[name]) is int and facts[name] > 0 for name in LAUNCH if name in facts)
        ):
            raise ValueError(f"expected kernel, key and config of {row}, got {each!r}")
        yield (row, kernel, tuple(key)), facts


def plain(value: Any) -> Value:
    """A value as JSON can hold it: what is neither a number nor text, as text."""
    if value is None or isinstance(value, int | str) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return str(value)
