"""Ratios of two medians with their intervals, from the intervals of both."""

from __future__ import annotations

import numpy as np
import pandas as pd


def over(one: pd.DataFrame, two: pd.DataFrame) -> pd.DataFrame:
    """The time of `one` over that of `two`, line by line: ratio, ratio_low, ratio_high, with a 95 % interval.

    Both have median_s, low_s, high_s (95 %) and one index. By the method of variance estimates recovery (Zou and
    Donner, Statistics in Medicine 2008) on logarithms: each end is as far off as both medians can be together, and not
    as both at their worst. NaN where an interval is unknown. What differs from run to run is in no interval of a single
    run.
    """
    ratio = np.log(one.median_s / two.median_s)
    up, down = np.log(one.high_s / one.median_s), np.log(one.median_s / one.low_s)
    other_up, other_down = np.log(two.high_s / two.median_s), np.log(two.median_s / two.low_s)
    return pd.DataFrame(
        {
            "ratio": np.exp(ratio),
            "ratio_low": np.exp(ratio - np.hypot(down, other_up)),
            "ratio_high": np.exp(ratio + np.hypot(up, other_down)),
        },
        index=one.index,
    )
