"""The race recovers known times, keeps every sample, stops for the reason it gives, and costs next to nothing."""

from __future__ import annotations

import itertools
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import pytest

from bench.core.clocks import HostClock, Lap, rotations
from bench.core.race import race
from bench.core.spread import half_width, interval, modes


class SimulatedClock:
    """A device whose true times are known: a thunk returns its duration, and drift multiplies all of them alike."""

    primary = "device"
    flushed_s = 0.0

    def __init__(self, drift: Callable[[int], float] = lambda _: 1.0, noise: float = 0.0) -> None:
        self._steps = itertools.count()
        self._drift, self._noise = drift, np.random.default_rng(0).normal(1.0, noise, 100_000) if noise else None

    def lap(self, thunk: Callable[[], object], fastest_s: float) -> Lap:
        def run() -> dict[str, float]:
            step = next(self._steps)
            noise = self._noise[step] if self._noise is not None else 1.0
            return {"device": float(thunk()) * self._drift(step) * noise, "host": 1e-6}  # type: ignore[arg-type]

        return Lap(run, {"device": 1})


def test_median_is_recovered_and_every_sample_kept_in_order() -> None:
    results = race({"a": lambda: 1e-3, "b": lambda: 2e-3}, clock=SimulatedClock(noise=0.02), precision=0.005)
    assert results["a"].median == pytest.approx(1e-3, rel=0.005)
    assert results["b"].median == pytest.approx(2e-3, rel=0.005)
    assert results["a"].stopped == "precise"
    assert (
        len(results["a"].samples_s["device"])
        == len(results["a"].samples_s["host"])
        == len(results["b"].samples_s["device"])
    )


def test_drift_that_hits_all_alike_cancels_in_the_ratio() -> None:
    warming = SimulatedClock(drift=lambda step: 1 + 0.5 * step / 400)
    results = race({"a": lambda: 1.0, "b": lambda: 1.1}, clock=warming, precision=1e-9, min_rounds=200, max_rounds=200)
    assert results["b"].median / results["a"].median == pytest.approx(1.1, rel=0.005)


def test_rounds_turn_around() -> None:
    turns: list[str] = []
    race(
        {name: lambda: 1.0 for name in "abc"}, clock=SimulatedClock(), min_rounds=2, max_rounds=2, on_turn=turns.append
    )
    assert "".join(turns) == "abc" + "abc" + "cba"  # warming up, then two rounds


