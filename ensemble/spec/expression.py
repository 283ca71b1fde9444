# SPDX-License-Identifier: MIT
"""Expressions: text into a compiled form that says what it reads, and computes without ever raising.

How to use it. `compile(text, groups, trigger)` is for files: it raises ExpressionError, with an offset into the text,
for what is no expression, for a path that names nothing, and for an `event.` path that a rule on that trigger cannot
have (trigger None: any will do). The Expression says which metrics (variables are metrics, `var.n`) and which parts of
the event it reads; `value(scope)` is a number, a string, a truth or None, which is no value; `holds(scope)` says whether
it is true as a condition. A scope answers what a path has (`Scope`); in the engine that is `engine.values.at(occasion)`.
In the engine `engine.book.expression(text)` is the compiled form of a text of the file.

Theory of operation. The text is cut into tokens whose order is checked (`tokens.py`), so that what is wrong is told at its
place; then a parser by recursive descent, with Python's precedence, makes one closure of each operation. Nothing but what the
grammar below names can come of it, and nothing of it ever reaches Python's own parser, whose faults and limits are
others with each release. Length, tokens and nesting are bounded here, numbers in `arithmetic`. It has more than 400 lines,
because the grammar and what its operations check of each other are one thing.

    or:         and {"or" and}                      and: not {"and" not}            not: "not" not | comparison
    comparison: sum {("<" | "<=" | ">" | ">=" | "==" | "!=") sum}                   as Python chains them
    sum:        product {("+" | "-") product}       product: sign {("*" | "/" | "//" | "%") sign}
    sign:       ("+" | "-") sign | power            power:   atom ["**" sign]
    atom:       number | string | path | "true" | "false" | function "(" or {"," or} ")" | "(" or ")"
"""

from __future__ import annotations

import math
from typing import Any, Callable, Collection, Container, List, NamedTuple, Optional, Tuple, Union

from typing_extensions import Protocol

from ensemble.spec import arithmetic, happening, metrics, terms, tokens
from ensemble.spec.arithmetic import NUMBER, STRING, TRUTH, Maybe, Run
from ensemble.spec.faults import shown
from ensemble.spec.metrics import Metric, PathError
from ensemble.spec.terms import Term
from ensemble.spec.tokens import TRUTHS, ExpressionError, Token

#: parentheses, signs, `not` and powers within each other
MAX_NESTING = 32
#: operations within operations: this is how deep a closure calls others
MAX_DEPTH = 100
#: beyond, a power is 0, 1, or nothing that a float could hold
MAX_EXPONENT = 1024

#: what a file may be told to write in place of a number
EXAMPLE = 'an expression such as "var.n * 2"'


class Scope(Protocol):
    """Where an expression finds the values of paths. What it has not is None."""

    def metric(self, metric: Metric) -> Any:
        """The value of a metric or variable."""

    def event(self, words: Tuple[str, ...]) -> Any:
        """The value of a part of the event, by the words behind `event`."""


class Read(NamedTuple):
    """A path of an expression: where it stands, and what it names; one of `metric` and `event`."""

    offset: int
    path: str
    metric: Optional[Metric]
    event: Optional[Tuple[str, ...]]
    #: of its value, if that is known
    kind: Optional[str]

    def value(self, scope: Scope) -> Maybe:
        """What it has now."""
        if self.metric is not None:
            return arithmetic.scalar(scope.metric(self.metric))
        return arithmetic.scalar(scope.event(self.event or ()))


#: what a path names, of these groups and in a rule on that trigger; the last is its offset. Raises PathError
Resolve = Callable[[str, Collection[str], Optional[str], int], Read]


class Equality(NamedTuple):
    """A metric that is compared with a number for equality."""

    offset: int
    path: str
    #: == or !=
    sign: str
    metric: Metric
    number: float


