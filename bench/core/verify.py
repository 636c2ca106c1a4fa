"""Verifying counts against the ledger, or accepting them into it.

A count is exact, so what was counted from the same sources need not be counted twice: the ledger seals what was
accepted with a digest of it and of those sources. Where a seal holds, it is the proof; a share of the sealed, drawn by
lot, is counted all the same, so that no forged or forgotten one lasts.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from bench.core.baseline import Baseline, differences, told
from bench.core.counts import Counts, Unit, versions
from bench.core.fingerprint import seal
from bench.hardware import GPUS, as_dict

if TYPE_CHECKING:
    from bench.core.operator import Operator


class Changed(AssertionError):  # noqa: N818 - it reads as what happened
    """Something costs another amount than the ledger says."""


class Verification:
    """One session of counting.

    accept: write what is found into the ledger, in place of comparing it; recount: the share of the sealed that is
    counted anew.
    """

    def __init__(self, counts: Counts, baseline: Baseline, accept: bool = False, recount: float = 1.0) -> None:
        self.accept = accept
        self.foreign = "" if accept else baseline.foreign(versions())
        self.counted = self.sealed = 0
        self._trusts = 0.0 if baseline.foreign(versions()) else 1.0 - recount
        self._trusted: set[Unit] = set()
        self._seconds: dict[str, float] = {}
        self._counts = counts
        self._baseline = baseline
        self._known: Collection[tuple[str, ...]] = ()

    @property
    def comparable(self) -> bool:
        """Whether counts made here can be compared with the ledger; if not, `foreign` says why."""
        return not self.foreign

    def begin(self, units: Sequence[Unit], known: Collection[tuple[str, ...]]) -> None:
        """Start to count, where that is of any use. known: all paths that there are in the tree.

        Raises ValueError where a part of the ledger would be accepted with other versions than the rest.
        """
        self._known = known
        foreign = self._baseline.foreign(versions())
        if self.accept and foreign and not {path for path in known if path[0] != "floors"} <= {u.path for u in units}:
            raise ValueError(f"--accept-counts: expected all of `pytest bench -m count`, got a part of it; {foreign}")
        if self.comparable:
            lot = random.SystemRandom()
            self._trusted = {unit for unit in units if lot.random() < self._trusts and self._holds(unit)}
            self._counts.submit(unit for unit in units if unit not in self._trusted)

    def unit(self, unit: Unit) -> None:
        """Count a unit and compare, unless its seal is trusted. Raises `Changed`."""
        if unit in self._trusted:
            self.sealed += 1
            return
        answer = self._counts.result(unit)
        self._seconds |= {f"{unit.target} {name}": seconds for name, seconds in answer.seconds.items()}
        self._settle(unit.path, answer.found)
        if self.accept:
            self._baseline.put(("seals", *unit.path), seal(unit, answer.found))

    def _holds(self, unit: Unit) -> bool:
        """Whether what the ledger holds of a unit is what was accepted, and its sources are those of then."""
        accepted = self._baseline.get(unit.path)
        return accepted is not None and self._baseline.get(("seals", *unit.path)) == seal(unit, accepted)

    def floors(self, operator: type[Operator]) -> None:
        """Compare the fewest bytes and operations that an operator states for each case of its sweep."""
        self._settle(("floors", operator.name()), floors_of(operator))

    def finish(self) -> None:
        """Write the ledger, if what was found is accepted; what is under none of the known paths is dropped."""
        if self.accept and self.counted + self.sealed:
            self._baseline.put(("versions",), versions())
            self._baseline.put(("gpus",), {name: as_dict(gpu) for name, gpu in GPUS.items()})
            self._baseline.prune(sorted(self._known))
            self._baseline.write()

    def summary(self) -> str:
        """What was done, in a sentence, if anything was; the seconds are those of each compilation when it last ran."""
        if not self.counted + self.sealed:
            return ""
        text = f"{'accepted' if self.accept else 'compared'} {self.counted} counts"
        if self.sealed:
            text += (
                f" ({self.sealed} more are sealed: nothing that they depend on has changed; --recount counts them too)"
            )
        if self._seconds:
            slowest = max(self._seconds, key=lambda name: self._seconds[name])
            total = sum(self._seconds.values())
            text += f", {len(self._seconds)} compiled kernels among them ({total:.0f} s of one core when compiled; "
            text += f"the slowest, {slowest}: {self._seconds[slowest]:.1f} s)"
        return text

    def close(self) -> None:
        """End what still counts."""
        self._counts.close()

    def _settle(self, path: tuple[str, ...], found: dict[str, Any]) -> None:
        self.counted += 1
        if self.accept:
            self._baseline.put(path, found)
            return
        changes = differences(self._baseline.get(path), found)
        if changes:
            raise Changed(told(path, changes))


def floors_of(operator: type[Operator]) -> dict[str, Any]:
    """The floor of every case of an operator's sweep: bytes and operations."""
    declared = operator()
    return {
        case.id: {"bytes": declared.traffic(case.mode, **case.sizes), "flops": declared.flops(case.mode, **case.sizes)}
        for case in operator.sweep_cases("full")
    }
