"""Bytes to what JSON holds, fast where they are JSON proper, and else as Python's own reader takes them."""

from __future__ import annotations

import json
from typing import Any

import orjson


def decode(content: bytes) -> Any:
    """What a JSON text holds. Raises `ValueError` where it is none, or is nested deeper than can be followed.

    Python's own reader takes more than JSON: NaN and infinity, halves of surrogate pairs, other encodings. All this
    falls to it. An integer beyond 64 bits may come as a float.
    """
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError:
        pass
    try:
        return json.loads(content)
    except RecursionError as error:
        raise ValueError("nested too deep") from error
