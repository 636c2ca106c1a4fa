"""How providers look: one colour and one marker for each, the same all over a page, in light and in dark."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

# Chosen by simulating protanopia, deuteranopia and tritanopia: any two differ there X of CIELAB on
# white and 20 on the dark paper, and each by 3:1 from its paper (gold on white nearly so). Names of colours are CSS
# variables that the page sets.
LIGHT = {
    "ours": "#c2380a",
    "naive": "#8a949b",
    "blue": "#0b5cc4",
    "green": "#0b5c3b",
    "sky": "#1898d8",
    "pink": "#9c2f7c",
    "brown": "#a98c5f",
    "violet": "#2a1238",
    "gold": "#c98a10",
}
DARK = {
    "ours": "#f07830",
    "naive": "#a8a8a8",
    "blue": "#7dabec",
    "green": "#30e092",
    "sky": "#def3f7",
    "pink": "#bb3f95",
    "brown": "#8f6a4c",
    "violet": "#7f57e2",
    "gold": "#fad24e",
}
OTHERS = [name for name in LIGHT if name not in ("ours", "naive")]
MARKERS = ("s", "^", "D", "v", "P", "X", "p", "<", ">", "h", "*", "d")
LINES = ("-", "--", ":", "-.")


@dataclass(frozen=True)
class Look:
    """colour: a key of LIGHT and DARK; rank: what is drawn later lies on top."""

    colour: str
    marker: str
    line: str
    rank: int


def looks(rows: pd.DataFrame) -> dict[str, Look]:
    """The look of every provider that has a time. Those that meet in a figure share a colour only when all are taken.

    Ours are vermilion and on top, naive is grey and below; others take the first colour that none of their rivals has.
    """
    measured = rows[rows.median_s.notna()]
    together: dict[str, set[str]] = {}
    for _, each in measured.groupby("operator", sort=False):
        for provider in each.provider:
            together.setdefault(str(provider), set()).update(each.provider)
    kernels = set(measured[measured.role == "kernel"].provider)
    found: dict[str, Look] = {}
    for provider, rivals in together.items():
        taken = [found[rival].colour for rival in rivals if rival in found]
        if provider in kernels:
            turn = taken.count("ours")
            found[provider] = Look("ours", "o" if not turn else MARKERS[-turn % len(MARKERS)], _line(turn), 3)
        elif provider == "naive":
            found[provider] = Look("naive", "o", "-", 1)
        else:
            colour = min(OTHERS, key=taken.count)
            turn = taken.count(colour)
            marker = MARKERS[(OTHERS.index(colour) + turn * len(OTHERS)) % len(MARKERS)]
            found[provider] = Look(colour, marker, _line(turn), 2)
    return found


def _line(turn: int) -> str:
    return LINES[turn % len(LINES)]
