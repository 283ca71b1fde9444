# SPDX-License-Identifier: MIT
"""What the paths of a rule may be, where it is known how many jobs a group may have and what variables may be.

Law of this file: every value that there may be lies in the range (`ranges`); `why` says where a bound comes from. What is
known of events is known of all queues: an exit code of a success is 0, whoever ran the job.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Dict, FrozenSet, List, Optional, Tuple

from ensemble.spec import happening, metrics
from ensemble.spec.expression import Read
from ensemble.spec.faults import listed
from ensemble.spec.metrics import Metric
from ensemble.spec.models import END_STATES, JOB_TRIGGERS, Rule
from ensemble.spec.ranges import ANYTHING, COUNT, NOTHING, NUMBER, POSITIVE, TEXT, Range, Scope, Unknown, exactly

if TYPE_CHECKING:
    from ensemble.spec.reach import Reach

#: statistics that need two values, and those that are estimated, so that their signs are not sure
_OF_TWO, _ESTIMATED = ("variance", "std", "sem"), ("iqr", "mad")


class RuleScope:
    """What a rule may read: `ranges.Scope`."""

    def __init__(self, reach: Reach, rule: Rule, anywhere: bool = False) -> None:
        self._reach = reach
        self._rule = rule
        #: nothing is known of how many jobs there may be
        self._anywhere = anywhere

    def wider(self) -> Scope:
        """What paths may be however many jobs there may be; behind that, anything."""
        return Unknown() if self._anywhere else RuleScope(self._reach, self._rule, True)

    def of(self, read: Read) -> Range:
        """The values that a path may have."""
        if read.metric is not None:
            return self._metric(read.metric)
        return _event(read.event or (), self._rule, self._reach)

    def _metric(self, metric: Metric) -> Range:
        reach, stat = self._reach, metric.stat
        if stat == "var":
            return ANYTHING if reach.anything else reach.variables.get(metric.variable, NOTHING)
        if self._anywhere and stat not in ("ensemble", *metrics.OF_QUEUE):
            return _statistic(metric, math.inf)
        if stat == "ensemble":
            most = sum(reach.jobs.values())
            if metric.variable == "elapsed":
                return POSITIVE
            if self._anywhere:
                return COUNT
            # attempts are submissions, too
            return Range(0.0, most if metric.variable == "active" or not most else math.inf)
        if stat in metrics.OF_QUEUE:
            return COUNT
        most = reach.jobs[metric.group]
        if self._rule.trigger == "start" and (stat, metric.state) != ("count", "active"):
            most = 0.0
        if (stat, metric.state) == ("count", "retried") and not reach.retried(metric.group):
            return exactly(0)
        return _statistic(metric, most)

    def why(self, read: Read) -> str:
        """Why a path is bounded so; a sentence without an end, '' where that is plain."""
        found = self.of(read)
        if read.metric is None:
            return (
                f"on {self._rule.trigger} it is {_words(found)}"
                if not found.empty
                else f"a rule on {self._rule.trigger} has none"
            )
        metric = read.metric
        if metric.stat == "var":
            return f"it is {_words(found)}" if not found.empty else "no rule that fires gives it a value"
        if metric.stat in metrics.GROUPLESS or self._anywhere:
            return f"it is {_words(found)}"
        most = self._reach.jobs[metric.group]
        if not most:
            return f"no job of '{metric.group}' is ever submitted"
        if self._rule.trigger == "start":
            return "at the start no job has run"
        if found.empty:
            return f"it takes two jobs, and only one of '{metric.group}' is ever submitted"
        if metric.state == "retried" and found.high == 0:
            return f"no job of '{metric.group}' is ever tried again"
        if found.high < math.inf:
            return f"at most {_jobs(most)} of '{metric.group}' {'is' if most == 1 else 'are'} ever submitted"
        return f"it is {_words(found)}"


def _statistic(metric: Metric, most: float) -> Range:
    """What a count or statistic of a group that has at most so many jobs may be."""
    # fed again and again, by reports, or by heartbeats
    often = metric.variable == metrics.LEGACY_PENDING or (metric.reported and not metric.state)
    if metric.stat in ("count", "n"):
        endless = most and (metric.state == "retried" or often)
        return Range(0.0, math.inf if endless else most)
    if not most or (metric.stat in _OF_TWO and most < 2 and not often):
        return NOTHING
    if metric.stat in _ESTIMATED or (metric.reported and metric.stat not in _OF_TWO):
        return NUMBER
    return POSITIVE


def _event(words: Tuple[str, ...], rule: Rule, reach: Reach) -> Range:
    """What a part of the event may be."""
    trigger, first = rule.trigger, words[:1]
    if first == ("job",) and len(words) == 2:
        return _job(words[1], trigger)
    if first == ("group",):
        group = about(rule)
        return exactly(group) if group else Range(texts=frozenset(reach.groups))
    if first == ("state",):
        return exactly(rule.name) if rule.name else Range(texts=frozenset(END_STATES))
    if first == ("name",):
        named = (rule.name or "").partition(".")[2] if trigger == "report" else rule.name
        return exactly(named) if named and rule.topic is None else TEXT
    if first == ("ranks",):
        return TEXT
    if first == ("value",):
        if trigger == "report":
            return NUMBER
        metric = metrics.parse(rule.name or "", reach.groups)
        return RuleScope(reach, rule).of(Read(0, str(metric), metric, None, None))
    return ANYTHING


def _job(word: str, trigger: str) -> Range:
    if word in ("id", "attempt"):
        return COUNT
    if word == "exit_code":
        return exactly(0) if trigger == "job-success" else Range(0.0, 255.0)
    if word == "signal":
        return NOTHING if trigger == "job-success" else Range(1.0, 127.0)
    if word == "cause":
        return Range(texts=_CAUSES.get(trigger, frozenset(happening.AMONG["job", "cause"])))
    return TEXT


#: the causes that an end of that kind may have
_CAUSES: Dict[str, FrozenSet[str]] = {
    "job-success": frozenset(),
    "job-timeout": frozenset(("timeout",)),
    "job-cancel": frozenset(("cancel", "in-doubt")),
    "job-fail": frozenset(happening.AMONG["job", "cause"]) - {"cancel"},
}


def about(rule: Rule) -> Optional[str]:
    """The group whose jobs the rule waits for, '' for any; None where it waits for none."""
    if rule.trigger in JOB_TRIGGERS or rule.trigger == "group-complete":
        return rule.name or ""
    return (rule.name or "").partition(".")[0] if rule.trigger == "report" else None


def _words(found: Range) -> str:
    """What a range has in it, for people."""
    told: List[str] = []
    if found.numeric:
        kind = "a whole number" if found.whole else "a number"
        if found.low == found.high:
            told.append(f"{found.low:.12g}")
        elif found.low == -math.inf:
            told.append(f"{kind} up to {found.high:.12g}" if found.high < math.inf else kind)
        else:
            told.append(f"{kind} from {found.low:.12g} {'on' if found.high == math.inf else f'to {found.high:.12g}'}")
    if found.texts is None:
        told.append("a string")
    elif found.texts:
        told.append(listed([repr(text) for text in sorted(found.texts)], 5))
    if found.truths:
        told.append(" or ".join("true" if one else "false" for one in sorted(found.truths, reverse=True)))
    return f"{'' if found.lone is None else 'always '}{' or '.join(told)}"


def _jobs(number: float) -> str:
    return f"{number:.0f} job{'' if number == 1 else 's'}"
