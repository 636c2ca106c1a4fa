"""pytest's side of the bench: parameters of the inherited tests, and where results land (options: bench/options.py)."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.core import device as devices

DEVICE = devices.choose()

from bench.core.baseline import FILE, Baseline
from bench.core.counts import Counts, Unit, paths_of, units_of
from bench.core.hazards import HAZARDS
from bench.core.journal import NotResumable, Unwritable
from bench.core.ledger import Ledger
from bench.core.operator import Operator, mistakes_of
from bench.core.record import SCHEMA, this_run
from bench.core.registry import operators
from bench.core.verify import Verification
from bench.options import add_options, options_of

LEDGER = pytest.StashKey[Ledger]()
NAMED = pytest.StashKey[bool]()
VERIFICATION = pytest.StashKey[Verification]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """How much is clocked, under which options; what is done with counts."""
    add_options(parser.getgroup("rooftile"))


def pytest_configure(config: pytest.Config) -> None:
    """Open the ledger, and let pytest-benchmark save where results belong unless the user names another file."""
    profile = config.getoption("profile") or ("quick" if DEVICE.type == "cuda" else "smoke")
    options = options_of(config, profile)
    run = this_run(DEVICE, profile, options)
    config.stash[LEDGER] = Ledger(run, DEVICE, options, lambda text: _show(config, text))
    config.stash[NAMED] = bool(config.getoption("benchmark_json"))
    if not (config.stash[NAMED] or config.getoption("benchmark_skip")):
        config.option.benchmark_json = str(run.file)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Close the ledger, and end what still counts."""
    if LEDGER in config.stash:  # not so where an option was refused
        config.stash[LEDGER].close()
    if VERIFICATION in config.stash:
        config.stash[VERIFICATION].close()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give an operator's inherited tests their cases, providers, hazards, mistakes and targets."""
    operator = metafunc.cls
    if operator is None or not issubclass(operator, Operator):
        return
    kernels = list(operator.providers("kernel"))
    match metafunc.function.__name__:
        case "test_agrees":
            _cases(metafunc, operator.check_cases(), kernels)
        case "test_speed":
            _cases(
                metafunc, operator.sweep_cases(metafunc.config.stash[LEDGER].run.profile), list(operator.providers())
            )
        case "test_withstands":
            hazards = [
                (name, mode) for name, hazard in HAZARDS.items() for mode in operator.modes() if mode in hazard.modes
            ]
            metafunc.parametrize(("hazard", "mode"), hazards)
            metafunc.parametrize("provider", kernels)
        case "test_repeats" | "test_is_vast":
            metafunc.parametrize("mode", operator.modes())
            metafunc.parametrize("provider", kernels)
        case "test_frontier":
            metafunc.parametrize("mode", operator.modes())
            metafunc.parametrize("provider", list(operator.providers()))
        case "test_refuses":
            metafunc.parametrize(("argument", "mistake"), mistakes_of(operator))
        case "test_counts" | "test_compiles":
            compiles = metafunc.function.__name__ == "test_compiles"
            units = [unit for name in kernels for unit in units_of(operator, name) if bool(unit.target) == compiles]
            metafunc.parametrize("unit", [pytest.param(unit, id=unit.id) for unit in units])


