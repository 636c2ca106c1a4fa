"""The gate's own quality: what it promises holds on replays, and what is stored is what replays give."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.stats import fisher_exact, norm, t

from reports.judge.centre import centre
from reports.judge.machine import CASE, Machine, simulate
from reports.judge.noise import noise
from reports.judge.posterior import posterior
from reports.judge.quality import CHANGES, COMMAND, HISTORIES, quality, stored
from reports.judge.replay import replay
from reports.judge.stable import stable

FALSE_ALARMS, POWER = 0.01, 0.95
REPLAYS = 400


@pytest.fixture(scope="module")
def found() -> Any:
    """Ten runs of history, 200 rows; other random numbers than the stored figures have."""
    (of_ten,) = quality(replays=REPLAYS, histories=(10,), rows=(200,), changes=(0.05,), seed=7)["histories"]
    return of_ten


def _of(history: int) -> Any:
    return next(each for each in stored()["histories"] if each["history_runs"] == history)


def _power(of_history: Any, change: float) -> Any:
    return next(each for each in of_history["power"] if each["change"] == change)["all"]


def test_the_gate_holds_what_it_promises(found: Any) -> None:
    """As far as so many replays can tell."""
    assert found["false_alarms"]["replays"] == REPLAYS
    assert found["false_alarms"]["low"] <= FALSE_ALARMS
    assert found["false_alarms"]["rate"] <= 0.02
    assert _power(found, 0.05)["high"] >= POWER
    assert _power(found, 0.05)["rate"] >= 0.92
    assert found["improvements_that_failed"]["rate"] == 0


def test_what_is_stored_is_what_replays_give(found: Any) -> None:
    """Whoever changes the gate measures it anew: other figures than the stored ones would be told in 999 of 1,000."""
    known = _of(10)
    pairs = [
        (known["false_alarms"], found["false_alarms"]),
        (_power(known, 0.05), _power(found, 0.05)),
        (known["confirm"], found["confirm"]),
    ]
    for old, new in pairs[:2]:
        table = [
            [round(each["rate"] * each["replays"]), round((1 - each["rate"]) * each["replays"])] for each in (old, new)
        ]
        assert fisher_exact(table).pvalue > 0.001
    assert abs(pairs[2][0]["rate"] - pairs[2][1]["rate"]) < 0.1, "stored figures mix tables of three sizes"


def test_stored_figures_keep_the_promises_for_every_length_of_history() -> None:
    known = stored()
    assert known["command"] == COMMAND
    assert [each["history_runs"] for each in known["histories"]] == list(HISTORIES)
    for each in known["histories"]:
        assert each["false_alarms"]["high"] <= FALSE_ALARMS, "the whole interval, not only the rate"
        assert each["improvements_that_failed"]["rate"] <= 0.001
        powers = [_power(each, change)["rate"] for change in CHANGES]
        assert powers == sorted(powers), "larger slowdowns are found more often"
    assert _power(_of(10), 0.05)["rate"] >= POWER
    assert _power(_of(20), 0.05)["rate"] >= POWER
    fives = [_power(each, 0.05)["rate"] for each in known["histories"]]
    assert fives[0] < fives[1] < fives[2], "history is what finds slowdowns"


def test_stored_figures_are_of_the_machine_as_it_stands() -> None:
    machine = stored()["machine"]
    for name, value in vars(Machine()).items():
        assert machine[name] == (list(value) if isinstance(value, tuple) else value)


def test_the_same_seed_gives_the_same_figures() -> None:
    asked: dict[str, Any] = {"replays": 100, "histories": (3, 5), "rows": (100,), "changes": (0.1,)}
    assert quality(**asked) == quality(**asked, workers=2)
    assert quality(**asked) != quality(**asked, seed=5)


def test_replays_are_asked_for_in_whole_parts() -> None:
    with pytest.raises(ValueError, match="replays: expected a multiple of 100, got 150"):
        quality(replays=150)


def test_a_quiet_machine_raises_no_alarm_and_hides_nothing() -> None:
    quiet = replace(Machine(), two_speeds=0.0, outliers=0.0, throttled=0.0, changed=0.0, noise_width=0.1)
    draws = np.random.default_rng(3)
    assert not replay(quiet, draws, 100, 10, 100, 0.0).failed.sum() > 3
    assert replay(quiet, draws, 100, 10, 100, 0.05).found.mean() > 0.98


def test_the_simulated_machine_does_what_it_says() -> None:
    known = simulate(Machine(), np.random.default_rng(0), 60, 20, 200, 5)
    assert known.logs.shape == known.marked.shape == (60, 20, 200)
    assert known.kernel.mean() == pytest.approx(1 / CASE)
    assert known.two_speeds.mean() == pytest.approx(0.05, abs=0.01)
    small = simulate(Machine(), np.random.default_rng(0), 1000, 20, 10, 5)
    compute = np.broadcast_to(small.compute[:, None, :], small.marked.shape)
    assert small.marked[compute].mean() == pytest.approx(0.02 * 0.8, abs=0.004)
    assert not small.marked[~compute].any()
    steps = np.diff(np.median(known.logs, axis=2), axis=1)
    assert 0.004 < np.median(np.abs(steps)) / norm.ppf(0.75) < 0.012
    left = known.logs - np.median(known.logs, axis=2, keepdims=True)
    spread = np.median(np.abs(left - np.median(left, axis=1, keepdims=True)), axis=1) / norm.ppf(0.75)
    assert 0.004 < np.median(spread) < 0.012
    assert 0.008 < (np.abs(left - np.median(left, axis=1, keepdims=True)) > 0.08).mean() < 0.05


def test_noise_of_many_rows_is_drawn_towards_what_they_share() -> None:
    draws = np.random.default_rng(1)
    truth = 0.007 * np.exp(0.4 * draws.standard_normal(400))
    known = noise(truth * draws.standard_normal((6, 400))).known
    own = (truth * draws.standard_normal((6, 400))).std(axis=0, ddof=1)
    assert np.std(np.log(known.deviation / truth)) < 0.9 * np.std(np.log(own / truth))
    assert np.median(known.deviation) == pytest.approx(0.007, rel=0.1)


def test_a_chance_is_what_it_says() -> None:
    """Of rows without a change, so many are beyond each quantile as it says, with all that is unknown averaged over."""
    draws = np.random.default_rng(2)
    truth = 0.007 * np.exp(0.4 * draws.standard_normal(40_000))
    past, head = truth * draws.standard_normal((8, 40_000)), truth * draws.standard_normal(40_000)
    known = posterior(past.var(axis=0, ddof=1), np.full(40_000, 7.0))
    share, further = np.array(1 + 1 / 8), np.array(0.0)
    chance = known.beyond(head - past.mean(axis=0), share, further)
    for level in (0.1, 0.01, 0.001):
        assert (chance < level).mean() == pytest.approx(level, rel=0.25)
    excess = known.quantile(np.array(0.01), share, further)
    assert known.beyond(excess, share, further)[:50] == pytest.approx(np.full(50, 0.01), rel=1e-3)


def test_a_row_that_stands_alone_is_not_sure_of_its_noise() -> None:
    alone = posterior(np.array([0.01**2]), np.array([4.0]))
    known = alone.quantile(np.array(0.001), np.array(1.0), np.array(0.0))[0]
    assert norm.isf(0.001) * 0.01 < known < t.isf(0.001, 4) * 0.01 * 1.2


def test_two_speeds_are_two_levels_and_an_outlier_is_a_level_of_one_run() -> None:
    draws = np.random.default_rng(4)
    logs = 0.005 * draws.standard_normal((10, 50))
    logs[::2, 0] += 0.12
    logs[3, 1] += 0.2
    known = noise(logs)
    assert [list(known.sizes[:2, row]) for row in (0, 1, 2)] == [[5, 5], [9, 1], [10, 0]]
    assert known.known.deviation[:3] == pytest.approx(np.full(3, 0.005), rel=0.5)
    at_upper, size = known.excess(np.full((1, 50), 0.12), np.zeros(50), np.full(50, np.nan))
    assert abs(at_upper[0, 0]) < 0.02
    assert size[0, 0] == 5
    assert at_upper[0, 2] == pytest.approx(0.12, abs=0.01)


def test_only_the_newest_stable_stretch_of_history_stays() -> None:
    draws = np.random.default_rng(5)
    logs = 0.005 * draws.standard_normal((12, 40))
    logs[:7, 0] += 0.05
    logs[:10, 1] -= 0.08
    logs[11, 2] += 0.2
    logs[[0, 4, 8], 3] += 0.1
    logs[:3, 4] += 0.2
    logs[3:7, 4] += 0.1
    kept = stable(logs)
    lost = [int(np.isnan(kept[:, row]).sum()) for row in range(40)]
    assert lost[:5] == [7, 10, 0, 0, 7], "changed, changed just now, an outlier, two speeds, changed twice"
    assert sum(lost[5:]) == 0


def test_what_a_run_shares_is_taken_out_by_kind_of_row() -> None:
    draws = np.random.default_rng(6)
    compute = np.arange(60) % 2 == 0
    control = np.arange(60) % 5 != 4
    drift = np.cumsum(draws.normal(0, 0.01, 8))
    logs = 0.003 * draws.standard_normal((8, 60)) + drift[:, None] + np.where(compute, drift[:, None], 0)
    logs[-1, ~control] += 0.1
    reference = np.arange(8) < 7
    found = centre(logs, reference, control, compute)
    truth = np.where(compute, 2, 1) * (drift - np.median(drift[:7]))[:, None]
    assert np.abs(found.shift - truth).max() < 0.01, "expected the rows that are no controls to move nothing"
    alone = centre(logs, reference, np.zeros(60, dtype=bool), compute)
    assert not alone.shift.any()
