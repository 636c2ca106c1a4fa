"""A story with something in every part of it, made by hand: for tests of the site, and for looking at it.

`python -m tests.told FOLDER` writes its site there.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from reports.judge.changes import DEVICE, Change
from reports.judge.crossover import CROSSOVERS
from reports.judge.hardware import FRONTIERS as FITS
from reports.judge.hardware import REFUSED, ROWS, Comparison
from reports.judge.portability import PORTABILITY
from reports.judge.verdict import COLUMNS
from reports.read.counts import load as load_counts
from reports.read.essays import essays
from reports.read.summary import FRONTIERS, ROOFS, History
from reports.site.site import write
from reports.site.story import Quality, Story, Versus
from tests import simulated_gpu, simulated_past
from tests.simulated import story_of

ROOT = Path(__file__).parents[1]
DEVICES = ("NVIDIA H200", "NVIDIA B200")
RATES = [
    {"history_runs": runs, "what": what, "rate": rate, "low": 0.9 * rate, "high": 1.1 * rate, "replays": 4500}
    for runs in (5, 10)
    for what, rate in (("gates that fail although nothing changed", 0.004), ("slowdowns by 5 % that are found", 0.97))
]
SLOWED = "operator0/fwd/model0, bf16-512/triton"
CASE = "llama3-8b, bf16, 4096"
CASE_ID = '{"dtype": "bf16", "model": "llama3-8b", "seq_len": 4096}'


def whole(folder: Path, name: str = "rms_norm", text: str = "registers 168 -> 255 on sm_90") -> Story:
    """Everything that a site can tell. name: of the operator that verdicts and changes are of; text: of reasons."""
    story = story_of(simulated_gpu.results(folder), counts=load_counts(ROOT / "results" / "counts.json"))
    history = past()
    return replace(
        story,
        history=history,
        versus=[versus(name, text)],
        changes=[
            change(name, text),
            change("operator0", text, row=SLOWED, case="model0, bf16, 512", ratio=1.06),
            change("", text, row="", role=DEVICE, ratio=1.02, ratio_low=1.015, ratio_high=1.025, provider="", case=""),
        ],
        comparison=comparison(name, text),
        quality=Quality(pd.DataFrame(RATES), text),
        essays=essays(ROOT),
    )


def past(runs: int = 60) -> History:
    """A device over months: SLOWED becomes slower in the middle."""
    names = simulated_past.names_of(40)
    table = simulated_past.runs_of(runs, device=DEVICES[0])
    logs = np.log(1e-4) + simulated_past.noise((runs, 40), seed=3)
    logs[runs // 2 :, names.row == SLOWED] += 0.06
    rows = simulated_past.rows_of(table, names, logs)
    return History(table, rows, pd.DataFrame(columns=list(ROOFS)), pd.DataFrame(columns=list(FRONTIERS)))


def change(operator: str, cause: str, **others: Any) -> Change:
    """A confirmed slowdown of our kernel by 7 %."""
    found: dict[str, Any] = {
        "device": DEVICES[0], "row": f"{operator}/fwd/{CASE}/triton", "operator": operator, "mode": "fwd", "case": CASE,
        "provider": "triton", "role": "kernel", "run": 30, "before": 29, "started": pd.Timestamp("2026-01-31T02:00Z"),
        "commit": "1e" * 20, "commit_before": "1d" * 20, "ratio": 1.071, "ratio_low": 1.062, "ratio_high": 1.08,
        "runs": 4, "confirmed": True, "causes": [cause, "triton 3.6.0 -> 3.7.1"],
    }  # fmt: skip
    return Change(**(found | others))


def versus(operator: str, reason: str) -> Versus:
    """One row slower, one vanished, one ambiguous, one the same."""
    found = []
    for provider, verdict, ratio, vanished in (
        ("triton", "slower", 1.071, False),
        ("quack", "not comparable", np.nan, True),
        ("liger", "ambiguous", 1.01, False),
        ("eager", "same", 1.001, False),
    ):
        row: dict[str, Any] = dict.fromkeys(COLUMNS, np.nan)
        row |= {
            "device": DEVICES[0], "row": f"{operator}/fwd/{CASE_ID}/{provider}", "operator": operator, "mode": "fwd",
            "case": CASE, "case_id": CASE_ID, "series": "llama3-8b, bf16", "seq_len": 4096, "provider": provider,
            "role": "peer", "verdict": verdict, "reason": reason, "ratio": ratio, "ratio_low": ratio - 0.01,
            "ratio_high": ratio + 0.01, "base_runs": 1, "head_runs": 1, "vanished": vanished, "new": False,
        }  # fmt: skip
        found.append(row)
    table = pd.DataFrame(found, columns=list(COLUMNS))
    return Versus(
        DEVICES[0], "commit 1d1d1d1d1d1d of 2026-01-30", "commit 1e1e1e1e1e1e of 2026-01-31", table, "fail", [reason]
    )


def comparison(operator: str, text: str, devices: Sequence[str] = DEVICES) -> Comparison:
    """Two devices, of which the second is faster than its roofs predict on some rows and slower on others."""
    base, device = devices
    rows = [_pair(base, device, operator, length, provider, ratio) for length, provider, ratio in PAIRS]
    crossing = (device, operator, "fwd", "llama3-8b, bf16", "triton", "liger", 1730.0, 1500.0, 1980.0, "liger", text)
    apart = (device, operator, "fwd", "llama3-8b, bf16", "triton", "naive", *[np.nan] * 3, "triton", "triton")
    fits = (device, operator, "fwd", text, "triton", 65536.0, 131072.0, "out of memory", 2.0**36, text, text)
    cost = (
        device, base, text, operator, "fwd", CASE, "llama3-8b, bf16", 4096, "triton", 1e-4, 1.2e-4, 1.2, 1.1, 1.3, text,
        text,
    )  # fmt: skip
    return Comparison(
        devices=list(devices),
        rows=pd.DataFrame(rows, columns=list(ROWS)),
        roofs=pd.DataFrame([{"name": "copy", "unit": "byte/s", base: 4.1e12, device: 6.9e12}]),
        crossovers=pd.DataFrame([crossing, apart], columns=list(CROSSOVERS)),
        frontiers=pd.DataFrame([fits], columns=list(FITS)),
        refused=pd.DataFrame([(base, device, "x", operator, "fwd", CASE, "quack", text)], columns=list(REFUSED)),
        portability=pd.DataFrame([cost], columns=list(PORTABILITY)),
    )


PAIRS = [
    (length, provider, ratio)
    for length in (512, 1024, 2048, 4096)
    for provider, ratio in (("triton", 1.2 + length / 4096), ("liger", 1.66))
]


def _pair(base: str, device: str, operator: str, length: int, provider: str, ratio: float) -> dict[str, Any]:
    found: dict[str, Any] = dict.fromkeys(ROWS, np.nan)
    return found | {
        "base": base, "device": device, "row": f"{operator}/fwd/{length}/{provider}", "operator": operator,
        "mode": "fwd", "case": f"llama3-8b, bf16, {length}", "series": "llama3-8b, bf16", "seq_len": length,
        "provider": provider, "role": "kernel", "base_s": length * 1e-8, "device_s": length * 1e-8 / ratio,
        "ratio": ratio, "ratio_low": 0.98 * ratio, "ratio_high": 1.02 * ratio, "predicted": 1.67, "by": "bandwidth",
        "residual": ratio / 1.67, "base_joules_per_call": 1e-3, "device_joules_per_call": 8e-4,
        "base_joules_per_token": 1e-6, "device_joules_per_token": 8e-7,
    }  # fmt: skip


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        print(write(whole(Path(made)), Path(sys.argv[1])))
