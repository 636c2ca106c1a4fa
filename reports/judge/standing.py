"""Where each operator stands: the fastest provider, and our kernel beside its strongest rival."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pandas as pd

NOTHING = float("nan")


@dataclass(frozen=True)
class Standing:
    """One operator in one mode of one run, on its largest case.

    fastest_s with the ends of its interval; wins: on how many of all cases the same provider is the fastest. ratio: how
    many times faster than the strongest rival ours is, with its interval, and over all cases from least to most; all
    NaN where ours has no time or no rival has one, of which `reason` tells.
    """

    run: str
    operator: str
    mode: str
    reason: str
    failed: bool = False
    case: str = ""
    fastest: str = ""
    fastest_s: float = NOTHING
    fastest_low_s: float = NOTHING
    fastest_high_s: float = NOTHING
    wins: int = 0
    cases: int = 0
    rival: str = ""
    ours: str = ""
    ratio: float = NOTHING
    ratio_low: float = NOTHING
    ratio_high: float = NOTHING
    ratio_least: float = NOTHING
    ratio_most: float = NOTHING


def standings(rows: pd.DataFrame) -> list[Standing]:
    """One line per run, operator and mode, in the order in which they ran."""
    return [_standing(each) for _, each in rows.groupby(["run", "operator", "mode"], sort=False)]


def _standing(rows: pd.DataFrame) -> Standing:
    measured = rows[rows.median_s.notna()].sort_values("median_s", kind="stable")
    best = measured.groupby("case_id", sort=False).head(1)
    ours = measured[measured.role == "kernel"].groupby("case_id", sort=False).head(1)
    judged = next((_largest(each) for each in (ours[ours.over_rival.notna()], ours, best) if len(each)), None)
    reason, failed = _reason(rows, ours)
    standing = Standing(str(rows.run.iloc[0]), str(rows.operator.iloc[0]), str(rows["mode"].iloc[0]), reason, failed)
    if judged is None:
        return standing
    here = measured[measured.case_id == judged.case_id]
    top, rivals = here.iloc[0], here[(here.role != "kernel") & (here.provider != "naive")]
    standing = replace(
        standing,
        case=str(judged.case),
        fastest=str(top.provider),
        fastest_s=float(top.median_s),
        fastest_low_s=float(top.low_s),
        fastest_high_s=float(top.high_s),
        wins=int((best.provider == top.provider).sum()),
        cases=len(best),
        rival=str(rivals.provider.iloc[0]) if len(rivals) else "",
    )
    if not len(ours):
        return standing
    return replace(
        standing,
        ours=str(judged.provider),
        ratio=float(judged.over_rival),
        ratio_low=float(judged.over_rival_low),
        ratio_high=float(judged.over_rival_high),
        ratio_least=float(ours.over_rival.min()),
        ratio_most=float(ours.over_rival.max()),
    )


def _largest(rows: pd.DataFrame) -> pd.Series:
    """The row of the case that needs most operations and, among equals, most bytes."""
    return rows.sort_values(["flops", "traffic_bytes"], kind="stable").iloc[-1]


def _reason(rows: pd.DataFrame, ours: pd.DataFrame) -> tuple[str, bool]:
    """Why there is no ratio, and whether that is because ours failed or is invalid; empty where there is one."""
    if len(ours):
        return ("" if ours.over_rival.notna().any() else "no rival has a time"), False
    kernels = rows[rows.role == "kernel"]
    for status, words in (("failed", "failed"), ("invalid", "is invalid")):
        wrong = kernels[kernels.status == status]
        if len(wrong):
            return f"{wrong.provider.iloc[0]} {words}: {first_line(wrong.reason.iloc[0])}", True
    return next((first_line(reason) for reason in kernels.reason if reason), "no kernel of ours was run"), False


def first_line(text: str) -> str:
    """The first line of a reason that may be a whole traceback."""
    return next((line.strip() for line in str(text).splitlines() if line.strip()), "")
