# SPDX-License-Identifier: MIT
"""Metric paths: which statistic of what a rule reads.

count.<group>.<state>
<stat>.<group>[.success|failed|finished].<duration|pending|waiting>
<stat>.<group>[.success|failed|finished].<a variable that jobs report>
<stat>.<group>-duration, <stat>.<group>-pending        (as ensemble-python spells them)
ensemble.<active|submitted|elapsed>
queue.<pending|running>, nodes.<up|down|free|allocated>, cores.<the same>
var.<name>                                             (a variable; it counts as a metric, since rules read it alike)
"""

from __future__ import annotations

import re
from typing import Collection, List, NamedTuple, Optional

from ensemble.spec.faults import listed, nearest, shown
from ensemble.spec.models import COUNTS, NAME, RESERVED
from ensemble.spec.reports import OF_JOBS

STATS = ("n", "last", "sum", "mean", "variance", "std", "sem", "min", "max", "iqr", "mad", "median", "ewm")
_QUANTILE = re.compile(r"p(0[1-9]|[1-9][0-9])")
END_KINDS = ("success", "failed", "finished")
#: of every group. `wait` is the predecessor's `-pending`: final waits, and ages of the pending at each heartbeat
VARIABLES = OF_JOBS
LEGACY_PENDING = "-pending"
OF_ENSEMBLE = ("active", "submitted", "elapsed")
_OF_NODES = ("up", "down", "free", "allocated")
#: what the queue as a whole has, whoever uses it
OF_QUEUE = {"queue": ("pending", "running"), "nodes": _OF_NODES, "cores": _OF_NODES}
#: of no group of jobs
GROUPLESS = ("ensemble", "var", *OF_QUEUE)


class PathError(ValueError):
    """A path that names nothing.

    `message` says what is wrong, `expected` what would be right ('' where nothing would), `offset` where in the path
    the fault lies.
    """

    def __init__(
        self, message: str, offset: int = 0, expected: str = "", word: str = "", known: Collection[str] = ()
    ) -> None:
        super().__init__(f"{message}; expected {expected}" if expected else message)
        self.message = message
        self.expected = expected
        self.offset = offset
        self.word = word
        self.known = known

    @property
    def suggestion(self) -> Optional[str]:
        """The known word that was probably meant, or None. It is searched for here, since that takes its time."""
        return nearest(self.word, self.known) if self.word else None


class Metric(NamedTuple):
    """What a path names.

    `stat` is `count`, one of GROUPLESS, or a statistic. For `count`, `state` is one of COUNTS and `variable` is ''. For
    a statistic, `state` is success, failed or finished; it is '' for waiting and LEGACY_PENDING, which have none, and
    for a reported variable that is fed at every report (with a state: once a job, at its end). For those of GROUPLESS,
    `group` and `state` are ''; the `variable` of `var` is the name of a variable.
    """

    stat: str
    group: str
    state: str
    variable: str

    def __str__(self) -> str:
        if self.variable == LEGACY_PENDING:
            return f"{self.stat}.{self.group}-pending"
        return ".".join(part for part in (self.stat, self.group, self.state, self.variable) if part)

    @property
    def reported(self) -> bool:
        """Is it a statistic of a variable that jobs report?"""
        return self.stat != "count" and self.stat not in GROUPLESS and self.variable not in (*VARIABLES, LEGACY_PENDING)


def is_stat(word: str) -> bool:
    """Is it the name of a statistic: one of STATS, or p01 to p99?"""
    return word in STATS or bool(_QUANTILE.fullmatch(word))


