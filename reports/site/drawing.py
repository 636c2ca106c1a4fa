"""The drawing of all plots of a site, by several processes where they are many."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

ALONE = 40  # so many plots are drawn sooner by one process than by several, each of which has to start
MOST = 8  # processes; more would only wait for the pages

DRAWERS = ("reports.site.plots", "reports.site.plots_compare", "reports.site.plots_counts")

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Job:
    """A plot to be drawn: SVG text by a function of a module, of arguments that can be sent to another process."""

    name: str
    function: Callable[..., str]
    arguments: tuple[Any, ...]


def draw(jobs: Sequence[Job], progress: Progress | None = None) -> dict[str, Markup]:
    """The drawings by their names; `progress` is told how many of how many are done."""
    drawn: dict[str, Markup] = {}
    for job, svg in zip(jobs, _each(jobs), strict=True):
        drawn[job.name] = Markup(svg)
        if progress:
            progress(len(drawn), len(jobs))
    return drawn


def _each(jobs: Sequence[Job]) -> Iterator[str]:
    workers = min(MOST, _cores())
    if len(jobs) <= ALONE or workers == 1:
        yield from map(_do, jobs)
        return
    with ProcessPoolExecutor(workers, mp_context=_context()) as pool:
        yield from pool.map(_do, jobs, chunksize=4)


def _context() -> multiprocessing.context.BaseContext:
    """Not plain forking: libraries may hold threads here, which a fork would lose with their locks held.

    Where a system has servers of forks, one of them imports what draws, once for all processes.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", *DRAWERS])
    return context


def _cores() -> int:
    """Those that this process may use, where the system tells."""
    told = getattr(os, "sched_getaffinity", None)
    return len(told(0)) if told else os.cpu_count() or 1


def _do(job: Job) -> str:
    return job.function(*job.arguments)
