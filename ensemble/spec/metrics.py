# SPDX-License-Identifier: MIT
"""Metric paths: which statistic of what a rule reads.

count.<group>.<state>
<stat>.<group>[.success|failed|finished].<duration|pending|waiting>
<stat>.<group>-duration, <stat>.<group>-pending        (as ensemble-python spells them)
ensemble.<active|submitted|elapsed>
"""

from __future__ import annotations

import difflib
import re
from typing import Collection, Iterable, NamedTuple, Optional

from ensemble.spec.models import COUNTS

STATS = ("n", "last", "sum", "mean", "variance", "std", "sem", "min", "max", "iqr", "mad", "median", "ewm")
_QUANTILE = re.compile(r"p(0[1-9]|[1-9][0-9])")
END_KINDS = ("success", "failed", "finished")
#: of every group. `wait` is the predecessor's `-pending`: final waits, and ages of the pending at each heartbeat
VARIABLES = ("duration", "pending", "waiting")
LEGACY_PENDING = "-pending"
OF_ENSEMBLE = ("active", "submitted", "elapsed")
#: groups of metrics that a later release carries out
NOT_YET = ("queue", "nodes", "cores", "var")


class PathError(ValueError):
    """A path that names nothing. `offset` is where in the path the fault lies, `suggestion` a nearby word or None."""

    def __init__(self, message: str, offset: int = 0, suggestion: Optional[str] = None) -> None:
        super().__init__(message)
        self.offset = offset
        self.suggestion = suggestion


class Metric(NamedTuple):
    """What a path names.

    `stat` is `count`, `ensemble`, or a statistic. For `count`, `state` is one of COUNTS and `variable` is ''. For a
    statistic, `state` is success, failed or finished ('' for waiting and LEGACY_PENDING, which have none). For
    `ensemble`, `group` and `state` are ''.
    """

    stat: str
    group: str
    state: str
    variable: str

    def __str__(self) -> str:
        if self.stat == "ensemble":
            return f"ensemble.{self.variable}"
        if self.variable == LEGACY_PENDING:
            return f"{self.stat}.{self.group}-pending"
        return ".".join(part for part in (self.stat, self.group, self.state, self.variable) if part)


def is_stat(word: str) -> bool:
    """Is it the name of a statistic: one of STATS, or p01 to p99?"""
    return word in STATS or bool(_QUANTILE.fullmatch(word))


def nearest(word: str, known: Iterable[str]) -> Optional[str]:
    """The known word that was probably meant, or None."""
    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return found[0] if found else None


def parse(path: str, groups: Collection[str]) -> Metric:
    """The metric that `path` names in a file with these groups. Raises PathError."""
    parts = path.strip().split(".")
    first = parts[0]
    if first in NOT_YET:
        raise PathError(f"metrics of '{first}' are not supported yet", 0)
    if first == "ensemble":
        if len(parts) != 2 or parts[1] not in OF_ENSEMBLE:
            raise PathError(
                f"expected ensemble.{{{','.join(OF_ENSEMBLE)}}}",
                len(first) + 1,
                nearest(parts[-1], OF_ENSEMBLE),
            )
        return Metric("ensemble", "", "", parts[1])
    if first != "count" and not is_stat(first):
        raise PathError(
            f"'{first}' is no statistic; expected count, {', '.join(STATS)}, p01 to p99, or ensemble",
            0,
            nearest(first, ("count", "ensemble", *STATS)),
        )
    if len(parts) < 2:
        raise PathError(f"expected a group after '{first}', as in {first}.GROUP.success", len(first))
    if first == "count":
        group = _group(parts[1], groups, len(first) + 1)
        offset = len(first) + len(group) + 2
        if len(parts) != 3 or parts[2] not in COUNTS:
            word = parts[2] if len(parts) > 2 else ""
            raise PathError(
                f"expected count.{group}.STATE with STATE one of {', '.join(COUNTS)}",
                min(offset, len(path)),
                nearest(word, COUNTS),
            )
        return Metric("count", group, parts[2], "")
    if len(parts) == 2:
        for suffix in ("-duration", "-pending"):
            if parts[1].endswith(suffix) and parts[1][: -len(suffix)] in groups:
                legacy = suffix == LEGACY_PENDING
                return Metric(
                    first, parts[1][: -len(suffix)], "" if legacy else "success", suffix if legacy else "duration"
                )
    group = _group(parts[1], groups, len(first) + 1)
    offset = len(first) + len(group) + 2
    state, variable = ("success", parts[2]) if len(parts) == 3 else (parts[2:4] + ["", ""])[:2]
    if len(parts) == 4 and state not in END_KINDS:
        raise PathError(f"expected one of {', '.join(END_KINDS)}, not '{state}'", offset, nearest(state, END_KINDS))
    if len(parts) not in (3, 4) or variable not in VARIABLES:
        raise PathError(
            f"expected {first}.{group}.VARIABLE with VARIABLE one of {', '.join(VARIABLES)}",
            min(offset, len(path)),
            nearest(parts[-1], VARIABLES) if len(parts) > 2 else None,
        )
    if variable == "waiting":
        if len(parts) == 4:
            raise PathError("jobs that wait have no end state: leave it out", offset)
        state = ""
    return Metric(first, group, state, variable)


def _group(word: str, groups: Collection[str], offset: int) -> str:
    if word not in groups:
        raise PathError(
            f"no group is called '{word}'; the groups are {', '.join(groups)}", offset, nearest(word, groups)
        )
    return word
