"""How often changes are told where nothing changed, and found where something did: `python -m tests.changes_quality`.

Histories of 200 rows with noise of 1 % from run to run and, by kind, what a machine adds to it. First those in which
nothing changed, of several lengths; then histories of 60 runs of which ten rows become slower for the last five. An
argument says how many histories of each (20; a quarter of them for each size of slowdown).
"""

from __future__ import annotations

import sys

import numpy as np

from reports.judge.changes import changes
from tests.simulated_past import names_of, noise, past

KINDS = ("normal", "outliers", "bimodal", "heavy", "drift", "shared", "alike", "missing")
RUNS, ROWS, AT = 60, 200, 55
LENGTHS = (12, 20, 60)
SIZES = (0.03, 0.05, 0.1)


def told(kind: str, seed: int, runs: int) -> int:
    """How many changes are told of a history in which nothing changed."""
    return len(changes(past(noise((runs, ROWS), seed, kind))))


def found(kind: str, seed: int, size: float) -> tuple[int, int]:
    """Of ten slowdowns how many are told within one run, and how many changes are told besides."""
    logs, moved = noise((RUNS, ROWS), seed, kind), np.arange(4, ROWS, 20)
    logs[AT:, moved] += np.log1p(size)
    names = set(names_of(ROWS).row.iloc[moved])
    all_told = changes(past(logs))
    near = [each for each in all_told if each.row in names and each.before - 1 <= AT <= each.run + 1]
    return len(near), len(all_told) - len(near)


def main(histories: int) -> None:
    """Print a line per kind of noise."""
    print(
        "noise",
        *(f"A/A, {runs} runs" for runs in LENGTHS),
        *(f"{size:.0%} found (besides)" for size in SIZES),
        sep=" | ",
    )
    for kind in KINDS:
        cells = []
        for runs in LENGTHS:
            false = [told(kind, seed, runs) for seed in range(100, 100 + histories)]
            cells.append(f"{sum(map(bool, false))} of {histories} ({sum(false)} changes)")
        for size in SIZES:
            each = [found(kind, seed, size) for seed in range(200, 200 + max(1, histories // 4))]
            cells.append(f"{sum(near for near, _ in each)} of {10 * len(each)} ({sum(more for _, more in each)})")
        print(kind, *cells, sep=" | ", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
