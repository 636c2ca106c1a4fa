"""The ledger of a run: has each case clocked once, in a child, and gives every row its samples or a reason."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from bench.core.case import Case, plain
from bench.core.child import Child, ChildDied, ChildFailed
from bench.core.operator import Operator
from bench.core.record import Record, Run
from bench.core.registry import NEEDS_GPU
from bench.core.replay import REPLAY
from bench.core.worker import Begun, Message, Out, Proven, Raced, Request, Timed, serve

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture

CAP_S = {"smoke": 0.75, "quick": 0.75, "full": 5.0}

Row = tuple[type[Operator], str, str]


class Ledger:
    """planned: the providers wanted of each case; on_progress: told in words what happens now."""

    def __init__(self, run: Run, device: torch.device, on_progress: Callable[[str], None] = print) -> None:
        self.run = run
        self.device = device
        self.planned: dict[tuple[type[Operator], str], list[str]] = {}
        self.absent: list[Record] = []
        self.thunks_s = self.wall_s = 0.0
        self._records: dict[Row, Record] = {}
        self._samples: dict[Row, list[float]] = {}
        self._proven: dict[Row, Proven] = {}
        self._child = Child(serve)
        self._on_progress = on_progress
        self._started = time.monotonic()
        self._done: set[tuple[type[Operator], str]] = set()

    def replay(self, operator: type[Operator], case: Case, provider: str, benchmark: BenchmarkFixture) -> None:
        """Give pytest-benchmark the samples of a row, or skip or fail with the row's reason."""
        record = self.record(operator, case, provider)
        if record.status == "absent":
            pytest.skip(f"{record.reason}; mend with: {record.remedy}" if record.remedy else record.reason)
        if record.status == "failed":
            pytest.fail(record.reason, pytrace=False)
        samples = self._samples[operator, case.id, provider]
        REPLAY.load(samples)
        benchmark.group = f"{record.operator} {case.id}"
        benchmark.extra_info["record"] = record.as_dict()
        benchmark.pedantic(lambda: None, rounds=len(samples))

    def record(self, operator: type[Operator], case: Case, provider: str) -> Record:
        """The record of a row; the first row of a case that is asked for has the whole case clocked."""
        row = operator, case.id, provider
        if row not in self._records:
            wanted = self.planned.get((operator, case.id), [])
            self._clock(operator, case, wanted if provider in wanted else [*wanted, provider])
            self._done.add((operator, case.id))
        return self._records[row]

    @property
    def overhead(self) -> float | None:
        """The wall time of all races over the time spent inside the thunks, less one."""
        return self.wall_s / self.thunks_s - 1 if self.thunks_s else None

    def close(self) -> None:
        """End the child."""
        self._child.stop()

    def _clock(self, operator: type[Operator], case: Case, wanted: list[str]) -> None:
        """Clock a case. A provider that breaks the race is out, and the others start again."""
        providers = [name for name in wanted if not self._needs_gpu(operator, case, name)]
        with tempfile.NamedTemporaryFile() as flight:
            while providers:
                Path(flight.name).write_bytes(b"\xff")
                begun = Begun("", "start")
                try:
                    for message in self._child.ask(self._request(operator, case, providers, flight.name)):
                        begun = self._take(operator, case, message) or begun
                    break
                except (ChildDied, ChildFailed) as end:
                    turn = Path(flight.name).read_bytes()[0]
                    culprit = begun.provider or (providers[turn] if turn < len(providers) else "")
                    for name in [culprit] if culprit else providers:
                        if (operator, case.id, name) not in self._records:  # its own word comes first
                            self._take(operator, case, Out(name, "failed", str(end)))
                providers = [name for name in providers if (operator, case.id, name) not in self._records]

    def _needs_gpu(self, operator: type[Operator], case: Case, provider: str) -> bool:
        """Whether a row is absent because it is a kernel of ours and there is no GPU; if so, it is recorded."""
        ours = operator.providers()[provider].role == "kernel"
        if not ours or self.device.type == "cuda":
            return False
        self._take(operator, case, Out(provider, "absent", NEEDS_GPU))
        return True

    def _request(self, operator: type[Operator], case: Case, providers: list[str], flight: str) -> Request:
        return Request(
            module=operator.__module__,
            qualname=operator.__qualname__,
            case=case.id,
            profile=self.run.profile,
            providers=tuple(providers),
            device=str(self.device),
            cap_s=CAP_S[self.run.profile],
            flight=flight,
        )

    def _take(self, operator: type[Operator], case: Case, message: Message) -> Begun | None:
        """Enter a message; gives it back if it says what has begun."""
        match message:
            case Begun(provider, phase):
                self._on_progress(self._progress(operator, case, f"{phase} {provider}".strip()))
                return message
            case Raced(wall_s, thunks_s):
                self.wall_s += wall_s
                self.thunks_s += thunks_s
            case Out(provider, status, reason, remedy):
                record = self._record(operator, case, provider, status=status, reason=reason, remedy=remedy)
                self._records[operator, case.id, provider] = record
                self.absent.append(record)
            case Proven(provider):
                self._proven[operator, case.id, provider] = message
            case Timed(provider):
                self._enter(operator, case, message)
        return None

    def _enter(self, operator: type[Operator], case: Case, timed: Timed) -> None:
        """A measured row: its samples, with the proof and the memory that came before them."""
        row, result = (operator, case.id, timed.provider), timed.result
        proven, samples = self._proven[row], dict(result.samples_s)
        self._samples[row] = samples.pop(result.primary)
        self._records[row] = self._record(
            operator,
            case,
            timed.provider,
            status="measured",
            reason=timed.note,
            timer=result.primary,
            other_samples_s=samples,
            proof=asdict(proven.proof),
            memory=asdict(proven.memory),
            setup_s=proven.setup_s,
            stop={"rounds": len(self._samples[row]), "reason": result.stopped, "half_width": result.half_width},
        )

    def _record(self, operator: type[Operator], case: Case, provider: str, **known: Any) -> Record:
        """A record with everything that follows from the row alone."""
        item = f"bench/{operator.__module__.removeprefix('bench.')}.py::{operator.__qualname__}"
        return Record(
            id=f"{operator.name()}/{case.mode}/{case.slug}/{provider}",
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
