"""What compiling and tuning cost, and which configuration every autotuned Triton kernel ran with.

    with recording(Plan("cached"), "rms_norm/fwd/llama3-8b-seq_len512-bf16/triton") as notes:
        first_call()
    notes.tuned, notes.compiling

While it records, every launch through Triton's `Autotuner`, whoever wrote the kernel, goes by the plan. What the plan
chose stays in the autotuner's own cache, so that calls behind the recording run with it and are untouched again. What
Inductor tunes, and kernels that are not Triton's, is not seen here, only timed as far as Dynamo waits for it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any
from unittest.mock import patch
from weakref import WeakKeyDictionary

from bench.core.stored import LAUNCH, Facts, Place, loaded, plain

Launch = Callable[[], Any]
Spans = list[tuple[float, float]]

MODES = ("full", "cached", "first")
# What a mode may use of what earlier recordings left in an autotuner's cache, by its source there.
REUSED = {"full": ("tuned", "only"), "cached": ("tuned", "cached", "only"), "first": ("first", "only")}
# What they left: the configuration and its source, by key.
_KEPT: WeakKeyDictionary[Any, dict[Any, tuple[Any, str]]] = WeakKeyDictionary()


class NoConfiguration(LookupError):  # noqa: N818 - it reads as what happened
    """A results file has no configuration for a kernel of a row, or none that can run here; says which."""


class Unlike(ValueError):  # noqa: N818 - as above
    """A configuration is none for a kernel; says why."""


@dataclass(frozen=True)
class Tuned:
    """What an autotuned kernel ran with.

    key: the values that Triton tells calls apart by, then the tensors' dtypes, as text; config: meta-parameters and
    launch options that are set; source: `tuned` (benchmarked now), `cached` (earlier, in this process or on disk),
    `first` (tuning was switched off), `only` (there was no choice) or `from <file>`.
    """

    kernel: str
    key: list[str]
    config: Facts
    source: str


@dataclass(frozen=True)
class Compiling:
    """What went into compiling and tuning, in seconds of wall time, none of them counted twice.

    tune_s: inside the benchmarks of autotuners, compiling the candidates included; compile_s: inside Triton's compiler
    or Dynamo and what it calls, outside of tune_s. kernels: how many Triton kernels this process compiled or loaded,
    candidates included; cache_hits: how many of them came from Triton's disk cache. Putting machine code on the device
    is in neither time, nor are Inductor's benchmarks at the first call of what it compiled.
    """

    compile_s: float
    tune_s: float
    kernels: int
    cache_hits: int


@dataclass(frozen=True)
class Plan:
    """How autotuned kernels get their configurations. Plain data: it may travel to another process.

    mode: `full` (each kernel and key is tuned when this process first records it), `cached` (what Triton's disk cache
    knows is taken, the rest is tuned and stored there) or `first` (the first configuration that can run, no
    benchmarks). configs: those that are used instead, see `load_configs`; source: the name of the file they are from.
    """

    mode: str = "full"
    configs: dict[Place, Facts] | None = None
    source: str = ""

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"--tune: expected {', '.join(MODES)}, got {self.mode!r}")

    @classmethod
    def of(cls, tune: str, config_from: str | None) -> Plan:
        """The plan behind the options --tune and --config-from. Raises `ValueError` naming the option."""
        if config_from is None:
            return cls(tune)
        return cls(tune, loaded(Path(config_from)), Path(config_from).name)


class Tuning:
    """What a recording notes."""

    def __init__(self, plan: Plan, row: str) -> None:
        self.refused: NoConfiguration | None = None
        self._plan, self._row = plan, row
        self._stored = {place[1:]: facts for place, facts in (plan.configs or {}).items() if place[0] == row}
        self._sources: dict[tuple[Any, Any], str] = {}
        self._configs: dict[tuple[Any, Any], Any] = {}
        self._benched: Counter[Any] = Counter()
        self._candidates: dict[Any, int] = {}
        self._benching = 0
        self._tuning: Spans = []
        self._compiling: Spans = []
        self._hits: list[bool] = []

    @property
    def tuned(self) -> list[Tuned]:
        """Every autotuned kernel and key that was launched, in the order met, with the configuration it last had."""
        return [
            Tuned(_name(tuner), [str(value) for value in key], _facts(config), self._sources[tuner, key])
            for (tuner, key), config in self._configs.items()
        ]

    @property
    def compiling(self) -> Compiling:
        """What compiling and tuning took."""
        tune_s = _covered(self._tuning)
        compile_s = _covered(self._tuning + self._compiling) - tune_s
        return Compiling(compile_s, tune_s, len(self._hits), sum(self._hits))

    def enforce(self) -> None:
        """Put this row's configurations into force again: other rows of the process may use such kernels otherwise."""
        for (tuner, key), config in self._configs.items():
            if len(tuner.configs) > 1:
                tuner.cache[key] = config

    def listen(self, undo: ExitStack) -> None:
        """Hear of what Dynamo and Triton compile, and stand between callers and Triton's autotuners."""
        undo.enter_context(_time_dynamo(self._compiling))
        try:
            from triton import knobs
            from triton.runtime.autotuner import Autotuner
        except ImportError:  # then nothing of Triton's is compiled or tuned
            return
        before = knobs.compilation.listener

        def compiled(**told: Any) -> None:
            now = perf_counter()
            self._compiling.append((now - told["times"].total / 1e6, now))
            self._hits.append(bool(told["cache_hit"]))
            if before is not None:
                before(**told)

        undo.enter_context(patch.object(knobs.compilation, "listener", compiled))
        for name, replacement in self._replacements(Autotuner):
            undo.enter_context(patch.object(Autotuner, name, replacement))

    def _replacements(self, autotuner: Any) -> Iterator[tuple[str, Callable[..., Any]]]:
        stock_run, stock_bench, stock_prune = autotuner.run, autotuner._bench, autotuner.prune_configs

        def run(tuner: Any, *args: Any, **kwargs: Any) -> Any:
            return self._run(tuner, args, kwargs, lambda: stock_run(tuner, *args, **kwargs))

        def bench(tuner: Any, *args: Any, **kwargs: Any) -> Any:
            began = perf_counter()
            self._benched[tuner] += 1
            self._benching += 1
            try:
                return stock_bench(tuner, *args, **kwargs)
            finally:
                self._benching -= 1
                self._tuning.append((began, perf_counter()))

        def prune(tuner: Any, kwargs: dict[str, Any]) -> Any:
            found = stock_prune(tuner, kwargs)
            self._candidates[tuner] = len(found)
            return found

        yield "run", run
        yield "_bench", bench
        yield "prune_configs", prune

    def _run(self, tuner: Any, args: tuple[Any, ...], kwargs: dict[str, Any], launch: Launch) -> Any:
        key = _key(tuner, args, kwargs)
        if len(tuner.configs) == 1:  # Triton then neither forms a key nor looks into its cache
            key = tuple(map(str, key))
            facts, own = self._stored.get((_name(tuner), key)), _facts(tuner.configs[0])
            if facts and facts != own:
                raise self._refusal(tuner, key, f"{facts}, where the kernel has but {own}")
            source, result = "only", launch()
        elif (tuner, key) in self._sources and key in tuner.cache:
            source, result = self._sources[tuner, key], launch()
        elif self._plan.configs is not None:
            source, result = f"from {self._plan.source}", self._run_stored(tuner, key, launch)
        elif (found := _source(tuner, key)) in REUSED[self._plan.mode]:
            source, result = "cached" if found == "tuned" else found, launch()
        elif self._plan.mode == "first":
            source, result = self._run_first(tuner, key, args, kwargs, launch)
        else:
            source, result = self._run_tuned(tuner, key, launch)
        self._sources.setdefault((tuner, key), source)
        if not self._benching:  # an autotuner inside of another one that tries its candidates has not settled yet
            self._configs[tuner, key] = tuner.best_config
        return result

    def _run_tuned(self, tuner: Any, key: Any, launch: Launch) -> tuple[str, Any]:
        """Have Triton tune, or look it up on disk."""
        tuner.cache.pop(key, None)
        self._candidates.pop(tuner, None)
        benched = self._benched[tuner]
        looks_up = self._plan.mode == "cached" and _storable(tuner, key)
        with patch.object(tuner, "cache_results", looks_up):
            result = launch()
        alone = self._candidates.get(tuner) == 1  # which Triton 3.9 does not benchmark, and its predecessors do
        tuned = self._benched[tuner] > benched
        source = "only" if alone else "tuned" if tuned else "cached" if looks_up else "only"
        _keep(tuner, key, tuner.best_config, source)
        return source, result

    def _run_first(self, tuner: Any, key: Any, args: Any, kwargs: Any, launch: Launch) -> tuple[str, Any]:
        """Launch with the first candidate that this device can run."""
        tuner.nargs = dict(zip(tuner.arg_names, args, strict=False))
        *others, last = tuner.prune_configs(kwargs)
        source = "first" if others else "only"
        for config in others:
            with suppress(*_unfit()):
                return source, _launched(tuner, key, config, source, launch)
        return source, _launched(tuner, key, last, source, launch)

    def _run_stored(self, tuner: Any, key: Any, launch: Launch) -> Any:
        """Launch with the configuration that the results file has."""
        text = tuple(map(str, key))
        facts = self._stored.get((_name(tuner), text))
        if not facts:
            raise self._refusal(tuner, text, "none" if facts is None else "several that differ")
        try:
            return _launched(tuner, key, _restored(tuner, facts), "from", launch)
        except _unfit() as error:
            raise self._refusal(tuner, text, f"{facts}, which cannot run here: {error}") from error

    def _refusal(self, tuner: Any, key: tuple[str, ...], got: str) -> NoConfiguration:
        """Kept as well, because a provider may swallow what is raised inside of it and take another way."""
        self.refused = NoConfiguration(
            f"--config-from: expected a configuration of kernel {_name(tuner)} with key ({', '.join(key)}) for row "
            f"{self._row} in {self._plan.source}, got {got}"
        )
        return self.refused


