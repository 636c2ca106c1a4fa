"""First configurations run where nobody has tuned: by the committed ledger none spills, and none misses wgmma."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from bench.core.baseline import Baseline

SERVERS = ("sm_80", "sm_90", "sm_100")  # A100, H100 and H200, B200


def _first(target: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The kernels that are compiled for a target in their first configuration, by name."""
    for operator, modes in Baseline().content["resources"].items():
        for mode, providers in modes.items():
            for provider, targets in providers.items():
                for kernel, found in targets[target].items():
                    if found.get("default") and "absent" not in found:
                        yield f"{operator} {mode} {provider} {target} {kernel}", found


@pytest.mark.parametrize("target", SERVERS)
def test_none_spills(target: str) -> None:
    spills = {name: found["spills"] for name, found in _first(target)}
    assert len(spills) > 200
    assert {name: size for name, size in spills.items() if size} == {}


def test_every_product_of_64_rows_is_a_wgmma_on_hopper() -> None:
    units: dict[str, set[str]] = {}
    for name, found in _first("sm_90"):
        told = {re.split(r"[._]", instruction)[0] for instruction in found["instructions"]}
        units[name] = told & {"mma", "wgmma"}
    assert sum(unit == {"wgmma"} for unit in units.values()) > 50
    # One kernel has tiles of fewer rows beside others: they hold the scores of few queries of a long window.
    mixed = [name for name, unit in units.items() if "mma" in unit]
    assert all("wgmma" in units[name] and "BLOCK_M=16" in name for name in mixed)
    assert len(mixed) <= 1