def _cases(metafunc: pytest.Metafunc, cases: list[Any], providers: list[str]) -> None:
    pairs = [pytest.param(case, name, id=f"{case.id}-{name}") for case in cases for name in providers]
    metafunc.parametrize(("case", "provider"), pairs)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Drop what an operator has no facts for, and let `-k` know operators by their names."""
    for item in items:
        if isinstance(item, pytest.Function) and isinstance(item.cls, type) and issubclass(item.cls, Operator):
            item.extra_keyword_matches.add(item.cls.name())
    kept = [item for item in items if not _groundless(item)]
    config.hook.pytest_deselected(items=[item for item in items if _groundless(item)])
    items[:] = kept
    if config.stash[LEDGER].options.time_budget_s is not None:
        items.sort(key=_priority)


def _priority(item: pytest.Item) -> int:
    """Where a row stands in the order in which a time budget spends itself; all else comes first."""
    if not isinstance(item, pytest.Function) or item.originalname != "test_speed":
        return -1
    case: Any = item.callspec.params["case"]
    return int(case.priority)


def pytest_collection_finish(session: pytest.Session) -> None:
    """After `-k` and its like: the rows that will be clocked, so that all providers of a case race together.

    What will be counted begins now, several units side by side.
    """
    ledger = session.config.stash[LEDGER]
    units = []
    for item in session.items:
        if not isinstance(item, pytest.Function) or not hasattr(item, "callspec"):
            continue
        row: dict[str, Any] = dict(item.callspec.params)
        if item.originalname == "test_speed":
            ledger.planned.setdefault((item.cls, row["case"].id), []).append(row["provider"])
        ledger.frontiers += item.originalname == "test_frontier"
        units += [unit for unit in row.values() if isinstance(unit, Unit)]
    option = session.config.option
    if option.collectonly:
        return
    seeks = ledger.frontiers and "PYTEST_XDIST_WORKER" not in os.environ
    stock: Any = session.config.pluginmanager.get_plugin("pytest-benchmark")
    if seeks or (ledger.planned and not (option.benchmark_skip or stock.disabled)):
        _begin_to_clock(session, ledger)
    _begin_to_count(session, units)


def _begin_to_clock(session: pytest.Session, ledger: Ledger) -> None:
    """Open the journal: a new one, or that of the run which goes on."""
    option = session.config.option
    try:
        ledger.begin(resumes=option.resume)
    except (NotResumable, Unwritable) as error:
        raise pytest.UsageError(str(error)) from None
    if not session.config.stash[NAMED]:
        option.benchmark_json = str(ledger.run.file)
        session.config.pluginmanager.get_plugin("pytest-benchmark").json = str(ledger.run.file)  # type: ignore[union-attr]


def _begin_to_count(session: pytest.Session, units: list[Unit]) -> None:
    """Open the ledger of counts, if anything is to be counted, and begin."""
    config, accept = session.config, session.config.getoption("accept_counts")
    if accept and "PYTEST_XDIST_WORKER" in os.environ:
        raise pytest.UsageError("--accept-counts: expected one process (counting has its own), got pytest-xdist's -n")
    if not any(item.get_closest_marker("count") for item in session.items):
        if accept:
            raise pytest.UsageError("--accept-counts: expected something to count (-m count), got nothing")
        return
    cache = Path(config.cache.mkdir("counts")) if getattr(config, "cache", None) else Path(tempfile.mkdtemp())
    try:
        # Under pytest-xdist its workers are the processes.
        counts = Counts(cache, processes=1 if "PYTEST_XDIST_WORKER" in os.environ else None)
        found = Verification(counts, Baseline(FILE), accept, config.getoption("recount"))
        found.begin(units, {path for operator in operators() for path in paths_of(operator)})
    except ValueError as error:
        raise pytest.UsageError(str(error)) from None
    config.stash[VERIFICATION] = found


def _groundless(item: pytest.Item) -> bool:
    """Whether a test asks for what its operator does not have: gradients, a vast case, or a length to be sought."""
    if not (isinstance(item, pytest.Function) and isinstance(item.cls, type) and issubclass(item.cls, Operator)):
        return False
    lacks = {
        "test_differentiates": not item.cls.grad,
        "test_is_vast": item.cls.vast is None,
        "test_frontier": "seq_len" not in item.cls.sweep[0],
    }
    return lacks.get(item.originalname, False)


@pytest.fixture
def device(pytestconfig: pytest.Config) -> torch.device:
    """The device of this run."""
    return pytestconfig.stash[LEDGER].device


@pytest.fixture
def ledger(pytestconfig: pytest.Config) -> Ledger:
    """The ledger of this run."""
    return pytestconfig.stash[LEDGER]


@pytest.fixture
def verification(pytestconfig: pytest.Config) -> Verification:
    """The counting of this run, against the ledger of counts."""
    found = pytestconfig.stash[VERIFICATION]
    if not found.comparable:
        pytest.skip(found.foreign)
    return found


def pytest_benchmark_update_machine_info(machine_info: dict[str, Any]) -> None:
    """Results are published: the host's name stays out of them."""
    machine_info.pop("node", None)


