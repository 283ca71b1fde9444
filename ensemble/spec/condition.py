# SPDX-License-Identifier: MIT
"""What stands behind `when`: a number (equality), or a comparator and a number, for the rule's own metric.

A comparison with no value is false, never an error.
"""

from __future__ import annotations

import math
import operator
import re
from typing import Any, Callable, Dict, NamedTuple, Optional

_COMPARE: Dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}
_NUMBER = r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?"
_COMPARATOR = re.compile(rf"\s*(?P<op><=|>=|==|!=|<|>|=)\s*(?P<number>{_NUMBER})\s*")
#: what may stand behind `when`
EXPECTED = 'a number, or a comparator and a number such as "> 5"'
_STARTS = re.compile(r"\s*[<>=!]")


class Condition(NamedTuple):
    """A compiled condition on one metric."""

    op: str
    value: float

    def holds(self, x: Optional[float]) -> bool:
        """Does it hold for this value of the metric? None, no value yet, is false."""
        return x is not None and _COMPARE[self.op](x, self.value)

    def __str__(self) -> str:
        return f"{self.op} {self.value:g}"


class NotYet(ValueError):
    """An expression: part of the language, not carried out by this release."""


def compile(when: Any) -> Optional[Condition]:
    """The condition of a metric rule, None where the rule has none. Raises ValueError with what was expected."""
    if when is None:
        return None
    if isinstance(when, bool) or not isinstance(when, (int, float, str)):
        raise ValueError(f"expected {EXPECTED}")
    if isinstance(when, (int, float)):
        value = _finite(when)
        return Condition("==", value)
    match = _COMPARATOR.fullmatch(when)
    if match:
        return Condition("==" if match["op"] == "=" else match["op"], _finite(match["number"]))
    if re.fullmatch(rf"\s*{_NUMBER}\s*", when):
        return Condition("==", _finite(when))
    if _STARTS.match(when):
        raise ValueError('expected a number behind the comparator, as in "> 5" or "<= -0.5"')
    raise NotYet(f"expressions are not supported yet; expected {EXPECTED}")


def _finite(number: Any) -> float:
    try:
        value = float(number)
    except (OverflowError, ValueError):
        value = math.inf
    if not math.isfinite(value):
        raise ValueError("expected a number that is finite")
    return value
