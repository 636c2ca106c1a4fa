"""What the ledger asks of its child, and what the child answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from bench.core.memory import Memory
from bench.core.proof import Proof
from bench.core.race import Result


@dataclass(frozen=True)
class Options:
    """What a user may choose of how rows are clocked; stored in the results.

    tune: `full` (every kernel is tuned anew), `cached` (what was tuned here before counts) or `first` (none is);
    config_from: a results file whose tuned configurations are used, and nothing else; energy: whether joules are
    counted; second_opinion: whether CUPTI is asked too; time_budget_s: what the whole run may take; memory_cap_bytes:
    what the frontier may use; row_timeout_s: what a provider may take for one step.
    """

    tune: str = "full"
    config_from: str | None = None
    energy: bool = False
    second_opinion: bool = False
    time_budget_s: float | None = None
    memory_cap_bytes: int | None = None
    row_timeout_s: float = 600.0


@dataclass(frozen=True)
class Request:
    """One case to be clocked.

    cap_s: the time cap of the race per provider; flight: a file whose first byte says, while the race runs, whose turn
    it is (an index into `providers`), so that a crash is laid at the right door.
    """

    module: str
    qualname: str
    case: str
    profile: str
    providers: tuple[str, ...]
    device: str
    cap_s: float
    flight: str = ""
    options: Options = field(default_factory=Options)


@dataclass(frozen=True)
class Survey:
    """The device's own roofs are to be measured, and what its clocks depend on to be told."""

    device: str


@dataclass(frozen=True)
class Surveyed:
    """roofs: as `Roof.as_dict` has them; conditions: what samples depend on here."""

    roofs: list[dict[str, Any]]
    conditions: dict[str, Any]


@dataclass(frozen=True)
class Begun:
    """A provider (or, for all of them together, the race) is about to start."""

    provider: str
    phase: str


@dataclass(frozen=True)
class Out:
    """A provider that leaves the race, and why.

    status: `absent` (it cannot run here), `failed` (it ran, and wrongly) or `invalid` (it was timed, but not honestly);
    samples_s: what was timed all the same.
    """

    provider: str
    status: str
    reason: str
    remedy: str = ""
    samples_s: dict[str, list[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Proven:
    """A provider that may race.

    dtypes: those of the tensors among its inputs, by name; seed: that of the rows that were looked at, and of the
    values that it was tried on after the race; setup_s: what its first call took, of which `compiling` tells what went
    into compiling and tuning; tuned: the configurations that it runs with.
    """

    provider: str
    dtypes: list[str]
    proof: Proof
    seed: int
    memory: Memory
    setup_s: float
    compiling: dict[str, Any] | None = None
    tuned: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Timed:
    """A provider's samples and what was seen while they were taken.

    note: what else is to be known (such as a clock that could not be had); the rest as in `Record`.
    """

    provider: str
    result: Result
    note: str = ""
    telemetry: dict[str, Any] | None = None
    energy: dict[str, Any] | None = None
    opinion: dict[str, Any] | None = None
    marks: list[dict[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Raced:
    """The wall time of a race, what of it the thunks took, and what the flushes of caches, in seconds."""

    wall_s: float
    thunks_s: float
    flushes_s: float


Message = Surveyed | Begun | Out | Proven | Timed | Raced