class Expression:
    """A compiled expression. Made by `compile`."""

    __slots__ = ("_run", "constant", "equalities", "kind", "reads", "term", "text")

    def __init__(self, text: str, part: _Part, reads: List[Read], equalities: List[Equality]) -> None:
        self._run = part.run
        self.text = text
        #: NUMBER, STRING or TRUTH; None where that depends on a variable or an event
        self.kind = part.kind
        #: it reads nothing
        self.constant = part.constant
        #: what stands in it
        self.term = part.term
        #: its paths, in order
        self.reads = tuple(reads)
        #: comparisons of one metric and one number by == and !=
        self.equalities = tuple(equalities)

    @property
    def metrics(self) -> Tuple[Metric, ...]:
        """The metrics that it reads, variables included, each once."""
        return tuple(dict.fromkeys(read.metric for read in self.reads if read.metric is not None))

    @property
    def variables(self) -> Tuple[str, ...]:
        """The names of the variables that it reads, each once."""
        return tuple(metric.variable for metric in self.metrics if metric.stat == "var")

    @property
    def events(self) -> Tuple[Tuple[str, ...], ...]:
        """What it reads of the event: the words behind `event`."""
        return tuple(dict.fromkeys(read.event for read in self.reads if read.event is not None))

    def value(self, scope: Scope) -> Maybe:
        """Its value; None where it has none."""
        return self._run(scope)

    def holds(self, scope: Scope) -> bool:
        """Is it true? What has no value is not."""
        return arithmetic.truth(self._run(scope)) is True

    def __str__(self) -> str:
        return self.text


def compile(
    text: str,
    groups: Collection[str],
    trigger: Optional[str] = None,
    *,
    resolve: Optional[Resolve] = None,
    words: Container[str] = (),
) -> Expression:
    """The expression that a text is, in a file with these groups. Raises ExpressionError. Where paths are others than those
    of rules, `resolve` says what one names, and `words` are those without a point."""
    return _Parser(text, tokens.tokens(text, words), groups, trigger, resolve).run()


def resolve(path: str, groups: Collection[str], trigger: Optional[str] = None, offset: int = 0) -> Read:
    """What a single path names. Raises PathError, with an offset into the path."""
    if path.partition(".")[0] == "event":
        words, kind = happening.parse(path, trigger)
        return Read(offset, path, None, words, kind)
    metric = metrics.parse(path, groups)
    return Read(offset, path, metric, None, None if metric.stat == "var" else NUMBER)


class _Part(NamedTuple):
    """A compiled piece."""

    run: Run
    kind: Optional[str]
    #: it reads nothing
    constant: bool
    term: Term
    #: operations within each other
    depth: int = 0

    @property
    def offset(self) -> int:
        return self.term.offset

    @property
    def read(self) -> Optional[Read]:
        """What it is, if it is nothing but a path."""
        return self.term.read


_END = Token("end", "", -1)