def parse(path: str, groups: Collection[str]) -> Metric:
    """The metric that `path` names in a file with these groups. Raises PathError."""
    parts = path.split(".")
    first = parts[0]
    if first == "ensemble":
        return Metric("ensemble", "", "", _word(parts, 1, OF_ENSEMBLE, "ensemble"))
    if first in OF_QUEUE:
        return Metric(first, "", "", _word(parts, 1, OF_QUEUE[first], first))
    if first == "var":
        return Metric("var", "", "", _variable(parts))
    if first == "event":
        raise PathError("an event is no metric", 0, "event.* in expressions and log lines alone")
    if first != "count" and not is_stat(first):
        known = ("count", *STATS, *GROUPLESS, "event")
        expected = f"one of {', '.join(STATS)}, p01 to p99, count, {', '.join(GROUPLESS[:-1])}, or {GROUPLESS[-1]}"
        raise PathError(f"no statistic is called {shown(first)}", 0, expected, first, known)
    if len(parts) < 2:
        raise PathError(f"the path ends behind '{first}'", len(path), f"a group, as in {first}.GROUP.{_last(first)}")
    if len(parts) == 2 and first != "count":
        for suffix, state, variable in (("-duration", "success", "duration"), ("-pending", "", LEGACY_PENDING)):
            if parts[1].endswith(suffix) and parts[1][: -len(suffix)] in groups:
                return Metric(first, parts[1][: -len(suffix)], state, variable)
    group = parts[1]
    if group not in groups:
        known_groups = list(groups)
        expected = f"one of {listed(known_groups)}"
        raise PathError(f"no group is called {shown(group)}", len(first) + 1, expected, group, known_groups)
    if first == "count":
        return Metric("count", group, _word(parts, 2, COUNTS, f"count.{group}"), "")
    state = parts[2] if len(parts) > 2 and parts[2] in END_KINDS else ""
    if len(parts) == 4 and not state:
        offset = len(first) + len(group) + 2
        expected = f"one of {', '.join(END_KINDS)}"
        raise PathError(f"no end of a job is called {shown(parts[2])}", offset, expected, parts[2], END_KINDS)
    variable = _reported(parts, 3 if state else 2)
    if variable == "waiting":
        if state:
            offset = len(first) + len(group) + 2
            raise PathError("jobs that wait have not ended", offset, f"{first}.{group}.waiting")
        return Metric(first, group, "", variable)
    if variable not in VARIABLES:
        return Metric(first, group, state, variable)
    return Metric(first, group, state or "success", variable)


def _variable(parts: List[str]) -> str:
    """The name of a variable, the only word behind `var`. Raises PathError."""
    if len(parts) < 2 or not NAME.fullmatch(parts[1]):
        raise PathError(
            "the path ends behind 'var'" if len(parts) < 2 else f"no variable can be called {shown(parts[1])}",
            3 if len(parts) < 2 else 4,
            "a variable's name, as in var.n",
        )
    if dunder(parts[1]):
        raise PathError(f"no variable can be called {shown(parts[1])}", 4, "a name without __ at both ends")
    if len(parts) > 2:
        raise PathError(f"the path goes on behind 'var.{parts[1]}'", 4 + len(parts[1]), f"var.{parts[1]}")
    return parts[1]


def dunder(name: str) -> bool:
    """Is it a name of the kind that Python keeps for itself?"""
    return name.startswith("__") and name.endswith("__")


def _last(first: str) -> str:
    return "success" if first == "count" else "duration"


def _reported(parts: List[str], at: int) -> str:
    """The variable at that index. Raises PathError if it is missing, no name, or not last."""
    name = parts[at] if len(parts) > at else ""
    if NAME.fullmatch(name) and name not in RESERVED and len(parts) == at + 1:
        return name
    return _word(parts, at, VARIABLES, ".".join(parts[:at]))


def _word(parts: List[str], at: int, known: Collection[str], before: str) -> str:
    """The last word of a path, which stands at that index. Raises PathError if it is missing, unknown, or not last."""
    offset = len(".".join(parts[:at]))
    expected = f"one of {', '.join(known)}"
    if len(parts) <= at:
        raise PathError(f"the path ends behind '{before}'", offset, expected)
    if parts[at] not in known:
        raise PathError(f"{before} has no {shown(parts[at])}", offset + 1, expected, parts[at], known)
    if len(parts) > at + 1:
        end = len(".".join(parts[: at + 1]))
        raise PathError(f"the path goes on behind '{before}.{parts[at]}'", end, f"{before}.{parts[at]}")
    return parts[at]
