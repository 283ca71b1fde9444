# SPDX-License-Identifier: MIT
"""What looks like an accident in a file that may run all the same.

Law of this file: a warning is true, and rare in files that work. What looks odd but is often meant stays untold.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Collection, Dict, List, Optional, Set, Tuple

from ensemble.spec import condition, metrics, reading
from ensemble.spec.expression import Expression
from ensemble.spec.faults import Report, listed
from ensemble.spec.models import JOB_TRIGGERS, RESOURCE_TRIGGERS, Action, Rule, Spec
from ensemble.spec.reader import Node

#: triggers that fire of themselves
_FIRST = frozenset(("start", "enabled", "timer", "heartbeat", "idle", "signal", *RESOURCE_TRIGGERS))
#: these depend on how a job fares, so that a rule on one of them has a condition
_FATES = frozenset(("job-fail", "job-cancel", "job-timeout", "job-exception", "job-invalidate", "job-retry"))
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
        rules = root.get("rules")
        self._nodes: Tuple[Node, ...] = rules.items if rules is not None else ()
        #: group -> how often rules may submit it; infinity where a rule has no end
        self._submitted: Dict[str, float] = {}
        for rule in spec.rules:
            times = math.inf if rule.repetitions is None else rule.repetitions
            for group in _groups(rule):
                self._submitted[group] = self._submitted.get(group, 0) + (1 if rule.trigger == "start" else times)

    def run(self) -> None:
        # a function may submit whatever it likes
        if not self._spec.steered:
            self._never_submitted()
        for node, rule in zip(self._nodes, self._spec.rules):
            self._once(node, rule)
            self._equality(node, rule)
            self._actions(node, rule)
            if rule.repetitions == 0:
                self._report.warn(node.get("repetitions") or node, "this rule never fires")
        self._endless()

    def _never_submitted(self) -> None:
        jobs = self._root.get("jobs")
        told: Set[str] = set()
        for node, job in zip(jobs.items if jobs is not None else (), self._spec.jobs):
            if job.name not in self._submitted and job.name not in told:
                told.add(job.name)
                self._report.warn(node.get("name") or node, f"no rule submits the group '{job.name}'")
        begins = any(rule.trigger in _FIRST and _groups(rule) for rule in self._spec.rules)
        begins = begins or any(_begins(rule, self._groups) and _groups(rule) for rule in self._spec.rules)
        if self._submitted and not begins:
            message = "every rule that submits waits for something that jobs do, so no job is ever submitted"
            self._report.warn(self._root.key("rules"), message, expected="a rule on start that submits a group")

    def _once(self, node: Node, rule: Rule) -> None:
        """A rule whose trigger comes again and again, and that fires once because nothing else was said."""
        if "repetitions" in node.value or all(action.name in _ENDING for action in rule.actions):
            return
        if rule.trigger in ("heartbeat", "report", "signal"):
            again = True
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

    def _equality(self, node: Node, rule: Rule) -> None:
        """A measured time that is compared for equality."""
        if rule.when is None:
            return
        compiled = condition.compile(rule.when, self._groups, rule.trigger, rule.name)
        pairs: List[Tuple[str, metrics.Metric, float]] = []
        if isinstance(compiled, Expression):
            pairs = [(one.path, one.metric, one.number) for one in compiled.equalities if one.sign == "=="]
        elif compiled is not None and compiled.op == "==":
            pairs = [(rule.name or "", metrics.parse(rule.name or "", self._groups), compiled.number)]
        for path, metric, number in pairs:
            if not _whole(metric):
                message = f"{path} is a measured time, which hardly ever equals {number:g}"
                expected = f'a comparator, as in "> {number:g}"'
                self._report.warn(node.get("when") or node, message, expected=expected)

    def _actions(self, node: Node, rule: Rule) -> None:
        actions = node.get("actions")
        for place, action in zip(actions.items if actions is not None else (), rule.actions):
            if action.name == "kill" and action.state == "pending":
                self._report.warn(place.get("state") or place, "a pending job has no process that a signal could reach")

    def _endless(self) -> None:
        """Rules that have no end and, one by the other, submit for ever, in a file that says nowhere when to stop."""
        if self._spec.asks or any(_ends(action) for rule in self._spec.rules for action in rule.actions):
            return
        limits = self._root.get("limits")
        if limits is not None and limits.value:
            return
        edges: List[_Edge] = []
        for node, rule in zip(self._nodes, self._spec.rules):
            if rule.repetitions is not None:
                continue
            if rule.trigger == "heartbeat" and rule.when is None and _groups(rule):
                self._report.warn(
                    node.get("trigger") or node,
                    "this rule submits at every heartbeat and has no end",
                    expected=_A_LIMIT,
                )
                return
            source = _source(rule, self._groups)
            if source is not None:
                edges += [(source, group, node) for group in _groups(rule)]
        circle = _circle(edges)
        nodes = [node for _, _, node in circle if node is not None]
        if nodes:
            groups = sorted({group for _, group, _ in circle} - {_ANY})
            first = min(nodes, key=lambda node: (node.line, node.column))
            message = f"rules submit {listed(groups, 5)} again and again and have no end"
            self._report.warn(first.get("trigger") or first, message, expected=_A_LIMIT)


#: stands for every group
_ANY = ""
#: the group whose jobs make a rule fire, a group that it submits then, and the rule
_Edge = Tuple[str, str, Optional[Node]]
_A_LIMIT = "a number of repetitions, a condition, a rule that stops, or limits"


def _ends(action: Action) -> bool:
    return action.name in ("stop", "terminate", "disable", "custom")


def _groups(rule: Rule) -> List[str]:
    """The groups that it submits."""
    return [action.label for action in rule.actions if action.name == "submit" and action.label is not None]


def _whole(metric: metrics.Metric) -> bool:
    """Is it counted, set by the file's own rules, or reported by jobs, and no measured time?"""
    counted = metric.stat in ("count", "n", "var") or (metric.stat == "ensemble" and metric.variable != "elapsed")
    return counted or metric.reported


