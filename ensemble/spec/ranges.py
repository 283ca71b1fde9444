# SPDX-License-Identifier: MIT
"""What values an expression may have, where only ranges of what it reads are known: interval analysis.

How to use it. `Scope.of(read)` says what a path may be, as a `Range`; `value(term, scope)` is the range of a term of an
expression. What conditions can be true is `suppose`'s.

Law of this file: a range holds every value that there may be, and may hold more. That there is no value is always
possible, and needs no place in a range; one that is empty says that there never is a value. Numbers beyond what a float
keeps exactly are rounded away from the middle.
"""

from __future__ import annotations

import math
from typing import Callable, Dict, FrozenSet, NamedTuple, Optional, Tuple

from typing_extensions import Protocol

from ensemble.spec import terms
from ensemble.spec.arithmetic import Maybe
from ensemble.spec.expression import Read
from ensemble.spec.terms import Term

#: strings that a range keeps apart; beyond, it is any string
MOST_TEXTS = 50
#: whole numbers up to here are floats exactly
EXACT = 2.0**53
#: of what is computed backwards, or by functions that round as they like: so much is added at both ends
_LOOSE = 1e-9
_TRUTHS = frozenset((True, False))


class Range(NamedTuple):
    """Values that something may have."""

    #: the least and the greatest number, both included; no number where low > high
    low: float = math.inf
    high: float = -math.inf
    #: numbers are whole
    whole: bool = True
    #: strings; None is any
    texts: Optional[FrozenSet[str]] = frozenset()
    truths: FrozenSet[bool] = frozenset()

    @property
    def numeric(self) -> bool:
        """May it be a number?"""
        return self.low <= self.high

    @property
    def empty(self) -> bool:
        """Does it never have a value?"""
        return not self.numeric and self.texts == frozenset() and not self.truths

    @property
    def kinds(self) -> Tuple[str, ...]:
        """What it may be, in words."""
        found = (("a number", self.numeric), ("a string", self.texts != frozenset()), ("true or false", self.truths))
        return tuple(word for word, there in found if there)

    @property
    def lone(self) -> Maybe:
        """The only value that it may have; None where there are more, or none."""
        if len(self.kinds) != 1:
            return None
        if self.numeric:
            whole = self.whole and math.isfinite(self.low)
            return (int(self.low) if whole else self.low) if self.low == self.high else None
        lone: Tuple[Maybe, ...] = (*self.truths, *(self.texts or ()))
        return lone[0] if len(lone) == 1 else None

    def joined(self, other: Range) -> Range:
        """What is in one of them."""
        texts = None if self.texts is None or other.texts is None else self.texts | other.texts
        if texts is not None and len(texts) > MOST_TEXTS:
            texts = None
        if not (self.numeric and other.numeric):
            low, high, whole = (self if self.numeric else other)[:3]
        else:
            low, high, whole = min(self.low, other.low), max(self.high, other.high), self.whole and other.whole
        return Range(low, high, whole, texts, self.truths | other.truths)

    def between(self, low: float, high: float) -> Range:
        """Its numbers from low to high."""
        low, high = max(self.low, low), min(self.high, high)
        if self.whole:
            low = math.ceil(low) if math.isfinite(low) else low
            high = math.floor(high) if math.isfinite(high) else high
        return Range(float(low), float(high), self.whole)

    def common(self, other: Range) -> Range:
        """What is in both."""
        texts = other.texts if self.texts is None else self.texts
        if self.texts is not None and other.texts is not None:
            texts = self.texts & other.texts
        whole = self.whole or other.whole
        numbers = Range(self.low, self.high, whole).between(other.low, other.high)
        return Range(numbers.low, numbers.high, whole, texts, self.truths & other.truths)


#: what nothing is known of
ANYTHING = Range(-math.inf, math.inf, False, None, _TRUTHS)
NOTHING = Range()
NUMBER = Range(-math.inf, math.inf, False)
#: a count without an end
COUNT = Range(0.0, math.inf, True)
#: a measured time
POSITIVE = Range(0.0, math.inf, False)
TEXT = Range(texts=None)


def exactly(value: Maybe) -> Range:
    """The range of one value; NOTHING of None."""
    if value is None:
        return NOTHING
    if isinstance(value, bool):
        return Range(truths=frozenset((value,)))
    if isinstance(value, str):
        return Range(texts=frozenset((value,)))
    if isinstance(value, int) and abs(value) > EXACT:
        return Range(_below(float(value)), _above(float(value)), False)
    return Range(float(value), float(value), float(value).is_integer())


class Scope(Protocol):
    """Where the analysis finds what paths may be."""

    def of(self, read: Read) -> Range:
        """The values that a path may have."""

    def why(self, read: Read) -> str:
        """A sentence that says why the path is bounded so, or has no value; '' where that is plain."""

    def wider(self) -> Optional[Scope]:
        """The same where less is known, for the reason why something never holds; None where nothing is."""


