"""What all pages share: frame, style and script, and how days and files are named."""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from reports import units
from reports.judge.standing import first_line
from reports.read.record import clean
from reports.show.header import costs, moment, options, told
from reports.site.looks import DARK, LIGHT

MODES = {"fwd": "forward", "bwd": "backward"}
NAME_LENGTH = 60  # of files: systems differ in what they hold


def fill(template: str, **content: Any) -> str:
    """A page: the template with this content, every text in it escaped."""
    return _environment().get_template(template).render(content)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("reports.site"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_harmless,
    )
    tellers = (
        units.seconds, units.percent, units.size, units.ratio, units.rate, units.plain, units.whole, units.joules,
        units.change, first_line, moment, day, told, place, options, costs, figure, prose,
    )  # fmt: skip
    environment.filters |= {each.__name__: each for each in tellers}
    style = environment.get_template("style.css.j2").render(light=LIGHT, dark=DARK)
    script = files("reports.site").joinpath("script.js").read_text(encoding="utf-8")
    environment.globals |= {
        "modes": MODES,
        "style": Markup(style),
        "script": Markup(script),
        "policy": Markup(_policy(style, script)),
    }
    return environment


def _harmless(value: Any) -> Any:
    """What is read from files is cleaned there; whatever else a judgement puts into words is cleaned here."""
    return clean(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _policy(style: str, script: str) -> str:
    """What a page may do: use its own style and script, known by their hashes, and the styles inside its drawings."""
    return (
        f"default-src 'none'; style-src 'unsafe-inline'; style-src-elem '{_hash(style)}'; "
        f"style-src-attr 'unsafe-inline'; script-src '{_hash(script)}'; img-src data:; base-uri 'none'; "
        "form-action 'none'"
    )


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def figure(value: float | None) -> str:
    """A number as scripts read it, to sort by; empty where there is none."""
    return "" if value is None or math.isnan(value) or math.isinf(value) else f"{value:.9g}"


def prose(text: str) -> Markup:
    """Text of a docstring, in which backticks stand around code."""
    pieces = re.split(r"`([^`]+)`", text)
    return Markup("").join(Markup("<code>{}</code>").format(each) if i % 2 else each for i, each in enumerate(pieces))


def day(started: pd.Timestamp | str | None, *, time: bool = False) -> str:
    """The day of a moment, e.g. `2026-01-31`, or with its time, e.g. `2026-01-31 04:10`; - where it is unknown."""
    found = pd.NaT if started is None else pd.to_datetime(started, errors="coerce", utc=True)
    return units.NOTHING if pd.isna(found) else str(found.strftime("%Y-%m-%d %H:%M" if time else "%Y-%m-%d"))


def place(ratio: float) -> float:
    """Where a ratio stands on a gauge of 100 that is logarithmic, has 1x in its middle and ends at 1/4x and 4x."""
    return min(98.0, max(2.0, 50 + 24 * math.log2(ratio))) if ratio > 0 else 50.0


def slugs(names: Iterable[str], otherwise: str) -> dict[str, str]:
    """For each name a word that is safe in the name of a file and in an id, no two alike; `otherwise` for odd ones."""
    found: dict[str, str] = {}
    taken: set[str] = set()
    for name in dict.fromkeys(names):
        slug = re.sub(r"[^a-z0-9_]+", "-", name.lower())[:NAME_LENGTH].strip("-") or otherwise
        number = 1
        while (each := slug if number == 1 else f"{slug}-{number}") in taken:
            number += 1
        taken.add(each)
        found[name] = each
    return found
