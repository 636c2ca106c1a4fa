"""The site: a folder of pages and data that needs no network. Which pages there are, and how they get there."""

from __future__ import annotations

import json
import os
import re
import tempfile
from dataclasses import replace
from pathlib import Path

from reports.site.book import book
from reports.site.data import as_csv, tables
from reports.site.data_page import data_page
from reports.site.drawing import Progress, draw
from reports.site.hardware_page import hardware_page
from reports.site.history_page import history_page
from reports.site.operator_page import chapters, operator_page
from reports.site.overview import overview
from reports.site.story import Story
from reports.site.timelines import timelines

INDEX = "index.html"
MANIFEST = "site.json"
# What an earlier site may have left, and what alone may be removed for it: nothing outside of the folder.
OURS = re.compile(r"(data/)?[a-z0-9_-]+\.(html|csv)")


def write(story: Story, target: Path, progress: Progress | None = None) -> Path:
    """Write the site into the folder `target`; gives its index.

    Each file is replaced as a whole and the index last, so that who reads meanwhile sees whole pages. Pages of an
    earlier site that this one lacks are removed. Raises ValueError where `target` is named like a file.
    """
    if target.suffix.lower() in (".html", ".htm"):
        raise ValueError(f"target: expected a folder, for a site is several pages, got {target}")
    pages = render(story, progress)
    (target / "data").mkdir(parents=True, exist_ok=True)
    before = _manifest(target)
    for name in sorted(pages, key=lambda name: name == INDEX):
        _replace(target / name, pages[name])
    _replace(target / MANIFEST, json.dumps({"files": sorted(pages)}, indent=0))
    for name in before - set(pages):
        (target / name).unlink(missing_ok=True)
    return target / INDEX


def render(story: Story, progress: Progress | None = None) -> dict[str, str]:
    """All files of the site as text, by their paths inside it."""
    whole = book(story)
    lines, untold = timelines(story.history, story.changes)
    found = tables(whole, lines)
    whole = replace(whole, data=frozenset(each.name for each in found))
    told = chapters(whole)
    jobs = [job for each in told for job in each.jobs(whole.looks)]
    drawn = draw([*jobs, *(each.job for each in lines)], progress)
    pages = {INDEX: overview(whole)}
    pages |= {whole.files[each.operator]: operator_page(whole, each, drawn) for each in told}
    pages["hardware.html"] = hardware_page(whole)
    pages["history.html"] = history_page(whole, lines, untold, drawn)
    pages["data.html"] = data_page(whole, found)
    return pages | {f"data/{each.name}.csv": as_csv(each.table) for each in found}


def _manifest(target: Path) -> set[str]:
    """The files of the site that stands there, as far as they can be ours; none where there is none."""
    try:
        files = json.loads((target / MANIFEST).read_bytes())["files"]
        return {name for name in files if isinstance(name, str) and OURS.fullmatch(name)}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return set()


def _replace(path: Path, text: str) -> None:
    """Write a file so that nobody ever sees half of it."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
            file.write(text)
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
