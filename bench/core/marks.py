"""What a reader of a row must know before he believes its median, as far as its samples tell."""

from __future__ import annotations

from typing import Any

from bench.core.race import Result

EXPOSED = 0.1  # of the rounds; fewer do not move a median


def marks(result: Result, opinion: dict[str, Any] | None, exposed: int = 0) -> list[dict[str, str]]:
    """Marks by kind; exposed: in how many rounds the host was late to launch (`EventClock.exposed`)."""
    found = []
    if exposed > EXPOSED * len(result.samples):
        text = f"in {exposed} of {len(result.samples)} rounds the device may have waited for the host to launch"
        found.append({"kind": "launch gaps", "text": text})
    if len(found_modes := result.modes) > 1:
        low, high = found_modes
        text = f"two speeds: {low.median_s:.3g} s ({low.share:.0%} of samples) and {high.median_s:.3g} s"
        found.append({"kind": "bimodal", "text": text})
    if opinion and opinion["agrees"] is False:
        found.append({"kind": "second opinion", "text": str(opinion["reason"])})
    return found
