"""The race: several thunks timed side by side, so that whatever drifts drifts for all of them alike.

    from bench.core.race import race

    results = race({"sort": lambda: sorted(data), "copy": lambda: list(data)})
    for name, result in results.items():
        print(name, result.median, "s +-", result.half_width)

Rounds are interleaved and turned around (A B C, C B A, ...). A round calls every runner once; the race ends when the 95
% confidence interval of every runner's median is narrower than asked, or when the time cap is reached, and says which.
Every sample is kept, in the order taken. Nothing here knows of pytest.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from scipy.stats import binom

from bench.core.clocks import Clock, HostClock, Thunk

MIN_ROUNDS = 6
MAX_ROUNDS = 500
LOOK_EVERY = 8  # looks come at rounds that grow by an eighth: the interval narrows with the root of the rounds
CONFIDENCE = 0.95


@dataclass
class Result:
    """The samples of one runner, in seconds per call, by clock; `primary` names the clock that the race was decided by.

    calls: how often a lap calls the thunk; warmup_s: what its warming up took; stopped: `precise`, `time cap` or `round
    cap`.
    """

    primary: str
    calls: int = 1
    warmup_s: float = 0.0
    samples_s: dict[str, list[float]] = field(default_factory=dict)
    stopped: str = ""

    @property
    def spent_s(self) -> float:
        """The time spent inside the thunk, warming up and timed, in seconds."""
        return self.warmup_s + self.calls * sum(self.samples_s[self.primary])

    @property
    def median(self) -> float:
        """Median of the primary samples, in seconds."""
        return statistics.median(self.samples_s[self.primary])

    @property
    def half_width(self) -> float:
        """Half the width of the median's confidence interval, relative to the median (infinite below 6 samples)."""
        return half_width(self.samples_s[self.primary])


def half_width(samples: list[float]) -> float:
    """Relative half-width of the distribution-free confidence interval of the median, from order statistics.

    The k-th smallest and k-th largest of n samples enclose the median with probability 1 - 2 P(Binomial(n, 1/2) < k).
    """
    n = len(samples)
    k = _rank(n)
    if k < 1:
        return float("inf")
    ordered = sorted(samples)
    middle = statistics.median(ordered)
    return (ordered[n - k] - ordered[k - 1]) / 2 / middle if middle > 0 else float("inf")


@lru_cache(maxsize=4096)
def _rank(n: int) -> int:
    """The rank k of the order statistics that enclose the median with at least 95 % confidence; 0 if none do."""
    return int(binom.ppf((1 - CONFIDENCE) / 2, n, 0.5))


def race(
    thunks: Mapping[str, Thunk],
    *,
    clock: Clock | None = None,
    precision: float = 0.01,
    cap_s: float = 10.0,
    min_rounds: int = MIN_ROUNDS,
    max_rounds: int = MAX_ROUNDS,
    on_turn: Callable[[str], None] | None = None,
) -> dict[str, Result]:
    """Time `thunks` in interleaved rounds; returns a `Result` per name.

    precision: the relative half-width of each median's 95 % interval at which the race may end; cap_s: seconds after
    which no new round starts once `min_rounds` are done; max_rounds: the most samples that are taken of each; on_turn:
    told each runner's name just before its turn (so that a crash can be laid at the right door).
    """
    if not thunks:
        raise ValueError("thunks: expected at least one runner, got none")
    if not 1 <= min_rounds <= max_rounds:
        raise ValueError(f"min_rounds: expected 1 to max_rounds ({max_rounds}), got {min_rounds}")
    clock = clock or HostClock()
    laps, results = {}, {}
    for name, thunk in thunks.items():
        if on_turn:
            on_turn(name)
        began = time.perf_counter()
        laps[name] = clock.lap(thunk)
        results[name] = Result(clock.primary, laps[name].calls, time.perf_counter() - began)
    order = list(thunks)
    started, rounds, look = time.perf_counter(), 0, min_rounds
    with _quiet_collector():
        while True:
            for name in order:
                if on_turn:
                    on_turn(name)
                for timer, seconds in laps[name].run().items():
                    results[name].samples_s.setdefault(timer, []).append(seconds)
            order.reverse()
            rounds += 1
            elapsed = time.perf_counter() - started
            if rounds == look or elapsed >= cap_s:
                if _over(results, rounds, precision, elapsed >= cap_s, min_rounds, max_rounds):
                    return results
                look = min(max_rounds, rounds + max(1, rounds // LOOK_EVERY))


def _over(
    results: Mapping[str, Result], rounds: int, precision: float, late: bool, min_rounds: int, max_rounds: int
) -> bool:
    """Whether the race ends here; if so, each result is told why."""
    precise = {name: result.half_width <= precision for name, result in results.items()}
    if rounds < min_rounds or not (all(precise.values()) or late or rounds >= max_rounds):
        return False
    for name, result in results.items():
        result.stopped = "precise" if precise[name] else "time cap" if late else "round cap"
    return True


class _quiet_collector:  # noqa: N801 - a context manager that reads as a word
    """No garbage is collected during the race."""

    def __enter__(self) -> None:
        self._was_on = gc.isenabled()
        gc.disable()

    def __exit__(self, *_: object) -> None:
        if self._was_on:
            gc.enable()