class _Parser:
    """The tokens into closures: one method a line of the grammar."""

    def __init__(
        self, text: str, found: List[Token], groups: Collection[str], trigger: Optional[str], names: Optional[Resolve]
    ) -> None:
        self._text = text
        self._resolve = names or resolve
        self._tokens = found
        self._at = 0
        self._nesting = 0
        self._groups = groups
        self._trigger = trigger
        self._reads: List[Read] = []
        self._equalities: List[Equality] = []

    def run(self) -> Expression:
        part = self._or()
        return Expression(self._text, part, self._reads, self._equalities)

    @property
    def _next(self) -> Token:
        return self._tokens[self._at] if self._at < len(self._tokens) else _END

    def _take(self) -> Token:
        token = self._tokens[self._at]
        self._at += 1
        return token

    def _sign_of(self, known: Collection[str]) -> str:
        """The operator that comes, if it is one of these; else ''."""
        token = self._next
        return token.text if token.kind in ("operator", "word") and token.text in known else ""

    def _inner(self, rule: Callable[[], _Part], token: Token) -> _Part:
        """What stands within something of its own kind, behind that token."""
        self._nesting += 1
        if self._nesting > MAX_NESTING:
            message = f"operations are nested more than {MAX_NESTING} deep"
            raise ExpressionError(message, token.offset, "a simpler expression")
        part = rule()
        self._nesting -= 1
        return part

    def _or(self) -> _Part:
        return self._joined("or", self._and, arithmetic.some)

    def _and(self) -> _Part:
        return self._joined("and", self._not, arithmetic.every)

    def _joined(self, word: str, rule: Callable[[], _Part], join: Callable[[Tuple[Run, ...]], Run]) -> _Part:
        parts = [rule()]
        while self._sign_of((word,)):
            self._take()
            parts.append(rule())
        if len(parts) == 1:
            return parts[0]
        for part in parts:
            _boolean(part)
        return _fold(join(tuple(part.run for part in parts)), TRUTH, word, parts, parts[0].offset)

    def _not(self) -> _Part:
        if not self._sign_of(("not",)):
            return self._comparison()
        token = self._take()
        part = self._inner(self._not, token)
        _boolean(part)
        return _fold(arithmetic.opposite(part.run), TRUTH, terms.NOT, [part], token.offset)

    def _comparison(self) -> _Part:
        parts, signs = [self._sum()], []
        while self._sign_of(arithmetic.COMPARATORS):
            signs.append(self._take().text)
            parts.append(self._sum())
            self._comparable(signs[-1], parts[-2], parts[-1])
        if not signs:
            return parts[0]
        run = arithmetic.chain(tuple(signs), tuple(part.run for part in parts))
        return _fold(run, TRUTH, terms.COMPARISON, parts, parts[0].offset, tuple(signs))

    def _sum(self) -> _Part:
        left = self._product()
        while self._sign_of("+-"):
            left = _binary(self._take().text, left, self._product())
        return left

    def _product(self) -> _Part:
        left = self._sign()
        while self._sign_of(("*", "/", "//", "%")):
            left = _binary(self._take().text, left, self._sign())
        return left

    def _sign(self) -> _Part:
        if not self._sign_of("+-"):
            return self._power()
        token = self._take()
        part = self._inner(self._sign, token)
        _numeric(part)
        apply, inner = arithmetic.NEGATIVE if token.text == "-" else arithmetic.POSITIVE, part.run
        op = terms.NEGATIVE if token.text == "-" else terms.POSITIVE
        return _fold(lambda scope: apply(inner(scope)), NUMBER, op, [part], token.offset)

    def _power(self) -> _Part:
        base = self._atom()
        if not self._sign_of(("**",)):
            return base
        exponent = self._inner(self._sign, self._take())
        part = _binary("**", base, exponent)
        power = exponent.run(None) if exponent.constant else None
        if isinstance(power, (int, float)) and abs(power) > MAX_EXPONENT:
            message = f"this exponent is greater than {MAX_EXPONENT}"
            raise ExpressionError(message, exponent.offset, "a smaller power")
        if part.constant and part.run(None) is None:
            raise ExpressionError("no number is that power", base.offset, "a power that a number can hold")
        return part

    def _atom(self) -> _Part:
        token = self._take()
        if token.kind == "path":
            return self._path(token)
        if token.kind == "number":
            return _constant(_number(token), token.offset)
        if token.kind == "string":
            return _constant(token.text[1:-1], token.offset)
        if token.text in TRUTHS:
            return _constant(TRUTHS[token.text], token.offset)
        if token.text in arithmetic.FUNCTIONS:
            return self._call(token)
        part = self._inner(self._or, token)
        self._take()
        return part

    def _call(self, name: Token) -> _Part:
        function = arithmetic.FUNCTIONS[name.text]
        opening = self._take()
        parts = [self._inner(self._or, opening)]
        while self._take().text == ",":
            parts.append(self._inner(self._or, opening))
        for part in parts:
            _numeric(part)
        if function.most is not None and len(parts) > function.most:
            expected = f"{name.text}(one number)"
            raise ExpressionError(f"{name.text} takes one number, not {len(parts)}", parts[1].offset, expected)
        apply, runs = function.apply, tuple(part.run for part in parts)
        return _fold(lambda scope: apply(*[run(scope) for run in runs]), NUMBER, name.text, parts, name.offset)

    def _path(self, token: Token) -> _Part:
        try:
            read = self._resolve(token.text, self._groups, self._trigger, token.offset)
        except PathError as exc:
            expected = exc.expected
            if "-" in token.text[exc.offset :]:
                expected = (
                    f"{expected}; a minus sign has spaces around it" if expected else "spaces around a minus sign"
                )
            raise ExpressionError(exc.message, token.offset + exc.offset, expected, exc.word, exc.known) from None
        self._reads.append(read)
        return _Part(_reader(read), read.kind, False, Term(terms.PATH, token.offset, read=read))

    def _comparable(self, sign: str, left: _Part, right: _Part) -> None:
        if sign not in ("==", "!="):
            for part in (left, right):
                if part.kind in (STRING, TRUTH):
                    expected = "a number, or == or != between"
                    raise ExpressionError(f"this is {part.kind}, which is not less or greater", part.offset, expected)
            return
        if left.kind is not None and right.kind is not None and left.kind != right.kind:
            raise ExpressionError(f"this is {right.kind}, which never equals {left.kind}", right.offset, left.kind)
        for one, other in ((left, right), (right, left)):
            words = happening.AMONG.get(one.read.event or ()) if one.read is not None else None
            if words and one.read is not None and other.constant and other.run(None) not in words:
                word = str(other.run(None))
                raise ExpressionError(
                    f"{one.read.path} never is {shown(word)}", other.offset, f"one of {', '.join(words)}", word, words
                )
            if one.read is not None and one.read.metric is not None and other.constant:
                number = other.run(None)
                if isinstance(number, (int, float)):
                    self._equalities.append(Equality(one.offset, one.read.path, sign, one.read.metric, number))