def _begins(rule: Rule, groups: Collection[str]) -> bool:
    """Can a rule on a metric fire before there is a job?"""
    return any(metric.stat in metrics.GROUPLESS for metric in reading.wakes(rule, groups))


def _source(rule: Rule, groups: Collection[str]) -> Optional[str]:
    """The group whose jobs make the rule fire, whatever becomes of them; _ANY, or None where it has a condition."""
    if rule.when is not None:
        return None
    if rule.trigger in JOB_TRIGGERS and rule.trigger not in _FATES:
        return rule.name or _ANY
    if rule.trigger == "group-complete":
        return rule.name or _ANY
    if rule.trigger == "idle":
        return _ANY
    if rule.trigger == "metric":
        metric = metrics.parse(rule.name or "", groups)
        # who sets a variable, and when, is the file's own plan
        return None if metric.stat == "var" else metric.group
    return None


def _circle(edges: List[_Edge]) -> List[_Edge]:
    """The edges, from a group to the group that is submitted then, that lie on circles or between two of them."""
    edges = list(edges)
    if any(source == _ANY for source, _, _ in edges):
        edges += [(target, _ANY, None) for target in {target for _, target, _ in edges}]
    for here, there in ((0, 1), (1, 0)):
        # what nothing leads to is on no circle, nor is what only that leads to; then the same from the other end
        leading = Counter(str(edge[there]) for edge in edges)
        leaving: Dict[str, List[_Edge]] = {}
        for edge in edges:
            leaving.setdefault(str(edge[here]), []).append(edge)
        free = [group for group in leaving if not leading[group]]
        while free:
            for edge in leaving.pop(free.pop()):
                leading[str(edge[there])] -= 1
                if not leading[str(edge[there])] and str(edge[there]) in leaving:
                    free.append(str(edge[there]))
        edges = [edge for left in leaving.values() for edge in left]
    return edges