def test_bimodal_samples_are_kept_as_they_are_and_told() -> None:
    twofold = SimulatedClock(drift=lambda step: 1.13 if step // 50 % 4 == 3 else 1.0, noise=1e-3)
    result = race({"a": lambda: 1.0}, clock=twofold, min_rounds=400, max_rounds=400)["a"]
    assert len(result.samples) == 400
    assert max(result.samples[100:150]) < 1.01 < 1.12 < min(result.samples[150:200])
    fast, slow = result.modes
    assert [fast.median_s, slow.median_s] == pytest.approx([1.0, 1.13], abs=1e-3)
    assert [fast.share, slow.share] == [0.75, 0.25]


SHAPES: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "normal": lambda generator, n: 1 + 0.05 * generator.normal(size=n),
    "skewed": lambda generator, n: generator.lognormal(0.0, 0.5, n),
    "uniform": lambda generator, n: generator.uniform(1, 2, n),
    "outliers": lambda generator, n: 1 + 0.02 * generator.standard_t(2, n),
    "coarse clock": lambda generator, n: np.round((5e-6 + 2e-7 * generator.normal(size=n)) / 32e-9) * 32e-9,
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("n", [6, 20, 60, 400])
def test_one_mode_is_not_taken_for_two(shape: str, n: int) -> None:
    generator = np.random.default_rng(n)
    found = [len(modes(SHAPES[shape](generator, n).tolist())) for _ in range(300)]
    assert set(found) <= {1, 2}
    assert found.count(2) <= 0.02 * len(found)


@pytest.mark.parametrize("n", [20, 60, 400])
def test_two_modes_are_found(n: int) -> None:
    """As users of other suites met them: 22.5 and 25.5 ms, 0.05 ms wide each."""
    generator = np.random.default_rng(n)
    found = 0
    for _ in range(200):
        samples = np.where(generator.random(n) < 0.4, 22.5, 25.5) + 0.05 * generator.normal(size=n)
        found += len(modes(samples.tolist())) == 2
    assert found >= 0.95 * 200


def test_interval_is_wider_where_samples_follow_each_other() -> None:
    """AR(1) with 0.5: order statistics alone hold the median in about 83 of 100 cases, with blocks in 90."""
    generator = np.random.default_rng(3)
    covered = 0
    for _ in range(300):
        noise = generator.normal(size=150)
        samples = noise.copy()
        for i in range(1, len(samples)):
            samples[i] = 0.5 * samples[i - 1] + noise[i]
        low, high = interval((samples[50:] + 10).tolist())
        covered += low <= 10 <= high
    assert covered / 300 >= 0.87


@pytest.mark.parametrize(
    ("limits", "reason"),
    [({"cap_s": 0.05, "max_rounds": 10**6}, "time cap"), ({"cap_s": 60.0, "max_rounds": 20}, "round cap")],
)
def test_noise_that_does_not_settle_ends_at_the_cap_and_says_so(limits: dict[str, float], reason: str) -> None:
    noisy = SimulatedClock(noise=0.3)
    results = race({"a": lambda: 1.0}, clock=noisy, precision=1e-4, **limits)  # type: ignore[arg-type]
    assert results["a"].stopped == reason
    assert results["a"].half_width > 1e-4


def test_slow_thunks_still_get_the_rounds_that_an_interval_needs() -> None:
    results = race({"a": lambda: time.sleep(0.02)}, cap_s=0.01)
    assert len(results["a"].samples_s["host"]) == 6
    assert results["a"].half_width < float("inf")


def test_interval_covers_the_median_as_often_as_it_says() -> None:
    """Distribution-free: checked on a skewed distribution. 95 % nominal; exact binomial coverage lies above it."""
    generator = np.random.default_rng(1)
    true_median, covered, trials = np.exp(0.0), 0, 2000
    for _ in range(trials):
        samples = generator.lognormal(0.0, 0.5, 31).tolist()
        low, high = interval(samples)
        ordered = sorted(samples)
        assert low <= ordered[9]  # the 10th smallest and largest of 31: P(Binomial(31, 1/2) < 10) < 0.025
        assert high >= ordered[21]
        assert half_width(samples) == pytest.approx((high - low) / 2 / statistics.median(samples))
        covered += low <= true_median <= high
    assert 0.94 <= covered / trials <= 0.985


def test_too_few_samples_have_no_interval() -> None:
    assert half_width([1.0] * 5) == float("inf")
    assert half_width([1.0] * 6) == 0.0


def test_short_calls_are_timed_in_batches() -> None:
    lap = HostClock().lap(lambda: None, fastest_s=1e-7)
    assert lap.calls["host_warm"] > 100
    assert lap.calls["host"] == 1
    assert min(lap.run()["host_warm"] for _ in range(5)) < 5e-6, "expected seconds per call, not per batch"


def test_a_flushed_cache_shows_in_the_cold_sample_only() -> None:
    """512 KiB are read from memory behind a flush, and from the second-level cache when they were just read."""
    data = np.random.default_rng(0).random(1 << 16)
    result = race({"sum": data.sum}, min_rounds=60, max_rounds=60)["sum"]
    cold, warm = (statistics.median(result.samples_s[name]) for name in ("host", "host_warm"))
    assert result.primary == "host"
    assert cold > 1.2 * warm
    unflushed = race({"sum": data.sum}, clock=HostClock(flush_bytes=0), min_rounds=60, max_rounds=60)["sum"]
    assert unflushed.median < cold


def test_harness_adds_at_most_five_percent() -> None:
    """Busy thunks that keep account of their own time; the wall time of the race, warming up included, against that."""
    spent = 0.0

    def busy(seconds: float) -> Callable[[], None]:
        def spin() -> None:
            nonlocal spent
            began = time.perf_counter()
            while time.perf_counter() < began + seconds:
                pass
            spent += time.perf_counter() - began

        return spin

    thunks = {"short": busy(50e-6), "medium": busy(1e-3), "long": busy(10e-3)}
    overheads = []
    for _ in range(3):
        spent, began, clock = 0.0, time.perf_counter(), HostClock()
        race(thunks, clock=clock, cap_s=10.0, max_rounds=100, min_rounds=100)
        overheads.append((time.perf_counter() - began - clock.flushed_s) / spent - 1)
    assert min(overheads) <= 0.05, f"expected at most 5 % beside the thunks, got {overheads}"


@pytest.mark.parametrize(
    ("arguments", "message"), [({}, "thunks: expected"), ({"min_rounds": 9, "max_rounds": 3}, "min_rounds: expected")]
)
def test_wrong_arguments_are_named(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        race({"a": lambda: None} if arguments else {}, **arguments)  # type: ignore[arg-type]


def test_rotating_inputs_exceed_the_cache() -> None:
    for input_bytes in (1, 1 << 20, 100 << 20):
        count = rotations(input_bytes, l2_bytes=50 << 20)
        assert 2 <= count <= 64
        assert count == 64 or (count - 1) * input_bytes >= 100 << 20


def test_the_timer_stands_alone() -> None:
    """Ten lines are enough to use it, and it pulls in neither pytest nor an operator."""
    program = """
import sys
from bench.core.race import race
results = race({"sort": lambda: sorted(range(1000)), "copy": lambda: list(range(1000))}, cap_s=0.2)
assert results["sort"].median > 0
assert not {name for name in sys.modules if name.partition(".")[0] in ("pytest", "_pytest", "kernels", "reference")}
"""
    subprocess.run([sys.executable, "-c", program], check=True)
