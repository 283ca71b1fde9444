# SPDX-License-Identifier: MIT
"""Expressions: text into a compiled form that says what it reads, and computes without ever raising.

How to use it. `compile(text, groups, trigger)` is for files: it raises ExpressionError, with an offset into the text,
for what is no expression, for a path that names nothing, and for an `event.` path that a rule on that trigger cannot
have (trigger None: any will do). The Expression says which metrics (variables are metrics, `var.n`) and which parts of
the event it reads; `value(scope)` is a number, a string, a truth or None, which is no value; `holds(scope)` says whether
it is true as a condition. A scope answers what a path has (`Scope`); in the engine that is `engine.values.at(occasion)`.
In the engine `engine.book.expression(text)` is the compiled form of a text of the file.

Theory of operation. The text is cut into tokens of ours; their order is checked here, so that faults are told in our
words at their place, and every number, string and path is replaced by a plain name of the same length. Only then does
Python's own parser see it: it gives precedence and grouping, and meets nothing but names of ours, operators,
parentheses and commas. The tree is walked once, node by node from a list of what may be there; all else is a fault.
Length, tokens and depth are bounded; numbers are bounded by `arithmetic`.
"""

from __future__ import annotations

import ast
import math
import re
from typing import Any, Callable, Collection, Dict, List, NamedTuple, Optional, Tuple, Union

from typing_extensions import Protocol

from ensemble.spec import arithmetic, happening, metrics
from ensemble.spec.arithmetic import NUMBER, STRING, TRUTH, Maybe, Run, Value
from ensemble.spec.faults import shown
from ensemble.spec.metrics import Metric, PathError

#: characters
MAX_LENGTH = 2000
MAX_TOKENS = 400
#: parentheses within parentheses
MAX_NESTING = 32
#: operations within operations
MAX_DEPTH = 100
#: beyond, a power is 0, 1, or nothing that a float could hold
MAX_EXPONENT = 1024

#: what a file may be told to write in place of a number
EXAMPLE = 'an expression such as "var.n * 2"'

_TOKEN = re.compile(
    r"""(?P<space>\s+)
    |(?P<number>(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)
    |(?P<string>'[^']*'|"[^"]*")
    |(?P<path>[A-Za-z_]\w*(?:\.[\w-]+)+)
    |(?P<word>[A-Za-z_]\w*)
    |(?P<operator>\*\*|//|<=|>=|==|!=|[-+*/%<>(),])""",
    re.VERBOSE | re.ASCII,
)
_TRUTHS = {"true": True, "false": False}
_JOINS = ("and", "or")
#: spellings of other languages
_FOREIGN = {
    "=": "==",
    "=<": "<=",
    "=>": ">=",
    "<>": "!=",
    "&&": "and",
    "&": "and",
    "||": "or",
    "|": "or",
    "!": "not",
    "^": "**",
    "True": "true",
    "False": "false",
    "AND": "and",
    "OR": "or",
    "NOT": "not",
}
_WORDS = (*arithmetic.FUNCTIONS, "and", "or", "not", "true", "false")
_BINARY: Dict[type, str] = {
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.Div: "/",
    ast.FloorDiv: "//",
    ast.Mod: "%",
    ast.Pow: "**",
}
_COMPARE: Dict[type, str] = {
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.Eq: "==",
    ast.NotEq: "!=",
}


class ExpressionError(PathError):
    """A text that is no expression, or reads what is not there; `offset` is into the text."""


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


class Equality(NamedTuple):
    """A metric that is compared with a number for equality."""

    offset: int
    metric: Metric
    number: float


class Expression:
    """A compiled expression. Made by `compile`."""

    __slots__ = ("_run", "constant", "equalities", "kind", "reads", "text")

    def __init__(self, text: str, part: _Part, reads: List[Read], equalities: List[Equality]) -> None:
        self._run = part.run
        self.text = text
        #: NUMBER, STRING or TRUTH; None where that depends on a variable or an event
        self.kind = part.kind
        #: it reads nothing
        self.constant = part.constant
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


def compile(text: str, groups: Collection[str], trigger: Optional[str] = None) -> Expression:
    """The expression that a text is, in a file with these groups. Raises ExpressionError."""
    tokens = _tokens(text)
    _ordered(text, tokens)
    return _Compiler(text, tokens, groups, trigger).run()


