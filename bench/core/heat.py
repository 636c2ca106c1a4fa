"""One case in the child: its providers proven one by one, raced against each other, and looked at once more after."""

from __future__ import annotations

import mmap
import statistics
from collections.abc import Callable, Generator, Iterator
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from random import Random
from time import perf_counter
from typing import Any

import torch

from bench.core import memory
from bench.core.case import Case, Make, plain
from bench.core.clocks import GRAPH_BELOW_S, Clock, EventClock, GraphClock, HostClock, Thunk, cache_bytes, rotations
from bench.core.energy import energy_per_call
from bench.core.integrity import Seal, Settings
from bench.core.marks import marks
from bench.core.messages import Begun, Message, Out, Proven, Raced, Request, Timed
from bench.core.obstacles import absent, give_back, in_a_line, settle, survive, unseen
from bench.core.operator import Operator, Unsupported
from bench.core.opinion import second_opinion
from bench.core.proof import Disproved, Yardstick, poisoned
from bench.core.race import Result, race
from bench.core.stock import Stock
from bench.core.telemetry import Log, monitor
from bench.core.trial import Trial, Witness, fingerprint
from bench.core.tuning import NoConfiguration, Plan, recording

# A call on values that were never there before takes as long as one on values that were. Where it takes half as long
# again, it is tried on more such values, each beside its own repetition; whoever is so much faster on every repetition
# remembers answers.
REMEMBERED = 1.5
TRIES = 5
# Work that the events of a call do not see keeps the device busy behind them. A tenth of the call is more than the
# events' own error; waiting for an idle device is allowed to take three times as long as it did before the race.
HIDDEN = 0.1
IDLE_MULTIPLE = 3.0
ENERGY_S = 2.0
SMALLEST_LAPS, SMALL_LAUNCH_S = 9, 20e-6
OTHER_INPUTS = "expected inputs that stay as they were, got others"


