"""Many runs as results files whose medians are known: for tests of loading, of changes over time, and of their cost.

`python -m tests.simulated_history FOLDER RUNS ROWS` leaves the runs of one device in FOLDER/results, reads them twice,
and tells how long that took without and with the cache, and how much memory.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import multiprocessing
import re
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from reports import units
from reports.judge.summarise import summarise

OPERATORS = ("attention", "rms_norm", "swiglu", "int8_matmul")
MODES = ("fwd", "bwd")
MODELS = ("llama3-8b", "qwen3-8b", "gpt2-xl", "mixtral-8x7b", "deepseek-v3", "bert-base", "vit-b")
LENGTHS = tuple(2**power for power in range(9, 16))
SPEEDS = {"naive": 1.0, "triton": 3.4, "eager": 2.9, "liger": 3.1, "inductor": 2.6}
ROLES = {"naive": "reference", "inductor": "reference", "triton": "kernel"}
FIRST = datetime(2025, 1, 1, 2, 0, 0, tzinfo=UTC)
# Of an odd number of samples the one in the middle is the median, to the last bit.
FACTORS = (1.0, 0.99, 1.01, 0.98, 1.02, 0.97, 1.03)
COMMIT, SAMPLES = "@COMMIT@", "@SAMPLES@"

Medians = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Past:
    """What `write` wrote: a file per run, oldest first; medians_s of (runs, rows); rows: their ids, in that order."""

    device: str
    files: list[Path]
    rows: list[str]
    medians_s: Medians
    commits: list[str]
    started: list[str]


def medians(runs: int, rows: int, *, noise: float = 0.01, seed: int = 0) -> Medians:
    """Seconds of (runs, rows): each row has its level, from which its runs differ by `noise`, log-normally."""
    levels = [float(record["traffic_bytes"]) / 4e12 * 4 / SPEEDS[record["provider"]] for record in records(rows)]
    draws = np.random.default_rng(seed).standard_normal((runs, rows))
    return np.asarray(levels) * np.exp(noise * draws)


def records(rows: int) -> list[dict[str, Any]]:
    """The first so many records; cases come whole, and every case has the same providers."""
    cases = [*itertools.product(OPERATORS, MODES, MODELS, LENGTHS)]
    every = (_record(provider, block, *case) for block in itertools.count() for case in cases for provider in SPEEDS)
    return list(itertools.islice(every, rows))


def _record(provider: str, block: int, operator: str, mode: str, model: str, length: int) -> dict[str, Any]:
    case: dict[str, Any] = {"model": model, "seq_len": length, "dtype": "bf16"} | ({"block": block} if block else {})
    name = f"{model}-seq_len{length}-bf16" + (f"-block{block}" if block else "")
    return {
        "id": f"{operator}/{mode}/{name}/{provider}",
        "operator": operator,
        "mode": mode,
        "case": case,
        "sizes": {"rows": length, "cols": 4096, "dtype": "bf16"},
        "provider": provider,
        "role": ROLES.get(provider, "peer"),
        "status": "measured",
        "reason": "",
        "remedy": "",
        "traffic_bytes": 32768 * length,
        "flops": 8192 * length,
        "timer": "host",
        "other_samples_s": {},
        "proof": {"error": 1.0, "budget": 4.0, "rows": "all", "seed": 0},
        "memory": {"peak_bytes": 16384 * length, "output_bytes": 8192 * length},
        "setup_s": 0.1,
        "stop": {"rounds": len(FACTORS), "reason": "precise", "half_width": 0.01},
        "marks": [],
        "commit": COMMIT,
        "dirty": False,
        "command": f'pytest "bench/bench_{operator}.py::test_speed[{mode}-{name}-{provider}]" --benchmark-only',
        "schema": 2,
    }


def write(
    folder: Path,
    medians_s: Medians,
    *,
    device: str = "Simulated GPU",
    commits: Sequence[str] = (),
    first: datetime = FIRST,
    every: timedelta = timedelta(days=1),
) -> Past:
    """A run every so often in folder/results/<device>, with the medians of (runs, rows) in seconds."""
    runs, rows = medians_s.shape
    known = records(rows)
    whole = json.dumps(
        [{"extra_info": {"record": record}, "stats": {"data": [SAMPLES]}} for record in known], separators=(",", ":")
    )
    parts = whole.replace(f'"{SAMPLES}"', SAMPLES).split(SAMPLES)
    names = [*commits] or [hashlib.sha1(f"{device} {i}".encode()).hexdigest() for i in range(runs)]
    started = [(first + i * every).strftime("%Y-%m-%dT%H:%M:%SZ") for i in range(runs)]
    target = folder / "results" / re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
    target.mkdir(parents=True, exist_ok=True)
    files = []
    for i, (commit, began) in enumerate(zip(names, started, strict=True)):
        samples = (medians_s[i][:, None] * np.asarray(FACTORS)).tolist()
        told = [text for part, row in zip(parts, samples, strict=False) for text in (part, repr(row)[1:-1])]
        facts = json.dumps(_facts(device, commit, began))
        files.append(target / f"{re.sub('[-:]', '', began)}-{commit[:12]}.json")
        text = f'{{"benchmarks":{"".join(told)}{parts[-1]},"rooftile":{facts}}}'
        files[-1].write_text(text.replace(COMMIT, commit))
    return Past(device, files, [record["id"] for record in known], medians_s, names, started)


def _facts(device: str, commit: str, started: str) -> dict[str, Any]:
    rates = {"copy": ("byte/s", 4.1e12), "triad": ("byte/s", 4.0e12), "gemm_bf16": ("op/s", 7e14)}
    return {
        "schema": 2,
        "device": {"name": device, "kind": "cuda", "sms": 132, "device_memory_bytes": 150 << 30},
        "versions": {"python": "3.11.7", "torch": "2.13.0", "triton": "3.7.1"},
        "commit": commit,
        "dirty": False,
        "command": "pytest bench --benchmark-only",
        "profile": "full",
        "started": started,
        "options": {"tune": "full", "energy": False},
        "conditions": {"flush_bytes": 100 << 20},
        "overhead": 0.01,
        "flush_share": 0.2,
        "roofs": [
            {"name": name, "unit": unit, "values": [rate, rate * 0.99, rate * 1.01], "reason": ""}
            for name, (unit, rate) in rates.items()
        ],
        "absent": [],
    }


def _measure(folder: Path) -> None:
    """One look at a folder's results, in a process of its own, so that its memory is its own too."""
    began = time.perf_counter()
    history = summarise(folder=folder / "results")
    took, peak = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    told = f"{len(history.runs)} runs, {len(history.rows)} rows"
    print(f"{told}: {units.seconds(took)}, {units.size(peak)} at most, but for processes that helped", flush=True)


if __name__ == "__main__":
    home = Path(sys.argv[1])
    write(home, medians(int(sys.argv[2]), int(sys.argv[3])))
    for _ in ("without the cache", "with it"):
        look = multiprocessing.get_context("spawn").Process(target=_measure, args=(home,))
        look.start()
        look.join()
