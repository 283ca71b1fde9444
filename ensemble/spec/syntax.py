# SPDX-License-Identifier: MIT
"""What PyYAML says about text that is not YAML, put into words that say what to do.

Its two parsers, in C and in Python, word the same fault differently; both are looked up here by a fragment of what
they say. What is not found is told as PyYAML tells it.
"""

from __future__ import annotations

from typing import Optional, Tuple

import yaml

from ensemble.spec.faults import Place, Report, place, shown

#: levels of a file; the parser of newer releases of PyYAML has a bound of its own far behind it
MAX_DEPTH = 50


def tell(exc: yaml.YAMLError, text: str, report: Report) -> None:
    """Add the parser's complaint to the report, at its position."""
    mark = getattr(exc, "problem_mark", None) or getattr(exc, "context_mark", None)
    if mark is None:
        report.add(place(text, getattr(exc, "position", 0)), "this is not YAML", expected="a file in YAML")
        return
    problem = str(getattr(exc, "problem", None) or "this is not YAML")
    context = str(getattr(exc, "context", None) or "")
    line = report.lines[mark.line] if mark.line < len(report.lines) else ""
    message, expected = _explain(problem, context, line[mark.column : mark.column + 1])
    opened = getattr(exc, "context_mark", None)
    if opened is not None and message.startswith("a quote"):
        # it is noticed where the text ends, and made where the quote opens
        mark = opened
    elif opened is not None and message.endswith("is not closed"):
        message = f"{message}; it opens in line {opened.line + 1}"
    report.add(Place(mark.line + 1, mark.column + 1), message, expected=expected)


#: what the parser says -> (what we say, what would be right)
_SYNTAX: Tuple[Tuple[str, str, str], ...] = (
    ("mapping values are not allowed", "a ':' stands where no key can be", "quotes around a value that has ': ' in it, or other indentation"),
    ("did not find expected key", "the indentation does not fit the lines before", "keys of one mapping below each other"),
    ("<block end>", "the indentation does not fit the lines before", "keys of one mapping below each other"),
    ("did not find expected '-' indicator", "the indentation does not fit the list before", "entries below each other, each with '-'"),
    ("could not find expected ':'", "this key has no ':'", "a colon and a space behind the key"),
    ("mapping keys are not allowed", "a '?' stands where no key can be", "a key of its own line"),
    ("did not find expected ',' or ']'", "a '[' is not closed", "',' or ']'"),
    ("expected ',' or ']'", "a '[' is not closed", "',' or ']'"),
    ("did not find expected ',' or '}'", "a '{' is not closed", "',' or '}'"),
    ("expected ',' or '}'", "a '{' is not closed", "',' or '}'"),
    ("maximum nesting depth", f"the file is nested deeper than {MAX_DEPTH} levels", "a flatter file"),
    ("node content", "a value is missing here", "a value; between brackets, one comma behind each"),
    ("unexpected end of stream", "a quote is not closed before the end of the file", "the closing quote"),
    ("unexpected document", "a quote is not closed before a line of three marks", "the closing quote"),
    ("alphabetic or numeric", "a '&' or '*' stands here without a name", "quotes around a value that begins with it"),
    ("tab character", "a tab stands where the line begins", "spaces; YAML does not indent with tabs"),
    ("hexdecimal number", "this escape is incomplete", "single quotes, which take a backslash as it is"),
    ("sequence entries are not allowed", "a '-' stands where no list can begin", "the list on lines of its own"),
    ("unknown escape character", "this escape is unknown", "single quotes, which take a backslash as it is"),
    ("escape sequence of", "this escape is incomplete", "single quotes, which take a backslash as it is"),
    ("invalid Unicode character escape", "this escape stands for no character", "single quotes, which take a backslash as it is"),
    ("incompatible YAML document", "this version of YAML is unknown", "YAML 1.1 or 1.2"),
    ("undefined tag handle", "this tag is unknown", "a value without a tag"),
    ("did not find expected <document start>", "something stands behind the end of the document", "one document in a file"),
    ("expected '<document start>'", "something stands behind the end of the document", "one document in a file"),
)  # fmt: skip


def _explain(problem: str, context: str, character: str) -> Tuple[str, Optional[str]]:
    if "cannot start any token" in problem:
        if character == "\t":
            return "a tab stands where the line begins", "spaces; YAML does not indent with tabs"
        return f"a value cannot begin with {shown(character)}", "quotes around the value"
    for fragment, message, expected in _SYNTAX:
        if fragment in problem:
            return message, expected
    return f"this is not YAML: {problem}" + (f" ({context})" if context else ""), None
