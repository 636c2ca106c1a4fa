"""Every cheat of tests/cheats.py costs its own row and nobody else's, and no honest provider is taken for one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from bench.core.ledger import Ledger
from bench.core.record import Record, this_run
from tests import cheats

NOT_SEEN = "its answer to values that it had not seen before the race is wrong"
WRONG = "Disproved: output 0, row "
CHEATS = [
    ("unwritten", "fwd", "failed", "Disproved: output 0"),
    ("half_written", "fwd", "invalid", NOT_SEEN),
    ("in_preparation", "fwd", "invalid", NOT_SEEN),
    ("stale", "fwd", "invalid", NOT_SEEN),
    ("by_pointer", "fwd", "invalid", NOT_SEEN),
    ("by_shape", "fwd", "invalid", NOT_SEEN),
    ("by_content", "fwd", "invalid", "remembers answers: "),
    ("by_count", "fwd", "invalid", NOT_SEEN),
    ("sniffing", "fwd", "invalid", NOT_SEEN),
    ("foreseen_rows", "fwd", "failed", WRONG),
    ("truncated", "fwd", "failed", WRONG),
    ("half_precision", "fwd", "failed", WRONG),
    ("other_dtype", "fwd", "failed", "Disproved: output 0: expected torch.float32 of shape"),
    ("not_a_number", "fwd", "failed", "are not finite where the reference is"),
    ("one_row", "fwd", "failed", "rows that are looked at, got shape (1, 2048)"),
    ("lazy", "fwd", "failed", "Disproved: expected plain tensors, got Lazy"),
    ("in_background", "fwd", "failed", "Disproved: "),
    ("overwriting", "fwd", "invalid", "or a later call wrote over it"),
    ("mutating", "fwd", "failed", "expected inputs that stay as they were"),
    ("mutating_weight", "fwd", "failed", "expected inputs that stay as they were"),
    ("mutating_late", "fwd", "invalid", "changed its inputs in round "),
    ("mutating_late_and_unseen", "fwd", "invalid", "expected inputs that stay as they were, got others (in round "),
    ("clock_of_python", "fwd", "failed", "got time.perf_counter_ns replaced"),
    ("clock_of_the_suite", "fwd", "failed", "got bench.core.clocks.perf_counter_ns replaced"),
    ("clock_later", "fwd", "invalid", "got bench.core.clocks.perf_counter_ns replaced (in round "),
    ("judge", "fwd", "failed", "got bench.core.proof.Yardstick.judge replaced"),
    ("arithmetic", "fwd", "failed", "got torch.Tensor.abs replaced"),
    ("statistics", "fwd", "failed", "got bench.core.race.Result.median replaced"),
    ("other_threads", "fwd", "failed", "got torch's threads from "),
    ("one_processor", "fwd", "failed", "got the processors of this process from "),
    ("other_arithmetic", "fwd", "failed", "got the precision of float32 products from highest to medium"),
    ("litter", "fwd", "failed", "got the garbage collector from True to False"),
    ("quitting", "fwd", "failed", "ended with exit code 0"),
    ("remembered_gradient", "bwd", "invalid", "remembers answers: "),
    ("scaled_gradient", "bwd", "failed", "gradient of x, row "),
    ("no_gradient", "bwd", "failed", "expected outputs that are differentiable"),
]
HONEST = ["honest", "honest_workspace", "honest_preparation", "honest_start"]


@pytest.fixture(scope="module")
def book() -> Iterator[Ledger]:
    """A ledger on the CPU, whose child goes through everything below."""
    device = torch.device("cpu")
    opened = Ledger(this_run(device, "smoke"), device, surveys=False)
    yield opened
    opened.close()


def _raced(book: Ledger, mode: str, *providers: str) -> list[Record]:
    """The records of some providers that race each other, clocked anew."""
    case = next(case for case in cheats.Squash.sweep_cases("smoke") if case.mode == mode)
    book._records.clear()
    book.planned[cheats.Squash, case.id] = list(providers)
    return [book.record(cheats.Squash, case, name) for name in providers]


@pytest.mark.parametrize("mode", ["fwd", "bwd"])
def test_wrong_answers_and_meddlers_fail_before_the_race(book: Ledger, mode: str) -> None:
    """All of them in one case, so that what one of them leaves behind would hit the next."""
    expected = {cheat: reason for cheat, of_mode, status, reason in CHEATS if (of_mode, status) == (mode, "failed")}
    before, *caught, behind = _raced(book, mode, "naive", *expected, "honest")
    for record in caught:
        assert record.status == "failed", f"{record.provider}: {record.status}, {record.reason}"
        assert expected[record.provider] in record.reason, f"{record.provider}: {record.reason}"
    assert before.status == behind.status == "measured", f"{before.reason} {behind.reason}"


DISHONEST = [(cheat, mode, reason) for cheat, mode, status, reason in CHEATS if status == "invalid"]


@pytest.mark.parametrize(("cheat", "mode", "reason"), DISHONEST, ids=[cheat for cheat, *_ in DISHONEST])
def test_cheat_is_caught_and_costs_nobody_else(book: Ledger, cheat: str, mode: str, reason: str) -> None:
    before, caught, behind = _raced(book, mode, "naive", cheat, "honest")
    assert caught.status == "invalid", f"{cheat}: {caught.status}, {caught.reason}"
    assert reason in caught.reason
    assert before.status == "measured", f"{cheat} cost naive its row: {before.reason}"
    assert behind.status == "measured", f"{cheat} cost the provider behind it its row: {behind.reason}"
    assert len(caught.other_samples_s["host"]) >= 6, "expected an invalid row to keep what was timed"


@pytest.mark.parametrize("mode", ["fwd", "bwd"])
def test_honest_providers_are_believed(book: Ledger, mode: str) -> None:
    for record in _raced(book, mode, *HONEST):
        without = mode == "bwd" and record.provider == "honest_workspace"
        assert record.status == ("absent" if without else "measured"), f"{record.provider}: {record.reason}"


def test_there_is_a_test_for_every_cheat() -> None:
    declared = {name for name in cheats.Squash.providers("peer") if not name.startswith("honest")}
    assert declared == {cheat for cheat, *_ in CHEATS}
    assert len(declared) >= 22
