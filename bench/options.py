"""The options of `pytest bench`: what there are, how they are read, and their defaults by profile."""

from __future__ import annotations

import argparse
import math
import re
from pathlib import Path

import pytest

from bench.core.child import TIMEOUT_S
from bench.core.frontier import parse_size
from bench.core.messages import Options
from bench.core.stored import load_configs

PROFILES = ("smoke", "quick", "full")
TUNING = ("full", "cached", "first")
USUAL_BUDGET_S = {"smoke": 600.0, "quick": 600.0}  # by profile; without an end for full
DURATION = re.compile(r"(?:([\d.]+)h)?(?:([\d.]+)m)?(?:([\d.]+)s?)?")


def add_options(group: pytest.OptionGroup) -> None:
    """Add the options of `pytest bench --help`, group rooftile."""
    group.addoption(
        "--profile",
        choices=PROFILES,
        default=None,
        help="how much of the sweep to clock: smoke (at most 10 minutes on a CPU, the default there), quick (at most "
        "10 minutes on a GPU, the default there) or full (everything; for the night)",
    )
    group.addoption(
        "--time-budget",
        type=seconds,
        default=None,
        help="what the run may take, such as 90s, 10m or 1h30m: cases of low priority are left out, by name, rather "
        "than overrun it (default: 10m for --profile smoke and quick, none for full)",
    )
    group.addoption(
        "--tune",
        choices=TUNING,
        default="full",
        help="autotuned kernels: full (tune anew), cached (what was tuned here before counts) or first (do not tune)",
    )
    group.addoption(
        "--config-from",
        type=Path,
        metavar="RESULTS",
        default=None,
        help="run kernels with the tuned configurations of a results file, another GPU's for instance, and no others",
    )
    group.addoption("--energy", action="store_true", help="count joules per call too (2 s a row; full always does)")
    group.addoption("--second-opinion", action="store_true", help="have CUPTI time every row too, and mark differences")
    group.addoption(
        "--row-timeout",
        type=seconds,
        default=None,
        help="what one step of one provider (compiling, proving, racing) may take before its row fails (default: 10m, "
        "or a fifth of the time budget if that is less, so that one that hangs does not cost all others theirs)",
    )
    group.addoption(
        "--memory-cap",
        type=size,
        default=None,
        help="with -m frontier: what a provider may use, such as 8GiB (default: the device's memory)",
    )
    group.addoption(
        "--resume", action="store_true", help="go on with the newest run of this device and commit that was cut short"
    )
    group.addoption(
        "--accept-counts",
        action="store_true",
        help="with -m count: write what is counted into results/counts.json instead of comparing it",
    )
    group.addoption(
        "--recount",
        type=share,
        default=0.0,
        metavar="SHARE",
        help="with -m count: the share, drawn by lot, of what results/counts.json has sealed and whose sources are the "
        "same that is counted all the same (default: 0; 1: everything)",
    )


def options_of(config: pytest.Config, profile: str) -> Options:
    """What the user has chosen, defaults filled in."""
    budget = config.getoption("time_budget") or USUAL_BUDGET_S.get(profile)
    source = config.getoption("config_from")
    if source is not None:
        try:
            load_configs(source)
        except ValueError as error:
            raise pytest.UsageError(str(error)) from None
    return Options(
        tune=config.getoption("tune"),
        config_from=None if source is None else str(source),
        energy=config.getoption("energy") or profile == "full",
        second_opinion=config.getoption("second_opinion"),
        time_budget_s=budget,
        memory_cap_bytes=config.getoption("memory_cap"),
        row_timeout_s=config.getoption("row_timeout") or min(TIMEOUT_S, (budget or math.inf) / 5),
    )


def seconds(text: str) -> float:
    """A duration such as 45, 90s, 10m or 1h30m, in seconds."""
    match = DURATION.fullmatch(text.strip())
    found = match and sum(float(part or 0) * unit for part, unit in zip(match.groups(), (3600, 60, 1), strict=True))
    if not found:
        raise argparse.ArgumentTypeError(f"expected a duration such as 90s, 10m or 1h30m, got {text!r}")
    return float(found)


def share(text: str) -> float:
    """A share of a whole, 0 to 1."""
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not 0 <= found <= 1:
        raise argparse.ArgumentTypeError(f"expected a share between 0 and 1, got {text!r}")
    return found


def size(text: str) -> int:
    """A size such as 8GiB, in bytes."""
    try:
        return parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
