"""What was made of a folder's results files, kept beside them: one Parquet file, `.cache/summary.parquet`.

The rows are its table; the files that they come from, with all else that their summaries hold, are JSON in its
metadata. So there is one file, and it is replaced as a whole: whoever reads it sees the old one or the new one, and of
several who write the last one stays. It is never needed: whoever finds none, a broken or an outdated one, reads the
results files themselves.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from reports.read.decode import decode
from reports.read.summary import CATEGORIES, NUMBERS

FOLDER, NAME = ".cache", "summary.parquet"
# `file` says by its number which of the files a row comes from.
COLUMNS = pa.schema(
    [
        pa.field("file", pa.int32()),
        *(pa.field(name, pa.dictionary(pa.int32(), pa.string())) for name in CATEGORIES),
        *(pa.field(name, pa.float64()) for name in NUMBERS),
    ]
)
ROWS_PER_GROUP = 1 << 17
FORGOTTEN_S = 3600


@dataclass(frozen=True)
class Key:
    """A results file as it was when it was read: another size or time, and it is another file."""

    name: str
    size: int
    mtime_ns: int


@dataclass(frozen=True)
class Entry:
    """What the summary of a file holds besides its rows, as JSON holds it.

    run: its facts, None where the file is none of ours; reasons: why it, or parts of it, were left out.
    """

    key: Key
    run: dict[str, Any] | None
    roofs: list[dict[str, Any]]
    frontiers: list[dict[str, Any]]
    reasons: list[str]


@dataclass(frozen=True)
class Kept:
    """Entries, and the rows of all of them: a table of COLUMNS whose `file` counts the entries from 0."""

    entries: list[Entry]
    rows: pa.Table


NOTHING = Kept([], COLUMNS.empty_table())


def key_of(path: Path) -> Key:
    """The file as it is now. Raises OSError."""
    found = path.stat()
    return Key(path.name, found.st_size, found.st_mtime_ns)


def read(folder: Path, version: str, wanted: Callable[[Key], bool]) -> Kept:
    """What is kept of the wanted files of a folder; nothing where there is nothing, or it cannot be used.

    version: of the code that made it; what another made is not used.
    """
    try:
        with pq.ParquetFile(folder / FOLDER / NAME, page_checksum_verification=True) as file:
            told = file.metadata.metadata
            if told[b"version"] != version.encode():
                return NOTHING
            entries = [_entry(each) for each in decode(told[b"entries"])]
            places = [i for i, entry in enumerate(entries) if wanted(entry.key)]
            rows = file.read_row_groups(_groups(file, {*places})) if places else COLUMNS.empty_table()
    except (OSError, pa.ArrowException, LookupError, ValueError, TypeError):
        return NOTHING
    if rows.schema.remove_metadata() != COLUMNS:
        return NOTHING
    return Kept([entries[place] for place in places], _of(rows, places, len(entries)))


def _entry(found: dict[str, Any]) -> Entry:
    return Entry(**(found | {"key": Key(**found["key"])}))


def _groups(file: pq.ParquetFile, places: set[int]) -> list[int]:
    """The row groups that may hold rows of some files: rows stand in the order of files."""
    found = []
    for group in range(file.metadata.num_row_groups):
        ends = file.metadata.row_group(group).column(0).statistics
        if ends is None or not ends.has_min_max or not places.isdisjoint(range(ends.min, ends.max + 1)):
            found.append(group)
    return found


def _of(rows: pa.Table, places: Sequence[int], count: int) -> pa.Table:
    """Of the rows of so many files those of the files at these places; `file` counts the places."""
    if len(places) == count:
        return rows
    numbers = pc.index_in(rows.column("file"), pa.array(places, pa.int32()))
    return rows.set_column(0, COLUMNS.field("file"), numbers).filter(pc.is_valid(numbers))


def merged(parts: Sequence[Kept]) -> Kept:
    """All of these as one."""
    tables, start = [NOTHING.rows], 0
    for part in parts:
        numbers = pc.add(part.rows.column("file"), pa.scalar(start, pa.int32()))
        tables.append(part.rows.set_column(0, COLUMNS.field("file"), numbers))
        start += len(part.entries)
    return Kept([entry for part in parts for entry in part.entries], pa.concat_tables(tables).unify_dictionaries())


def write(folder: Path, version: str, kept: Kept) -> None:
    """Keep it in place of what was kept before. Raises OSError where that cannot be."""
    home = folder / FOLDER
    home.mkdir(exist_ok=True)
    _forget(home)
    handle, name = tempfile.mkstemp(prefix="summary-", suffix=".part", dir=home)
    os.close(handle)
    try:
        entries = json.dumps([asdict(entry) for entry in kept.entries])
        options = {"compression": "zstd", "compression_level": 1, "write_page_checksum": True}
        with pq.ParquetWriter(name, COLUMNS, use_dictionary=list(CATEGORIES), **options) as file:
            file.write_table(kept.rows.combine_chunks(), row_group_size=ROWS_PER_GROUP)
            file.add_key_value_metadata({"version": version, "entries": entries})
        Path(name).replace(home / NAME)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _forget(home: Path) -> None:
    """Remove what writers that were killed have left."""
    for part in home.glob("summary-*.part"):
        with suppress(OSError):
            if time.time() - part.stat().st_mtime > FORGOTTEN_S:
                part.unlink()
