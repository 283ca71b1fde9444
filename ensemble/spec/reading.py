# SPDX-License-Identifier: MIT
"""What the rules of a file compute, and what they read for it.

Law of this file: one place knows which texts of a rule are expressions. A numeric key of an action whose value is a
string is one. The value of `set` is one unless it is a single word, which means itself; quotes inside it make any text
a string.
"""

from __future__ import annotations

import re
from typing import Any, Collection, Iterator, Optional, Tuple

from ensemble.spec import condition, expression
from ensemble.spec.expression import Read
from ensemble.spec.metrics import Metric, PathError, parse
from ensemble.spec.models import NAME, NUMBERS, Action, Rule

#: a path in the braces of a `log` line; braces around anything else stay as they are
BRACES = re.compile(r"\{([A-Za-z_][A-Za-z0-9_-]*\.[A-Za-z0-9_.-]*)\}")
#: these are no texts where they stand alone
_NO_TEXT = ("true", "false", "and", "or", "not")


def log_paths(line: str) -> Iterator[Tuple[int, str]]:
    """The paths in the braces of a `log` line, each with its offset."""
    for match in BRACES.finditer(line):
        yield match.start(1), match.group(1)


def set_text(value: Any) -> Optional[str]:
    """The expression behind a `set`; None where its value means itself."""
    if not isinstance(value, str) or (NAME.fullmatch(value) and value not in _NO_TEXT):
        return None
    return value


def texts(action: Action) -> Iterator[Tuple[str, str]]:
    """The expressions of an action: key and text."""
    for key in NUMBERS.get(action.name, ()):
        value = getattr(action, key)
        if isinstance(value, str):
            yield key, value
    text = set_text(action.value) if action.name == "set" else None
    if text is not None:
        yield "value", text


def wakes(rule: Rule, groups: Collection[str]) -> Tuple[Metric, ...]:
    """The metrics whose change gives the rule an occasion; none for a rule on another trigger."""
    if rule.trigger != "metric":
        return ()
    own = parse(rule.name or "", groups)
    return tuple(dict.fromkeys((own, *_condition(rule, groups))))


def looks(rule: Rule, groups: Collection[str]) -> Iterator[Metric]:
    """The metrics that it reads when something else wakes it: in its condition, its actions, its `log` lines."""
    if rule.trigger != "metric":
        yield from _condition(rule, groups)
    for action in rule.actions:
        for _, text in texts(action):
            yield from expression.compile(text, groups).metrics
        for read in log_reads(action, groups):
            if read.metric is not None:
                yield read.metric


def log_reads(action: Action, groups: Collection[str]) -> Iterator[Read]:
    """What a `log` line shows. A path that names nothing is left out: it stays as it is."""
    if action.name == "log":
        for offset, path in log_paths(str(action.value)):
            try:
                yield expression.resolve(path, groups, offset=offset)
            except PathError:
                continue


def _condition(rule: Rule, groups: Collection[str]) -> Collection[Metric]:
    return condition.metrics_of(condition.compile(rule.when, groups, rule.trigger, rule.name))
