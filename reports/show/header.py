"""What stands above a run's rows, in words: its name and moment, its options, its conditions, what measuring cost."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from reports import units
from reports.read.run import Fact, Run

# What `pytest bench` does unless told otherwise, where that is neither nothing nor no; a profile may add to it.
DEFAULTS: dict[str, Fact] = {"tune": "full", "row_timeout_s": 600.0}
BUDGETED: dict[str, Fact] = {"time_budget_s": 600.0, "row_timeout_s": 120.0}
OF_PROFILE: dict[str, dict[str, Fact]] = {"smoke": BUDGETED, "quick": BUDGETED, "full": {"energy": "true"}}


def run_names(runs: list[Run]) -> dict[str, str]:
    """A name for each run by its path: its device, and where devices repeat, its start and commit too."""
    devices = [run.device for run in runs]
    return {
        run.path: run.device if devices.count(run.device) == 1 else f"{run.device}, {run.started}, {run.commit[:12]}"
        for run in runs
    }


def moment(started: str) -> str:
    """When a run started, for readers; as it stands if it is no ISO time."""
    try:
        return datetime.fromisoformat(started).strftime("%Y-%m-%d %H:%M %Z").strip()
    except ValueError:
        return started


def options(run: Run) -> list[str]:
    """The options that differ from their defaults, in words."""
    usual = DEFAULTS | OF_PROFILE.get(run.profile, {})
    return [told(name, value) for name, value in run.options.items() if value not in (None, "false", usual.get(name))]


def costs(run: Run) -> Iterator[str]:
    """What measuring cost beside what was measured."""
    if run.overhead is not None:
        yield f"the harness added {units.percent(run.overhead)} to the wall time of what it timed"
    if run.flush_share is not None:
        share = units.percent(run.flush_share)
        yield f"flushing caches and, on a GPU, holding it back until calls are launched took another {share}"


def told(name: str, value: Fact | None) -> str:
    """A fact under its name: `memory_bytes` in binary units, `_s` as a duration, flags in words, all else as it is."""
    if isinstance(value, int | float):
        if name.endswith("_bytes"):
            return f"{_name(name)} {units.size(value)}"
        if name.endswith("_s"):
            return f"{_name(name)} {units.seconds(value)}"
    if value in ("true", "false"):
        return _name(name) if value == "true" else f"no {_name(name)}"
    return f"{_name(name)} {'unknown' if value is None or value == 'null' else value}"


def _name(name: str) -> str:
    return name.removesuffix("_bytes").removesuffix("_s").replace("_", " ")
