"""The doctor: what this machine can check, count and clock, what is missing, and the command that mends it."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata

import psutil
import torch

from bench.core.clocks import Clock, EventClock, HostClock
from bench.core.noise import measure, works
from bench.core.operator import Unsupported, needs_cpp_compiler
from bench.core.record import ROOT, device_facts, repository_state, versions
from bench.core.registry import operators
from bench.core.telemetry import monitor

FLOORS = {"torch": "2.11", "triton": "3.6"}
IDLE_LOAD = 0.25
AUDIBLE = 0.03  # of a median: a tuner's usual step is 5 %, which must stand out


@dataclass(frozen=True)
class Finding:
    """What was found: `ok`, `missing` (more could be run) or `problem` (nothing runs, or results would be wrong)."""

    state: str
    what: str
    found: str
    remedy: str = ""


def examine(noise: bool = True) -> list[Finding]:
    """All findings, in the order a reader wants them; noise: with the noise floor, which takes seconds."""
    checks: list[Callable[[], list[Finding]]] = [_versions, _device, _compiler, _load, _strangers, _tree, _peers]
    checks += [_noise] if noise else []
    return [finding for check in checks for finding in check()]


def _versions() -> list[Finding]:
    found = versions()
    findings = []
    for name, floor in FLOORS.items():
        version = found.get(name)
        if version is None:
            findings.append(Finding("problem", name, "not installed", f"pip install '{name}>={floor}'"))
        else:
            old = _release(version) < _release(floor)
            findings.append(
                Finding("problem" if old else "ok", name, version, f"pip install '{name}>={floor}'" if old else "")
            )
    numpy = found.get("numpy", "0.0")
    if not torch.cuda.is_available() and _release(found.get("triton", "9.0")) < (3, 7) and _release(numpy) >= (2, 4):
        findings.append(
            Finding("problem", "numpy", f"{numpy}: Triton 3.6's interpreter fails with it", "pip install 'numpy<2.4'")
        )
    return findings


def _release(version: str) -> tuple[int, int]:
    major, minor = version.split(".")[:2]
    return int(major), int(minor)


def _device() -> list[Finding]:
    if not torch.cuda.is_available():
        name = device_facts(torch.device("cpu"))["name"]
        return [
            Finding("ok", "check, count", f"kernels interpreted and compiled on {name}"),
            Finding(
                "missing",
                "clock",
                "references and peers on the CPU; kernels need a GPU that torch can see",
                "nvidia-smi; pip install torch",
            ),
        ]
    facts = device_facts(torch.device("cuda"))
    findings = [
        Finding(
            "ok",
            "check, count, clock",
            f"{facts['name']}, {facts['sms']} SMs, {facts['device_memory_bytes'] >> 30} GiB",
        )
    ]
    if importlib.util.find_spec("pynvml") is None and torch.version.cuda:
        findings.append(Finding("missing", "nvidia-ml-py", "not installed", "pip install nvidia-ml-py"))
    return findings


def _compiler() -> list[Finding]:
    if torch.cuda.is_available():
        return []
    try:
        needs_cpp_compiler()
    except Unsupported as obstacle:
        return [Finding("missing", "inductor", str(obstacle), obstacle.remedy)]
    return [Finding("ok", "inductor", "a C++ compiler and Python's headers")]


def _load() -> list[Finding]:
    """Whether others are at work here: the clock would hear them."""
    cores = os.cpu_count() or 1
    busy = psutil.getloadavg()[0] / cores
    text = f"load of {busy:.0%} of {cores} cores in the last minute"
    return [
        Finding(
            "ok" if busy < IDLE_LOAD else "missing",
            "quiet machine",
            text,
            "" if busy < IDLE_LOAD else "stop other work before clocking",
        )
    ]


def _noise() -> list[Finding]:
    """How small a difference can be seen here, and why none that is smaller."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    clock: Callable[[], Clock] = (lambda: EventClock(device)) if device.type == "cuda" else HostClock
    floor = measure(clock, monitor(device), works(device))
    quiet = floor.within <= AUDIBLE
    remedy = (
        "" if quiet else "stop other work; nvidia-smi -q -d PERFORMANCE" if device.type == "cuda" else "stop other work"
    )
    return [Finding("ok" if quiet else "missing", "noise floor", floor.words, remedy)]


def _strangers() -> list[Finding]:
    """Another distribution called `kernels` would shadow ours in a process that does not start in the checkout."""
    try:
        version = metadata.version("kernels")
    except metadata.PackageNotFoundError:
        return []
    return [
        Finding(
            "missing",
            "kernels",
            f"the unrelated distribution kernels {version} is installed too; ours is used inside {ROOT.name}/",
        )
    ]


def _tree() -> list[Finding]:
    commit, dirty = repository_state()
    if shutil.which("git") is None or dirty is None:
        return [
            Finding("missing", "commit", "unknown: results will be named nocommit", "apt-get install git; git clone")
        ]
    if dirty:
        return [
            Finding(
                "missing",
                "commit",
                f"{commit[:12]} with uncommitted changes: results will say dirty",
                "git commit or git stash",
            )
        ]
    return [Finding("ok", "commit", commit[:12])]


def _peers() -> list[Finding]:
    """Every package that a peer needs, once, with the operators it serves and the command that brings it."""
    commands: dict[str, str] = {}
    uses: dict[str, set[str]] = {}
    for operator in operators():
        for name, provider in operator.providers("peer").items():
            if provider.install:
                package = _package(provider.install) or name
                commands[package] = provider.install
                uses.setdefault(package, set()).add(operator.name())
    findings = []
    for package, command in sorted(commands.items()):
        serves = "for " + ", ".join(sorted(uses[package]))
        try:
            findings.append(Finding("ok", package, f"{metadata.version(package)}, {serves}"))
        except metadata.PackageNotFoundError:
            findings.append(Finding("missing", package, f"not installed, {serves}", command))
    return findings


def _package(command: str) -> str:
    """The distribution that a `pip install` brings, without its version; nothing for other commands."""
    if not command.startswith("pip install "):
        return ""
    words = [word.strip("'\"") for word in command.split()[2:] if not word.startswith("-")]
    return re.split(r"[<>=!~\[]", words[0])[0]
