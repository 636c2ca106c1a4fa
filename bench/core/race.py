"""The race: several thunks timed side by side, so that whatever drifts drifts for all of them alike.

    from bench.core.race import race

    results = race({"sort": lambda: sorted(data), "copy": lambda: list(data)})
    for name, result in results.items():
        print(name, result.median, "s +-", result.half_width)

Rounds are interleaved and turned around (A B C, C B A, ...). A round takes one lap of every runner: its cold sample,
with the cache flushed before, and its warm one. The race ends when the 95 % interval of every runner's median is
narrower than asked, or when the time cap is reached, and says which. Every sample is kept, in the order taken. Nothing
here knows of pytest.
"""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from time import perf_counter

from bench.core.clocks import Clock, HostClock, Lap, Thunk, warm_up
from bench.core.spread import Mode, half_width, interval, modes, surely_wider

MIN_ROUNDS = 6
MAX_ROUNDS = 500
LOOK_EVERY = 8  # looks come at rounds that grow by an eighth: the interval narrows with the root of the rounds


@dataclass
class Result:
    """The samples of one runner, in seconds per call, by clock; `primary` names the clock that the race was decided by.

    calls: how often a lap calls the thunk for each clock; fastest_s: its fastest call while it warmed up; warmup_s:
    what warming up took; stopped: `precise`, `time cap` or `round cap`.
    """

    primary: str
    calls: dict[str, int] = field(default_factory=dict)
    fastest_s: float = 0.0
    warmup_s: float = 0.0
    samples_s: dict[str, list[float]] = field(default_factory=dict)
    stopped: str = ""

    @property
    def samples(self) -> list[float]:
        """The samples that the race was decided by, in the order taken."""
        return self.samples_s[self.primary]

    @property
    def spent_s(self) -> float:
        """The time spent inside the thunk, warming up and timed, in seconds."""
        return self.warmup_s + sum(calls * sum(self.samples_s[clock]) for clock, calls in self.calls.items())

    @property
    def median(self) -> float:
        """Median of the primary samples, in seconds."""
        return statistics.median(self.samples)

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the median, in seconds (infinite below 6 samples)."""
        return interval(self.samples)

    @property
    def half_width(self) -> float:
        """Half the width of that interval, relative to the median."""
        return half_width(self.samples)

    @property
    def modes(self) -> list[Mode]:
        """The modes of the primary samples: two where the device ran at two speeds, else one."""
        return modes(self.samples)


def race(
    thunks: Mapping[str, Thunk],
    *,
    clock: Clock | None = None,
    precision: float = 0.01,
    cap_s: float = 10.0,
    min_rounds: int = MIN_ROUNDS,
    max_rounds: int = MAX_ROUNDS,
    on_turn: Callable[[str], None] | None = None,
    on_lap: Callable[[str, int], None] | None = None,
) -> dict[str, Result]:
    """Time `thunks` in interleaved rounds; returns a `Result` per name.

    clock: one of bench.core.clocks (default: `HostClock`); precision: the relative half-width of each median's 95 %
    interval at which the race may end; cap_s: seconds after which no new round starts once `min_rounds` are done;
    max_rounds: the most samples that are taken of each; on_turn: told each runner's name just before its turn (so that
    a crash can be laid at the right door); on_lap: told name and round just behind it.
    """
    if not thunks:
        raise ValueError("thunks: expected at least one runner, got none")
    if not 1 <= min_rounds <= max_rounds:
        raise ValueError(f"min_rounds: expected 1 to max_rounds ({max_rounds}), got {min_rounds}")
    clock, on_turn, on_lap = clock or HostClock(), on_turn or _ignore, on_lap or _ignore
    laps, results = _ready(thunks, clock, on_turn)
    order = list(thunks)
    started, rounds, look = perf_counter(), 0, min_rounds
    with _quiet_collector():
        while True:
            for name in order:
                on_turn(name)
                for timer, seconds in laps[name].run().items():
                    results[name].samples_s.setdefault(timer, []).append(seconds)
                on_lap(name, rounds)
            order.reverse()
            rounds += 1
            late = perf_counter() - started >= cap_s
            if rounds == look or late:
                if _over(results, rounds, precision, late, min_rounds, max_rounds):
                    return results
                look = min(max_rounds, rounds + max(1, rounds // LOOK_EVERY))


def _ready(
    thunks: Mapping[str, Thunk], clock: Clock, on_turn: Callable[[str], None]
) -> tuple[dict[str, Lap], dict[str, Result]]:
    """Every runner warmed up, with a lap and a result that has no samples yet."""
    laps, results = {}, {}
    for name, thunk in thunks.items():
        on_turn(name)
        began = perf_counter()
        fastest_s = warm_up(thunk)
        laps[name] = clock.lap(thunk, fastest_s)
        results[name] = Result(clock.primary, laps[name].calls, fastest_s, perf_counter() - began)
    return laps, results


def _over(
    results: Mapping[str, Result], rounds: int, precision: float, late: bool, min_rounds: int, max_rounds: int
) -> bool:
    """Whether the race ends here; if so, each result is told why."""
    if rounds < min_rounds:
        return False
    ends = late or rounds >= max_rounds
    # The interval costs milliseconds: where one runner is surely not precise, nobody's is computed.
    if not ends and any(surely_wider(result.samples, precision) for result in results.values()):
        return False
    precise = {name: result.half_width <= precision for name, result in results.items()}
    if not (ends or all(precise.values())):
        return False
    for name, result in results.items():
        result.stopped = "precise" if precise[name] else "time cap" if late else "round cap"
    return True


def _ignore(*_: object) -> None:
    """Told something that nobody asked for."""


class _quiet_collector:  # noqa: N801 - a context manager that reads as a word
    """No garbage is collected during the race."""

    def __enter__(self) -> None:
        self._was_on = gc.isenabled()
        gc.disable()

    def __exit__(self, *_: object) -> None:
        if self._was_on:
            gc.enable()
