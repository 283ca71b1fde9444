# SPDX-License-Identifier: MIT
"""Expressions as trees: what stands in a condition, for those who look into it and do not compute it.

Law of this file: plain data. `expression.compile` makes the tree beside the closures that compute (`Expression.term`), and
`of_condition` one of a bare comparison with the rule's own metric. What reads nothing is one leaf, its value. A tree is at
most as deep as the parser lets operations be.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Iterator, NamedTuple, Optional, Tuple

from ensemble.spec.arithmetic import Maybe

if TYPE_CHECKING:
    from ensemble.spec.expression import Read

#: kinds of terms besides the operators and functions by name; `negative` and `positive` are the signs before a number
CONSTANT, PATH, COMPARISON, AND, OR, NOT = "constant", "path", "comparison", "and", "or", "not"
NEGATIVE, POSITIVE = "negative", "positive"

#: how tightly an operator binds; what binds less stands in parentheses within it
_BINDING = {OR: 1, AND: 2, NOT: 3, COMPARISON: 4, "+": 5, "-": 5, "*": 6, "/": 6, "//": 6, "%": 6, NEGATIVE: 7, "**": 8}
_ATOM = 9


class Term(NamedTuple):
    """One operation with its operands, or a leaf."""

    #: CONSTANT, PATH, COMPARISON, AND, OR, NOT, NEGATIVE, POSITIVE, or an operator or function by name
    op: str
    #: character of the text where it begins
    offset: int
    parts: Tuple[Term, ...] = ()
    #: of a COMPARISON: what stands between its parts, one less than these
    signs: Tuple[str, ...] = ()
    #: of a PATH
    read: Optional[Read] = None
    #: of a CONSTANT
    value: Maybe = None

    def __str__(self) -> str:
        """As a user would write it."""
        if self.op == CONSTANT:
            return _constant(self.value)
        if self.read is not None:
            return self.read.path
        if self.op == COMPARISON:
            words = [_within(self, self.parts[0])]
            for sign, part in zip(self.signs, self.parts[1:]):
                words += [sign, _within(self, part)]
            return " ".join(words)
        if self.op == NOT:
            return f"not {_within(self, self.parts[0])}"
        if self.op in (NEGATIVE, POSITIVE):
            return f"{'-' if self.op == NEGATIVE else '+'}{_within(self, self.parts[0])}"
        if self.op in _BINDING:
            return f" {self.op} ".join(_within(self, part, index > 0) for index, part in enumerate(self.parts))
        return f"{self.op}({', '.join(map(str, self.parts))})"

    def walk(self) -> Iterator[Term]:
        """It and all that stands in it, in the order of the text."""
        yield self
        for part in self.parts:
            yield from part.walk()

    def moved(self, by: int) -> Term:
        """The same, so many characters to the left."""
        parts = tuple(part.moved(by) for part in self.parts)
        read = None if self.read is None else self.read._replace(offset=max(0, self.read.offset - by))
        return self._replace(offset=max(0, self.offset - by), parts=parts, read=read)


def comparison(sign: str, read: Read, number: float) -> Term:
    """A path that is compared with a number."""
    value = int(number) if number == int(number) and abs(number) < 2**53 else number
    return Term(COMPARISON, 0, (Term(PATH, 0, read=read), Term(CONSTANT, 0, value=value)), signs=(sign,))


def _within(outer: Term, inner: Term, behind: bool = False) -> str:
    mine, its = _BINDING.get(outer.op, _ATOM), _BINDING.get(inner.op, _ATOM)
    if inner.op == CONSTANT and isinstance(inner.value, (int, float)) and str(inner).startswith("-"):
        its = _BINDING[NEGATIVE]
    # operators of one rank are read from the left
    bare = its > mine or (its == mine and not behind and outer.op not in (COMPARISON, "**"))
    return str(inner) if bare else f"({inner})"


def _constant(value: Any) -> str:
    if value is None:
        return "no value"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        # strings have no escapes, and no quote of the kind that is around them
        return f'"{value}"' if "'" in value else f"'{value}'"
    return repr(value)