@contextmanager
def recording(plan: Plan, row: str = "") -> Iterator[Tuning]:
    """Inside, autotuned kernels go by `plan`, and what that and compiling takes is noted. Not to be nested.

    row: the id of the row that the calls are for. Raises `NoConfiguration`, also at the end if the calls swallowed it.
    """
    notes = Tuning(plan, row)
    with ExitStack() as undo:
        notes.listen(undo)
        yield notes
    if notes.refused is not None:
        raise notes.refused


def _time_dynamo(spans: Spans) -> Any:
    """A context in which it is noted when Dynamo, with all that it waits for, is at work."""
    from torch._dynamo.callback import callback_handler

    stock = callback_handler.install_callbacks  # around the compilation of a frame or, later, of its backward

    @contextmanager
    def timed(*args: Any, **kwargs: Any) -> Iterator[None]:
        began = perf_counter()
        try:
            with stock(*args, **kwargs):
                yield
        finally:
            spans.append((began, perf_counter()))

    return patch.object(callback_handler, "install_callbacks", timed)


def _unfit() -> tuple[type[Exception], ...]:
    """What says that a configuration cannot run here: what Triton's autotuner takes for that, and ours."""
    from triton.compiler.errors import CompileTimeAssertionFailure
    from triton.runtime.errors import OutOfResources, PTXASError

    return OutOfResources, CompileTimeAssertionFailure, PTXASError, Unlike


