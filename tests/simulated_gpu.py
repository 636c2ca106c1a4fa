"""A run on a GPU with everything in it that a run can tell: for tests of reports, and for looking at them.

`python -m tests.simulated_gpu FOLDER` leaves it there as results, and as a journal that a kill cut short.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from tests.simulated import MIB, a_file, a_record

LENGTHS = (512, 1024, 2048, 4096)
SPEEDS = {"naive": 1.0, "inductor": 2.6, "eager": 2.9, "liger": 3.1, "triton": 3.4}
COPY, BF16, INT8 = 4.1e12, 712e12, 1.32e15


def roofs() -> list[dict[str, Any]]:
    """What the device could do: five raw values each, and one that it could not."""
    rates = {"copy": COPY, "triad": 3.95e12}
    peaks = {"gemm_bf16": BF16, "gemm_fp16": 731e12, "gemm_int8": INT8, "gemm_fp32": 51e12, "special": 3.9e12}
    found = [{"name": name, "unit": "byte/s", "values": _five(rate), "reason": ""} for name, rate in rates.items()]
    found += [{"name": name, "unit": "op/s", "values": _five(rate), "reason": ""} for name, rate in peaks.items()]
    found.append(
        {"name": "gemm_fp8", "unit": "op/s", "values": [], "reason": "torch._scaled_mm refused: needs fp32 scales"}
    )
    return [*found, {"name": "launch", "unit": "s", "values": _five(2.1e-6), "reason": ""}]


def _five(middle: float) -> list[float]:
    return [middle * factor for factor in (0.995, 0.998, 1.0, 1.001, 1.004)]


FACTS: dict[str, Any] = {
    "device": {
        "name": "NVIDIA H200", "kind": "cuda", "capability": "9.0", "sms": 132, "device_memory_bytes": 150 << 30,
        "l2_bytes": 60 * MIB, "runtime": "12.8", "cpu": "Simulated", "cores": 16, "memory_bytes": 128 << 30,
    },
    "profile": "quick",
    "options": {
        "tune": "cached", "config_from": "results/nvidia-h100", "energy": True, "second_opinion": True,
        "time_budget_s": 600.0, "memory_cap_bytes": 64 << 30, "row_timeout_s": 120.0,
    },
    "conditions": {
        "threads": 16, "pinned": "close on cores", "flush_bytes": 120 * MIB, "persisting_l2": "reset before every call",
        "garbage_collection": False,
    },
    "roofs": roofs(),
    "overhead": 0.34,
    "flush_share": 0.21,
    "frontiers": [
        {
            "operator": "attention", "mode": "fwd", "case": {"model": "llama3-8b", "causal": True, "dtype": "bf16"},
            "provider": provider, "role": role, "largest": largest, "fails_at": fails, "stopped": stopped,
            "cap_bytes": 64 << 30, "reason": reason, "remedy": remedy, "command": "pytest bench -k attention",
        }
        for provider, role, largest, fails, stopped, reason, remedy in (
            ("naive", "reference", 16384, 32768, "out of memory", "tried to allocate 128 GiB of 64 GiB", ""),
            ("triton", "kernel", 1048576, None, "longest tried", "", ""),
            ("flash_attn", "peer", None, 512, "failed", "No module named 'flash_attn'", "pip install flash-attn"),
        )
    ],
    "dropped": [
        {"operator": "swiglu", "case": f"bwd-llama3-70b-seq_len{length}-fused-bf16", "priority": 3}
        for length in (8192, 16384, 32768)
    ],
}  # fmt: skip


def rows() -> list[tuple[dict[str, Any], list[float]]]:
    """Records and their samples: rms_norm both ways, and a product of int8 matrices."""
    draws = np.random.default_rng(0)
    found = []
    for operator, mode, flops_per_byte in (
        ("rms_norm", "fwd", 1),
        ("rms_norm", "bwd", 1),
        ("int8_matmul", "fwd", 2000),
    ):
        for length in LENGTHS:
            for provider, speed in SPEEDS.items():
                traffic = 16 * MIB * length // 512
                least = max(traffic / COPY, traffic * flops_per_byte / INT8)
                middle = least * 4 / speed + 3e-6
                samples = (middle * (1 + 0.01 * draws.standard_normal(30))).tolist()
                record = a_record(provider, length, operator=operator, mode=mode, traffic_bytes=traffic)
                record["dtypes"] = ["fp32", "int8"] if operator == "int8_matmul" else ["bf16"]
                record |= {"flops": traffic * flops_per_byte} | _clocked(provider, length, middle, mode)
                found.append((record, samples))
    _doubt(found)
    return found


def _clocked(provider: str, length: int, middle: float, mode: str) -> dict[str, Any]:
    heat = 45 + 4 * np.log2(length / 512)
    readings = [
        {
            "round": i, "sm_clock_hz": 1.98e9 - 5e6 * (i // 4), "memory_clock_hz": 3.2e9, "power_w": 480.0 + 3 * i,
            "temperature_c": heat + i // 8, "throttled": [], "load": None, "foreign_processes": 0, "foreign_bytes": 0,
        }
        for i in range(0, 30, 3)
    ]  # fmt: skip
    compiles = provider in ("triton", "inductor", "liger")
    config = {"BLOCK": 4096, "num_warps": 8, "num_stages": 3, "maxnreg": None}
    tuned = [{"kernel": "_forward", "key": ["4096", "bf16"], "source": "cached", "config": config}]
    return {
        "timer": "device",
        "other_samples_s": {"device_warm": [middle * each for each in (0.69, 0.7, 0.71)], "host": [middle * 1.4] * 5},
        "memory": {
            "peak_bytes": 24 * MIB * length // 512, "output_bytes": 8 * MIB * length // 512,
            "workspace_bytes": 12 * MIB * length // 512, "saved_bytes": 4 * MIB if mode == "bwd" else None,
            "least_bytes": 8 * MIB * length // 512,
        },
        "setup_s": 3.1 if compiles else 0.02,
        "compiling": {"compile_s": 1.9, "tune_s": 0.8, "kernels": 12, "cache_hits": 3} if compiles else None,
        "tuned": tuned if compiles else [],
        "stop": {
            "rounds": 30, "reason": "precise", "half_width": 0.004, "low_s": middle * 0.996, "high_s": middle * 1.004,
            "modes": [{"median_s": middle, "share": 1.0}],
        },
        "telemetry": {
            "monitor": "nvml", "readings": readings, "throttled": [],
            "unavailable": {"load": "NVML does not tell it"},
        },
        "energy": {
            "joules_per_call": middle * 560, "resolution_j": middle * 2, "window_s": 1.2, "calls": round(1.2 / middle),
            "counter": "nvmlDeviceGetTotalEnergyConsumption",
        },
        "opinion": {
            "by": "cupti", "seconds": middle * 0.99, "agrees": True, "reason": "",
            "against": "device", "against_s": middle, "spread_s": middle * 0.02,
        },
        "marks": [],
    }  # fmt: skip


def _doubt(found: list[tuple[dict[str, Any], list[float]]]) -> None:
    """Every kind of mark, on some row."""
    throttled, bimodal, foreign, alone = (found[i][0] for i in (4, 9, 12, 0))
    throttled["telemetry"]["throttled"] = [{"first_round": 12, "last_round": 18, "reasons": ["power cap", "heat"]}]
    throttled["marks"] = [
        {"kind": "throttled", "text": "rounds 12 to 18 at 1.41 GHz: power cap, heat"},
        {"kind": "second opinion", "text": "cupti says 12 % less than the events"},
    ]
    throttled["opinion"] |= {"agrees": False, "reason": "12 % apart, 2 % allowed"}
    middle = bimodal["stop"]["low_s"]
    bimodal["stop"]["modes"] = [{"median_s": middle, "share": 0.6}, {"median_s": middle * 1.21, "share": 0.4}]
    bimodal["marks"] = [{"kind": "bimodal", "text": "60 % of the samples near one time, 40 % 21 % above it"}]
    foreign["marks"] = [{"kind": "foreign load", "text": "another process held 3.2 GiB of the GPU in rounds 0 to 29"}]
    alone |= {"telemetry": None, "energy": None, "opinion": None, "compiling": None, "tuned": None, "memory": None}


def absent() -> list[dict[str, Any]]:
    """Rows without a time: two above a roof, one that broke, some that lack their library."""
    reason = "needs 5.31 TB/s, 1.29x what copy measured (4.10 TB/s)\nby the median of 30 rounds"
    above: dict[str, Any] = {"status": "invalid", "reason": reason, "other_samples_s": {"device": [1e-6] * 30}}
    gone: dict[str, Any] = {
        "status": "absent",
        "reason": "No module named 'quack'",
        "remedy": "pip install quack-kernels",
    }
    return [
        *(a_record("flashinfer", length, **above) for length in LENGTHS[:2]),
        a_record("bitsandbytes", 512, operator="int8_matmul", status="failed", reason="Disproved: row 3 differs"),
        *(a_record("quack", length, **gone) for length in LENGTHS),
    ]


def results(folder: Path) -> Path:
    """The whole run as a results file."""
    return a_file(folder, rows(), absent(), **FACTS)


def journal(folder: Path, *, torn: bool = True) -> Path:
    """The first case of the run as a journal whose last line a kill may have torn."""
    whole = json.loads(results(folder / "whole").read_text())["rooftile"]
    run = {name: whole[name] for name in whole if name not in ("absent", "roofs", "frontiers", "dropped", "overhead")}
    lines = [
        {"kind": "run"} | run | {"started": "2026-01-02T00:00:00Z"},
        {"kind": "facts", "roofs": whole["roofs"]},
        {
            "kind": "rows",
            "rows": [{"record": record, "samples_s": samples} for record, samples in rows()[: len(SPEEDS)]],
        },
        {"kind": "rows", "rows": [{"record": record, "samples_s": []} for record in absent()[:1]]},
    ]
    path = folder / "results" / "nvidia-h200" / "20260102T000000Z-0123456789ab.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(line) + "\n" for line in lines)
    path.write_text(text + ('{"kind": "rows", "rows": [{"rec' if torn else ""))
    return path


if __name__ == "__main__":
    for made in (results, journal):
        print(made(Path(sys.argv[1])))
