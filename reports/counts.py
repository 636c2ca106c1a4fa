"""results/counts.json to typed tables: what every operator costs, as counted without a GPU."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from reports.record import NotOurs

LEDGER = Path("results") / "counts.json"
SCHEMA = 1
TENSOR_INSTRUCTIONS = ("wgmma", "tcgen05", "mma", "mfma")


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
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise NotOurs(f"expected JSON, got {error}") from None
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        found = content.get("schema") if isinstance(content, dict) else type(content).__name__
        raise NotOurs(f"expected counts of schema {SCHEMA}, got {found}")
    try:
        cases = pd.DataFrame(list(_cases(content)))
        resources = pd.DataFrame(list(_resources(content)))
        return Counts(dict(content["versions"]), dict(content["gpus"]), cases, resources)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise NotOurs(f"expected counts, got an entry that is none: {type(error).__name__}: {error}") from None


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
            known |= {"floor_bytes": int(floor["bytes"]), "floor_flops": int(floor["flops"])}
            if case not in counted:
                yield known | {"provider": None, "dots": units.get(mode, {})}
            for provider, launches in counted.get(case, {}).items():
                yield known | {"provider": provider} | _total(launches)


def _total(launches: dict[str, Any]) -> dict[str, Any]:
    """What all launches of a case moved and computed together."""
    dots: Counter[str] = Counter()
    total = dict.fromkeys(("requested_bytes", "footprint_bytes", "vector_flops", "special"), 0)
    for launch in launches.values():
        for moved in [*launch.get("read", {}).values(), *launch.get("written", {}).values()]:
            total["requested_bytes"] += moved["requested"]
            total["footprint_bytes"] += moved["footprint"]
        total["vector_flops"] += sum(launch.get("flops", {}).values())
        total["special"] += sum(launch.get("special", {}).values())
        dots.update(launch.get("dots", {}))
    return total | {"launches": len(launches), "dots": dict(dots)}


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
    mix = found.get("instructions", {})
    widths = [int(kind.rpartition(".")[2]) for kind in mix if kind.startswith(("load.", "store.", "cp.async."))]
    return {
        "kernel": name,
        "configuration": configuration,
        "default": bool(found["default"]),
        "absent": found.get("absent"),
        "registers": found.get("registers"),
        "spills_bytes": found.get("spills"),
        "shared_bytes": found.get("shared"),
        "occupancy": found.get("occupancy"),
        "tensor": ", ".join(f"{mix[kind]} {kind}" for kind in TENSOR_INSTRUCTIONS if kind in mix),
        "widest_bits": max(widths, default=None),
    }
