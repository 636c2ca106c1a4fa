"""The record: one typed row per provider and case, and the facts of the run that it belongs to."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import psutil
import torch

from bench.core.messages import Options

# 1: until the clock flushed caches before each call. 2: `host` is the time behind a flushed cache.
SCHEMA = 2
ROOT = Path(__file__).resolve().parents[2]

Status = Literal["measured", "absent", "failed", "invalid"]

VERSIONED = (
    "torch", "triton", "numpy", "pytest", "pytest-benchmark", "liger-kernel", "flash-attn", "flash-attn-4",
    "quack-kernels", "bitsandbytes", "torchao", "xformers", "flashinfer-python", "nvidia-ml-py",
)  # fmt: skip


@dataclass
class Record:
    """What is known of one provider on one case.

    id: `operator/mode/case/provider`, stable across runs; axes and sizes as JSON values; traffic_bytes and flops: the
    least the operation needs; dtypes: those of the tensors among the inputs; timer: the clock of the samples that
    pytest-benchmark keeps in `stats.data` (seconds per call); other_samples_s: those of further clocks; proof: error,
    budget and rows looked at, by which seed; memory: see `Memory`; setup_s: the first call, of which `compiling` tells
    what went into compiling and tuning; tuned: the configurations that autotuned kernels ran with; stop: rounds, why
    the race ended, 95 % interval of the median, its relative half-width, modes; telemetry: what the device said of
    itself meanwhile; energy: joules per call and their resolution; opinion: what CUPTI says; marks: what a reader must
    know before he believes the median; dirty: None where git cannot tell. An absent, failed or invalid record says why
    (`reason`) and, if anything would, what would mend it (`remedy`); an invalid one keeps its samples in
    `other_samples_s`.
    """

    id: str
    operator: str
    mode: str
    case: dict[str, Any]
    sizes: dict[str, Any]
    provider: str
    role: str
    status: Status
    traffic_bytes: int
    flops: int
    device: str
    commit: str
    dirty: bool | None
    command: str
    reason: str = ""
    remedy: str = ""
    dtypes: list[str] = field(default_factory=list)
    timer: str = ""
    other_samples_s: dict[str, list[float]] = field(default_factory=dict)
    proof: dict[str, Any] | None = None
    memory: dict[str, Any] | None = None
    setup_s: float | None = None
    compiling: dict[str, Any] | None = None
    tuned: list[dict[str, Any]] = field(default_factory=list)
    stop: dict[str, Any] | None = None
    telemetry: dict[str, Any] | None = None
    energy: dict[str, Any] | None = None
    opinion: dict[str, Any] | None = None
    marks: list[dict[str, str]] = field(default_factory=list)
    schema: int = SCHEMA

    def as_dict(self) -> dict[str, Any]:
        """The record as JSON holds it."""
        return asdict(self)


@dataclass(frozen=True)
class Run:
    """The facts that all records of a run share."""

    device: dict[str, Any]
    versions: dict[str, str]
    commit: str
    dirty: bool | None
    command: str
    profile: str
    started: str
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def file(self) -> Path:
        """Where the run's results belong: `results/<device>/<date>-<commit>[-dirty].json`."""
        slug = re.sub(r"[^a-z0-9]+", "-", str(self.device["name"]).lower()).strip("-")
        stamp = re.sub(r"[-:]", "", self.started)
        return ROOT / "results" / slug / f"{stamp}-{self.commit[:12]}{'-dirty' if self.dirty else ''}.json"


def this_run(device: torch.device, profile: str, options: Options | None = None) -> Run:
    """The facts of the run that starts now."""
    commit, dirty = repository_state()
    return Run(
        device=device_facts(device),
        versions=versions(),
        commit=commit,
        dirty=dirty,
        command=" ".join(["pytest", *sys.argv[1:]]),
        profile=profile,
        started=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        options=asdict(options or Options()),
    )


def repository_state() -> tuple[str, bool | None]:
    """The tree's commit, and whether anything but results differs from it; ("nocommit", None) where git cannot tell."""
    commit = _git("rev-parse", "HEAD")
    status = _git("status", "--porcelain", "--", ".", ":(exclude)results")
    if commit is None or status is None:
        return "nocommit", None
    return commit, bool(status)


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def device_facts(device: torch.device) -> dict[str, Any]:
    """Name and size of the device, and of the machine around it."""
    host = {"cpu": _cpu_name(), "cores": os.cpu_count(), "memory_bytes": psutil.virtual_memory().total}
    if device.type != "cuda":
        return {"name": _cpu_name(), "kind": "cpu", "threads": torch.get_num_threads(), **host}
    facts = torch.cuda.get_device_properties(device)
    return {
        "name": facts.name,
        "kind": "cuda",
        "capability": f"{facts.major}.{facts.minor}",
        "sms": facts.multi_processor_count,
        "device_memory_bytes": facts.total_memory,
        "l2_bytes": facts.L2_cache_size,
        "runtime": torch.version.cuda or torch.version.hip,
        "board": _board(facts),
        **host,
    }


def _board(facts: Any) -> str:
    """What tells this board from others of its model, and nothing else of it; empty where torch does not know."""
    uuid = str(getattr(facts, "uuid", "") or "")
    return hashlib.sha256(uuid.encode()).hexdigest()[:8] if uuid else ""


def _cpu_name() -> str:
    """The processor's model name, e.g. `AMD EPYC`."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return (named or [platform.processor() or platform.machine()])[0]


def versions() -> dict[str, str]:
    """The versions of Python and of every library whose numbers we may show."""
    found = {"python": platform.python_version()}
    for name in VERSIONED:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
