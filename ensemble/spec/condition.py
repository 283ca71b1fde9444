# SPDX-License-Identifier: MIT
"""What stands behind `when`.

On a rule on a metric: a number (equality), or a text that begins with a comparator and speaks of the rule's own
metric. On any rule: an expression. A condition that has no value does not hold.
"""

from __future__ import annotations

import math
import operator
import re
from typing import Any, Callable, Collection, Dict, NamedTuple, Optional, Union

from ensemble.spec import expression
from ensemble.spec.arithmetic import STRING
from ensemble.spec.expression import Expression
from ensemble.spec.faults import shown
from ensemble.spec.metrics import Metric, PathError, parse
from ensemble.spec.models import WHEN
from ensemble.spec.tokens import ExpressionError

_COMPARE: Dict[str, Callable[[Any, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}
_NUMBER = r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?"
_BARE = re.compile(rf"\s*{_NUMBER}\s*", re.ASCII)
_COMPARATOR = re.compile(r"\s*(?P<op><=|>=|==|!=|<(?!>)|>|=(?![<>]))(?P<rest>.*)", re.ASCII | re.DOTALL)


class Condition(NamedTuple):
    """A number that the rule's own metric is compared with: what most conditions are, at the least cost."""

    op: str
    number: float

    def holds(self, x: Any) -> bool:
        """Does it hold for this value of the metric? None, no value, is false, and so is what is no number."""
        return (type(x) is int or type(x) is float) and _COMPARE[self.op](x, self.number)

    def __str__(self) -> str:
        return f"{self.op} {self.number:g}"


def compile(
    when: Any, groups: Collection[str], trigger: str, name: Optional[str] = None
) -> Union[Condition, Expression, None]:
    """The condition of a rule on that trigger, None where it has none; `name` is a metric rule's metric.

    Raises ExpressionError, with an offset into the text.
    """
    if when is None:
        return None
    if isinstance(when, bool) or not isinstance(when, (int, float, str)):
        raise ExpressionError(f"when cannot be {shown(when)}", 0, WHEN)
    comparator = _COMPARATOR.match(when) if isinstance(when, str) else None
    bare = not isinstance(when, str) or bool(_BARE.fullmatch(when))
    if trigger != "metric" and (bare or comparator):
        message = f"when compares a metric, and a rule on {trigger} has none"
        example = "event.value > 2" if trigger == "report" else "count.GROUP.failed > 2"
        raise ExpressionError(message, 0, f'an expression with both sides, as in "{example}"')
    if bare:
        return Condition("==", _finite(when))
    if comparator and _BARE.fullmatch(comparator["rest"]):
        op = "==" if comparator["op"] == "=" else comparator["op"]
        return Condition(op, _finite(comparator["rest"], comparator.start("rest")))
    assert isinstance(when, str)
    if comparator:
        return _of_own_metric(when, comparator, groups, trigger, name)
    return _truth(expression.compile(when, groups, trigger))


def _of_own_metric(
    when: str, comparator: re.Match[str], groups: Collection[str], trigger: str, name: Optional[str]
) -> Expression:
    """`> var.n`: the rule's metric stands before it."""
    try:
        parse(name or "", groups)
    except PathError:  # told where it stands; anything will do to look at the rest
        name = "ensemble.active"
    whole = both_sides(when, name)
    shift = len(whole) - len(when)
    try:
        made = expression.compile(whole, groups, trigger)
    except ExpressionError as exc:
        offset = max(0, exc.offset - shift)
        raise ExpressionError(exc.message, offset, exc.expected, exc.word, exc.known) from None
    made.text = when
    made.reads = tuple(read._replace(offset=max(0, read.offset - shift)) for read in made.reads)
    made.term = made.term.moved(shift)
    made.equalities = tuple(one._replace(offset=max(0, one.offset - shift)) for one in made.equalities)
    return _truth(made)


def _truth(made: Expression) -> Expression:
    if made.kind == STRING:
        raise ExpressionError("a string is neither true nor false", 0, "a comparison")
    return made


def both_sides(when: str, name: Optional[str]) -> str:
    """The text of a condition with the rule's metric before it, where it begins with a comparator."""
    comparator = _COMPARATOR.match(when)
    if comparator is None:
        return when
    return f"{name} {'==' if comparator['op'] == '=' else comparator['op']}{comparator['rest']}"


def metrics_of(condition: Union[Condition, Expression, None]) -> Collection[Metric]:
    """The metrics that it reads besides the rule's own."""
    return condition.metrics if isinstance(condition, Expression) else ()


def _finite(number: Any, offset: int = 0) -> float:
    try:
        value = float(number)
    except (OverflowError, ValueError):
        value = math.inf
    if not math.isfinite(value):
        message = f"when cannot be {shown(getattr(number, 'text', number))}"
        raise ExpressionError(message, offset, "a number that is finite")
    return value
