# SPDX-License-Identifier: MIT
"""What a condition comes to, term by term, for people who ask why a rule has not fired.

Law of this file: the tree is read from the same text by the same parser, and each term's value is computed by the very
closure that the engine runs for that part; so what is explained is what is evaluated. It is made when someone asks, and
costs a rule nothing until then. Evaluation stops at the first term that settles the matter; here every term has its value.
"""

from __future__ import annotations

from typing import Any, Callable, Collection, List, NamedTuple, Optional, Tuple, Union

from ensemble.spec import arithmetic, condition
from ensemble.spec.arithmetic import Maybe
from ensemble.spec.condition import Condition
from ensemble.spec.expression import Expression, Read, Scope, _Parser, _Part, resolve
from ensemble.spec.tokens import tokens

#: kinds of terms
OR, AND, NOT, COMPARISON, ARITHMETIC, CALL, PATH, CONSTANT = (
    "or",
    "and",
    "not",
    "comparison",
    "arithmetic",
    "call",
    "path",
    "constant",
)


class Term(NamedTuple):
    """A part of a condition, and what it is worth."""

    #: as it is written; of a condition that begins with a comparator also what it compares
    text: str
    kind: str
    #: None is no value
    value: Maybe
    terms: Tuple[Term, ...] = ()
    #: what a path names
    read: Optional[Read] = None

    @property
    def truth(self) -> Optional[bool]:
        """True, false, or None: neither, which does not hold."""
        return arithmetic.truth(self.value)


def of_rule(
    when: Any,
    compiled: Union[Condition, Expression, None],
    groups: Collection[str],
    trigger: str,
    name: Optional[str],
    scope: Scope,
) -> Optional[Term]:
    """The condition of a rule, in that scope; None where it has none. `compiled` is what the engine evaluates."""
    if compiled is None:
        return None
    if isinstance(compiled, Condition):
        read = resolve(name or "", groups)
        assert read.metric is not None
        found = scope.metric(read.metric)
        path = Term(str(read.metric), PATH, arithmetic.scalar(found), (), read)
        number = Term(f"{compiled.number:.15g}", CONSTANT, compiled.number)
        value = None if found is None else compiled.holds(found)
        return Term(f"{path.text} {compiled.op} {number.text}", COMPARISON, value, (path, number))
    return explain(condition.both_sides(str(when), name), groups, trigger, scope)


def explain(text: str, groups: Collection[str], trigger: Optional[str], scope: Scope) -> Term:
    """The terms of an expression and their values in that scope. Raises ExpressionError for what is none."""
    return _valued(_Witness(text, groups, trigger).tree(), scope)


class _Node(NamedTuple):
    text: str
    kind: str
    part: _Part
    inner: Tuple[_Node, ...]


def _valued(node: _Node, scope: Scope) -> Term:
    terms = tuple(_valued(inner, scope) for inner in node.inner)
    return Term(node.text, node.kind, node.part.run(scope), terms, node.part.read)


class _Witness(_Parser):
    """The parser, which also says what each of its pieces was made of."""

    def __init__(self, text: str, groups: Collection[str], trigger: Optional[str]) -> None:
        super().__init__(text, tokens(text), groups, trigger, None)
        #: of each piece that is being read, the pieces within it
        self._open: List[List[_Node]] = [[]]

    def tree(self) -> _Node:
        self.run()
        return self._open[0][0]

    def _noted(self, kind: str, rule: Callable[[], _Part]) -> _Part:
        begin = self._at
        self._open.append([])
        part = rule()
        inner = self._open.pop()
        if len(inner) == 1 and inner[0].part is part:
            node = inner[0]  # this line of the grammar has added nothing
        else:
            first, last = self._tokens[begin], self._tokens[self._at - 1]
            if kind == CALL and not inner:
                kind = PATH if first.kind == "path" else CONSTANT
            node = _Node(self._text[first.offset : last.offset + len(last.text)], kind, part, tuple(inner))
        self._open[-1].append(node)
        return part

    def _or(self) -> _Part:
        return self._noted(OR, super()._or)

    def _and(self) -> _Part:
        return self._noted(AND, super()._and)

    def _not(self) -> _Part:
        return self._noted(NOT, super()._not)

    def _comparison(self) -> _Part:
        return self._noted(COMPARISON, super()._comparison)

    def _sum(self) -> _Part:
        return self._noted(ARITHMETIC, super()._sum)

    def _product(self) -> _Part:
        return self._noted(ARITHMETIC, super()._product)

    def _sign(self) -> _Part:
        return self._noted(ARITHMETIC, super()._sign)

    def _power(self) -> _Part:
        return self._noted(ARITHMETIC, super()._power)

    def _atom(self) -> _Part:
        return self._noted(CALL, super()._atom)


def settling(term: Term) -> List[Term]:
    """The terms that keep a condition from holding, or let it hold: comparisons and paths, each as small as can be."""
    holds = term.truth is True
    if term.kind == NOT:
        return settling(term.terms[0])
    if term.kind not in (AND, OR):
        return [term]
    # one is enough to make an `and` false or an `or` true; else it took them all
    deciding = [inner for inner in term.terms if (inner.truth is True) == holds]
    if term.kind == AND and not holds:
        deciding = [inner for inner in deciding if inner.truth is False] or deciding
    if term.kind == OR and holds:
        deciding = deciding[:1]
    return [found for inner in deciding for found in settling(inner)]


def paths(term: Term) -> List[Term]:
    """The paths within a term, each once."""
    found = [term] if term.kind == PATH else []
    for inner in term.terms:
        found += [path for path in paths(inner) if path.text not in [known.text for known in found]]
    return found
