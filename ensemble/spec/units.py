# SPDX-License-Identifier: MIT
"""Durations as Flux writes them (RFC 23) and shares as users write them."""

from __future__ import annotations

import math
import re
from typing import Any

_FSD = re.compile(r"(?P<number>\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?(?P<unit>ms|s|m|h|d)?")
_UNITS = {None: 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def duration(value: Any) -> float:
    """Seconds of a Flux Standard Duration (`30s`, `5m`, `1.5h`, `2d`, `100ms`) or of a number of seconds.

    Raises ValueError for anything else, for a negative one, and for one that is not finite.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError("expected a duration such as 30s, 5m or 1.5h, or a number of seconds")
    if isinstance(value, str):
        match = _FSD.fullmatch(value.strip())
        if not match:
            raise ValueError("expected a duration such as 30s, 5m or 1.5h, or a number of seconds")
        unit = match.group("unit")
        number = value.strip()[: -len(unit)] if unit else value.strip()
        seconds = float(number) * _UNITS[unit]
    else:
        seconds = float(value)
    if not math.isfinite(seconds) or seconds < 0:
        raise ValueError("expected a duration that is finite and not negative")
    return seconds
