# SPDX-License-Identifier: MIT
"""The words and signs of an expression, each where it may stand.

Law of this file: it knows the order of tokens and no meaning, save that a function has parentheses. What comes out of
`tokens` follows the grammar of `expression.py`, so that its parser has no faults of grammar to tell; what does not is
told here in our words, with its place in the text.
"""

from __future__ import annotations

import re
from typing import Container, List, NamedTuple, Optional, Tuple

from ensemble.spec import arithmetic
from ensemble.spec.faults import shown
from ensemble.spec.metrics import PathError

#: characters
MAX_LENGTH = 2000
MAX_TOKENS = 400
_TOKEN = re.compile(
    r"""(?P<space>\s+)
    |(?P<number>(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)
    |(?P<string>'[^']*'|"[^"]*")
    |(?P<path>[A-Za-z_]\w*(?:\.[\w-]+)+)
    |(?P<word>[A-Za-z_]\w*)
    |(?P<operator>\*\*|//|<=|>=|==|!=|<(?!>)|[-+*/%>(),])""",
    re.VERBOSE | re.ASCII,
)
#: words for constants
TRUTHS = {"true": True, "false": False}
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


class ExpressionError(PathError):
    """A text that is no expression, or reads what is not there; `offset` is into the text."""


class Token(NamedTuple):
    kind: str
    text: str
    #: of its first character, from 0
    offset: int


def tokens(text: str, words: Container[str] = ()) -> List[Token]:
    """The text in pieces, spaces left out, each where it may stand. Raises ExpressionError.

    `words` are those without a point that are paths all the same, unless they are of the language.
    """
    found = _pieces(text, words)
    _ordered(text, found)
    return found


def _pieces(text: str, words: Container[str]) -> List[Token]:
    found: List[Token] = []
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None or match.end() > MAX_LENGTH:
            _refuse(text, at, match)
        assert match is not None
        at, kind = match.end(), str(match.lastgroup)
        if kind == "word" and match.group() in words and match.group() not in (*_WORDS, *_FOREIGN):
            kind = "path"
        if kind != "space":
            if len(found) == MAX_TOKENS:
                raise _too_long(f"{MAX_TOKENS} words and signs", match.start())
            found.append(Token(kind, match.group(), match.start()))
        if kind == "number" and re.match(r"[\w.]", text[at : at + 1]):
            expected = "a space or an operator behind the number; a time is given in seconds"
            raise ExpressionError(f"a number goes on with {shown(text[at : at + 1])}", at, expected)
    return found


def _refuse(text: str, at: int, match: Optional[re.Match[str]]) -> None:
    if match is not None:
        raise _too_long(f"{MAX_LENGTH} characters", MAX_LENGTH)
    if text[at] in "'\"":
        raise ExpressionError("this string has no end", at, f"a second {text[at]}")
    for foreign in (text[at : at + 2], text[at]):
        if foreign in _FOREIGN:
            raise _foreign(foreign, at)
    raise ExpressionError(f"no expression has a {shown(text[at])}", at, "numbers, paths, operators and parentheses")


def _too_long(bound: str, at: int) -> ExpressionError:
    return ExpressionError(f"the expression goes on behind {bound}", at, "a shorter one; set keeps parts of it")


def _foreign(word: str, at: int) -> ExpressionError:
    meant = _FOREIGN[word]
    return ExpressionError(f"expressions have no {shown(word)}", at, meant)


def _ordered(text: str, found: List[Token]) -> None:
    """Is each token where it may stand? Then the parser has no faults of grammar to tell. Raises ExpressionError."""
    #: open parentheses, and whether each is a function's
    opened: List[Tuple[Token, bool]] = []
    operand = True
    before: Optional[Token] = None
    for index, token in enumerate(found):
        word = token.text
        function = token.kind == "word" and word in arithmetic.FUNCTIONS
        if token.kind == "word" and word not in _WORDS:
            _unknown(word, token.offset)
        if operand:
            if token.kind in ("number", "string", "path") or word in TRUTHS:
                operand = False
            elif function:
                if index + 1 == len(found) or found[index + 1].text != "(":
                    raise ExpressionError(
                        f"'{word}' is a function", token.offset + len(word), f"its numbers in parentheses: {word}(...)"
                    )
            elif word == "(":
                opened.append((token, before is not None and before.text in arithmetic.FUNCTIONS))
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
        message = "the expression ends too early" if found else "the expression is empty"
        raise ExpressionError(message, end, "a value: a number, a path, a string")
    if opened:
        raise ExpressionError("this ( is never closed", opened[-1][0].offset, "a ) behind it")


def _unknown(word: str, at: int) -> None:
    if word in _FOREIGN:
        raise _foreign(word, at)
    expected = "a path such as var.NAME or count.GROUP.STATE, or a string in quotes"
    raise ExpressionError(f"no word of expressions is {shown(word)}", at, expected, word, _WORDS)
