"""Runs of one device as a table of log times, oldest first, and what keeps a time out of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from reports.judge.centre import HANDFUL, Flags, Floats
from reports.judge.comparable import apart, runs_apart, versions_apart
from reports.judge.derive import INTENSE
from reports.judge.stages import Kinds
from reports.read.record import shown
from reports.read.summary import History

SIDES = ("past", "base", "head")
# Marks of a row that make its time a bad witness: the device held itself back, or others were on it.
DOUBTS = ("throttled", "foreign load")
# Older runs tell less of the machine as it is, and each makes the search for changes longer.
MOST_PAST = 40
KNOWN = ("device", "row", "operator", "mode", "case", "case_id", "series", "seq_len", "provider", "role")


@dataclass(frozen=True)
class Table:
    """rows: by name, what `KNOWN` says of each. runs: of all sides, in the order of `logs`, with their `side`.

    logs (runs, rows): log seconds, NaN where there is no time or where it does not count. records: of each side the
    newest record of every row that has a time, or else of any, by name. apart: by row, why it cannot be compared.
    doubted (rows,): whether all times of head are in doubt; dropped (rows,): how many of history do not count for that.
    """

    rows: pd.DataFrame
    runs: pd.DataFrame
    logs: Floats
    kinds: Kinds
    records: dict[str, pd.DataFrame]
    apart: dict[str, str]
    doubted: Flags
    dropped: Floats

    def side(self, *names: str) -> Flags:
        """Which runs are of these sides (runs,)."""
        return np.asarray(self.runs.side.isin(names), dtype=np.bool_)

    def counts(self, *names: str) -> Floats:
        """In how many runs of these sides each row has a time (rows,)."""
        return np.asarray(np.sum(~np.isnan(self.logs[self.side(*names)]), axis=0), dtype=np.float64)


def table(base: History, head: History, past: History | None = None) -> Table:
    """All runs in one table. Raises `ValueError` where a side has no run, or not all are of one device."""
    runs = _runs(base, head, past)
    sides = {"past": past, "base": base, "head": head}
    parts = [_of(history, side, runs) for side, history in sides.items() if history is not None]
    records = pd.concat([part for part in parts if len(part)] or parts, ignore_index=True)
    seconds = records.median_s.astype(np.float64)
    measured = (records.status.astype(str) == "measured") & (seconds > 0) & np.isfinite(seconds)
    records["log_s"] = np.log(seconds.where(measured))
    # A row may be clocked in one run of a side only: that is the one to go by.
    newest = records.assign(timed=measured).sort_values(["timed", "order"], kind="stable")
    rows = newest.assign(device=runs.device.iloc[0]).drop_duplicates("row", keep="last").sort_values("row")
    rows = rows.set_index("row", drop=False)
    of_side = {
        side: newest[newest.side == side].drop_duplicates("row", keep="last").set_index("row").reindex(rows.index)
        for side in SIDES
    }
    reasons = apart(runs, rows, of_side)
    foreign = _foreign(records, runs, of_side["base"])
    out, doubted = _doubts(records, foreign)
    counting = records.assign(log_s=records.log_s.mask(foreign | out)).set_index(["order", "row"]).log_s
    wide = counting.unstack().reindex(index=runs.order, columns=rows.index)  # noqa: PD010 - nothing is aggregated
    values = wide.to_numpy(dtype=np.float64, copy=True)
    dropped = records[out & (records.side != "head")].groupby("row").size().reindex(rows.index, fill_value=0)
    return Table(
        rows=rows[list(KNOWN)],
        runs=runs,
        logs=values,
        kinds=_kinds(rows, runs, values, reasons),
        records=of_side,
        apart=reasons,
        doubted=np.asarray(rows.index.isin(records[doubted & (records.side == "head")].row)),
        dropped=np.asarray(dropped, dtype=np.float64),
    )


def _runs(base: History, head: History, past: History | None) -> pd.DataFrame:
    """The runs of all sides, the newest of the past; a run that is base or head is not past too."""
    for name, history in (("base", base), ("head", head)):
        if not len(history.runs):
            raise ValueError(f"{name}: expected one run or more, got none")
    used = {*base.runs.path, *head.runs.path}
    frames = [base.runs.assign(side="base"), head.runs.assign(side="head")]
    if past is not None:
        others = past.runs[~past.runs.path.isin(used)].sort_values("started", kind="stable")
        frames.insert(0, others.tail(MOST_PAST).assign(side="past"))
    runs = pd.concat([frame for frame in frames if len(frame)], ignore_index=True)
    if len(devices := sorted({str(device) for device in runs.device})) > 1:
        raise ValueError(f"base, head, past: expected runs of one device, got {', '.join(map(shown, devices))}")
    rank = runs.side.map({side: at for at, side in enumerate(SIDES)})
    runs = runs.assign(rank=rank).sort_values(["rank", "started"], kind="stable").reset_index(drop=True)
    return runs.assign(order=np.arange(len(runs)))


def _of(history: History, side: str, runs: pd.DataFrame) -> pd.DataFrame:
    """The records of a side, with the order of their runs; of a row that a run has twice, the last."""
    order = runs[runs.side == side].set_index("run").order
    records = history.rows[history.rows.run.isin(order.index)].drop_duplicates(["run", "row"], keep="last")
    return records.assign(row=records.row.astype(str), side=side, order=records.run.map(order).astype(int))


def _foreign(records: pd.DataFrame, runs: pd.DataFrame, base: pd.DataFrame) -> pd.Series:
    """Records of history that cannot be compared with base: other options, another clock, other versions of a peer."""
    newest = runs[runs.side == "base"].iloc[-1]
    past = records.side == "past"
    others = [run.order for _, run in runs[runs.side == "past"].iterrows() if runs_apart(run, newest)]
    timer = records.row.map(base.timer.astype(str).where(base.log_s.notna()))
    found = past & (records.order.isin(others) | (timer.notna() & (records.timer.astype(str) != timer)))
    providers = records[past & (records.role.astype(str) != "kernel")].provider.astype(str)
    by_run = {int(run.order): run for _, run in runs.iterrows()}
    pairs = pd.DataFrame({"order": records.order[providers.index], "provider": providers})
    differ = {
        (order, provider)
        for order, provider in pairs.drop_duplicates().itertuples(index=False)
        if versions_apart(provider, by_run[order], newest)
    }
    found.loc[pairs.index] |= np.array(
        [pair in differ for pair in pairs.itertuples(index=False, name=None)], dtype=bool
    )
    return found


def _doubts(records: pd.DataFrame, foreign: pd.Series) -> tuple[pd.Series, pd.Series]:
    """Which records do not count since the device or others disturbed them, and which do although they were disturbed.

    A row whose every time on a side is in doubt keeps them: a poor witness is better than none.
    """
    marks = records.marks.astype(str)
    told = marks.str.contains("|".join(DOUBTS), regex=True)
    doubt = told & records.log_s.notna() & ~foreign
    good = records.log_s.notna() & ~doubt & ~foreign
    other = good.groupby([records.row, records.side == "head"]).transform("any")
    return doubt & other, doubt & ~other


def _kinds(rows: pd.DataFrame, runs: pd.DataFrame, logs: Floats, apart: dict[str, str]) -> Kinds:
    """Controls are references and peers whose libraries did not change; all rows, where those are too few; or none.

    Ours are judged; where none of ours was clocked, as on a CPU, all are.
    """
    timed = [(~np.isnan(logs[np.asarray(runs.side == side)])).any(axis=0) for side in ("base", "head")]
    both = timed[0] & timed[1] & ~rows.index.isin(list(apart))
    kernel = np.asarray(rows.role.astype(str) == "kernel")
    control = both & ~kernel
    intensity = rows.flops / rows.traffic_bytes.clip(lower=1)
    roof = rows.roof.astype(str)
    compute = np.where(roof.isin(["", "nan", "None"]), intensity > INTENSE, roof.str.contains("GEMM", regex=False))
    return Kinds(
        control=np.asarray(control if control.sum() >= HANDFUL else both & (both.sum() >= HANDFUL)),
        compute=np.asarray(compute, dtype=np.bool_),
        gating=np.asarray(both & kernel if (timed[0] & kernel).any() else both),
    )
