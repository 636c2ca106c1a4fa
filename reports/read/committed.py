"""The ledger of counts as it stood at a commit, read from git's own store: no tree is checked out."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from reports.read.counts import LEDGER, Counts, parse
from reports.read.record import NotOurs

# By commit the ledger as committed there; None where it cannot be had.
Ledger = Callable[[str], Counts | None]
TIMEOUT_S = 30


def no_ledger(commit: str) -> Counts | None:  # noqa: ARG001 - it is a `Ledger`
    """Where there is no git: no ledger of any commit."""
    return None


def committed(root: Path) -> Ledger:
    """The ledgers of the repository at `root`; of a commit that it lacks, or where there is no git, there is none."""

    @lru_cache(maxsize=64)
    def ledger(commit: str) -> Counts | None:
        # Commits come from results files: what is no hexadecimal number could be an option, or another object.
        if not re.fullmatch(r"[0-9a-f]{7,40}", commit):
            return None
        shown = ["git", "show", f"{commit}:{LEDGER.as_posix()}"]
        try:
            done = subprocess.run(shown, cwd=root, capture_output=True, timeout=TIMEOUT_S, check=True)
            return parse(done.stdout)
        except (OSError, subprocess.SubprocessError, NotOurs):
            return None

    return ledger
