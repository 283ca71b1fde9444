# SPDX-License-Identifier: MIT
"""Whether a condition can ever be true, where only ranges of what it reads are known.

How to use it. `impossible(term, scope)` is why a condition can never be true, or None where it may be; `valueless` tells
what in it never has a value, or cannot be compared so.

Law of this file: what is called impossible never happens, whatever the jobs do; what is not called so need not happen.
Conditions narrow what they read: in `x > 5 and x < 3` the second half looks at an x above 5.
"""

from __future__ import annotations

import math
from typing import Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from ensemble.spec import arithmetic, terms
from ensemble.spec.expression import Read
from ensemble.spec.ranges import EXACT, NOTHING, Range, Scope, loose, negated, plus, value
from ensemble.spec.terms import Term

#: alternatives that are told; of more, the first
MOST_ALTERNATIVES = 3


class Never(NamedTuple):
    """Why something is never true."""

    #: of the text, where the reason lies
    offset: int
    #: what never holds, in the words of the file
    what: str
    #: a sentence without an end; '' where it is plain
    why: str
    #: each part may hold, and they do not together
    together: bool = False


class Narrowed:
    """A scope in which conditions have narrowed what paths may be."""

    def __init__(self, scope: Scope, ranges: Optional[Dict[str, Tuple[Range, Tuple[str, ...]]]] = None) -> None:
        self.scope = scope
        #: path -> its range, and the comparisons that made it so
        self.ranges = ranges or {}

    def of(self, read: Read) -> Range:
        found = self.ranges.get(_name(read))
        return self.scope.of(read) if found is None else found[0]

    def why(self, read: Read) -> str:
        return self.scope.why(read)

    def wider(self) -> Optional[Scope]:
        return self.scope.wider()

    def because(self, term: Term) -> Tuple[str, ...]:
        """The comparisons that have narrowed what the term reads."""
        found: Dict[str, None] = {}
        for part in term.walk():
            if part.read is not None and _name(part.read) in self.ranges:
                found.update(dict.fromkeys(self.ranges[_name(part.read)][1]))
        return tuple(found)

    def branch(self) -> Narrowed:
        return Narrowed(self.scope, dict(self.ranges))

    def put(self, read: Read, range: Range, because: str) -> None:
        name = _name(read)
        if range != self.of(read):
            before = self.ranges[name][1] if name in self.ranges else ()
            self.ranges[name] = (range, before if because in before else (*before, because))


def _name(read: Read) -> str:
    return str(read.metric) if read.metric is not None else read.path


def impossible(term: Term, scope: Scope) -> Optional[Never]:
    """Why a condition is never true; None where it may be."""
    narrowed = Narrowed(scope)
    found = _suppose(term, True, narrowed)
    if found is None and narrowed.ranges and term.op != terms.COMPARISON:
        # what a later part has said of one path may leave nothing for an earlier one
        found = _suppose(term, True, narrowed)
    return found


def _suppose(term: Term, wanted: bool, scope: Narrowed) -> Optional[Never]:
    """Narrow the scope to where the term is that; why that is nowhere, or None."""
    if term.op == terms.NOT:
        return _suppose(term.parts[0], not wanted, scope)
    if term.op in (terms.AND, terms.OR):
        parts = [(part, wanted) for part in term.parts]
        return (_all if (term.op == terms.AND) is wanted else _one)(parts, scope)
    if term.op == terms.COMPARISON and len(term.signs) > 1:
        pairs = zip(term.signs, term.parts, term.parts[1:])
        parts = [(Term(terms.COMPARISON, a.offset, (a, b), (sign,)), wanted) for sign, a, b in pairs]
        return (_all if wanted else _one)(parts, scope)
    if term.op == terms.COMPARISON:
        return _compare(term, wanted, scope)
    return _truth(term, wanted, scope)


def _all(parts: Sequence[Tuple[Term, bool]], scope: Narrowed) -> Optional[Never]:
    for part, wanted in parts:
        found = _suppose(part, wanted, scope)
        if found is not None:
            return found
    return None


def _one(parts: Sequence[Tuple[Term, bool]], scope: Narrowed) -> Optional[Never]:
    left: List[Narrowed] = []
    nevers: List[Never] = []
    for part, wanted in parts:
        branch = scope.branch()
        found = _suppose(part, wanted, branch)
        if found is None:
            left.append(branch)
        else:
            nevers.append(found)
    if not left:
        return _neither(nevers)
    for name in set.intersection(*(set(branch.ranges) for branch in left)):
        ranges = [branch.ranges[name] for branch in left]
        whole, because = ranges[0]
        for other, more in ranges[1:]:
            whole, because = whole.joined(other), tuple(dict.fromkeys((*because, *more)))
        scope.ranges[name] = (whole, because)
    return None


def _neither(nevers: Sequence[Never]) -> Never:
    """Why none of some alternatives holds."""
    first, *more = nevers
    if not more or len(nevers) > MOST_ALTERNATIVES or any(never.together for never in nevers):
        return first
    what, why = (dict.fromkeys(filter(None, words)) for words in zip(*((never.what, never.why) for never in nevers)))
    return first._replace(what=" or ".join(what), why="; ".join(why))


def _truth(term: Term, wanted: bool, scope: Narrowed) -> Optional[Never]:
    """A value that stands for a truth: a number is true unless it is 0."""
    range = value(term, scope)
    text = _worded(term, wanted)
    numbers = range.between(-math.inf, math.inf) if wanted else range.between(0.0, 0.0)
    if wanted and range.whole and range.low == 0:
        numbers = range.between(1.0, math.inf)
    there = numbers.numeric and not (wanted and numbers.low == numbers.high == 0)
    if wanted in range.truths or there:
        if term.read is not None:
            kept = Range(numbers.low, numbers.high, range.whole) if there else NOTHING
            scope.put(term.read, kept._replace(truths=range.truths & {wanted}), text)
        return None
    return _never(term, wanted, scope)


