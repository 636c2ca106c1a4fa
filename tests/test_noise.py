"""The noise floor covers what identical work really does, is not absurdly wide, and says why."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest

from bench.core import doctor
from bench.core.clocks import Lap
from bench.core.noise import Floor, measure
from bench.core.race import race
from bench.core.telemetry import Reading


class Machine:
    """A clock whose samples have known noise; a factor holds for a whole race."""

    primary = "device"
    flushed_s = 0.0

    def __init__(
        self, seed: int, noise: float, of_race: Callable[[int], float] = lambda _: 1.0, modes: float = 0.0
    ) -> None:
        self.generator = np.random.default_rng(seed)
        self.noise, self.of_race, self.modes = noise, of_race, modes
        self.races = itertools.count()

    def __call__(self) -> Machine:
        """A clock for the next race."""
        self.factor = self.of_race(next(self.races))
        return self

    def lap(self, thunk: Callable[[], object], fastest_s: float) -> Lap:
        """One sample a lap."""

        def run() -> dict[str, float]:
            slow = 1.13 if self.generator.random() < self.modes else 1.0
            return {"device": 1e-3 * self.factor * slow * float(1 + self.noise * self.generator.normal())}

        return Lap(run, {"device": 1})


class Saying:
    """A monitor that says one thing."""

    name = "saying"

    def __init__(self, reading: Reading | None = None) -> None:
        self.unavailable: dict[str, str] = {}
        self.reading = reading or Reading()

    def read(self) -> Reading:
        """What it says."""
        return self.reading

    def energy_j(self) -> float | None:
        """Nothing."""
        return None


WORK = {"copy": lambda: None}


def test_the_floor_holds_for_fresh_races_and_is_no_wider_than_need_be() -> None:
    exceeded, floors, strays = 0, [], []
    for seed in range(60):
        floor = measure(Machine(seed, 0.05), Saying(), WORK).within
        results = race({"a": lambda: None, "b": lambda: None}, clock=Machine(1000 + seed, 0.05)())
        stray = abs(math.log(results["a"].median / results["b"].median))
        exceeded += stray > math.log1p(floor)
        floors.append(floor)
        strays.append(stray)
    assert exceeded <= 60 * 0.1, "expected 95 of 100 races of identical work within the floor"
    assert np.median(floors) <= 3 * np.quantile(strays, 0.95)


def test_what_hits_a_whole_race_shows_between_runs_only() -> None:
    machine = Machine(1, 0.01, of_race=lambda race_: 1 + 0.1 * (race_ % 2))
    floor = measure(machine, Saying(), WORK)
    assert floor.within < 0.02
    assert 0.1 < floor.between < 0.3


@pytest.mark.parametrize(
    ("machine", "reading", "words"),
    [
        (Machine(2, 0.001, modes=0.3), Reading(), "copy: the device runs at two speeds"),
        (Machine(2, 0.001), Reading(throttled=("software power cap",)), "rounds: software power cap"),
        (Machine(2, 0.001), Reading(load=0.5), "others used 50% of the processors meanwhile"),
        (Machine(2, 0.001), Reading(foreign_processes=2), "2 other processes on the GPU"),
        (Machine(2, 0.001, of_race=lambda race_: 1 + 0.02 * race_), Reading(), "it drifts, from 0.001 s to 0.00114 s"),
        (Machine(2, 0.001), Reading(), "no cause seen"),
    ],
)
def test_the_reason_is_named(machine: Machine, reading: Reading, words: str) -> None:
    assert words in measure(machine, Saying(reading), WORK).words


def test_the_doctor_says_what_can_be_seen_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "measure", lambda *_: Floor(0.018, 0.04))
    (finding,) = doctor._noise()
    assert finding.state == "ok"
    assert "differences below 1.8% are not visible here within a race, below 4.0% not between runs" in finding.found
    monkeypatch.setattr(doctor, "measure", lambda *_: Floor(0.2, 0.4, ["copy: it drifts"]))
    (finding,) = doctor._noise()
    assert (finding.state, finding.remedy) == ("missing", "stop other work")
    assert "(copy: it drifts)" in finding.found
