"""The ledger of a run: has each case clocked once, in a child, and gives every row its samples or a reason."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from bench.core import journal
from bench.core.case import Case, plain
from bench.core.child import Child, ChildDied, ChildFailed, OutOfTime
from bench.core.clocking import clocked
from bench.core.clocks import cache_bytes
from bench.core.device import pinning
from bench.core.frontier import ENVIRONMENT, frontier, nowhere, serve_probe
from bench.core.messages import Begun, Message, Options, Out, Proven, Raced, Request, Survey, Surveyed, Timed
from bench.core.operator import Operator
from bench.core.record import Record, Run
from bench.core.registry import NEEDS_GPU
from bench.core.replay import REPLAY
from bench.core.roofs import Roof, bound_s, implausible
from bench.core.worker import serve

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture

CAP_S = {"smoke": 0.75, "quick": 0.75, "full": 5.0}

Row = tuple[type[Operator], str, str]


class Ledger:
    """The rows of a run.

    planned: the providers wanted of each case; frontiers: how many frontiers are wanted; without_time: absent, failed
    and invalid rows; facts: what the run has found out about itself; on_progress: told in words what happens now;
    surveys: whether the roofs of the device are measured before the first case.
    """

    def __init__(
        self,
        run: Run,
        device: torch.device,
        options: Options | None = None,
        on_progress: Callable[[str], None] = print,
        surveys: bool = True,
    ) -> None:
        self.run = run
        self.device = device
        self.options = options or Options()
        self.planned: dict[tuple[type[Operator], str], list[str]] = {}
        self.frontiers = 0
        self.without_time: list[Record] = []
        self.facts: dict[str, Any] = {}
        self._races: list[dict[str, float]] = []
        self._records: dict[Row, Record] = {}
        self._samples: dict[Row, list[float]] = {}
        self._proven: dict[Row, Proven] = {}
        self._past: dict[str, dict[str, Any]] = {}
        self._roofs: list[Roof] | None = None if surveys else []
        self._cache_bytes = cache_bytes(device)
        self._child = Child(serve, pinning() if device.type == "cpu" else None)
        self._prober = Child(serve_probe, ENVIRONMENT)
        self._journal: journal.Journal | None = None
        self._on_progress = on_progress
        self._started = time.monotonic()
        self._longest_s: dict[type[Operator], float] = {}
        self._done: set[tuple[type[Operator], str]] = set()

    def begin(self, resumes: bool = False) -> None:
        """Keep a journal of what is planned, or go on with the newest one. Raises `NotResumable` and `Unwritable`."""
        planned = [
            self.row_id(operator, case, name)
            for (operator, case_id), names in self.planned.items()
            for case in [self._case(operator, case_id)]
            for name in names
        ]
        past = None
        if resumes:
            past = journal.read(journal.newest(self.run.file.parent, self.run.commit))
            self.run = journal.resume(past, self.run, planned)
            self._past = {row["record"]["id"]: row for row in past.rows}
            self.facts |= past.facts
            self._races = self.facts.pop("races", [])
            if "roofs" in self.facts:
                self._roofs = [Roof(**each) for each in self.facts["roofs"]]
        self._journal = journal.Journal(self.run.file.with_suffix(".jsonl"), self.run, planned, past)

    def finish(self, saved: Path) -> str:
        """Remove the journal if a file holds everything that was planned; says what is left to do, if anything."""
        if self._journal is None or not self._journal.path.exists():
            return ""
        planned, sought = sum(len(names) for names in self.planned.values()), len(self.facts.get("frontiers", []))
        if sought < self.frontiers:
            return f"{sought} of {self.frontiers} frontiers are found; the same command with --resume finds the others"
        if len(self._records) < planned:
            return f"{len(self._records)} of {planned} rows are done; the same command with --resume does the others"
        held = _saved(saved)
        if held is None or not {record.id for record in self._records.values()} <= held:
            return f"all rows are done, but not all are in {saved}; the same command with --resume saves them"
        self._journal.remove(saved)
        return ""

    def replay(self, operator: type[Operator], case: Case, provider: str, benchmark: BenchmarkFixture) -> None:
        """Give pytest-benchmark the samples of a row, or skip or fail with the row's reason."""
        if benchmark.disabled:
            pytest.skip("not clocked: --benchmark-disable (which -n implies: rows would disturb each other)")
        record = self.record(operator, case, provider)
        if record.status == "absent":
            pytest.skip(f"{record.reason}; mend with: {record.remedy}" if record.remedy else record.reason)
        if record.status != "measured":
            pytest.fail(f"{record.status}: {record.reason}", pytrace=False)
        samples = self._samples[operator, case.id, provider]
        REPLAY.load(samples)
        benchmark.group = f"{record.operator} {case.id}"
        benchmark.extra_info["record"] = record.as_dict()
        benchmark.pedantic(lambda: None, rounds=len(samples))

    def record(self, operator: type[Operator], case: Case, provider: str) -> Record:
        """The record of a row; the first row of a case that is asked for has the whole case clocked."""
        row = operator, case.id, provider
        if row not in self._records and not self._remember(row, case):
            wanted = self.planned.get((operator, case.id), [])
            wanted = wanted if provider in wanted else [*wanted, provider]
            left = [name for name in wanted if not self._remember((operator, case.id, name), case)]
            self._clock(operator, case, left)
            self._done.add((operator, case.id))
        return self._records[row]

    def seek(self, operator: type[Operator], mode: str, provider: str) -> None:
        """Find the frontier of a provider, or skip with the reason why there is none."""
        if "PYTEST_XDIST_WORKER" in os.environ:
            pytest.skip("not sought: expected one process, which has all memory to itself, got pytest-xdist's -n")
        item = f"bench/{operator.__module__.removeprefix('bench.')}.py::{operator.__qualname__}"
        cap = self.options.memory_cap_bytes
        known: dict[str, Any] = {
            "operator": operator.name(),
            "mode": mode,
            "case": {axis: plain(value) for axis, value in operator.sweep[0].items() if axis != "seq_len"},
            "provider": provider,
            "role": operator.providers()[provider].role,
            "command": f'pytest "{item}::test_frontier[{provider}-{mode}]" -m frontier'
            + ("" if cap is None else f" --memory-cap {cap}"),
        }
        before: list[dict[str, Any]] = self.facts.get("frontiers", [])
        found = next((each for each in before if known.items() <= each.items()), None)
        if found is None:
            if known["role"] == "kernel" and self.device.type != "cuda":
                found = nowhere(cap, NEEDS_GPU)
            else:
                found = frontier(operator, mode, provider, self.device, cap, self._prober, self.options.row_timeout_s)
            self.note(frontiers=[*before, known | found])
        if reason := str(found["reason"]):
            pytest.skip(reason)

    @property
    def overhead(self) -> float | None:
        """What the harness added to the time spent inside the thunks, as a share of that; flushes of caches apart."""
        total = self._total()
        return (total["wall_s"] - total["flushes_s"]) / total["thunks_s"] - 1 if self._races else None

    @property
    def flush_share(self) -> float | None:
        """What the flushes of caches took, as a share of the time spent inside the thunks."""
        total = self._total()
        return total["flushes_s"] / total["thunks_s"] if self._races else None

    def note(self, **facts: Any) -> None:
        """Keep facts of the run, in the journal too."""
        self.facts |= facts
        self._write(kind="facts", **facts)

    def close(self) -> None:
        """End the children, and leave the journal to others."""
        self._child.stop()
        self._prober.stop()
        if self._journal:
            self._journal.close()

    @staticmethod
    def row_id(operator: type[Operator], case: Case, provider: str) -> str:
        """What identifies a row across runs."""
        return f"{operator.name()}/{case.mode}/{case.slug}/{provider}"

    def _case(self, operator: type[Operator], case_id: str) -> Case:
        return next(case for case in operator.sweep_cases(self.run.profile) if case.id == case_id)

    def _total(self) -> dict[str, float]:
        return {name: sum(race[name] for race in self._races) for name in ("wall_s", "thunks_s", "flushes_s")}

    def _remember(self, row: Row, case: Case) -> bool:
        """Whether a row was clocked before the run was cut short; if so, it is entered."""
        past = self._past.pop(self.row_id(row[0], case, row[2]), None)
        if past is not None:
            record = self._records[row] = Record(**past["record"])
            self._samples[row] = past["samples_s"]
            self._done.add((row[0], case.id))
            if record.status != "measured":
                self.without_time.append(record)
        return row in self._records

    def _clock(self, operator: type[Operator], case: Case, wanted: list[str]) -> None:
        """Clock a case, within what is left of the time budget, and put its rows on disk together."""
        began, races = time.monotonic(), len(self._races)
        providers = [name for name in wanted if not self._needs_gpu(operator, case, name)]
        try:
            if providers:
                self._survey()
                self._expect_time_for(operator)
                for message in clocked(self._child, self._request(operator, case, providers), self._deadline):
                    self._take(operator, case, message)
        except OutOfTime as end:
            self._drop(operator, case, providers, str(end))
        spent_s = time.monotonic() - began
        self._longest_s[operator] = max(spent_s, self._longest_s.get(operator, 0.0))
        rows = [
            {"record": self._records[row].as_dict(), "samples_s": self._samples.get(row, [])}
            for row in ((operator, case.id, name) for name in wanted)
        ]
        self._write(kind="rows", rows=rows, races=self._races[races:])

    def _write(self, **entry: Any) -> None:
        """Keep a line in the journal; where that cannot be, the run ends before it clocks what would be lost."""
        if self._journal is None:
            return
        try:
            self._journal.write(**entry)
        except journal.Unwritable as error:
            pytest.exit(f"{error}; when that is mended, the same command with --resume goes on", returncode=1)

    @property
    def _deadline(self) -> float | None:
        """When the time budget is spent, on the monotonic clock."""
        budget_s = self.options.time_budget_s
        return None if budget_s is None else self._started + budget_s

    def _expect_time_for(self, operator: type[Operator]) -> None:
        """Raise `OutOfTime` if a case would end after the time budget, going by the longest one of its operator."""
        known = self._longest_s.get(operator, max(self._longest_s.values(), default=0.0))
        if self._deadline is not None and time.monotonic() + known > self._deadline:
            raise OutOfTime("")

    def _drop(self, operator: type[Operator], case: Case, providers: Iterable[str], ended: str) -> None:
        """Leave a case to a run with more time, by name; ended: what was going on, if it had begun."""
        words = f"left out: the time budget of {self.options.time_budget_s:.0f} s was spent (priority {case.priority})"
        words += f", and ended {ended}" if ended else ""
        for name in providers:
            if (operator, case.id, name) not in self._records:
                self._take(operator, case, Out(name, "absent", words, "a larger --time-budget"))
        dropped = {"operator": operator.name(), "case": case.id, "priority": case.priority}
        self.note(dropped=[*self.facts.get("dropped", []), dropped])

    def _survey(self) -> None:
        """Measure the roofs of the device once, and learn what its clocks depend on."""
        if self._roofs is not None:
            return
        self._on_progress("measuring the device's own roofs")
        self._roofs = []
        try:
            for message in self._child.ask(Survey(str(self.device)), timeout_s=self.options.row_timeout_s):
                assert isinstance(message, Surveyed)
                self._roofs = [Roof(**each) for each in message.roofs]
                self.note(roofs=message.roofs, conditions=message.conditions)
        except (ChildDied, ChildFailed) as end:
            self._child.stop()  # the error may have poisoned its CUDA context
            self.note(roofs=[], conditions={"roofs": f"not measured: {end}"})

    def _needs_gpu(self, operator: type[Operator], case: Case, provider: str) -> bool:
        """Whether a row is absent because it is a kernel of ours and there is no GPU; if so, it is recorded."""
        ours = operator.providers()[provider].role == "kernel"
        if not ours or self.device.type == "cuda":
            return False
        self._take(operator, case, Out(provider, "absent", NEEDS_GPU))
        return True

    def _request(self, operator: type[Operator], case: Case, providers: list[str]) -> Request:
        return Request(
            module=operator.__module__,
            qualname=operator.__qualname__,
            case=case.id,
            profile=self.run.profile,
            providers=tuple(providers),
            device=str(self.device),
            cap_s=CAP_S[self.run.profile],
            options=self.options,
        )

    def _take(self, operator: type[Operator], case: Case, message: Message) -> None:
        """Enter a message."""
        match message:
            case Begun(provider, phase):
                self._on_progress(self._progress(operator, case, f"{phase} {provider}".strip()))
            case Raced():
                self._races.append(asdict(message))
            case Out(provider, status, reason, remedy, samples_s):
                known = {"status": status, "reason": reason, "remedy": remedy, "other_samples_s": samples_s}
                self._without(operator, case, provider, **known)
            case Proven(provider):
                self._proven[operator, case.id, provider] = message
            case Timed(provider):
                self._enter(operator, case, message)

    def _enter(self, operator: type[Operator], case: Case, timed: Timed) -> None:
        """A timed row with all that is known of it; invalid if it is faster than the device can be."""
        row, result = (operator, case.id, timed.provider), timed.result
        proven, (low_s, high_s) = self._proven[row], result.interval
        known = {
            "dtypes": proven.dtypes,
            "proof": asdict(proven.proof) | {"seed": proven.seed},
            "memory": asdict(proven.memory),
            "setup_s": proven.setup_s,
            "compiling": proven.compiling,
            "tuned": proven.tuned,
            "stop": {
                "rounds": len(result.samples),
                "reason": result.stopped,
                "half_width": result.half_width,
                "low_s": low_s,
                "high_s": high_s,
                "modes": [asdict(mode) for mode in result.modes],
            },
            "telemetry": timed.telemetry,
            "energy": timed.energy,
            "opinion": timed.opinion,
            "marks": timed.marks,
        }
        if why := self._beyond_roofs(operator, case, proven.dtypes, high_s):
            known |= {"status": "invalid", "reason": why, "other_samples_s": result.samples_s}
            self._without(operator, case, timed.provider, **known)
            return
        others = {clock: samples for clock, samples in result.samples_s.items() if clock != result.primary}
        known |= {"status": "measured", "reason": timed.note, "timer": result.primary, "other_samples_s": others}
        self._samples[row] = result.samples
        self._records[row] = self._record(operator, case, timed.provider, **known)

    def _without(self, operator: type[Operator], case: Case, provider: str, **known: Any) -> None:
        """A row without a time."""
        record = self._records[operator, case.id, provider] = self._record(operator, case, provider, **known)
        self.without_time.append(record)

    def _beyond_roofs(self, operator: type[Operator], case: Case, dtypes: list[str], high_s: float) -> str:
        """Why a time is impossible on this device; empty if it is not."""
        traffic, flops = (ask(case.mode, **case.sizes) for ask in (operator().traffic, operator().flops))
        bound = bound_s(traffic, flops, set(dtypes), self._cache_bytes, self._roofs or [])
        return "" if bound is None else implausible(high_s, bound)

    def _record(self, operator: type[Operator], case: Case, provider: str, **known: Any) -> Record:
        """A record with everything that follows from the row alone."""
        item = f"bench/{operator.__module__.removeprefix('bench.')}.py::{operator.__qualname__}"
        return Record(
            id=self.row_id(operator, case, provider),
            operator=operator.name(),
            mode=case.mode,
            case={axis: plain(value) for axis, value in case.axes.items()},
            sizes={axis: plain(value) for axis, value in case.sizes.items()},
            provider=provider,
            role=operator.providers()[provider].role,
            traffic_bytes=operator().traffic(case.mode, **case.sizes),
            flops=operator().flops(case.mode, **case.sizes),
            device=str(self.run.device["name"]),
            commit=self.run.commit,
            dirty=self.run.dirty,
            command=f'pytest "{item}::test_speed[{case.id}-{provider}]" --benchmark-only --profile {self.run.profile}',
            **known,
        )

    def _progress(self, operator: type[Operator], case: Case, phase: str) -> str:
        """What happens now, how far the run is, and how long it may still take."""
        total, done = len(self.planned), len(self._done)
        elapsed = time.monotonic() - self._started
        left = f", {timedelta(seconds=round(elapsed / done * (total - done)))} left" if done else ""
        return f"[{done + 1} of {total}{left}] {operator.name()} {case.id}: {phase}"


def _saved(file: Path) -> set[str] | None:
    """The ids of the rows that a results file holds; None if it is no whole one."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        rows = [each["extra_info"]["record"] for each in found["benchmarks"]] + found["rooftile"]["absent"]
        return {row["id"] for row in rows}
    except (OSError, ValueError, LookupError, TypeError):
        return None