def pytest_benchmark_update_json(config: pytest.Config, output_json: dict[str, Any]) -> None:
    """Add the facts of the run and its absent rows to pytest-benchmark's own JSON."""
    ledger = config.stash[LEDGER]
    for row in output_json["benchmarks"]:
        row["params"]["case"] = row["extra_info"]["record"]["case"]
    output_json["rooftile"] = {
        "schema": SCHEMA,
        **asdict(ledger.run),
        "overhead": ledger.overhead,
        "flush_share": ledger.flush_share,
        **ledger.facts,
        "absent": [record.as_dict() for record in ledger.without_time],
    }
    ledger.run.file.parent.mkdir(parents=True, exist_ok=True)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Iterator[None]:
    """Where every row was absent pytest-benchmark saves nothing; the reasons are worth as much as samples."""
    yield
    config = session.config
    if VERIFICATION in config.stash:
        config.stash[VERIFICATION].finish()
    stock: Any = config.pluginmanager.get_plugin("pytest-benchmark")
    ledger = config.stash[LEDGER]
    if stock.benchmarks or not (ledger.without_time or ledger.facts.get("frontiers")):
        return
    hook = config.hook
    facts = {
        "machine_info": hook.pytest_benchmark_generate_machine_info(config=config),
        "commit_info": hook.pytest_benchmark_generate_commit_info(config=config),
    }
    saved = hook.pytest_benchmark_generate_json(config=config, benchmarks=[], include_data=True, **facts)
    hook.pytest_benchmark_update_json(config=config, benchmarks=[], output_json=saved)
    Path(config.option.benchmark_json).write_text(json.dumps(saved, indent=4), encoding="utf-8")


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """What the harness cost, what was left out, what is left to do, and what counting took."""
    if VERIFICATION in config.stash and (summary := config.stash[VERIFICATION].summary()):
        terminalreporter.write_line(f"rooftile: {summary}")
    ledger = config.stash[LEDGER]
    for line in _told(ledger, Path(str(config.option.benchmark_json))):
        terminalreporter.write_line(f"rooftile: {line}")


def _told(ledger: Ledger, saved: Path) -> Iterator[str]:
    """What a user must know of a run, a line each."""
    if ledger.overhead is not None:
        yield (
            f"the harness added {ledger.overhead:.1%} to the time of the thunks that it timed; flushing caches and, "
            f"on a GPU, holding it back until calls are launched took another {ledger.flush_share:.1%}"
        )
    dropped = ledger.facts.get("dropped", [])
    if dropped:
        names = ", ".join(f"{each['operator']} {each['case']}" for each in dropped)
        yield f"the time budget left out {len(dropped)} cases, of the lowest priority: {names}"
    if left := ledger.finish(saved):
        yield left


def _show(config: pytest.Config, text: str) -> None:
    """Live progress: one line that is rewritten on a terminal, one line per case elsewhere."""
    reporter: Any = config.pluginmanager.get_plugin("terminalreporter")
    capture: Any = config.pluginmanager.get_plugin("capturemanager")
    if reporter is None:
        return
    with capture.global_and_fixture_disabled() if capture else nullcontext():
        if reporter.isatty:
            reporter.rewrite(text[: shutil.get_terminal_size().columns - 1], erase=True)
        elif ": race" in text:
            reporter.ensure_newline()
            reporter.write_line(text)
        reporter.flush()
