# SPDX-License-Identifier: MIT
"""Faults and warnings: what is wrong with a file, where, and what would be right.

Law of this file: a fault is a plain value; `str()` of it is ready for any terminal. Whatever comes from the user's
file or command line is escaped and shortened here, so that no file can move the cursor, colour the screen, reverse
the text or flood it. A `Report` collects the faults of one file; it knows the file's lines.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from dataclasses import dataclass
from typing import Callable, Dict, Iterable, NamedTuple, Optional, Tuple, Union

from typing_extensions import Protocol

#: columns of a source line that are shown
WIDTH = 100
#: faults of one file that are told one by one; one more then says how many there are besides
MOST = 100
#: line breaks as YAML 1.1 parsers count them
_BREAKS = re.compile("\r\n|[\n\r\x85\u2028\u2029]")


def escape(text: str) -> str:
    """The text with all that is not printable written as an escape, such as \\x1b."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def shown(value: object, limit: int = 60) -> str:
    """A word of the user's as messages show it: in quotes, escaped, shortened to about `limit` characters."""
    text = str(value)
    cut = text[:limit]
    return f"'{escape(cut)}{'...' if len(text) > limit else ''}'"


def listed(words: Iterable[str], limit: int = 30) -> str:
    """Known words as messages list them: `a, b, c`, and how many more where there are many."""
    words = list(words)
    more = f", and {len(words) - limit} more" if len(words) > limit else ""
    return ", ".join(escape(word[:60]) for word in words[:limit]) + more


def nearest(word: str, known: Iterable[str]) -> Optional[str]:
    """The known word that was probably meant, or None."""
    if len(word) > 60:
        return None
    known = list(known)[:1000]
    folded: Dict[str, str] = {}
    for candidate in known:
        folded.setdefault(candidate.lower(), candidate)
    found = difflib.get_close_matches(word.lower(), list(folded), n=1, cutoff=0.6)
    return folded[found[0]] if found else None


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong, or, where `severity` is "warning", that looks wrong."""

    #: as the user named it
    file: str
    #: from 1
    line: int
    #: from 1, in characters
    column: int
    #: one sentence without a full stop
    message: str
    #: the whole source line, as it stands in the file
    source: str = ""
    #: the offending value as written; None where there is none, as for a missing key
    value: Optional[str] = None
    #: what would be right, without the word "expected"
    expected: Optional[str] = None
    #: the word or spelling that was probably meant
    suggestion: Optional[str] = None
    #: "error" or "warning"
    severity: str = "error"

    def __str__(self) -> str:
        warning = "warning: " if self.severity == "warning" else ""
        head = f"{escape(self.file)}:{self.line}:{self.column}: {warning}{escape(self.message)}"
        source, caret = _window(self.source, self.column)
        gutter = f"{self.line:>5} | "
        lines = [head, gutter + source, " " * (len(gutter) - 2) + "| " + " " * caret + "^"]
        if self.expected:
            lines.append(f"   expected: {escape(self.expected)}")
        if self.suggestion is not None:
            lines.append(f"   did you mean '{escape(self.suggestion)}'?")
        return "\n".join(lines)


def _window(source: str, column: int) -> Tuple[str, int]:
    """The part of a source line that is shown around `column`, and where in it the caret goes, in terminal cells."""
    at = min(max(column - 1, 0), len(source))
    start = 0 if at < WIDTH - 20 else at - WIDTH // 2
    before, after = source[start:at], source[at : start + WIDTH]
    head = "..." if start else ""
    tail = "..." if len(source) > start + WIDTH else ""
    before = head + _cells(before)
    return before + _cells(after) + tail, _width(before)


def _cells(text: str) -> str:
    return escape(text.replace("\t", " "))


def _width(text: str) -> int:
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


class Positioned(Protocol):
    """Anything that has a position in the file; both count from 1."""

    @property
    def line(self) -> int: ...

    @property
    def column(self) -> int: ...


class Place(NamedTuple):
    """A position; both count from 1."""

    line: int
    column: int


def place(text: str, offset: int) -> Place:
    """The position of that character of the text."""
    lines = _BREAKS.split(text[:offset])
    return Place(len(lines), len(lines[-1]) + 1)


class Report:
    """Collects the faults and warnings of one file. Faults are told once however often they are added."""

    def __init__(self, file: str, text: str) -> None:
        self.file = file
        self.lines = _BREAKS.split(text)
        self._found: Dict[Tuple[int, int, str], Fault] = {}
        #: severity -> how many are kept, and how many more there were
        self._kept: Dict[str, int] = {}
        self._more: Dict[str, int] = {}
        self._searches = 0

    def add(
        self,
        at: Positioned,
        message: str,
        *,
        offset: int = 0,
        value: Optional[str] = None,
        expected: Optional[str] = None,
        suggestion: Union[str, Callable[[], Optional[str]], None] = None,
        severity: str = "error",
    ) -> None:
        """Take in a fault at that place, `offset` characters further on.

        A suggestion that takes a search may be given as a function: a file full of faults costs only so many searches.
        """
        line, column = max(at.line, 1), max(at.column, 1) + offset
        key = (line, column, message)
        if key in self._found:
            return
        if self._kept.get(severity, 0) >= 10 * MOST:
            self._more[severity] = self._more.get(severity, 0) + 1
            return
        self._kept[severity] = self._kept.get(severity, 0) + 1
        source = self.lines[line - 1] if line <= len(self.lines) else ""
        if callable(suggestion):
            self._searches += 1
            suggestion = suggestion() if self._searches <= MOST else None
        fault = Fault(self.file, line, column, message, source, value, expected, suggestion, severity)
        self._found[key] = fault

    def warn(self, at: Positioned, message: str, *, offset: int = 0, expected: Optional[str] = None) -> None:
        """Take in a warning."""
        self.add(at, message, offset=offset, expected=expected, severity="warning")

    def inside(self, at: Positioned, text: str) -> Optional[int]:
        """How far the text of a scalar begins behind its position; None where it is not written as it reads."""
        line = self.lines[at.line - 1] if at.line <= len(self.lines) else ""
        for quote in (0, 1):
            if line.startswith(text, at.column - 1 + quote):
                return quote
        return None

    def _first(self, severity: str) -> Tuple[Fault, ...]:
        """Those of that severity in file order; where there are more than MOST, the last one says how many are left out."""
        found = [fault for fault in self._found.values() if fault.severity == severity]
        found.sort(key=lambda fault: (fault.line, fault.column))
        left = len(found) - MOST + self._more.get(severity, 0)
        if left <= 0:
            return tuple(found)
        last = found[MOST - 1]
        what = "faults" if severity == "error" else "warnings"
        message = f"and {left} more {what} from here on"
        also = Fault(self.file, last.line, last.column, message, last.source, severity=severity)
        return (*found[:MOST], also)

    @property
    def faults(self) -> Tuple[Fault, ...]:
        """The faults in file order; where there are more than MOST, the last one says how many are left out."""
        return self._first("error")

    @property
    def warnings(self) -> Tuple[Fault, ...]:
        """The warnings, as `faults`."""
        return self._first("warning")
