"""Whether a row has slowed down, judged in stages: one run raises a suspicion, further runs of the suspects settle it.

One run of 300 rows has outliers in 3 of them, so no run by itself is believed. The first look is lenient and costs only
that the suspects are clocked again; the last is strict, and has the mean of several runs to go by. That is where the
power comes from: what is strict enough for 300 rows is beyond the reach of a single run.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.special import gammaln

from reports.judge.centre import Centre, Flags, Floats, centre, medians
from reports.judge.noise import Noise, noise
from reports.judge.stable import stable

# A row is suspect if so large a slowdown would be chance in one run of twelve.
DOUBT = 0.08
# The chance that any row of a table alarms although none has changed, shared out among the rows (Bonferroni). Holm's
# steps would change nothing here: a gate that is failed by one row is failed. The gate's own rate is measured by
# `reports.judge.quality`; it is lower, since more than this is asked of an alarm.
ALARM = 0.015
# With fewer runs of head than settle a suspect an alarm must be ten times as sure (Haybittle 1971, British Journal of
# Radiology 44:793). Who looks after every single run nevertheless sees more false alarms than the figures tell, which
# are of one look at the end: of 1,000 replays 16 had one at some time, 7 at the end.
EARLY = 0.1
# Two of a row's head runs, one after the other, must be bad: slower by this many standard deviations of a run.
BAD = 1.0
# Head must be slower than the newest runs of history too, by this many standard errors: what had changed before base
# did not change since, even if too little to be told from noise by itself.
NEWEST = 3
SINCE = 2.0
# How much of what a device drifts a row may have more or less of than others of its kind: on a machine that is 3 %
# slower than history knows it, a row may differ by 0.3 % for that alone, in all runs of head alike.
OWN_DRIFT = 0.1
# No run counts for more than this many standard deviations above the least one: an outlier is no slowdown.
CLIP = 2.0
# Runs of head after which a suspect is settled: an alarm, or not.
SETTLED = 10
# Of 100 rows 5 have two speeds, each at any odds. Head must be at a speed that history never saw for so many runs that
# fewer than 1 in 1,250 gates takes that for a slowdown, for each number of times that history may have seen it.
TWO_SPEEDS = 0.05
UNSEEN = 0.0008
# Runs of history below which nothing is known of how runs differ.
LEAST_HISTORY = 3
MOST_SEEN = 5


@dataclass(frozen=True)
class Evidence:
    """What the runs of head say of every row (..., rows), in log time, above 0 slower.

    change: their mean over the level they are judged by, where none counts for more than CLIP deviations above the
    least, which errs to the safe side; middle: the same, where none counts for more than CLIP deviations off their
    median, which errs to neither; share: the variance of both over that of one run, further: variance from what the run
    as a whole was found to share; chance: of such a slowdown though nothing has changed; runs: of head; bad: whether
    two were that follow each other; since: whether head is beyond the newest runs of history too; enough: whether its
    runs are enough to tell a slowdown from a second speed.
    """

    change: Floats
    middle: Floats
    share: Floats
    further: Floats
    chance: Floats
    runs: Floats
    bad: Flags
    since: Flags
    enough: Flags


@dataclass(frozen=True)
class Kinds:
    """Of the rows of a table (..., rows): which code did not change, which arithmetic binds, which are to be judged."""

    control: Flags
    compute: Flags
    gating: Flags


@dataclass(frozen=True)
class Weighed:
    """The rows of a table (..., rows): what their runs share, and how they differ from run to run.

    past, head (..., runs, rows): log times without what the runs share, of past since each row's newest change; doubt:
    the variance of what was taken out of head; base (runs,): which runs of past are those that head is held against;
    away (..., rows): how far head is from history in what runs share; judged (...): how many rows are judged at once.
    """

    centre: Centre
    past: Floats
    head: Floats
    doubt: Floats
    base: Flags
    away: Floats
    noise: Noise
    judged: Floats

    def slower(self) -> Evidence:
        """That rows have slowed down."""
        return _evidence(self, self.noise)

    def maybe(self) -> Evidence:
        """That rows have slowed down, if as many further runs of head bear it out as settle a suspect."""
        return _evidence(self, self.noise, settled=True)

    def faster(self) -> Evidence:
        """That rows have become faster: the same of all log times with the other sign."""
        return _evidence(replace(self, head=-self.head, past=-self.past), noise(-self.past))


def weigh(logs: Floats, history: Flags, base: Flags, kinds: Kinds) -> Weighed:
    """Weigh the runs of head against history.

    logs (..., runs, rows): log times, oldest first, NaN where there is none; history (runs,): which runs are history,
    ahead of those of head; base (runs,): which of those head is held against.
    """
    shared = centre(logs, history, kinds.control, kinds.compute)
    flat = logs - shared.shift
    past = stable(flat[..., history, :])
    head, doubt = flat[..., ~history, :], shared.variance[..., ~history, :]
    judged = np.maximum(np.sum(kinds.gating, axis=-1), 1).astype(np.float64)
    known_shift = np.where(np.isnan(logs), np.nan, shared.shift)
    was, now = (medians(known_shift[..., side, :], -2) for side in (history, ~history))
    away = np.nan_to_num(now - was)
    return Weighed(shared, past, head, doubt, base[history], away, noise(past), judged)


def _evidence(weighed: Weighed, known: Noise, *, settled: bool = False) -> Evidence:
    there = ~np.isnan(weighed.head)
    runs = np.sum(there, axis=-2).astype(np.float64)
    most_runs = np.full_like(runs, SETTLED) if settled else runs
    rare = chance_speed(most_runs, known.runs, weighed.judged[..., None])
    newest = _newest(weighed.past)
    base = np.fmax.reduce(weighed.past[..., weighed.base, :], axis=-2)
    above, size = known.excess(weighed.head, rare, np.where(np.isnan(base), newest[..., -1, :], base))
    count, wide = np.maximum(runs, 1), CLIP * known.known.deviation[..., None, :]
    least, median = np.fmin.reduce(above, axis=-2)[..., None, :], medians(above, -2)[..., None, :]
    change, middle = (
        np.where(runs > 0, np.sum(clipped, axis=-2, where=there) / count, np.nan)
        for clipped in (np.minimum(above, least + wide), np.clip(above, median - wide, median + wide))
    )
    share = 1 / count + np.sum(1 / size, axis=-2, where=there) / count
    further = np.sum(weighed.doubt, axis=-2, where=there) / count**2 + np.square(OWN_DRIFT * weighed.away)
    chance = known.known.beyond(change, share, further)
    recent = medians(newest, -2)
    error = known.known.deviation * np.sqrt(1 / count + 1 / NEWEST)
    since = medians(weighed.head, -2) - recent > SINCE * error
    return Evidence(change, middle, share, further, chance, runs, _bad(above, known), since, rare >= 0)


def _newest(past: Floats) -> Floats:
    """The newest log times of every row (..., NEWEST, rows), whichever runs they are of; NaN ahead of the first."""
    missing = np.isnan(past)
    order = np.argsort(~missing, axis=-2, kind="stable")
    return np.asarray(np.take_along_axis(past, order, -2)[..., -NEWEST:, :])


def _bad(above: Floats, known: Noise) -> Flags:
    """Whether two runs of every row that follow each other are bad; those in which it has no time do not count."""
    order = np.argsort(np.isnan(above), axis=-2, kind="stable")
    bad = np.take_along_axis(above, order, -2) > BAD * known.known.deviation[..., None, :]
    return np.asarray((bad[..., 1:, :] & bad[..., :-1, :]).any(axis=-2))


def chance_speed(head: Floats, history: Floats, rows: Floats) -> Floats:
    """In how many runs of history a speed may have been seen that so many runs of head, all at it, make a slowdown.

    -1: not even if it was never seen. A row that has two speeds, at any odds alike, is c times of n at its slower one
    and then m times of m with the chance n! (c + m)! / (c! (n + m + 1)!) (Laplace's rule of succession). What is
    returned is the largest c that makes this rare over all rows of a table.
    """
    found = np.full(np.broadcast_shapes(head.shape, history.shape, rows.shape), -1.0)
    for seen in range(MOST_SEEN + 1):
        odds = gammaln(history + 1) + gammaln(seen + head + 1) - gammaln(seen + 1) - gammaln(history + head + 2)
        found = np.where(TWO_SPEEDS * rows * np.exp(odds) <= UNSEEN, float(seen), found)
    return found


@dataclass(frozen=True)
class Stage:
    """Of every row (..., rows): whether it alarms, and whether it must be clocked again to tell."""

    alarm: Flags
    suspect: Flags


def stage(weighed: Weighed, gating: Flags) -> Stage:
    """Judge the rows that are to be judged, `gating` (..., rows), by all runs of head that there are."""
    found, maybe = weighed.slower(), weighed.maybe()
    judged = gating & (found.runs > 0) & (weighed.noise.runs >= LEAST_HISTORY)
    level = ALARM / weighed.judged[..., None] * np.where(found.runs < SETTLED, EARLY, 1.0)
    alarm = judged & found.enough & found.bad & found.since & (found.chance < level)
    suspect = judged & ~alarm & (maybe.chance < DOUBT) & (maybe.runs < SETTLED)
    return Stage(alarm, suspect)
