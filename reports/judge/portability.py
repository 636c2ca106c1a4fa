"""What another GPU's tuned configurations cost here: rows run with them beside the same rows as tuned here."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from reports.judge.between import over
from reports.judge.sides import usable
from reports.read.summary import History

# cost: the time with the configurations of `config_from` over that with the row's own, so above 1 they cost time, with
# the ends of its 95 % interval; tuned, foreign: both configurations.
PORTABILITY = (
    "device", "config_from", "row", "operator", "mode", "case", "series", "seq_len", "provider", "tuned_s", "foreign_s",
    "cost", "cost_low", "cost_high", "tuned", "foreign",
)  # fmt: skip
SAME = ["device", "commit", "row", "timer"]


def portability(history: History, devices: Sequence[str]) -> pd.DataFrame:
    """A line per tuned row and source of configurations, of the newest runs of both kinds at the same commit.

    Only rows that were tuned: all others run the same either way.
    """
    runs = usable(history)
    runs = runs[runs.device.isin(list(devices))].assign(order=range(int(runs.device.isin(list(devices)).sum())))
    rows = history.rows[(history.rows.status == "measured") & (history.rows.tuned.astype(str) != "")]
    rows = rows.merge(runs[["run", "device", "commit", "foreign", "order"]], on="run").sort_values(
        "order", kind="stable"
    )
    rows = rows.astype(dict.fromkeys(("device", "commit", "row", "timer", "tuned"), str))
    own = rows[rows.foreign == ""].drop_duplicates(SAME, keep="last")
    theirs = rows[rows.foreign != ""].drop_duplicates([*SAME, "foreign"], keep="last")
    theirs = theirs.drop_duplicates(["device", "row", "foreign"], keep="last")
    names = ["tuned", "median_s", "low_s", "high_s"]
    pair = theirs.merge(own[[*SAME, *names]], on=SAME, suffixes=("", "_own"))
    costs = over(pair, pair[[f"{name}_own" for name in names]].rename(columns=lambda name: name.removesuffix("_own")))
    found = pair.assign(
        config_from=pair.foreign,
        tuned_s=pair.median_s_own,
        foreign_s=pair.median_s,
        cost=costs.ratio,
        cost_low=costs.ratio_low,
        cost_high=costs.ratio_high,
    )
    found = found.drop(columns=["foreign", "tuned"]).rename(columns={"tuned_own": "tuned"}).assign(foreign=pair.tuned)
    return found[list(PORTABILITY)]
