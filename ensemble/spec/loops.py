# SPDX-License-Identifier: MIT
"""Rules that feed each other without an end: circles of groups and signals, and the rules that lead round them.

Law of this file: only what goes on whatever becomes of the jobs is a circle. A rule with a condition, with a number of
repetitions, or on how a job fares ends by itself some day; so does a group whose points are spent; and a file that says
anywhere when to stop (a limit, `stop`, `terminate`, `disable`, a function) has its own plan.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

from ensemble.spec import metrics, sampling
from ensemble.spec.faults import Report, listed
from ensemble.spec.models import JOB_TRIGGERS, Action, JobSet, Rule, Spec
from ensemble.spec.reach import Reach
from ensemble.spec.reader import Node

#: these depend on how a job fares, so that a rule on one of them has a condition
_FATES = frozenset(("job-fail", "job-cancel", "job-timeout", "job-exception", "job-invalidate", "job-retry"))
_A_LIMIT = "a number of repetitions, a condition, a rule that stops, or limits"
#: steps of a circle that are told
_STEPS = 8
#: stands for every group
_ANY = ("group", "")
#: edges of circles from which the way back is looked for
_TRIES = 20

#: "group" or "signal", and its name
_Thing = Tuple[str, str]


class _Edge(NamedTuple):
    """Where the first is, the rule brings the second about."""

    source: _Thing
    target: _Thing
    #: number of the rule; None between a group and _ANY
    rule: Optional[int]


def tell(spec: Spec, root: Node, reach: Reach, report: Report) -> None:
    """Warn of the first circle, or of a heartbeat that submits for ever. The spec has no faults."""
    if spec.asks or any(_ends(action) for rule in spec.rules for action in rule.actions):
        return
    limits, rules = root.get("limits"), root.get("rules")
    if (limits is not None and limits.value) or rules is None:
        return
    endless = {name for name, sets in spec.groups.items() if any(map(_endless, sets))}
    edges: List[_Edge] = []
    for number, rule in enumerate(spec.rules):
        if rule.repetitions is not None or number not in reach.fires:
            continue
        groups = [name for name in reach.submits(number) if name in endless or _given(rule, name)]
        if rule.trigger == "heartbeat" and rule.when is None and groups:
            place = rules.items[number].get("trigger") or rules.items[number]
            report.warn(place, "this rule submits at every heartbeat and has no end", expected=_A_LIMIT)
            return
        source = _source(rule, spec)
        if source is not None:
            edges += [_Edge(source, ("group", group), number) for group in groups]
            edges += [_Edge(source, ("signal", name), number) for name in _sent(rule)]
    circle = _shortest(_circles(edges))
    numbers = [edge.rule for edge in circle if edge.rule is not None]
    if not numbers:
        return
    first = rules.items[min(numbers)]
    # told from the rule that stands first in the file
    at = next(index for index, edge in enumerate(circle) if edge.rule == min(numbers))
    steps = [_step(spec.rules[edge.rule], edge) for edge in circle[at:] + circle[:at] if edge.rule is not None]
    if len(steps) > _STEPS:
        steps[_STEPS:] = [f"and so on, by {len(steps) - _STEPS} rules more"]
    done = [
        f"{verb} {listed(names, 5)}"
        for verb, kind in (("submit", "group"), ("send", "signal"))
        for names in [sorted({edge.target[1] for edge in circle if edge.rule is not None and edge.target[0] == kind})]
        if names
    ]
    message = f"rules {' and '.join(done)} again and again and have no end: {'; '.join(steps)}"
    report.warn(first.get("trigger") or first, message, expected=_A_LIMIT)


def _step(rule: Rule, edge: _Edge) -> str:
    """One step of a circle in words."""
    named = rule.trigger in JOB_TRIGGERS or rule.trigger == "group-complete"
    event = (rule.name or rule.trigger) if rule.trigger == "metric" else rule.trigger
    about = f" of {rule.name or 'any group'}" if named else f" {edge.source[1]}" if rule.trigger == "signal" else ""
    return f"on {event}{about}, {rule.id} {'submits' if edge.target[0] == 'group' else 'sends'} {edge.target[1]}"


def _ends(action: Action) -> bool:
    return action.name in ("stop", "terminate", "disable", "custom")


def _sent(rule: Rule) -> List[str]:
    return [action.label for action in rule.actions if action.name == "signal" and action.label is not None]


def _endless(jobs: JobSet) -> bool:
    """Can the set be submitted again and again? Points are spent some day."""
    return jobs.parameters is None or sampling.total(jobs) is None


def _given(rule: Rule, group: str) -> bool:
    """Does the rule bring points of its own?"""
    return any(action.label == group and action.parameters is not None for action in rule.actions)


def _source(rule: Rule, spec: Spec) -> Optional[_Thing]:
    """What makes the rule fire, whatever becomes of jobs; None where it has a condition."""
    if rule.when is not None:
        return None
    if (rule.trigger in JOB_TRIGGERS and rule.trigger not in _FATES) or rule.trigger == "group-complete":
        return ("group", rule.name or "")
    if rule.trigger == "idle":
        return _ANY
    if rule.trigger == "signal" and rule.topic is None and rule.name is not None:
        return ("signal", rule.name)
    if rule.trigger == "metric":
        metric = metrics.parse(rule.name or "", spec.groups)
        # who sets a variable, and when, is the file's own plan
        return None if metric.stat == "var" else ("group", metric.group)
    return None


def _circles(edges: Sequence[_Edge]) -> List[_Edge]:
    """The edges that lie on circles or between two of them."""
    edges = list(edges)
    if any(edge.source == _ANY for edge in edges):
        edges += [
            _Edge(made, _ANY, None) for made in dict.fromkeys(edge.target for edge in edges) if made[0] == "group"
        ]
    for forward in (True, False):
        # what nothing leads to is on no circle, nor is what only that leads to; then the same from the other end
        leading = Counter(edge.target if forward else edge.source for edge in edges)
        leaving: Dict[_Thing, List[_Edge]] = {}
        for edge in edges:
            leaving.setdefault(edge.source if forward else edge.target, []).append(edge)
        free = [thing for thing in leaving if not leading[thing]]
        while free:
            for edge in leaving.pop(free.pop()):
                there = edge.target if forward else edge.source
                leading[there] -= 1
                if not leading[there] and there in leaving:
                    free.append(there)
        edges = [edge for left in leaving.values() for edge in left]
    return edges


def _shortest(edges: Sequence[_Edge]) -> List[_Edge]:
    """The shortest circle through one of the edges that stand first in the file."""
    leaving: Dict[_Thing, List[_Edge]] = {}
    for edge in edges:
        leaving.setdefault(edge.source, []).append(edge)
    for first in sorted((edge for edge in edges if edge.rule is not None), key=lambda edge: edge.rule or 0)[:_TRIES]:
        came: Dict[_Thing, Optional[_Edge]] = {first.target: None}
        queue = deque((first.target,))
        while queue and first.source not in came:
            for edge in leaving.get(queue.popleft(), ()):
                if edge.target not in came:
                    came[edge.target] = edge
                    queue.append(edge.target)
        if first.source in came:
            way: List[_Edge] = []
            step = came[first.source]
            while step is not None:
                way.append(step)
                step = came[step.source]
            return [first, *reversed(way)]
    return []
