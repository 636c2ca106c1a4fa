"""Tables of runs and rows with a known truth, made by hand and not read from files: for tests of judgements on them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from reports.read.summary import CATEGORIES, FRONTIERS, NUMBERS, ROOFS, RUNS, History

PROVIDERS = {"naive": "reference", "inductor": "reference", "eager": "peer", "liger": "peer", "triton": "kernel"}
VERSIONS = {"python": "3.11.9", "torch": "2.13.0", "triton": "3.6.0", "liger-kernel": "0.8.5"}
FACTS = {"capability": "9.0", "sms": 132, "runtime": "12.8", "cpu": "Simulated", "cores": 16}


def noise(shape: tuple[int, int], seed: int, kind: str = "normal", size: float = 0.01) -> NDArray[np.float64]:
    """Noise from run to run, (runs, rows), in logarithms of time, of about this standard deviation."""
    draws = np.random.default_rng(seed)
    plain = size * draws.standard_normal(shape)
    if kind == "outliers":
        return plain + np.where(draws.random(shape) < 0.02, draws.uniform(0.05, 0.4, shape), 0)
    if kind == "bimodal":
        return plain + np.where((draws.random(shape) < 0.3) & (np.arange(shape[1]) % 4 == 1), 0.125, 0)
    if kind == "heavy":
        return size * draws.standard_t(3, shape)
    if kind == "drift":
        return plain + 0.04 * np.sin(np.arange(shape[0]) * 2 * np.pi / 90)[:, None]
    if kind == "shared":
        return plain + 0.02 * draws.standard_normal((shape[0], 1))
    if kind == "alike":
        for at in range(1, shape[0]):
            plain[at] = 0.5 * plain[at - 1] + np.sqrt(0.75) * plain[at]
    if kind == "missing":
        plain[draws.random(shape) < 0.3] = np.nan
    return plain


def names_of(count: int, providers: dict[str, str] | None = None) -> pd.DataFrame:
    """So many rows: providers on cases of operators, in turn."""
    known = providers or PROVIDERS
    found = []
    for number in range(count):
        provider = list(known)[number % len(known)]
        case = number // len(known)
        operator, length = f"operator{case % 7}", 512 * 2 ** (case // 7 % 6)
        series = f"model{case // 42}, bf16"
        row = f"{operator}/fwd/{series}-{length}/{provider}"
        found.append((row, operator, "fwd", f"{series}, {length}", series, length, provider, known[provider]))
    columns = ["row", "operator", "mode", "case", "series", "seq_len", "provider", "role"]
    return pd.DataFrame(found, columns=columns)


def runs_of(count: int, device: str = "Simulated", first: int = 0, **facts: Any) -> pd.DataFrame:
    """So many runs of a device, one a day, each on a commit of its own."""
    plain: dict[str, Any] = {
        "device": device, "kind": "cuda", "dirty": False, "profile": "full", "command": "pytest bench --benchmark-only",
        "unfinished": np.nan, "versions": json.dumps(VERSIONS), "facts": json.dumps(FACTS),
        "options": json.dumps({"tune": "full", "config_from": None}), "conditions": json.dumps({"threads": 16}),
    }  # fmt: skip
    numbers = range(first, first + count)
    found = pd.DataFrame({"run": list(numbers)})
    found["path"] = [f"results/simulated/{number}.json" for number in numbers]
    found["started"] = pd.Timestamp("2026-01-01", tz="UTC") + pd.to_timedelta(found.run, unit="D")
    found["commit"] = [f"{number:040x}" for number in numbers]
    for name, value in (plain | facts).items():
        found[name] = value
    return found[list(RUNS)]


def rows_of(runs: pd.DataFrame, names: pd.DataFrame, logs: NDArray[np.float64], **columns: Any) -> pd.DataFrame:
    """A row for every time that is known. logs: (runs, rows), logarithms of seconds."""
    place, name = np.nonzero(np.isfinite(logs))
    found = names.iloc[name].reset_index(drop=True)
    found["run"] = runs.run.to_numpy()[place]
    found["median_s"] = np.exp(logs[place, name])
    found = found.assign(low_s=found.median_s * 0.995, high_s=found.median_s * 1.005, status="measured", timer="device")
    found = found.assign(**columns)
    texts = {each: "" for each in CATEGORIES if each not in found}
    found = found.assign(**texts, **{each: np.nan for each in NUMBERS if each not in found})
    return found.astype(dict.fromkeys(CATEGORIES, "category"))[["run", *CATEGORIES, *NUMBERS]]


def history_of(
    runs: pd.DataFrame,
    rows: pd.DataFrame,
    roofs: Sequence[tuple[Any, ...]] = (),
    frontiers: Sequence[tuple[Any, ...]] = (),
) -> History:
    return History(
        runs,
        rows,
        pd.DataFrame(list(roofs), columns=list(ROOFS)),
        pd.DataFrame(list(frontiers), columns=list(FRONTIERS)),
    )


def past(logs: NDArray[np.float64], providers: dict[str, str] | None = None, **facts: Any) -> History:
    """The history of one device whose rows take these times, (runs, rows), in logarithms of seconds above 1 ms."""
    runs, names = runs_of(len(logs), **facts), names_of(logs.shape[1], providers)
    return history_of(runs, rows_of(runs, names, logs + np.log(1e-3)))
