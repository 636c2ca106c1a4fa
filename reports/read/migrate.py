"""Results of older schemas as of today's. What once was written otherwise is known here, and nowhere else.

A field that came later needs no migration: where it is missing, nothing is known of it. A schema has its number for
those that changed their meaning.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from reports.read.record import NotOurs, entry, shown

SCHEMA = 2

Told = dict[str, Any]
# From a record of one schema and the facts of its run, as both were written, to the record of the next schema.
Migration = Callable[[Told, Told], Told]


def unflushed(record: Told, facts: Told) -> Told:
    """1 to 2: `host` became the time of a call behind a flushed cache; before, no cache was flushed.

    The two differ by the factor that `cold/warm` tells, so the older samples get a clock of their own. Runs that tell
    how much they flushed had today's clocks before the schema had its number.
    """
    conditions = facts.get("conditions")
    flushed = isinstance(conditions, dict) and "flush_bytes" in conditions
    return record if flushed or record.get("timer") != "host" else record | {"timer": "host_unflushed"}


MIGRATIONS: dict[int, Migration] = {1: unflushed}


def schema_of(facts: Any) -> int:
    """The schema of a run. Raises `NotOurs` if it is none that can be read."""
    schema = entry(facts, "schema")
    if isinstance(schema, int) and not isinstance(schema, bool):
        if schema == SCHEMA or schema in MIGRATIONS:
            return schema
        if schema > SCHEMA:
            raise NotOurs(f"written by a newer rooftile: schema {shown(schema)}, and this one reads up to {SCHEMA}")
    known = ", ".join(str(each) for each in MIGRATIONS)
    raise NotOurs(f"schema: expected {known} or {SCHEMA}, got {shown(schema)}")


def current(record: Any, facts: Told) -> Told:
    """A record as of today's schema, given the facts of its run. Raises `NotOurs` if it is of another than its run."""
    schema = schema_of(facts)
    if (own := entry(record, "schema")) != schema:
        raise NotOurs(f"schema: expected {schema}, as its run has, got {shown(own)}")
    found: Told = record
    for step in range(schema, SCHEMA):
        found = MIGRATIONS[step](found, facts)
    return found | {"schema": SCHEMA}
