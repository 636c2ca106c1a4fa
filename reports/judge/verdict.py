"""The verdict on each row of one side against the other: which word, how sure, and why."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import false_discovery_control

from reports import units
from reports.judge.centre import Floats, medians
from reports.judge.selection import deselected
from reports.judge.stages import Weighed, weigh
from reports.judge.standing import first_line
from reports.judge.table import SIDES, Table, table
from reports.read.summary import History

FASTER, SLOWER, SAME, AMBIGUOUS = "faster", "slower", "same", "ambiguous"
NOT_COMPARABLE, INVALID = "not comparable", "invalid"
VERDICTS = (SLOWER, INVALID, NOT_COMPARABLE, AMBIGUOUS, FASTER, SAME)  # in the order in which a reader wants them

# One row per row of either side. ratio: the time of head over that of base, so above 1 is slower, with the ends of its
# 95 % interval from the variance between runs, both without what the whole device drifted; noise: the relative standard
# deviation from run to run; resolvable: the least relative slowdown that would be found in 95 of 100 cases; p: of the
# null that nothing changed, before the correction for looking at many rows; vanished, new: whether only base, or only
# head, has a time, and head was to have one.
COLUMNS = (
    "device", "row", "operator", "mode", "case", "case_id", "series", "seq_len", "provider", "role", "verdict",
    "reason", "ratio", "ratio_low", "ratio_high", "p", "base_s", "head_s", "base_runs", "head_runs", "noise",
    "resolvable", "vanished", "new",
)  # fmt: skip

LEVEL = 0.05
# Half of it lies at either end of an interval of 95 %.
TAIL = 0.025
MOST_FURTHER = 20
WRONG = ("failed", "invalid")


def verdicts(base: History, head: History, past: History | None = None, *, margin: float = 0.03) -> pd.DataFrame:
    """The verdict on every row that either side has: the columns of `COLUMNS`, what a reader wants first at the top.

    base, head: one run or more each, past: further runs of the same device, of which only those count that are like
    base; from them comes how much runs differ. Slower and faster are told from chance over the whole table: of all rows
    called so, at most 5 % are expected to be neither (Benjamini & Hochberg 1995, J. R. Stat. Soc. B 57:289). A table is
    read for what to look into, and there a share of false leads is the measure; the gate, where one false alarm is too
    many, shares its level out over the rows instead. Same is not the absence of a difference: it is shown
    by two one-sided tests that the ratio lies within `margin` (Schuirmann 1987, J. Pharmacokinet. Biopharm. 15:657).
    Raises `ValueError` for a margin that is not between 0 and 1, for a side without a run and for runs of several
    devices.
    """
    if not 0 < margin < 1:
        raise ValueError(f"margin: expected a share between 0 and 1, got {margin}")
    found = table(base, head, past)
    return judged(found, weighed(found), margin)


def weighed(found: Table) -> Weighed:
    """What the runs of a table say of its rows."""
    return weigh(found.logs, found.side("past", "base"), found.side("base"), found.kinds)


def judged(found: Table, known: Weighed, margin: float) -> pd.DataFrame:
    """The verdicts on a table."""
    figures = _figures(found, known)
    rows = found.rows.reset_index(drop=True).join(figures)
    words = [_word(row, found, margin) for row in rows.itertuples()]
    rows["verdict"], rows["reason"] = [word for word, _ in words], [reason for _, reason in words]
    rank = rows.verdict.map({verdict: at for at, verdict in enumerate(VERDICTS)})
    far = -np.abs(np.log(rows.ratio))
    order = rows.assign(rank=rank, far=far).sort_values(["rank", "far", "row"], kind="stable").index
    return rows.loc[order, list(COLUMNS)].reset_index(drop=True)


def _figures(found: Table, known: Weighed) -> pd.DataFrame:
    """What a verdict goes by, by row; NaN where there is nothing to go by."""
    slower, faster, noise = known.slower(), known.faster(), known.noise.known
    counts = {side: found.counts(side) for side in SIDES}
    able = (counts["base"] > 0) & (counts["head"] > 0) & ~found.rows.index.isin(list(found.apart))
    # Where no row has two runs of history, nothing tells how runs differ.
    able &= bool((counts["base"] + counts["past"] > 1).any())
    each = np.array(TAIL / max(int(able.sum()), 1))
    reach, near, strict = (
        noise.quantile(chance, slower.share, slower.further) for chance in (np.array(TAIL), np.array(LEVEL), each)
    )
    figures = pd.DataFrame(
        {
            "ratio": np.exp(slower.middle),
            "ratio_low": np.exp(slower.middle - reach),
            "ratio_high": np.exp(slower.middle + reach),
            "p": np.minimum(1.0, 2 * np.fmin(slower.chance, faster.chance)),
            "noise": np.expm1(noise.deviation),
            "resolvable": np.expm1(strict + near),
            "near": near,
            "of_level": 1 - 1 / (np.maximum(slower.runs, 1) * slower.share),
            "elsewhere": _elsewhere(known),
        }
    ).where(pd.Series(able), np.nan)
    figures["differs"] = _differs(figures.p)
    figures["up"] = slower.chance < faster.chance
    for side in SIDES:
        figures[f"{side}_runs"] = counts[side].astype(int)
        figures[f"{side}_s"] = np.exp(medians(found.logs[found.side(side)], 0)) if found.side(side).any() else np.nan
    gone = np.array((counts["base"] > 0) & (counts["head"] == 0))
    gone[gone] = [not deselected(found, str(row)) for row in found.rows.index[gone]]
    figures["vanished"] = gone
    figures["new"] = (counts["base"] == 0) & (counts["head"] > 0)
    return figures


def _elsewhere(known: Weighed) -> Floats:
    """In how many runs of history each row was at the speed that head is at, if that is not its usual one; else 0."""
    noise = known.noise
    off = np.abs(noise.levels - medians(known.head, -2)[None, :])
    at = np.argmin(np.where(np.isnan(off), np.inf, off), axis=0)[None, :]
    level, size = (np.take_along_axis(values, at, 0)[0] for values in (noise.levels, noise.sizes))
    return np.where(level == noise.level, 0.0, size)


def _differs(p: pd.Series) -> pd.Series:
    """Which of the rows differ, over the whole table."""
    known = p.notna()
    found = pd.Series(data=False, index=p.index)
    found[known] = false_discovery_control(p[known]) < LEVEL
    return found


def _word(row: Any, found: Table, margin: float) -> tuple[str, str]:
    """The verdict on a row, and its reason."""
    for side in ("head", "base"):
        status = str(_of(found, side, row, "status"))
        if status in WRONG and not getattr(row, f"{side}_runs"):
            return INVALID, f"{status} in {side}: {first_line(str(_of(found, side, row, 'reason')))}"
    if not (row.base_runs and row.head_runs):
        return NOT_COMPARABLE, _one_sided(row, found)
    if why := found.apart.get(row.row):
        return NOT_COMPARABLE, why
    if np.isnan(row.ratio):
        return NOT_COMPARABLE, f"too few runs: {row.base_runs} of base and no history do not tell how much runs differ"
    verdict, reason = _compared(row, margin)
    if verdict == SLOWER and found.doubted[found.rows.index.get_loc(row.row)]:
        doubt = "but the device was throttled or shared in every run of head, so another run is needed"
        return AMBIGUOUS, f"{reason}; {doubt}"
    return verdict, reason


def _one_sided(row: Any, found: Table) -> str:
    """Why a row has no time on a side."""
    side, other = ("head", "base") if row.base_runs else ("base", "head")
    if not (row.base_runs or row.head_runs):
        side = "head"
    told = first_line(str(_of(found, side, row, "reason")))
    status = _of(found, side, row, "status")
    why = f"no record in {side}" if pd.isna(status) else f"{status} in {side}{f': {told}' if told else ''}"
    if status == "measured":
        why = f"measured in {side}, but its time is not a positive number"
    if not (row.base_runs or row.head_runs):
        return f"{why}; no time on either side"
    word = "vanished" if row.vanished else "not asked for" if row.base_runs else "new"
    return f"{word}: it has a time in {other}, {why}"


def _compared(row: Any, margin: float) -> tuple[str, str]:
    """The verdict on a row that can be compared."""
    told = difference(row)
    if row.differs:
        return (SLOWER if row.up else FASTER), told
    if row.elsewhere:
        many = row.base_runs + row.past_runs
        return AMBIGUOUS, f"{told}; at a second speed of this row, seen in {row.elsewhere:.0f} of {many} runs before"
    change, most = abs(np.log(row.ratio)), np.log1p(margin)
    if change + row.near < most:
        return SAME, f"same within {units.percent(margin)}: {told}"
    return AMBIGUOUS, f"{told}; {_what_decides(row, change, most)}"


def _what_decides(row: Any, change: float, most: float) -> str:
    """What would show a difference, or that there is none within the margin."""
    for further in range(1, MOST_FURTHER + 1):
        share = row.of_level + (1 - row.of_level) * row.head_runs / (row.head_runs + further)
        if change + row.near * np.sqrt(share) < most or change > 2 * row.near * np.sqrt(share):
            return f"about {further} more {'run' if further == 1 else 'runs'} of head would decide"
    return "more history of this row would decide, more runs of head would not"


def difference(row: Any) -> str:
    """By how much a row differs, in words: `4.1 % slower, 2.9 to 5.3 %; runs of this row differ by 0.6 %`."""
    sign = 1 if row.ratio >= 1 else -1
    ends = sorted(sign * (ratio - 1) for ratio in (row.ratio_low, row.ratio_high))
    low, high = (units.percent(end) for end in ends)
    word = "slower" if sign > 0 else "faster"
    share = units.percent(sign * (row.ratio - 1))
    return f"{share} {word}, {low.removesuffix(' %')} to {high}; runs of this row differ by {units.percent(row.noise)}"


def _of(found: Table, side: str, row: Any, column: str) -> Any:
    return found.records[side][column].get(row.row)