def _launched(tuner: Any, key: Any, config: Any, source: str, launch: Launch) -> Any:
    """Launch with a configuration, which stays if it runs; if it does not, what was there before comes back."""
    with patch.dict(tuner.cache, {key: config}):
        result = launch()
    if tuner.best_config is not config:
        raise RuntimeError(f"{_name(tuner)}: expected Triton to launch with {config}, got {tuner.best_config}")
    _keep(tuner, key, config, source)
    return result


def _keep(tuner: Any, key: Any, config: Any, source: str) -> None:
    tuner.cache[key] = config
    _KEPT.setdefault(tuner, {})[key] = (config, source)


def _source(tuner: Any, key: Any) -> str:
    """Where what an autotuner's cache holds is from (`tuned` if no recording knows); empty if it holds nothing."""
    config = tuner.cache.get(key)
    kept, source = _KEPT.get(tuner, {}).get(key, (None, ""))
    return "" if config is None else source if kept is config else "tuned"


def _storable(tuner: Any, key: Any) -> bool:
    """Whether Triton's disk cache can hold the result: neither what is interpreted nor what JSON cannot hold."""
    from triton import knobs

    values = [*key, *(value for config in tuner.configs for value in config.kwargs.values())]
    return not knobs.runtime.interpret and all(plain(value) is value for value in values)


def _restored(tuner: Any, facts: Facts) -> Any:
    """The autotuner's own configuration of these facts, or a new one like its others. Raises `Unlike`."""
    from triton import Config

    for config in tuner.configs:
        if _facts(config) == facts:
            return config
    names = facts.keys() - set(LAUNCH)
    like = [config for config in tuner.configs if config.kwargs.keys() == names]
    if not like:
        raise Unlike(f"expected meta-parameters {sorted(tuner.configs[0].kwargs)}, got {sorted(names)}")
    if any(config.pre_hook is not like[0].pre_hook for config in like):
        raise Unlike("it is none of the kernel's own, whose hooks differ")
    own = {(name, plain(value)): value for config in like for name, value in config.kwargs.items()}
    values = {name: own.get((name, facts[name]), facts[name]) for name in like[0].kwargs}  # files hold some as text
    return Config(values, **{name: facts.get(name) for name in LAUNCH}, pre_hook=like[0].pre_hook)


def _name(tuner: Any) -> str:
    return str(tuner.base_fn.__name__)


def _key(tuner: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    """What Triton (3.6 to 3.9) tells calls apart by: the key's arguments, then the dtypes of all arguments."""
    named = dict(zip(tuner.arg_names, args, strict=False)) | kwargs
    given = {name: value for name, value in named.items() if name in tuner.arg_names}
    dtypes = [str(value.dtype) for value in given.values() if hasattr(value, "dtype")]
    return (*(given[name] for name in tuner.keys if name in given), *dtypes)


def _facts(config: Any) -> Facts:
    """A `triton.Config` as JSON can hold it."""
    return {name: plain(value) for name, value in config.all_kwargs().items()}


def _covered(spans: Spans) -> float:
    """The time that spans cover, each moment counted once."""
    total, until = 0.0, -math.inf
    for began, ended in sorted(spans):
        total += max(0.0, ended - max(began, until))
        until = max(until, ended)
    return total