class Unknown:
    """The scope in which nothing is known."""

    def of(self, read: Read) -> Range:
        return ANYTHING

    def why(self, read: Read) -> str:
        return ""

    def wider(self) -> None:
        return None


def loose(range: Range, *near: Range) -> Range:
    """A little more than the range, in proportion to the numbers that it was computed from."""
    ends = [abs(end) for one in (range, *near) for end in (one.low, one.high) if math.isfinite(end)]
    by = _LOOSE * max(ends, default=0.0)
    return Range(range.low - by, range.high + by, False)


def value(term: Term, scope: Scope) -> Range:
    """The range of a term."""
    if term.op == terms.CONSTANT:
        return exactly(term.value)
    if term.read is not None:
        return scope.of(term.read)
    if term.op in (terms.AND, terms.OR, terms.NOT, terms.COMPARISON):
        return Range(truths=_TRUTHS)
    parts = [value(part, scope) for part in term.parts]
    if not all(part.numeric for part in parts):
        return NOTHING
    return _COMPUTE[term.op](*parts)


def plus(a: Range, b: Range) -> Range:
    return Range(_sum(a.low, b.low, -math.inf), _sum(a.high, b.high, math.inf), a.whole and b.whole)


def _sum(a: float, b: float, lost: float) -> float:
    found = a + b
    return lost if math.isnan(found) else found


def negated(a: Range) -> Range:
    return Range(-a.high, -a.low, a.whole)


def _times(a: Range, b: Range) -> Range:
    corners = [0.0 if 0 in (x, y) else x * y for x in (a.low, a.high) for y in (b.low, b.high)]
    return Range(min(corners), max(corners), a.whole and b.whole)


def _over(a: Range, b: Range) -> Range:
    if b.low <= 0 <= b.high:
        return NOTHING if b.low == b.high else NUMBER
    corners = [0.0 if math.isinf(y) else x / y for x in (a.low, a.high) for y in (b.low, b.high)]
    return Range(min(corners), max(corners), False)


def _floored(a: Range, b: Range) -> Range:
    found = _over(a, b)
    return Range(found.low - 1, found.high, a.whole and b.whole) if found.numeric else found


def _rest(a: Range, b: Range) -> Range:
    if b.low == b.high == 0:
        return NOTHING
    return Range(min(0.0, b.low), max(0.0, b.high), a.whole and b.whole)


def _power(a: Range, b: Range) -> Range:
    if a.low < 0 or b.low < 0:
        return NUMBER
    corners = []
    for x in (a.low, a.high):
        for y in (b.low, b.high):
            try:
                corners.append(1.0 if y == 0 else math.pow(x, y))
            except (OverflowError, ValueError):
                corners.append(math.inf)
    # between an x below and one above 1, or with an exponent from 0 on, 0 and 1 lie in between too
    low = 0.0 if a.low < 1 else min(corners)
    return loose(Range(low, max(1.0, *corners), False))


def _monotone(function: Callable[[float], float], least: float) -> Callable[[Range], Range]:
    """Of a function that grows and has no value below `least`."""

    def at(x: float) -> float:
        try:
            return function(x)
        except ValueError:
            return -math.inf
        except OverflowError:
            return math.inf

    def computed(a: Range) -> Range:
        return NOTHING if a.high < least else loose(Range(at(max(a.low, least)), at(a.high), False))

    return computed


def _absolute(a: Range) -> Range:
    low = 0.0 if a.low <= 0 <= a.high else min(abs(a.low), abs(a.high))
    return Range(low, max(abs(a.low), abs(a.high)), a.whole)


def _rounded(function: Callable[[float], int]) -> Callable[[Range], Range]:
    """Of `floor` or `ceil`."""

    def at(x: float) -> float:
        return float(function(x)) if math.isfinite(x) else x

    return lambda a: Range(at(a.low), at(a.high), True)


def _least(*parts: Range) -> Range:
    whole = all(part.whole for part in parts)
    return Range(min(part.low for part in parts), min(part.high for part in parts), whole)


def _greatest(*parts: Range) -> Range:
    return negated(_least(*map(negated, parts)))


def _below(x: float) -> float:
    return math.nextafter(x, -math.inf)


def _above(x: float) -> float:
    return math.nextafter(x, math.inf)


_COMPUTE: Dict[str, Callable[..., Range]] = {
    "+": plus,
    "-": lambda a, b: plus(a, negated(b)),
    "*": _times,
    "/": _over,
    "//": _floored,
    "%": _rest,
    "**": _power,
    terms.NEGATIVE: negated,
    terms.POSITIVE: lambda a: Range(a.low, a.high, a.whole),
    "min": _least,
    "max": _greatest,
    "abs": _absolute,
    "floor": _rounded(math.floor),
    "ceil": _rounded(math.ceil),
    "sqrt": _monotone(math.sqrt, 0.0),
    "log": _monotone(math.log, 0.0),
    "exp": _monotone(math.exp, -math.inf),
}
