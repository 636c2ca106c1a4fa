"""The verdict on each row of one side against the other: which word, how sure, and why."""

from __future__ import annotations

FASTER, SLOWER, SAME, AMBIGUOUS = "faster", "slower", "same", "ambiguous"
NOT_COMPARABLE, INVALID = "not comparable", "invalid"
VERDICTS = (SLOWER, INVALID, NOT_COMPARABLE, AMBIGUOUS, FASTER, SAME)  # in the order in which a reader wants them

# One row per row of either side. ratio: the time of head over that of base, so above 1 is slower, with the ends of its
# 95 % interval from the variance between runs; noise: the relative standard deviation from run to run; resolvable: the
# least relative slowdown that would be found in 95 of 100 cases; p: of the null that nothing changed, before the
# correction for looking at many rows; vanished, new: whether only base, or only head, has a time.
COLUMNS = (
    "device", "row", "operator", "mode", "case", "case_id", "series", "seq_len", "provider", "role", "verdict",
    "reason", "ratio", "ratio_low", "ratio_high", "p", "base_s", "head_s", "base_runs", "head_runs", "noise",
    "resolvable", "vanished", "new",
)  # fmt: skip