def _worded(term: Term, wanted: bool) -> str:
    return str(term) if wanted else f"not {term}"


def _never(term: Term, wanted: bool, scope: Narrowed) -> Never:
    """The reason: a lone path that is bounded so, or parts of the condition that do not go together."""
    text = _worded(term, wanted)
    others = [other for other in scope.because(term) if other != text]
    if others and _suppose(term, wanted, Narrowed(scope.scope)) is None:
        return Never(term.offset, " and ".join((*others, text)), "", together=True)
    wider = scope.wider()
    found = None if wider is None else _suppose(term, wanted, Narrowed(wider))
    if found is not None:
        # what holds in no file is not for what this one has
        return found
    reads = [part.read for part in term.walk() if part.read is not None]
    reasons = dict.fromkeys(filter(None, map(scope.why, reads)))
    return Never(term.offset, text, "; ".join(reasons))


_OPPOSITE = {"<": ">=", "<=": ">", ">": "<=", ">=": "<", "==": "!=", "!=": "=="}
_MIRRORED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "==": "==", "!=": "!="}


def _compare(term: Term, wanted: bool, scope: Narrowed) -> Optional[Never]:
    sign = term.signs[0] if wanted else _OPPOSITE[term.signs[0]]
    left, right = term.parts
    a, b = value(left, scope), value(right, scope)
    text = _worded(term, wanted)
    if not _possible(sign, a, b):
        return _never(term, wanted, scope)
    for part, own, other, op in ((left, a, b, sign), (right, b, a, _MIRRORED[sign])):
        kept = _kept(op, own, other)
        if kept is not None and not _push(part, kept, scope, text):
            return _never(term, wanted, scope)
    return None


def _possible(sign: str, a: Range, b: Range) -> bool:
    if sign == "==":
        return not a.common(b).empty
    if sign == "!=":
        one, other = a.lone, b.lone
        same = one is not None and one == other and arithmetic.kind_of(one) == arithmetic.kind_of(other)
        return not a.empty and not b.empty and not same
    if not (a.numeric and b.numeric):
        return False
    if sign in (">", ">="):
        a, b = b, a
    return a.low < b.high if sign in ("<", ">") else a.low <= b.high


def _kept(sign: str, own: Range, other: Range) -> Optional[Range]:
    """What is left of `own` if it compares so with `other`; None where nothing is learnt."""
    if sign == "==":
        return own.common(other)
    if sign == "!=":
        lone = other.lone
        if own.texts is not None and isinstance(lone, str):
            return own._replace(texts=own.texts - {lone})
        number = lone is not None and not isinstance(lone, (bool, str))
        if number and own.kinds == ("a number",) and own.whole and lone in (own.low, own.high):
            return own.between(own.low + (lone == own.low), own.high - (lone == own.high))
        return None
    if sign in ("<", "<="):
        return own.between(-math.inf, _before(other.high, own.whole) if sign == "<" else other.high)
    return own.between(_behind(other.low, own.whole) if sign == ">" else other.low, math.inf)


def _before(x: float, whole: bool) -> float:
    """The greatest number below x."""
    if not abs(x) < EXACT:
        return x
    return math.ceil(x) - 1.0 if whole else math.nextafter(x, -math.inf)


def _behind(x: float, whole: bool) -> float:
    return -_before(-x, whole)


def _push(term: Term, range: Range, scope: Narrowed, text: str) -> bool:
    """The term is within that range: narrow what it reads. False where that leaves nothing."""
    if range.empty:
        return False
    if term.read is not None:
        kept = range.common(scope.of(term.read))
        if kept.empty:
            return False
        scope.put(term.read, kept, text)
    elif term.op in ("floor", "ceil") and range.numeric:
        low, high = (range.low, range.high + 1) if term.op == "floor" else (range.low - 1, range.high)
        return _push(
            term.parts[0], range if value(term.parts[0], scope).whole else Range(low, high, False), scope, text
        )
    elif term.op == terms.NEGATIVE:
        return _push(term.parts[0], Range(-range.high, -range.low, range.whole), scope, text)
    elif term.op in ("+", "-") and range.numeric:
        a, b = term.parts
        one, two = value(a, scope), value(b, scope)
        back = negated(two) if term.op == "+" else two
        if not _push(a, loose(plus(range, back), range, back), scope, text):
            return False
        rest = plus(range, negated(one)) if term.op == "+" else plus(one, negated(range))
        return _push(b, loose(rest, range, one), scope, text)
    return True


def valueless(term: Term, scope: Scope) -> Iterator[Never]:
    """What a condition reads or compares that never has a value, or only values that cannot be compared so."""
    found = [part for part in term.walk() if part.read is not None and scope.of(part.read).empty]
    for part in found:
        assert part.read is not None
        yield Never(part.offset, f"{part} never has a value", scope.why(part.read))
    for part in () if found else term.walk():
        for sign, left, right in zip(part.signs, part.parts, part.parts[1:]):
            a, b = value(left, scope), value(right, scope)
            equal = sign in ("==", "!=")
            if a.empty or b.empty or (set(a.kinds) & set(b.kinds) if equal else a.numeric and b.numeric):
                continue
            wrong, other = (left, right) if equal or not a.numeric else (right, left)
            kinds = " or ".join((a if wrong is left else b).kinds)
            why = "; ".join(filter(None, (scope.why(one.read) for one in wrong.walk() if one.read is not None)))
            never = "never equals" if equal else "is never less or greater than"
            yield Never(wrong.offset, f"{wrong} is {kinds}, which {never} {other}", why)
