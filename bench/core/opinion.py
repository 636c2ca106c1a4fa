"""A second opinion on device time: what CUPTI (by way of torch's profiler) saw the device do.

Compared is the span of a warm call, from the start of its first kernel, copy or fill to the end of its last one, with
our own warm sample. Our clocks also hold what lies between two launches, so they say a little more: as much as they
say of the smallest kernel there is, at most.
"""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile

CALLS = 10


class Activity(NamedTuple):
    """Something the device did, in nanoseconds on the profiler's clock."""

    name: str
    start_ns: int
    duration_ns: int


@dataclass(frozen=True)
class Opinion:
    """What CUPTI says, and whether that is what we say.

    seconds: the median span of a call, None if it could not be had; agrees: whether that lies within `spread_s` of
    `against_s`, the median of our own samples by the clock `against`, or below it by `own_s` more, which is what that
    clock says of the smallest kernel; reason: why not, or why there is none.
    """

    by: str
    seconds: float | None
    against: str
    against_s: float
    spread_s: float
    agrees: bool | None
    reason: str
    own_s: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)


def second_opinion(
    thunk: Callable[[], object],
    settle: Callable[[], None],
    against: str,
    against_s: float,
    spread_s: float,
    own_s: float = 0.0,
    record: Callable[[Callable[[], object], Callable[[], None]], Sequence[Activity]] | None = None,
) -> Opinion:
    """Profile ten calls and compare. Calls are told apart by count: each must have done the same things.

    Where they have not, the profiler has dropped something (it does, silently: pytorch #192021), and there is no
    opinion rather than a guess.
    """

    def without(reason: str) -> Opinion:
        return Opinion("cupti", None, against, against_s, spread_s, None, reason, own_s)

    try:
        seen = sorted((record or profiled)(thunk, settle), key=lambda activity: activity.start_ns)
    except Exception as error:  # noqa: BLE001 - a second opinion that cannot be had costs no row
        return without(f"the profiler fails: {type(error).__name__}: {error}")
    if not seen:
        return without("the profiler saw nothing on a device")
    if len(seen) % CALLS:
        return without(f"the profiler saw {len(seen)} activities in {CALLS} calls alike: it has dropped some")
    each = len(seen) // CALLS
    calls = [seen[i : i + each] for i in range(0, len(seen), each)]
    if any(sorted(one.name for one in calls[0]) != sorted(one.name for one in call) for call in calls):
        return without("the profiler saw calls alike do different things: it has dropped some")
    spans = [max(one.start_ns + one.duration_ns for one in call) - call[0].start_ns for call in calls]
    seconds = statistics.median(spans) * 1e-9
    agrees = -spread_s <= against_s - seconds <= spread_s + own_s
    words = f"CUPTI says {seconds:.4g} s, {against} says {against_s:.4g} s with a spread of {spread_s:.2g} s"
    return Opinion("cupti", seconds, against, against_s, spread_s, agrees, "" if agrees else words, own_s)


def profiled(thunk: Callable[[], object], settle: Callable[[], None]) -> list[Activity]:
    """What the device did in ten calls, each waited for."""
    if not torch.cuda.is_available():
        return []
    settle()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with profile(activities=[ProfilerActivity.CUDA]) as profiler:
            for _ in range(CALLS):
                thunk()
                settle()
    events = profiler.profiler.kineto_results.events()
    return [
        Activity(event.name(), event.start_ns(), event.duration_ns())
        for event in events
        if "CUDA" in str(event.device_type()) and not event.name().startswith(("ProfilerStep", "Context Sync"))
    ]
