"""The noise floor of a machine: how far identical work (A/A) strays, and why."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from scipy.stats import t as student

from bench.core.clocks import FLUSH_MULTIPLE, Clock, Thunk, cache_bytes
from bench.core.race import Result, race
from bench.core.telemetry import Log, Monitor

RACES = 8
CAP_S = 0.4
CONFIDENCE = 0.95
SIDE = {"cpu": 512, "cuda": 4096}
DRIFT = 0.8  # rank correlation of the races' medians with their order (Spearman)
AT_LEAST = 0.02  # of the first median, below which a drift is none worth a word


@dataclass(frozen=True)
class Floor:
    """How far the medians of identical work lie apart in 95 of 100 cases, as a share of them.

    within: of two providers of one race; between: of one provider in two races, as two runs have it; why: what was seen
    that explains it, in words.
    """

    within: float
    between: float
    why: list[str] = field(default_factory=list)

    @property
    def words(self) -> str:
        """What can be resolved here."""
        return (
            f"differences below {self.within:.1%} are not visible here within a race, below {self.between:.1%} not "
            f"between runs ({'; '.join(self.why) or 'no cause seen'})"
        )


def measure(clock: Callable[[], Clock], monitor: Monitor, works: Mapping[str, Thunk], races: int = RACES) -> Floor:
    """Race each work against itself, several times. The floor is that of the noisiest work."""
    floors: list[tuple[float, float]] = []
    why: dict[str, None] = {}
    for name, work in works.items():
        log, both = Log(monitor), {"a": work, "b": work}
        results = [race(both, clock=clock(), cap_s=CAP_S, on_lap=log.after) for _ in range(races)]
        floors.append((_apart([_ratio(each) for each in results]), _between(results)))
        why |= dict.fromkeys(f"{name}: {cause}" for cause in _causes(results, log))
    return Floor(max(within for within, _ in floors), max(between for _, between in floors), list(why))


def works(device: torch.device) -> dict[str, Thunk]:
    """Work that memory bounds, and work that arithmetic bounds."""
    source = torch.rand(FLUSH_MULTIPLE * cache_bytes(device) // 4, device=device)
    target = torch.empty_like(source)
    a, b = (torch.randn(SIDE[device.type], SIDE[device.type], device=device) for _ in range(2))
    return {"copy": lambda: target.copy_(source), "product": lambda: a @ b}


def _ratio(results: Mapping[str, Result]) -> float:
    return math.log(results["a"].median / results["b"].median)


def _between(results: Sequence[Mapping[str, Result]]) -> float:
    """The difference of two races' medians has twice the variance of one."""
    logs = [math.log(each["a"].median) for each in results]
    spread = statistics.stdev(logs) * math.sqrt(2)
    return math.expm1(_quantile(len(logs) - 1) * spread)


def _apart(ratios: Sequence[float]) -> float:
    """Where 95 % of ratios lie, by Student's prediction interval about their true value, which is 1."""
    spread = math.sqrt(sum(ratio**2 for ratio in ratios) / len(ratios))
    return math.expm1(_quantile(len(ratios)) * spread)


def _quantile(freedom: int) -> float:
    return float(student.ppf((1 + CONFIDENCE) / 2, freedom))


def _causes(results: Sequence[Mapping[str, Result]], log: Log) -> list[str]:
    """What was seen while identical work was timed."""
    causes = [f"{mark['kind']}, {mark['text']}" for mark in log.marks("a")]
    if any(len(result.modes) > 1 for each in results for result in each.values()):
        causes.append("the device runs at two speeds")
    medians = [each["a"].median for each in results]
    order = sorted(range(len(medians)), key=medians.__getitem__)
    drifts = len(medians) > 3 and abs(statistics.correlation(order, range(len(order)))) > DRIFT
    if drifts and abs(medians[-1] / medians[0] - 1) > AT_LEAST:
        causes.append(f"it drifts, from {medians[0]:.3g} s to {medians[-1]:.3g} s")
    return causes