class Heat:
    """Serves one request. The trials of providers that may race are in `runners`."""

    def __init__(self, request: Request, operator: Operator, case: Case) -> None:
        self._request, self._operator, self._case = request, operator, case
        self._device = torch.device(request.device)
        self._runners: dict[str, Trial] = {}
        self._touched: dict[str, str] = {}
        self._exposed: dict[str, int] = {}

    def run(self) -> Iterator[Message]:
        """Everything that is to be said of the case, as it comes to be known."""
        yield Begun("", "oracle")
        try:
            self._draw()
        except Exception as error:
            if not memory.out_of_memory(error):
                raise
            for name in self._request.providers:
                yield Out(name, "absent", "out of memory in the check: the float64 reference does not fit here")
            return
        for name in self._request.providers:
            yield Begun(name, "proof")
            admitted = self._admit(name)
            yield admitted
            if isinstance(admitted, Out):
                survive(self._device)
        if self._runners:
            yield Begun("", "race")
            with Path(self._request.flight).open("r+b") as file, mmap.mmap(file.fileno(), 1) as flight:
                turns = {name: index for index, name in enumerate(self._request.providers)}

                def on_turn(name: str) -> None:
                    flight[0] = turns[name]

                yield from self._race(on_turn)

    def _draw(self) -> None:
        """Inputs, and what answers to them are held against: to the known values, and to fresh ones."""
        self._stock = Stock(self._operator, self._case, self._device)
        samples = self._operator.samples(self._stock.inputs, self._stock.seed)
        fresh, known = (
            self._operator.yardsticks(inputs(), self._case.mode, samples)
            for inputs in (self._stock.fresh, self._stock.known)
        )
        self._yardsticks = {"fresh": fresh, "known": known}
        self._seal, self._settings = Seal(), Settings(self._device)
        self._unchanged = fingerprint(self._stock.inputs)

    # Before the race.

    def _admit(self, name: str) -> Proven | Out:
        """Prove a provider; whatever it does wrong costs its own row only."""
        try:
            self._runners[name], proven = self._prove(name)
        except (ImportError, Unsupported, NoConfiguration) as obstacle:
            return absent(self._operator, name, obstacle)
        except Exception as error:  # noqa: BLE001 - as above
            self._seal.broken()
            self._settings.changed()
            if memory.out_of_memory(error):
                self._runners.pop(name, None)
                give_back(self._device)
                return Out(name, "absent", "out of memory")
            return Out(name, "failed", in_a_line(error))
        return proven

    def _prepare(self, name: str) -> tuple[Trial, float, Any]:
        """A trial that has run once, what that took, and what was compiled and tuned for it."""
        inputs = self._stock.known()
        plan = Plan.of(self._request.options.tune, self._request.options.config_from)
        began = perf_counter()
        with recording(plan, f"{self._operator.name()}/{self._case.mode}/{self._case.slug}/{name}") as notes:
            trial = Trial(self._operator.provider(name), inputs, self._case.mode)
            trial.once()
            settle(self._device)
        setup_s = perf_counter() - began
        if fingerprint(self._stock.inputs) != self._unchanged:
            raise Disproved(OTHER_INPUTS)
        return trial, setup_s, notes

    def _prove(self, name: str) -> tuple[Trial, Proven]:
        ours = self._operator.providers()[name].role == "kernel"
        trial, setup_s, notes = self._prepare(name)
        with poisoned() if ours else nullcontext():
            proof = trial.prove(self._yardsticks["known"])
        if ours:
            for first, second in zip(trial.once(), trial.once(), strict=True):
                if not torch.equal(first, second):
                    raise Disproved("expected the same bits from the same inputs, got two different answers")
        needs = memory.measure(trial, self._device)
        if breach := self._breach():
            raise Disproved(breach)
        tuned = [asdict(each) for each in notes.tuned]
        dtypes = sorted({str(plain(each.dtype)) for each in trial.inputs.values() if isinstance(each, torch.Tensor)})
        return trial, Proven(name, dtypes, proof, self._stock.seed, needs, setup_s, asdict(notes.compiling), tuned)

    def _breach(self, settings: Settings | None = None) -> str:
        """What was done to the instrument or to the settings of the process; undone, and empty if nothing was."""
        if replaced := self._seal.broken():
            return f"expected an instrument that is left alone, got {replaced} replaced"
        if changed := (settings or self._settings).changed():
            return f"expected settings that stay as they are, got {changed}"
        return ""

    # The race.

    def _race(self, on_turn: Callable[[str], None]) -> Iterator[Message]:
        """Race until nobody meddles; then look at each runner once more, and tell what was timed."""
        while self._runners:
            self._clock: Clock = EventClock(self._device) if self._device.type == "cuda" else HostClock()
            self._log = Log(monitor(self._device))
            results, raced = self._run_once(on_turn)
            yield raced
            if not self._meddled():
                break
            self._audit(max(len(result.samples) for result in results.values()), on_turn)
            for name, why in self._touched.items():
                yield Out(name, "invalid", why, samples_s=results[name].samples_s)
                self._runners.pop(name, None)
            self._touched.clear()
        else:
            return
        graphs, notes = yield from self._in_graphs(results, on_turn)
        for name, result in results.items():
            on_turn(name)
            yield Begun(name, "inspection")
            try:
                if why := self._dishonest(name, result):
                    yield Out(name, "invalid", why, samples_s=result.samples_s)
                    continue
            except Exception as error:  # noqa: BLE001 - it raises on other values than those it was proven on
                yield unseen(name, error, result.samples_s, self._device)
                survive(self._device)
                continue
            yield self._told(name, result, graphs.get(name), notes.get(name, ""))

    def _run_once(self, on_turn: Callable[[str], None]) -> tuple[dict[str, Result], Raced]:
        """One race over all runners on the known values."""
        self._stock.known()
        self._witnesses = {name: Witness(trial.timed()) for name, trial in self._runners.items()}
        lot = Random(self._stock.seed)

        def turn(name: str) -> None:
            on_turn(name)
            self._version = self._versions()
            # The n-th call is kept with probability 1/n: in the end, each with the same.
            rounds = self._rounds[name] = self._rounds.get(name, 0) + 1
            self._witnesses[name].armed = lot.random() * rounds < 1

        def lap(name: str, round_: int) -> None:
            self._log.after(name, round_)
            if self._versions() != self._version:
                self._touched.setdefault(name, f"changed its inputs in round {round_ + 1} of the race")

        self._rounds: dict[str, int] = {}
        with torch.no_grad():
            began = perf_counter()
            results = race(
                self._witnesses,
                clock=self._clock,
                cap_s=self._request.cap_s * len(self._runners),
                on_turn=turn,
                on_lap=lap,
            )
            wall_s = perf_counter() - began
        if isinstance(self._clock, EventClock):
            self._exposed = {name: self._clock.exposed[witness] for name, witness in self._witnesses.items()}
        thunks_s = sum(result.spent_s for result in results.values())
        return results, Raced(wall_s, thunks_s, self._clock.flushed_s)

    def _versions(self) -> int:
        """A number that torch's own operations change when they write to an input."""
        return sum(value._version for value in self._stock.inputs.values() if isinstance(value, torch.Tensor))

    def _meddled(self) -> bool:
        """Whether somebody changed inputs, instrument or settings in the race."""
        self._everyones = self._breach()
        if fingerprint(self._stock.inputs) != self._unchanged:
            self._everyones = self._everyones or OTHER_INPUTS
        return bool(self._everyones or self._touched)

    def _audit(self, rounds: int, on_turn: Callable[[str], None]) -> None:
        """Find out who did it: everyone starts anew, in as many rounds, and is looked at after every turn."""
        if self._touched:
            return
        inside = self._settings

        def turn(name: str) -> None:
            nonlocal inside
            inside = Settings(self._device)  # a race has settings of its own
            on_turn(name)

        def lap(name: str, round_: int) -> None:
            breach = self._breach(inside)
            if fingerprint(self._stock.inputs) != self._unchanged:
                breach = breach or OTHER_INPUTS
                self._stock.known()
            if breach:
                self._touched.setdefault(name, f"{breach} (in round {round_ + 1} of the race)")

        trials = {name: self._prepare(name)[0] for name in self._runners}
        self._stock.known()
        with torch.no_grad():
            thunks = {name: trial.timed() for name, trial in trials.items()}
            race(thunks, clock=self._clock, min_rounds=rounds, max_rounds=rounds, on_turn=turn, on_lap=lap)
        if not self._touched:
            who = "one of the providers of this case, and it could not be found out which"
            self._touched = dict.fromkeys(self._runners, f"{self._everyones}: {who}")

    def _in_graphs(
        self, results: dict[str, Result], on_turn: Callable[[str], None]
    ) -> Generator[Message, None, tuple[dict[str, Result], dict[str, str]]]:
        """Where the fastest is too short for events: everyone once more, in graphs; and why somebody is not."""
        if self._device.type != "cuda" or min(result.median for result in results.values()) >= GRAPH_BELOW_S:
            return {}, {}
        if self._case.mode == "bwd":
            return {}, dict.fromkeys(results, "no graph time: a backward pass is not captured")
        self._stock.known()
        with torch.no_grad():  # as in the race, so that nothing is compiled once more
            graphs, notes = self._captured(on_turn)
            if not graphs:
                return {}, notes
            began = perf_counter()
            found = race(graphs.thunks, clock=graphs, cap_s=self._request.cap_s * len(results), on_turn=on_turn)
            wall_s = perf_counter() - began
        self._exposed |= {name: graphs.exposed[thunk] for name, thunk in graphs.thunks.items()}
        yield Raced(wall_s, sum(result.spent_s - result.warmup_s for result in found.values()), graphs.flushed_s)
        return found, notes

    def _captured(self, on_turn: Callable[[str], None]) -> tuple[GraphClock, dict[str, str]]:
        """The graphs of everyone who can be captured, and why the others cannot."""
        graphs, notes = GraphClock(self._device), {}
        count = rotations(self._stock.nbytes, cache_bytes(self._device))
        others = [self._operator.inputs(Make(self._device, seed), **self._case.sizes) for seed in range(1, count)]
        for name, trial in self._runners.items():
            on_turn(name)
            try:
                more = [Trial(self._operator.provider(name), each, self._case.mode).timed() for each in others]
                graphs.capture(name, [trial.timed(), *more])
            except Exception as error:  # noqa: BLE001 - it keeps its device time, and its row says so
                notes[name] = f"no graph time: {in_a_line(error)}"
                survive(self._device)
        return graphs, notes

    # After the race.

    def _dishonest(self, name: str, result: Result) -> str:
        """Why a runner's time is not to be believed; empty if it is."""
        trial, kept = self._runners[name], self._witnesses[name].kept
        seconds, answer, yardstick = self._on_fresh_values(trial)
        settle(self._device)
        try:
            yardstick.judge(answer)
        except Disproved as error:
            return f"its answer to values that it had not seen before the race is wrong: {error}"
        if why := self._wrong_in_race(trial, kept):
            return why
        if seconds > REMEMBERED * result.median and self._remembers(trial):
            return (
                f"remembers answers: {seconds:.3g} s on values that it had not seen before, {result.median:.3g} s on "
                "those that it had"
            )
        return self._hides(result) or self._breach()

    def _on_fresh_values(self, trial: Trial) -> tuple[float, list[torch.Tensor], Yardstick]:
        """One lap on values that no provider has seen: its time, its answer, and what to hold that against."""
        self._stock.fresh()
        yardstick = Random(self._stock.seed).choice(self._yardsticks["fresh"])
        call, answer = trial.answering(yardstick)
        witness = Witness(call)
        witness.armed = True
        with torch.no_grad():
            seconds = self._clock.lap(witness, float("inf")).run()[self._clock.primary]
        return seconds, answer(witness.kept), yardstick

    def _wrong_in_race(self, trial: Trial, kept: Any) -> str:
        """Why an answer that was kept in the race is wrong (or was overwritten by a later call); empty if it is not.

        The backward pass of a sampled case has cotangents everywhere in the race, which no sample's yardstick knows.
        """
        yardsticks = self._yardsticks["known"]
        if kept is None or (self._case.mode == "bwd" and yardsticks[0].sample is not None):
            return ""
        self._stock.known()
        try:
            for yardstick in yardsticks:
                _, answer = trial.answering(yardstick)
                yardstick.judge(answer(kept))
        except Disproved as error:
            return f"an answer that was timed is wrong, or a later call wrote over it: {error}"
        return ""

    def _remembers(self, trial: Trial) -> bool:
        """Whether every repetition is much faster than the first call on values that were never there before."""
        for _ in range(TRIES):
            self._stock.mixed()
            with torch.no_grad():
                lap = self._clock.lap(trial.timed(), float("inf"))
                first, again = (lap.run()[self._clock.primary] for _ in range(2))
            if first <= REMEMBERED * again:
                return False
        return True

    def _hides(self, result: Result) -> str:
        """Whether the device was still busy when a call was over by its own stream's account."""
        lags = result.samples_s.get("lag")
        if not lags or not isinstance(self._clock, EventClock):
            return ""
        lag, idle = statistics.median(lags), self._clock.idle_lag_s
        if lag - idle > max(HIDDEN * result.median, IDLE_MULTIPLE * idle):
            return f"expected work on the stream that it was called on, got a device that was busy {lag:.3g} s longer"
        return ""

    def _told(self, name: str, result: Result, graph: Result | None, note: str) -> Timed:
        """A measured row with everything that was seen beside it."""
        if graph is not None:
            graph.samples_s |= result.samples_s
        options, best = self._request.options, graph or result
        opinion = used = None
        self._stock.known()
        with torch.no_grad():
            thunk = self._runners[name].timed()
            if options.second_opinion:
                opinion = self._opinion(thunk, best)
            if options.energy:
                used = energy_per_call(thunk, best.median, self._log.monitor, self._settle, ENERGY_S)
        doubts = [*self._log.marks(name), *marks(best, opinion, self._exposed.get(name, 0))]
        return Timed(name, best, note, self._log.of(name), asdict(used) if used else None, opinion, doubts)

    def _opinion(self, thunk: Thunk, result: Result) -> dict[str, Any]:
        """What CUPTI says of warm calls, against our own warm samples of them."""
        against = f"{result.primary}_warm"
        samples = sorted(result.samples_s[against])
        trim = len(samples) // 100
        spread_s = (samples[-1 - trim] - samples[trim]) / 2
        median, own_s = statistics.median(samples), self._smallest_s(result.primary)
        return second_opinion(thunk, self._settle, against, median, spread_s, own_s).as_dict()

    def _smallest_s(self, primary: str) -> float:
        """What a clock says of the smallest kernel there is, warm."""
        x = torch.zeros(1, device=self._device)
        run = self._clock.lap(lambda: x.add_(1), SMALL_LAUNCH_S).run
        if primary == GraphClock.primary:
            graphs = GraphClock(self._device)
            graphs.capture("smallest", [lambda: x.add_(1)])
            run = graphs.lap(graphs.thunks["smallest"]).run
        return statistics.median(run()[f"{primary}_warm"] for _ in range(SMALLEST_LAPS))

    def _settle(self) -> None:
        settle(self._device)
