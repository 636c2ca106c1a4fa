"""What was made of a folder's results files, kept beside them: one Parquet file, `.cache/summary.parquet`.

The rows are its table; the files that they come from, with all else that their summaries hold, are JSON in its
metadata. So there is one file, and it is replaced as a whole: whoever reads it sees the old one or the new one, and of
several who write the last one stays. It is never needed: whoever finds none, a broken or an outdated one, reads the
results files themselves.
"""

from __future__ import annotations

import json
import secrets
import time
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
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

    rows: how many it has; run: its facts, None where the file is none of ours; reasons: why it, or parts of it, were
    left out.
    """

    key: Key
    rows: int
    run: dict[str, Any] | None
    roofs: list[dict[str, Any]]
    frontiers: list[dict[str, Any]]
    reasons: list[str]


@dataclass(frozen=True)
class Kept:
    """Entries, and the rows of all of them in their order: a table of COLUMNS whose `file` counts them from 0."""

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
            if told[b"version"] != version.encode() or told[b"sum"] != _sum(told[b"entries"]):
                return NOTHING
            entries = [_entry(each) for each in decode(told[b"entries"])]
            places = [i for i, entry in enumerate(entries) if wanted(entry.key)]
            rows = file.read_row_groups(_groups(file, {*places})) if places else COLUMNS.empty_table()
    except (OSError, pa.ArrowException, LookupError, ValueError, TypeError):
        return NOTHING
    if rows.schema.remove_metadata() != COLUMNS:
        return NOTHING
    found = Kept([entries[place] for place in places], _of(rows, places, len(entries)))
    return found if found.rows.column("file").equals(_files(found.entries)) else NOTHING


def _sum(entries: bytes) -> bytes:
    """Pages of a Parquet file have their checksums, its metadata have none."""
    return str(zlib.crc32(entries)).encode()


def _files(entries: Sequence[Entry]) -> pa.ChunkedArray:
    """What `file` is for the rows of these."""
    return pa.chunked_array([np.repeat(np.arange(len(entries), dtype="int32"), [entry.rows for entry in entries])])


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
    """All of these as one, in the order of the names of their files, which is that of their dates."""
    parts = [part for part in parts if part.entries]
    if len(parts) < 2:
        return parts[0] if parts else NOTHING
    found: list[tuple[Entry, pa.Table]] = []
    for part in parts:
        ends = np.cumsum([entry.rows for entry in part.entries])
        found += [(entry, part.rows[end - entry.rows : end]) for entry, end in zip(part.entries, ends, strict=True)]
    found.sort(key=lambda each: each[0].key.name)
    entries = [entry for entry, _ in found]
    rows = pa.concat_tables([rows for _, rows in found]).unify_dictionaries()
    return Kept(entries, rows.set_column(0, COLUMNS.field("file"), _files(entries)))


def write(folder: Path, version: str, kept: Kept) -> None:
    """Keep it in place of what was kept before. Raises OSError where that cannot be."""
    home = folder / FOLDER
    home.mkdir(exist_ok=True)
    _forget(home)
    part = home / f"summary-{secrets.token_hex(8)}.part"
    try:
        entries = json.dumps([asdict(entry) for entry in kept.entries]).encode()
        options = {"compression": "zstd", "compression_level": 1, "write_page_checksum": True}
        with pq.ParquetWriter(part, COLUMNS, use_dictionary=list(CATEGORIES), **options) as file:
            file.write_table(kept.rows.combine_chunks(), row_group_size=ROWS_PER_GROUP)
            file.add_key_value_metadata({"version": version, "entries": entries, "sum": _sum(entries)})
        part.replace(home / NAME)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _forget(home: Path) -> None:
    """Remove what writers that were killed have left."""
    for part in home.glob("summary-*.part"):
        with suppress(OSError):
            if time.time() - part.stat().st_mtime > FORGOTTEN_S:
                part.unlink()
