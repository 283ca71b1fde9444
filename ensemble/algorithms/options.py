# SPDX-License-Identifier: MIT
"""The options of an algorithm: what may stand beside its name in a file, and whether a value is one of it.

Law of this file: standard library only; it looks at values, never at the file. What is wrong is told as a `Wrong`, which
says which option, and what would be right; the place in the file is found by who has read the file.
"""

from __future__ import annotations

import math
import re
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

#: stands for "there is no default"
REQUIRED = object()
#: the kinds of options, as messages name them
KINDS = {
    "integer": "a whole number",
    "number": "a number",
    "string": "a string",
    "duration": "a duration such as 30s or 5m, or a number of seconds",
    "boolean": "true or false",
    "choice": "a word",
    "bounds": "two numbers, [low, high]",
    "variable": "a variable that the group's jobs report",
    "parameter": "the name of a parameter",
}

#: how a duration may be written, as everywhere in a file
_DURATION = re.compile(r"((?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)(ms|s|m|h|d)?", re.ASCII)
_UNITS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_LONGEST = 1e9


class Option(NamedTuple):
    """One option."""

    name: str
    #: one of KINDS
    kind: str
    #: what it says, in a few words
    description: str
    #: without one it must be given
    default: Any = REQUIRED
    #: bounds of a number, included
    low: Optional[float] = None
    high: Optional[float] = None
    #: low is no value itself
    above: bool = False
    #: words of a choice; of a variable, what is known of every job without being reported
    words: Tuple[str, ...] = ()
    #: another name for it
    alias: Optional[str] = None

    @property
    def required(self) -> bool:
        return self.default is REQUIRED


class Wrong(NamedTuple):
    """One fault of the options."""

    #: as the file writes it; '' is the algorithm as a whole
    option: str
    message: str
    expected: Optional[str] = None
    known: Tuple[str, ...] = ()
    value: Any = None


def check(
    options: Sequence[Option], given: Mapping[str, Any], of: str, variables: Optional[Sequence[str]]
) -> Tuple[Dict[str, Any], List[Wrong]]:
    """The value of each option, and what is wrong. `of` names the algorithm in messages.

    `variables` are those that the group declares; None where its `metrics` could not be read.
    """
    names = {option.name: option for option in options}
    names.update({option.alias: option for option in options if option.alias is not None})
    found: Dict[str, Any] = {}
    wrong: List[Wrong] = []
    for word, value in given.items():
        option = names.get(word)
        if option is None:
            words = tuple(one.name for one in options)
            expected = f"one of {', '.join(words)}" if words else "no such key"
            wrong.append(Wrong(word, f"{of} has no option '{word[:60]}'", expected, words, word))
            continue
        if option.name in found:
            wrong.append(Wrong(word, f"{option.name} and {option.alias} are the same option", "one of them"))
            continue
        try:
            found[option.name] = _value(option, value, variables)
        except _Unfit as exc:
            found[option.name] = None
            wrong.append(Wrong(word, exc.message(word, value), exc.expected, exc.known, _shown(value)))
    for option in options:
        if option.name in found:
            continue
        if not option.required:
            found[option.name] = option.default
            continue
        unknown = [one.option for one in wrong if one.known and one.option not in names]
        if not any(_alike(word, option.name) for word in unknown):
            wrong.append(Wrong("", f"{of} has no {option.name}", f"{option.name}: {option.description}"))
    return found, wrong


class _Unfit(Exception):
    def __init__(self, expected: str, known: Sequence[str] = (), message: Optional[str] = None) -> None:
        super().__init__(expected)
        self.expected, self.known, self._message = expected, tuple(known), message

    def message(self, word: str, value: Any) -> str:
        return self._message or f"{word} cannot be {_shown(value)!r}"


def _shown(value: Any) -> str:
    if isinstance(value, (dict, list)):
        return "a mapping" if isinstance(value, dict) else "a list"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)[:60]


def _alike(word: str, name: str) -> bool:
    import difflib

    return bool(difflib.get_close_matches(word.lower(), [name], n=1, cutoff=0.6))


def _value(option: Option, value: Any, variables: Optional[Sequence[str]]) -> Any:
    kind = option.kind
    if kind == "boolean":
        if not isinstance(value, bool):
            raise _Unfit(KINDS[kind])
        return value
    if kind in ("integer", "number"):
        return _number(option, value)
    if kind == "duration":
        return _seconds(option, value)
    if kind == "bounds":
        if not isinstance(value, list) or len(value) != 2 or not all(map(_is_number, value)):
            raise _Unfit(KINDS[kind])
        low, high = (_plain(one) for one in value)
        if not math.isfinite(high - low):
            raise _Unfit("ends whose difference is a number", message=f"{low} and {high} are too far apart")
        if not low < high:
            raise _Unfit("[low, high], the smaller one first", message=f"{low} is not below {high}")
        return [low, high]
    if not isinstance(value, str) or not value.strip():
        raise _Unfit(f"one of {', '.join(option.words)}" if option.words else KINDS[kind])
    if kind == "choice" and value not in option.words:
        raise _Unfit(f"one of {', '.join(option.words)}", option.words)
    if kind == "variable" and variables is not None and value not in variables and value not in option.words:
        known = (*variables, *option.words)
        expected = f"one of {', '.join(known)}" if known else "a variable under metrics of the group, such as loss: {}"
        raise _Unfit(expected, known, f"the group declares no variable '{value[:60]}'")
    if kind == "parameter" and not (value.isidentifier() and value.isascii()):
        raise _Unfit("the name of a parameter: letters, digits and _, not first a digit")
    return str(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _plain(value: Any) -> Any:
    """Without what a file's reader remembers of a number."""
    return int(value) if isinstance(value, int) else float(value)


def _number(option: Option, value: Any) -> Any:
    expected = "a whole number" if option.kind == "integer" else "a number"
    if option.low is not None:
        expected += f" {'above' if option.above else 'from'} {option.low:g}"
    if option.high is not None:
        expected += f" {'up to' if option.low is not None else 'of at most'} {option.high:g}"
    if not _is_number(value) or (option.kind == "integer" and value != int(value)):
        raise _Unfit(expected)
    if option.low is not None and (value < option.low or (option.above and value == option.low)):
        raise _Unfit(expected)
    if option.high is not None and value > option.high:
        raise _Unfit(expected)
    return int(value) if option.kind == "integer" else _plain(value)


def _seconds(option: Option, value: Any) -> float:
    """Of a duration. `low` of the option is a number of seconds."""
    match = _DURATION.fullmatch(value.strip()) if isinstance(value, str) else None
    seconds = float(match[1]) * _UNITS[match[2] or ""] if match else float(value) if _is_number(value) else -1.0
    low = option.low or 0
    if not low <= seconds <= _LONGEST or (option.above and seconds == low):
        raise _Unfit(KINDS["duration"] + (f", above {low:g}" if option.above else ""))
    return seconds
