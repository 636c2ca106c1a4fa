"""results/counts.json to typed tables: what every operator costs, as counted without a GPU."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from reports.read.record import NotOurs, clean, entry, mapping, number, optional_mapping, text

LEDGER = Path("results") / "counts.json"
SCHEMA = 1
TENSOR_INSTRUCTIONS = ("wgmma", "tcgen05", "mma", "mfma")
CASES = (
    "operator", "mode", "case", "floor_bytes", "floor_flops", "provider", "dots", "requested_bytes", "footprint_bytes",
    "vector_flops", "special", "launches",
)  # fmt: skip
RESOURCES = (
    "operator", "mode", "provider", "target", "kernel", "configuration", "default", "absent", "registers",
    "spills_bytes", "shared_bytes", "occupancy", "tensor", "widest_bits", "narrowest_bits",
)  # fmt: skip


@dataclass(frozen=True)
class Counts:
    """The ledger of counts.

    gpus: the hardware table, in SI units. cases: a row per case of the sweeps: `operator`, `mode`, `case`;
    `floor_bytes` and `floor_flops` by the operator's own statement; for those that were counted `provider`,
    `requested_bytes`, `footprint_bytes` (summed over launches), `launches`, `dots` (operations by dtype, a dict),
    `vector_flops`, `special`; for the others these are missing, and `dots` are those of a counted case of their
    operator and mode: which dtypes they have is what it tells. resources: a row per kernel, configuration and target.
    """

    versions: dict[str, str]
    gpus: dict[str, dict[str, Any]]
    cases: pd.DataFrame
    resources: pd.DataFrame


def load(path: Path = LEDGER) -> Counts:
    """Read the ledger. Raises `NotOurs`, which says what is wrong, and OSError where there is no such file."""
    return parse(path.read_bytes())


def parse(ledger: bytes) -> Counts:
    """The ledger with this content. Raises `NotOurs`, which says what is wrong."""
    try:
        content = _harmless(json.loads(ledger))
    except (ValueError, RecursionError) as error:
        raise NotOurs(f"expected JSON, got {clean(str(error))}") from None
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        found = content.get("schema") if isinstance(content, dict) else type(content).__name__
        raise NotOurs(f"expected counts of schema {SCHEMA}, got {found}")
    try:
        versions = {name: text(mapping(content, "versions"), name) for name in ("torch", "triton")}
        gpus = {key: _gpu(key, gpu) for key, gpu in mapping(content, "gpus").items()}
        cases = pd.DataFrame(list(_cases(content)), columns=list(CASES))
        resources = pd.DataFrame(list(_resources(content)), columns=list(RESOURCES))
        return Counts(versions, gpus, cases, resources.astype({"default": bool}))
    except NotOurs as error:
        raise NotOurs(f"expected counts, got an entry that is none: {error}") from None
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise NotOurs(f"expected counts, got an entry that is none: {type(error).__name__}: {error}") from None


def _harmless(value: Any) -> Any:
    """JSON whose names and texts neither steer a terminal nor fail to be written as UTF-8."""
    if isinstance(value, dict):
        return {clean(name): _harmless(inner) for name, inner in value.items()}
    return clean(value) if isinstance(value, str) else value


def _gpu(key: str, found: Any) -> dict[str, Any]:
    """The figures of a GPU that bounds need, every one of them positive."""
    peaks = mapping(found, "peaks")
    gpu = {name: number(found, name) for name in ("bandwidth", "special", "launch_s")}
    rates = gpu | {dtype: number(peaks, dtype) for dtype in peaks}
    if none := [name for name, rate in rates.items() if not rate]:
        raise NotOurs(f"{key}: expected positive figures, got 0 for {', '.join(none)}")
    return gpu | {"name": text(found, "name"), "peaks": {dtype: rates[dtype] for dtype in peaks}}


def _cases(content: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for operator, floors in sorted(content["floors"].items()):
        counted = content["cases"].get(operator, {})
        units = {
            case.partition("-")[0]: _total(launches)["dots"]
            for case, providers in counted.items()
            for launches in providers.values()
        }
        for case, floor in floors.items():
            mode = case.partition("-")[0]
            known = {"operator": operator, "mode": mode, "case": case.removeprefix(f"{mode}-")}
            known |= {f"floor_{name}": number(floor, name) for name in ("bytes", "flops")}
            if case not in counted:
                yield known | {"provider": None, "dots": units.get(mode, {})}
            for provider, launches in counted.get(case, {}).items():
                yield known | {"provider": provider} | _total(launches)


def _total(launches: dict[str, Any]) -> dict[str, Any]:
    """What all launches of a case moved and computed together."""
    dots: defaultdict[str, float] = defaultdict(float)
    total = dict.fromkeys(("requested_bytes", "footprint_bytes", "vector_flops", "special"), 0.0)
    for launch in launches.values():
        for moved in [*optional_mapping(launch, "read").values(), *optional_mapping(launch, "written").values()]:
            total["requested_bytes"] += number(moved, "requested")
            total["footprint_bytes"] += number(moved, "footprint")
        total["vector_flops"] += sum(_operations(launch, "flops").values())
        total["special"] += sum(_operations(launch, "special").values())
        for dtype, flops in _operations(launch, "dots").items():
            dots["fp8" if dtype.startswith("fp8") else dtype] += flops  # Triton tells fp8e4nv from fp8e5, peaks do not
    return total | {"launches": len(launches), "dots": dict(dots)}


def _operations(launch: dict[str, Any], name: str) -> dict[str, float]:
    """Operations of a launch by kind."""
    found = optional_mapping(launch, name)
    return {kind: number(found, kind) for kind in found}


def _resources(content: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for operator, modes in sorted(content["resources"].items()):
        for mode, providers in modes.items():
            for provider, targets in providers.items():
                for target, kernels in targets.items():
                    for kernel, found in kernels.items():
                        place = {"operator": operator, "mode": mode, "provider": provider, "target": target}
                        yield place | _resource(kernel, found)


def _resource(kernel: str, found: dict[str, Any]) -> dict[str, Any]:
    name, _, configuration = kernel.partition(" ")
    mix = optional_mapping(found, "instructions")
    absent = text(found, "absent", default="") or None
    figures = ("registers", "spills", "shared", "occupancy")
    taken = {name: None if absent else number(found, name) for name in figures}
    widths = [int(kind.rpartition(".")[2]) for kind in mix if kind.startswith(("load.", "store.", "cp.async."))]
    return {
        "kernel": name,
        "configuration": configuration,
        "default": bool(entry(found, "default")),
        "absent": absent,
        "registers": taken["registers"],
        "spills_bytes": taken["spills"],
        "shared_bytes": taken["shared"],
        "occupancy": taken["occupancy"],
        "tensor": ", ".join(f"{number(mix, kind):.0f} {kind}" for kind in TENSOR_INSTRUCTIONS if kind in mix),
        "widest_bits": max(widths, default=None),
        "narrowest_bits": min(widths, default=None),
    }