def resolve(path: str, groups: Collection[str], trigger: Optional[str] = None, offset: int = 0) -> Read:
    """What a single path names. Raises PathError, with an offset into the path."""
    if path.partition(".")[0] == "event":
        words, kind = happening.parse(path, trigger)
        return Read(offset, path, None, words, kind)
    metric = metrics.parse(path, groups)
    return Read(offset, path, metric, None, None if metric.stat == "var" else NUMBER)


class _Token(NamedTuple):
    kind: str
    text: str
    #: of its first character, from 0
    offset: int


def _tokens(text: str) -> List[_Token]:
    """The text in pieces, spaces left out. Raises ExpressionError."""
    found: List[_Token] = []
    at = 0
    while at < len(text):
        if at >= MAX_LENGTH or len(found) > MAX_TOKENS:
            bound = f"{MAX_LENGTH} characters" if at >= MAX_LENGTH else f"{MAX_TOKENS} words and signs"
            raise ExpressionError(f"the expression goes on behind {bound}", at, "a shorter one; set keeps parts of it")
        match = _TOKEN.match(text, at)
        if match is None or match.end() > MAX_LENGTH:
            _refuse(text, at, match)
        assert match is not None
        at, kind = match.end(), str(match.lastgroup)
        if kind != "space":
            found.append(_Token(kind, match.group(), match.start()))
        if kind == "number" and re.match(r"[\w.]", text[at : at + 1]):
            expected = "a space or an operator behind the number; a time is given in seconds"
            raise ExpressionError(f"a number goes on with {shown(text[at : at + 1])}", at, expected)
    return found


def _refuse(text: str, at: int, match: Optional[re.Match[str]]) -> None:
    if match is not None:
        raise ExpressionError(f"the expression goes on behind {MAX_LENGTH} characters", MAX_LENGTH, "a shorter one")
    if text[at] in "'\"":
        raise ExpressionError("this string has no end", at, f"a second {text[at]}")
    for foreign in (text[at : at + 2], text[at]):
        if foreign in _FOREIGN:
            raise _foreign(foreign, at)
    raise ExpressionError(f"no expression has a {shown(text[at])}", at, "numbers, paths, operators and parentheses")


def _foreign(word: str, at: int) -> ExpressionError:
    meant = _FOREIGN[word]
    return ExpressionError(f"expressions have no {shown(word)}", at, meant)


def _ordered(text: str, tokens: List[_Token]) -> None:
    """Is each token where it may stand? Then Python's parser will find nothing wrong. Raises ExpressionError."""
    #: open parentheses, and whether each is a function's
    opened: List[Tuple[_Token, bool]] = []
    operand = True
    before: Optional[_Token] = None
    for index, token in enumerate(tokens):
        word = token.text
        function = token.kind == "word" and word in arithmetic.FUNCTIONS
        if token.kind == "word" and word not in _WORDS:
            _unknown(word, token.offset)
        if operand:
            if token.kind in ("number", "string", "path") or word in _TRUTHS:
                operand = False
            elif function:
                if index + 1 == len(tokens) or tokens[index + 1].text != "(":
                    raise ExpressionError(
                        f"'{word}' is a function", token.offset + len(word), f"its numbers in parentheses: {word}(...)"
                    )
            elif word == "(":
                opened.append((token, before is not None and before.text in arithmetic.FUNCTIONS))
                if len(opened) > MAX_NESTING:
                    raise ExpressionError(
                        f"parentheses stand more than {MAX_NESTING} deep", token.offset, "a simpler expression"
                    )
            elif word == "not":
                if before is not None and before.text not in ("(", ",", "not", *_JOINS):
                    raise ExpressionError("'not' cannot stand here", token.offset, "parentheses around it: (not ...)")
            elif word not in ("+", "-"):
                raise ExpressionError(f"here stands {shown(word)}", token.offset, "a value: a number, a path, a string")
        elif word == ")":
            if not opened:
                raise ExpressionError("this ) closes nothing", token.offset, "a ( before it, or no )")
            opened.pop()
        elif word == ",":
            if not opened or not opened[-1][1]:
                raise ExpressionError("here stands ','", token.offset, "an operator; a decimal sign is a point")
            operand = True
        elif word in _JOINS or (token.kind == "operator" and word != "("):
            operand = True
        else:
            raise ExpressionError(f"here stands {shown(word)}", token.offset, "an operator such as + or ==")
        before = token
    if operand:
        end = len(text.rstrip())
        message = "the expression ends too early" if tokens else "the expression is empty"
        raise ExpressionError(message, end, "a value: a number, a path, a string")
    if opened:
        raise ExpressionError("this ( is never closed", opened[-1][0].offset, "a ) behind it")


