# SPDX-License-Identifier: MIT
"""What looks like an accident in a file that may run all the same.

Law of this file: a warning is true, and rare in files that work. What looks odd but is often meant stays untold.
"""

from __future__ import annotations

import math
from typing import Dict, List, Optional, Set, Tuple

from ensemble.spec import futile, loops, metrics
from ensemble.spec.expression import Expression
from ensemble.spec.faults import Report
from ensemble.spec.models import Rule, Spec
from ensemble.spec.reach import Reach
from ensemble.spec.reader import Node

_ENDING = frozenset(("stop", "terminate"))


def advise(spec: Spec, root: Node, report: Report) -> None:
    """Warn of what looks like an accident. The spec has no faults."""
    _Advice(spec, root, report).run()


class _Advice:
    def __init__(self, spec: Spec, root: Node, report: Report) -> None:
        self._spec = spec
        self._groups = spec.groups
        self._root = root
        self._report = report
        self._reach = Reach(spec)
        self._ends = {f"{rule.algorithm}-done" for rule in spec.rules if rule.algorithm is not None}
        rules = root.get("rules")
        self._nodes: Tuple[Node, ...] = rules.items if rules is not None else ()
        #: group -> how often rules may submit it; infinity where a rule has no end
        self._submitted: Dict[str, float] = {}
        for rule in spec.rules:
            times = math.inf if rule.repetitions is None else rule.repetitions
            for group in _groups(rule):
                self._submitted[group] = self._submitted.get(group, 0) + (1 if rule.trigger == "start" else times)

        #: groups whose jobs may have a time limit
        self._limited: Set[Optional[str]] = {
            jobs.name for jobs in spec.jobs if jobs.duration or any(key.endswith("duration") for key in jobs.attributes)
        }
        for rule in spec.rules:
            self._limited.update(action.label for action in rule.actions if action.duration is not None)

    def run(self) -> None:
        futile.tell(self._spec, self._root, self._reach, self._report)
        for number, (node, rule) in enumerate(zip(self._nodes, self._spec.rules)):
            self._once(node, rule)
            self._equality(number, node, rule)
            self._timeouts(number, node, rule)
            self._actions(node, rule)
        loops.tell(self._spec, self._root, self._reach, self._report)

    def _once(self, node: Node, rule: Rule) -> None:
        """A rule whose trigger comes again and again, and that fires once because nothing else was said."""
        if "repetitions" in node.value or all(action.name in _ENDING for action in rule.actions):
            return
        if rule.trigger in ("heartbeat", "report", "signal"):
            # that of an algorithm that has come to its end comes once
            again = rule.trigger != "signal" or rule.name not in self._ends
        elif rule.trigger == "group-complete":
            again = len(self._submitted) > 1 if rule.name is None else self._submitted.get(rule.name, 0) > 1
        else:
            return
        if again:
            message = f"this rule fires once, on the first {rule.trigger}"
            self._report.warn(
                node.get("trigger") or node,
                message,
                expected="repetitions, a number or unlimited, or 1 if once is meant",
            )

    def _equality(self, number: int, node: Node, rule: Rule) -> None:
        """A measured time that is compared for equality."""
        if rule.when is None:
            return
        compiled = self._reach.compiled[number]
        pairs: List[Tuple[str, metrics.Metric, float]] = []
        if isinstance(compiled, Expression):
            pairs = [(one.path, one.metric, one.number) for one in compiled.equalities if one.sign == "=="]
        elif compiled is not None and compiled.op == "==":
            pairs = [(rule.name or "", metrics.parse(rule.name or "", self._groups), compiled.number)]
        for path, metric, told in pairs:
            if not _whole(metric):
                message = f"{path} is a measured time, which hardly ever equals {told:g}"
                expected = f'a comparator, as in "> {told:g}"'
                self._report.warn(node.get("when") or node, message, expected=expected)

    def _timeouts(self, number: int, node: Node, rule: Rule) -> None:
        """A rule that waits for time limits that no job has."""
        if self._reach.anything or number not in self._reach.fires:
            return
        groups = [rule.name or ""] if rule.trigger == "job-timeout" else []
        term = self._reach.conditions[number]
        reads = [part.read.metric for part in term.walk() if part.read is not None] if term is not None else []
        if rule.trigger == "metric":
            reads.append(metrics.parse(rule.name or "", self._groups))
        groups += [metric.group for metric in reads if metric is not None and metric[::2] == ("count", "timeout")]
        for group in dict.fromkeys(groups):
            if group not in self._limited if group else not self._limited:
                which = f"no job of '{group}'" if group else "no job"
                message = f"{which} has a time limit, so that none times out unless its queue sets one"
                at = node.get("name" if group and rule.name is not None else "trigger") or node
                self._report.warn(at, message, expected="duration with the group")
                return

    def _actions(self, node: Node, rule: Rule) -> None:
        actions = node.get("actions")
        for place, action in zip(actions.items if actions is not None else (), rule.actions):
            if action.name == "kill" and action.state == "pending":
                self._report.warn(place.get("state") or place, "a pending job has no process that a signal could reach")


def _groups(rule: Rule) -> List[str]:
    """The groups that it submits."""
    return [action.label for action in rule.actions if action.name == "submit" and action.label is not None]


def _whole(metric: metrics.Metric) -> bool:
    """Is it counted, set by the file's own rules, or reported by jobs, and no measured time?"""
    counted = metric.stat in ("count", "n", "var") or (metric.stat == "ensemble" and metric.variable != "elapsed")
    return counted or metric.reported