def _numeric(part: _Part) -> None:
    if part.kind in (STRING, TRUTH):
        raise ExpressionError(f"this is {part.kind}, with which nothing can be computed", part.offset, NUMBER)


def _boolean(part: _Part) -> None:
    if part.kind == STRING:
        raise ExpressionError("this is a string, which is neither true nor false", part.offset, "a comparison")


def _binary(sign: str, left: _Part, right: _Part) -> _Part:
    _numeric(left)
    _numeric(right)
    apply, a, b = arithmetic.OPERATORS[sign], left.run, right.run
    return _fold(lambda scope: apply(a(scope), b(scope)), NUMBER, sign, [left, right], left.offset)


def _number(token: Token) -> Union[int, float]:
    # a whole number of thousands of digits is nothing that int() should be asked to read
    whole = token.text.isdecimal() and len(token.text) <= 20
    value = arithmetic.scalar(int(token.text) if whole else float(token.text))
    if not isinstance(value, (int, float)) or math.isinf(value):
        raise ExpressionError("this number is too large", token.offset, "a number that is finite")
    return value


def _constant(value: Maybe, offset: int) -> _Part:
    return _Part(lambda scope: value, arithmetic.kind_of(value), True, Term(terms.CONSTANT, offset, value=value))


def _fold(run: Run, kind: str, op: str, parts: List[_Part], offset: int, signs: Tuple[str, ...] = ()) -> _Part:
    """The piece that these parts make; what reads nothing is computed now, once."""
    if all(part.constant for part in parts):
        value = run(None)
        return _Part(lambda scope: value, kind, True, Term(terms.CONSTANT, offset, value=value))
    depth = 1 + max(part.depth for part in parts)
    if depth > MAX_DEPTH:
        message = f"more than {MAX_DEPTH} operations wait for one another"
        raise ExpressionError(message, parts[-1].offset, "a shorter expression; set keeps parts of it")
    return _Part(run, kind, False, Term(op, offset, tuple(part.term for part in parts), signs), depth)


def _reader(read: Read) -> Run:
    """A closure for a path, as short as can be: this is what an event costs."""
    scalar = arithmetic.scalar
    metric, event = read.metric, read.event
    if metric is not None:
        return lambda scope: scalar(scope.metric(metric))
    return lambda scope: scalar(scope.event(event))