def _unknown(word: str, at: int) -> None:
    if word in _FOREIGN:
        raise _foreign(word, at)
    expected = "a path such as var.NAME or count.GROUP.STATE, or a string in quotes"
    raise ExpressionError(f"no word of expressions is {shown(word)}", at, expected, word, _WORDS)


class _Part(NamedTuple):
    """A compiled piece."""

    run: Run
    kind: Optional[str]
    #: it reads nothing
    constant: bool
    offset: int
    #: what it is, if it is nothing but a path
    read: Optional[Read] = None


class _Compiler:
    """The tree into closures."""

    def __init__(self, text: str, tokens: List[_Token], groups: Collection[str], trigger: Optional[str]) -> None:
        self._text = text
        self._leaves = {t.offset: t for t in tokens if t.kind in ("number", "string", "path") or t.text in _TRUTHS}
        self._groups = groups
        self._trigger = trigger
        self._reads: Dict[int, Read] = {}
        self._equalities: List[Equality] = []
        plain = list(" " * len(text))
        for token in tokens:
            hidden = token.offset in self._leaves
            plain[token.offset : token.offset + len(token.text)] = "x" * len(token.text) if hidden else token.text
        #: one line of names and signs; the parenthesis makes leading spaces harmless and shifts columns by one
        self._plain = "(" + "".join(plain) + ")"

    def run(self) -> Expression:
        try:
            tree = ast.parse(self._plain, mode="eval").body
        except (SyntaxError, ValueError, MemoryError, RecursionError):
            raise ExpressionError("this is no expression", 0, "a comparison or a calculation") from None
        part = self._part(tree, 0)
        reads = [self._reads[offset] for offset in sorted(self._reads)]
        return Expression(self._text, part, reads, self._equalities)

    def _part(self, node: ast.AST, depth: int) -> _Part:
        offset = int(getattr(node, "col_offset", 1)) - 1
        if depth > MAX_DEPTH:
            raise ExpressionError(f"operations stand more than {MAX_DEPTH} deep", offset, "a shorter expression")
        method = self._KNOWN.get(type(node))
        if method is None:
            raise ExpressionError("this is no part of an expression", offset, "a comparison or a calculation")
        return method(self, node, offset, depth + 1)

    def _leaf(self, node: Any, offset: int, depth: int) -> _Part:
        token = self._leaves.get(offset)
        if token is None:  # a function without its parenthesis, which `_ordered` does not let through
            raise ExpressionError(f"no word of expressions is {shown(node.id)}", offset)
        if token.kind == "path":
            return self._path(token)
        constant: Value
        if token.kind == "number":
            constant = _number(token)
        else:
            constant = _TRUTHS[token.text] if token.kind == "word" else token.text[1:-1]
        return _constant(constant, offset)

    def _path(self, token: _Token) -> _Part:
        try:
            read = resolve(token.text, self._groups, self._trigger, token.offset)
        except PathError as exc:
            expected = exc.expected
            if "-" in token.text[exc.offset :]:
                expected = f"{expected}; a minus sign has spaces around it" if expected else "spaces around a minus sign"
            raise ExpressionError(
                exc.message, token.offset + exc.offset, expected, exc.word, exc.known
            ) from None
        self._reads[token.offset] = read
        return _Part(_reader(read), read.kind, False, token.offset, read)

    def _unary(self, node: Any, offset: int, depth: int) -> _Part:
        part = self._part(node.operand, depth)
        if isinstance(node.op, ast.Not):
            self._truth(part)
            return _fold(arithmetic.opposite(part.run), TRUTH, [part], offset)
        self._numeric(part)
        apply = arithmetic.NEGATIVE if isinstance(node.op, ast.USub) else arithmetic.POSITIVE
        inner = part.run
        return _fold(lambda scope: apply(inner(scope)), NUMBER, [part], offset)

    def _binary(self, node: Any, offset: int, depth: int) -> _Part:
        left, right = self._part(node.left, depth), self._part(node.right, depth)
        self._numeric(left)
        self._numeric(right)
        sign = _BINARY.get(type(node.op))
        if sign is None:
            raise ExpressionError("this is no part of an expression", offset)
        apply, a, b = arithmetic.OPERATORS[sign], left.run, right.run
        part = _fold(lambda scope: apply(a(scope), b(scope)), NUMBER, [left, right], offset)
        if sign == "**" and right.constant:
            exponent = right.run(None)
            if isinstance(exponent, (int, float)) and abs(exponent) > MAX_EXPONENT:
                raise ExpressionError(
                    f"this exponent is greater than {MAX_EXPONENT}", right.offset, "a smaller power"
                )
            if part.constant and part.run(None) is None:
                raise ExpressionError("no number is that power", offset, "a power that is a number of its own")
        return part

    def _compare(self, node: Any, offset: int, depth: int) -> _Part:
        parts = [self._part(one, depth) for one in (node.left, *node.comparators)]
        signs: List[str] = []
        for sign, left, right in zip((_COMPARE.get(type(op)) for op in node.ops), parts, parts[1:]):
            if sign is None:
                raise ExpressionError("this is no part of an expression", offset)
            self._comparable(sign, left, right)
            signs.append(sign)
        return _fold(arithmetic.chain(tuple(signs), tuple(part.run for part in parts)), TRUTH, parts, offset)

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
            if one.read is not None and one.read.metric is not None and other.constant:
                number = other.run(None)
                if isinstance(number, (int, float)):
                    self._equalities.append(Equality(one.offset, one.read.metric, number))

    def _join(self, node: Any, offset: int, depth: int) -> _Part:
        parts = [self._part(value, depth) for value in node.values]
        for part in parts:
            self._truth(part)
        runs = tuple(part.run for part in parts)
        return _fold((arithmetic.every if isinstance(node.op, ast.And) else arithmetic.some)(runs), TRUTH, parts, offset)

    def _call(self, node: Any, offset: int, depth: int) -> _Part:
        name = getattr(node.func, "id", "")
        function = arithmetic.FUNCTIONS.get(name)
        if function is None or node.keywords:
            raise ExpressionError("this is no function", offset, f"one of {', '.join(arithmetic.FUNCTIONS)}")
        parts = [self._part(argument, depth) for argument in node.args]
        for part in parts:
            self._numeric(part)
        if len(parts) < function.least or (function.most is not None and len(parts) > function.most):
            wanted = "one number" if function.most == 1 else "one or more numbers"
            at = parts[1].offset if len(parts) > 1 else offset
            raise ExpressionError(f"{name} takes {wanted}, not {len(parts)}", at, f"{name}({wanted})")
        apply, runs = function.apply, tuple(part.run for part in parts)
        return _fold(lambda scope: apply(*[run(scope) for run in runs]), NUMBER, parts, offset)

    def _numeric(self, part: _Part) -> None:
        if part.kind in (STRING, TRUTH):
            raise ExpressionError(f"this is {part.kind}, with which nothing can be computed", part.offset, NUMBER)

    def _truth(self, part: _Part) -> None:
        if part.kind == STRING:
            raise ExpressionError("this is a string, which is neither true nor false", part.offset, "a comparison")

    _KNOWN: Dict[type, Callable[[_Compiler, Any, int, int], _Part]] = {
        ast.Name: _leaf,
        ast.UnaryOp: _unary,
        ast.BinOp: _binary,
        ast.Compare: _compare,
        ast.BoolOp: _join,
        ast.Call: _call,
    }


def _number(token: _Token) -> Union[int, float]:
    # a whole number of thousands of digits is nothing that int() should be asked to read
    whole = token.text.isdecimal() and len(token.text) <= 20
    value = arithmetic.scalar(int(token.text) if whole else float(token.text))
    if not isinstance(value, (int, float)) or math.isinf(value):
        raise ExpressionError("this number is too large", token.offset, "a number that is finite")
    return value


def _constant(value: Maybe, offset: int) -> _Part:
    return _Part(lambda scope: value, arithmetic.kind_of(value), True, offset)


def _fold(run: Run, kind: str, parts: List[_Part], offset: int) -> _Part:
    """The piece; what reads nothing is computed now, once."""
    if not all(part.constant for part in parts):
        return _Part(run, kind, False, offset)
    value = run(None)
    return _Part(lambda scope: value, kind, True, offset)


def _reader(read: Read) -> Run:
    """A closure for a path, as short as can be: this is what an event costs."""
    scalar = arithmetic.scalar
    metric, event = read.metric, read.event
    if metric is not None:
        return lambda scope: scalar(scope.metric(metric))
    return lambda scope: scalar(scope.event(event))
