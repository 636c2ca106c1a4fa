"""What has no time, grouped: providers that are absent, that failed or are invalid, each with its reason."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd


@dataclass(frozen=True)
class Gap:
    """The rows that one provider lacks for one reason. where: their operators and modes."""

    status: str
    provider: str
    reason: str
    remedy: str
    where: list[str]
    cases: list[str]
    commands: list[str]


def gaps(rows: pd.DataFrame) -> list[Gap]:
    """All gaps, what is invalid or failed first, in the order in which they were met."""
    without = rows[rows.status != "measured"].sort_values("status", ascending=False, kind="stable")
    return [
        Gap(
            status=str(each.status.iloc[0]),
            provider=str(each.provider.iloc[0]),
            reason=str(each.reason.iloc[0]) or "no reason was given",
            remedy=str(each.remedy.iloc[0]),
            where=list(dict.fromkeys(f"{row.operator} {row['mode']}" for _, row in each.iterrows())),
            cases=[str(case) for case in each.case],
            commands=[str(command) for command in each.command],
        )
        for _, each in without.groupby(["status", "provider", "reason", "remedy"], sort=False)
    ]
