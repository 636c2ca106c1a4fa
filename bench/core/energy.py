"""Energy per call, from a counter of the device's own, over windows long enough for its resolution."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

from bench.core.telemetry import Monitor

PRECISE = 0.02
STEPS = 3  # of the counter that are watched to learn its resolution
AHEAD_S = 0.02  # of work that is given to the device before it is waited for


@dataclass(frozen=True)
class Energy:
    """What a call uses.

    joules_per_call: of the whole device, idle power included; resolution_j: what the counter's own step may have added
    to that or left out of it, per call; window_s, calls: how long and how often the thunk ran; counter: whose it is.
    """

    joules_per_call: float
    resolution_j: float
    window_s: float
    calls: int
    counter: str


def energy_per_call(
    thunk: Callable[[], object],
    call_s: float,
    monitor: Monitor,
    settle: Callable[[], None],
    window_s: float,
    clock: Callable[[], float] = perf_counter,
) -> Energy | None:
    """Call `thunk` back to back until the counter's step is 2 % of what it counted, or for `window_s`.

    call_s: what a call takes, about; settle: waits for the device. The window opens and closes right behind a step of
    the counter, so it misses the jitter of two steps; one whole step is stated. None, with the reason in
    `monitor.unavailable["energy"]`, where there is no counter or it does not move.
    """
    if monitor.energy_j() is None:
        return None
    batch = max(1, int(AHEAD_S / max(call_s, 1e-9)))
    deadline = clock() + window_s

    def work() -> float | None:
        for _ in range(batch):
            thunk()
        settle()
        return monitor.energy_j()

    def step(before: float | None) -> tuple[float | None, int]:
        """Work until the counter moves; what it shows then, and the calls that took."""
        calls = 0
        while clock() < deadline:
            calls += batch
            if (now := work()) != before:
                return now, calls
        return before, calls

    start, _ = step(monitor.energy_j())
    began, counted, calls, largest = clock(), start, 0, 0.0
    while start is not None and counted is not None:
        now, more = step(counted)
        if now is None or now == counted:
            break
        largest, counted, calls, ended = max(largest, now - counted), now, calls + more, clock()
        if largest <= PRECISE * (counted - start) and calls >= STEPS * batch:
            break
    if not calls or start is None or counted is None:
        monitor.unavailable.setdefault("energy", f"the counter did not move twice in {window_s:g} s")
        return None
    return Energy((counted - start) / calls, largest / calls, ended - began, calls, monitor.name)
