"""Results files, journals and folders of them to the light tables of `reports.read.summary`.

What a figure means is said once, by `reports.read.load` and `reports.judge.derive`, through which every file goes; what
comes of a file is kept beside it (`reports.read.cache`), since results are never edited.
"""

from __future__ import annotations

import multiprocessing
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from reports.judge.reduce import reduce, version
from reports.read import cache
from reports.read.cache import Entry, Kept, Key
from reports.read.load import RESULTS, expand, is_folder, name_of
from reports.read.record import clean
from reports.read.summary import FRONTIERS, ROOFS, RUNS, History, table

Progress = Callable[[int, int], None]

# Starting a process takes about as long as reading so much.
WORTH_A_PROCESS_BYTES = 8 << 20


def summarise(
    sources: Sequence[Path] | None = None, *, folder: Path = RESULTS, progress: Progress | None = None
) -> History:
    """The runs of files, journals and folders, or without any of `folder`, the oldest first.

    Files that were read before come from the cache beside them. `progress` is told how many of the others have been
    read, and how many there are. What cannot be read is named and left out; nothing is raised for it.
    """
    if sources is None:
        sources = [folder] if is_folder(folder) else []
    wanted: defaultdict[Path, dict[Path, Key]] = defaultdict(dict)
    left_out: list[tuple[str, str]] = []
    for path in expand(sources):
        try:
            wanted[path.parent][path] = cache.key_of(path)
        except (OSError, ValueError) as error:
            left_out.append((name_of(path), f"cannot be read: {getattr(error, 'strerror', None) or error}"))
    known = {home: cache.read(home, version(), {*files.values()}.__contains__) for home, files in wanted.items()}
    missing: list[tuple[Path, Key]] = []
    for home, files in wanted.items():
        kept = {entry.key for entry in known[home].entries}
        missing += [(path, key) for path, key in files.items() if key not in kept]
    fresh: defaultdict[Path, list[Kept]] = defaultdict(list)
    for done, (path, made) in enumerate(_reduced(missing), start=1):
        if isinstance(made, str):
            left_out.append((name_of(path), made))
        else:
            fresh[path.parent].append(made)
        if progress is not None:
            progress(done, len(missing))
    notes = [note for home, made in fresh.items() if (note := _keep(home, made))]
    parts = [(files, cache.merged([known[home], *fresh[home]])) for home, files in wanted.items()]
    return _history(parts, left_out, notes)


def _reduced(missing: Sequence[tuple[Path, Key]]) -> Iterator[tuple[Path, Kept | str]]:
    """The files one after the other, each with its summary or why there is none; many are read side by side."""
    workers = min(os.cpu_count() or 1, len(missing), sum(key.size for _, key in missing) // WORTH_A_PROCESS_BYTES)
    done = 0
    if workers > 1:
        try:
            with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
                results = pool.map(reduce, [path for path, _ in missing], [key for _, key in missing], chunksize=4)
                for (path, _), made in zip(missing, results, strict=True):
                    yield path, made
                    done += 1
        except BrokenProcessPool:
            pass  # of a main module that cannot be imported again, or for want of memory: one by one, then
    for path, key in missing[done:]:
        yield path, reduce(path, key)


def _keep(home: Path, made: Sequence[Kept]) -> str:
    """Put new summaries beside the older ones of files that still are there; says why where that cannot be done."""
    names = {entry.key.name for part in made for entry in part.entries}
    older = cache.read(home, version(), lambda key: key.name not in names and (home / key.name).exists())
    try:
        cache.write(home, version(), cache.merged([older, *made]))
    except (OSError, pa.ArrowException) as error:
        reason = clean(str(getattr(error, "strerror", None) or error))
        return f"{name_of(home)}: what was read cannot be kept there ({reason}), so it is read anew every time"
    return ""


def _history(
    parts: Sequence[tuple[dict[Path, Key], Kept]], left_out: list[tuple[str, str]], notes: list[str]
) -> History:
    """All parts as one, each with the files that its entries come from; runs numbered by time."""
    found: list[tuple[str, str, int, int, Entry]] = []
    for part, (files, kept) in enumerate(parts):
        paths = {key.name: name_of(path) for path, key in files.items()}
        for place, entry in enumerate(kept.entries):
            path = paths[entry.key.name]
            left_out += [(path, reason) for reason in entry.reasons]
            if entry.run is not None:
                found.append((entry.run["started"] or "", path, part, place, entry))
    found.sort(key=lambda each: each[:2])
    numbers = [np.full(len(kept.entries), -1, "int32") for _, kept in parts]
    for number, (_, _, part, place, _) in enumerate(found):
        numbers[part][place] = number
    runs = [(entry.run or {}) | {"run": number, "path": path} for number, (_, path, *_, entry) in enumerate(found)]
    roofs = [roof | {"run": number} for number, (*_, entry) in enumerate(found) for roof in entry.roofs]
    frontiers = [each | {"run": number} for number, (*_, entry) in enumerate(found) for each in entry.frontiers]
    return History(
        runs=table(RUNS, runs),
        rows=_rows([kept for _, kept in parts], numbers),
        roofs=table(ROOFS, roofs),
        frontiers=table(FRONTIERS, frontiers),
        left_out=sorted(left_out),
        notes=notes,
    )


def _rows(parts: Sequence[Kept], numbers: Sequence[Any]) -> pd.DataFrame:
    """The rows of all parts; numbers: of each part, by its files, their numbers among all runs."""
    tables = [
        part.rows.set_column(0, "run", pa.array(runs[part.rows.column("file").to_numpy()], pa.int32()))
        for part, runs in zip(parts, numbers, strict=True)
    ]
    nothing = cache.NOTHING.rows.rename_columns(["run", *cache.COLUMNS.names[1:]])
    rows: pd.DataFrame = (
        pa.concat_tables([nothing, *tables]).unify_dictionaries().to_pandas(split_blocks=True, self_destruct=True)
    )
    return rows
