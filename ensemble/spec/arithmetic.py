# SPDX-License-Identifier: MIT
"""What expressions compute with: numbers, strings, truths, and None, which is no value.

Law of this file: every function is total and cheap. Whatever goes in, a value or None comes out; nothing raises and
nothing grows. A whole number stays exact up to BIGGEST and becomes a float beyond; a result that no float can hold,
NaN, a division by zero, the logarithm of 0 and a string where a number belongs are no value.

Truth has three values, as in SQL: what has no value is neither true nor false. A number is true unless it is 0; a
string is neither.
"""

from __future__ import annotations

import math
import operator
from numbers import Integral, Real
from typing import Any, Callable, Dict, NamedTuple, Optional, Tuple, Union

Value = Union[bool, int, float, str]
Maybe = Optional[Value]

#: whole numbers beyond are floats
BIGGEST = 2**63

NUMBER, STRING, TRUTH = "a number", "a string", "true or false"


def scalar(x: Any) -> Maybe:
    """What an expression takes of a value from elsewhere: a finite number, a string, a truth; None for the rest."""
    kind = type(x)
    if kind is int:
        return bounded(x)
    if kind is float:
        return x if math.isfinite(x) else None
    if kind is str or kind is bool:
        value: Maybe = x
        return value
    if isinstance(x, str):
        return str(x)
    if isinstance(x, Integral):
        return bounded(int(x))
    if isinstance(x, Real):
        return scalar(float(x))
    return None


def kind_of(x: Maybe) -> Optional[str]:
    """NUMBER, STRING or TRUTH; None for no value."""
    if x is None:
        return None
    return TRUTH if isinstance(x, bool) else STRING if isinstance(x, str) else NUMBER


def truth(x: Maybe) -> Optional[bool]:
    """True, false, or None: neither."""
    if x is True or x is False:
        return x
    if x is None or isinstance(x, str):
        return None
    return x != 0


def bounded(x: Any) -> Maybe:
    """A computed number as it is kept; None for what no float can hold."""
    if type(x) is int:
        if -BIGGEST <= x <= BIGGEST:
            return x
        try:
            return float(x)
        except OverflowError:
            return None
    return x if type(x) is float and math.isfinite(x) else None


def _numeric(x: Any) -> bool:
    return type(x) is float or type(x) is int


def _total(function: Callable[..., Any]) -> Callable[..., Maybe]:
    """The function over numbers, made total."""

    def computed(*operands: Maybe) -> Maybe:
        for operand in operands:
            if type(operand) is not float and type(operand) is not int:
                return None
        try:
            return bounded(function(*operands))
        except (ArithmeticError, ValueError):
            return None

    return computed


#: the operators of two numbers. Powers are those of floats, so that none can grow without end
OPERATORS: Dict[str, Callable[..., Maybe]] = {
    "+": _total(operator.add),
    "-": _total(operator.sub),
    "*": _total(operator.mul),
    "/": _total(operator.truediv),
    "//": _total(operator.floordiv),
    "%": _total(operator.mod),
    "**": _total(math.pow),
}
NEGATIVE = _total(operator.neg)
POSITIVE = _total(operator.pos)


class Function(NamedTuple):
    """A function, and how many numbers it takes at least and at most."""

    apply: Callable[..., Maybe]
    least: int
    most: Optional[int]


FUNCTIONS: Dict[str, Function] = {
    "min": Function(_total(lambda *xs: min(xs)), 1, None),
    "max": Function(_total(lambda *xs: max(xs)), 1, None),
    "abs": Function(_total(abs), 1, 1),
    "floor": Function(_total(math.floor), 1, 1),
    "ceil": Function(_total(math.ceil), 1, 1),
    "sqrt": Function(_total(math.sqrt), 1, 1),
    "log": Function(_total(math.log), 1, 1),
    "exp": Function(_total(math.exp), 1, 1),
}


def _ordered(order: Callable[[Any, Any], bool]) -> Callable[[Maybe, Maybe], Optional[bool]]:
    def compared(a: Maybe, b: Maybe) -> Optional[bool]:
        return order(a, b) if _numeric(a) and _numeric(b) else None

    return compared


def _equal(a: Maybe, b: Maybe) -> Optional[bool]:
    """Are they the same? Values of two kinds never are."""
    if a is None or b is None:
        return None
    return kind_of(a) == kind_of(b) and a == b


def _unequal(a: Maybe, b: Maybe) -> Optional[bool]:
    same = _equal(a, b)
    return None if same is None else not same


#: the comparators; None where one side has no value, or has no order
COMPARATORS: Dict[str, Callable[[Maybe, Maybe], Optional[bool]]] = {
    "<": _ordered(operator.lt),
    "<=": _ordered(operator.le),
    ">": _ordered(operator.gt),
    ">=": _ordered(operator.ge),
    "==": _equal,
    "!=": _unequal,
}

Run = Callable[[Any], Maybe]


def every(parts: Tuple[Run, ...]) -> Run:
    """`and`: false if one is false, else without a value if one has none."""

    def run(scope: Any) -> Optional[bool]:
        answer: Optional[bool] = True
        for part in parts:
            found = truth(part(scope))
            if found is False:
                return False
            if found is None:
                answer = None
        return answer

    return run


def some(parts: Tuple[Run, ...]) -> Run:
    """`or`: true if one is true, else without a value if one has none."""

    def run(scope: Any) -> Optional[bool]:
        answer: Optional[bool] = False
        for part in parts:
            found = truth(part(scope))
            if found is True:
                return True
            if found is None:
                answer = None
        return answer

    return run


def opposite(part: Run) -> Run:
    """`not`: without a value where that has none."""

    def run(scope: Any) -> Optional[bool]:
        found = truth(part(scope))
        return None if found is None else not found

    return run


def chain(signs: Tuple[str, ...], parts: Tuple[Run, ...]) -> Run:
    """`a < b <= c`: as `a < b and b <= c`, with each part looked at once."""
    comparators = tuple(COMPARATORS[sign] for sign in signs)
    if len(comparators) == 1:
        (apply,), (first, second) = comparators, parts
        return lambda scope: apply(first(scope), second(scope))

    def run(scope: Any) -> Optional[bool]:
        values = [part(scope) for part in parts]
        found = [apply(a, b) for apply, a, b in zip(comparators, values, values[1:])]
        return False if False in found else None if None in found else True

    return run
