# SPDX-License-Identifier: MIT
"""What can happen in a file: which rules may ever fire, how many jobs a group may have, what variables may be.

Theory of operation. Nothing has happened at first; then, round by round, each rule is looked at again that depends on
what has become possible: if its trigger may come, it is or may become enabled, and its condition may hold, it may fire,
and what it does becomes possible. What is still impossible when nothing changes any more never happens: that is the
least fixed point. How often a rule may fire bounds how many jobs its groups may have, and so what counts may reach.

Law of this file: it errs on the side of what may happen. Users may send any signal, cancel any job, and raise any limit; a
custom function may do whatever an action can, so that in a file in which one may be called only conditions that are
wrong by themselves are told. Bounds that keep growing are given up (`_ROUNDS`).
"""

from __future__ import annotations

import math
from typing import Any, Dict, Iterable, List, NamedTuple, Optional, Set, Tuple, Union

from ensemble.spec import bounds, condition, expression, metrics, ranges, reading, sampling, suppose, terms
from ensemble.spec.bounds import RuleScope
from ensemble.spec.condition import Condition
from ensemble.spec.expression import Expression
from ensemble.spec.faults import listed
from ensemble.spec.metrics import Metric
from ensemble.spec.models import Action, JobSet, Rule, Spec
from ensemble.spec.ranges import NOTHING, Range, exactly
from ensemble.spec.retries import NONE
from ensemble.spec.terms import Term

#: rounds in which a bound may grow before it is given up; cycles of rules that are bounded grow once or twice
_ROUNDS = 8
#: triggers that come once in all
_ONCE = ("start", "timer", "end")
#: triggers that come once for each job
_ONCE_A_JOB = ("job-finish", "job-success", "job-fail", "job-cancel", "job-timeout")
#: most jobs that a computed count may ask for
_MOST = 10_000_000.0

#: reasons why a rule never fires
REPETITIONS, DISABLED, WAITS, UNSET, CONDITION = "repetitions", "disabled", "waits", "unset", "condition"


class Reason(NamedTuple):
    """Why a rule never fires."""

    #: one of the above
    kind: str
    #: the key of the rule where it lies
    key: str
    #: a sentence without an end
    text: str
    #: characters into the value
    offset: int = 0


class Reach:
    """What can happen in a file. Made once, and read."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.groups = spec.groups
        #: may a custom function be called, which may do anything?
        self.anything = False
        #: numbers of the rules that may fire
        self.fires: Set[int] = set()
        #: rule number -> why it never fires
        self.never: Dict[int, Reason] = {}
        #: group -> the most jobs that it may ever have, attempts not counted
        self.jobs: Dict[str, float] = dict.fromkeys(self.groups, 0.0)
        #: variable -> what it may be
        self.variables: Dict[str, Range] = {name: exactly(value) for name, value in spec.variables.items()}
        #: variables that a rule that may fire sets
        self.set: Set[str] = set()
        #: rule number -> its condition, compiled, and as a tree; None where it has none
        self.compiled: List[Union[Condition, Expression, None]] = []
        self.conditions: List[Optional[Term]] = []
        self._wakes: List[Tuple[Metric, ...]] = []
        self._enabled: Set[str] = {rule.id for rule in spec.rules if rule.enabled}
        self._enablers: Dict[str, List[str]] = {}
        self._numbers = {rule.id: number for number, rule in enumerate(spec.rules)}
        #: algorithm -> the ids of its rules
        self._parts: Dict[str, List[str]] = {}
        for rule in spec.rules:
            if rule.algorithm is not None:
                self._parts.setdefault(rule.algorithm, []).append(rule.id)
        self._texts: Dict[str, Expression] = {}
        #: group -> the submissions of it: rule number and action
        self._submits: Dict[str, List[Tuple[int, Action]]] = {group: [] for group in self.groups}
        #: what a rule depends on: ("group", name), ("var", name), or ("all", "")
        self._depends: Dict[Tuple[str, str], Set[int]] = {}
        self._grown: Dict[Tuple[str, str], int] = {}
        for number, rule in enumerate(spec.rules):
            self._read(number, rule)
        self._run(range(len(spec.rules)))
        if not self.anything and any(_custom(spec.rules[number]) for number in self.fires):
            self.anything = True
            self.jobs = dict.fromkeys(self.groups, math.inf)
            self._enabled.update(self._numbers)
            self._run(range(len(spec.rules)))
        for number in range(len(spec.rules)):
            if number not in self.fires:
                reason = self._why(number)
                assert reason is not None
                self.never[number] = reason

    def of(self, number: int) -> RuleScope:
        """What the rule of that number may read."""
        return RuleScope(self, self.spec.rules[number])

    def submits(self, number: int) -> List[str]:
        """The groups that the rule submits."""
        return _labels(self.spec.rules[number], "submit")

    def submitters(self, group: str) -> List[str]:
        """The ids of the rules that would submit the group, in file order."""
        return list(dict.fromkeys(self.spec.rules[number].id for number, _ in self._submits[group]))

    def lost(self, number: int) -> Optional[str]:
        """A variable that the rule waits for and that no rule sets."""
        return next((m.variable for m in self._wakes[number] if m.stat == "var" and not self._moves(m)), None)

    def _read(self, number: int, rule: Rule) -> None:
        """Note what a rule reads and submits."""
        compiled = condition.compile(rule.when, self.groups, rule.trigger, rule.name)
        term = _term(compiled, rule, self.groups)
        self.compiled.append(compiled)
        self.conditions.append(term)
        own = (metrics.parse(rule.name or "", self.groups),) if rule.trigger == "metric" else ()
        reads = [*condition.metrics_of(compiled), *own]
        self._wakes.append(tuple(reads) if rule.trigger == "metric" else ())
        for enabled in self._enables(rule):
            self._enablers.setdefault(enabled, []).append(rule.id)
        for action in rule.actions:
            if action.name == "submit":
                self._submits[action.label or ""].append((number, action))
            for _, text in reading.texts(action):
                reads.extend(self._expression(text).metrics)
        needs = {("group" if metric.group else "var", metric.group or metric.variable) for metric in reads}
        if any(metric.stat == "ensemble" for metric in reads):
            needs.add(("all", ""))
        group = bounds.about(rule)
        if group is not None:
            needs.add(("group", group) if group else ("all", ""))
        for need in needs:
            self._depends.setdefault(need, set()).add(number)

    def _enables(self, rule: Rule) -> List[str]:
        """The ids of the rules that it enables, one by one or as an algorithm."""
        return [id for label in _labels(rule, "enable") for id in self._parts.get(label, [label])]

    def _expression(self, text: str) -> Expression:
        made = self._texts.get(text)
        if made is None:
            made = self._texts[text] = expression.compile(text, self.groups)
        return made

    def _run(self, numbers: Iterable[int]) -> None:
        """Look at these rules, and at all that depends on them, until nothing changes."""
        due: Set[int] = set(numbers)
        while due:
            changed: Set[Tuple[str, str]] = set()
            enabled: Set[str] = set()
            groups: Set[str] = set()
            for number in sorted(due):
                if number not in self.fires and self._why(number) is None:
                    self.fires.add(number)
                if number in self.fires:
                    rule = self.spec.rules[number]
                    groups.update(_labels(rule, "submit"))
                    enabled.update(self._enables(rule))
                    changed |= self._set(rule)
            for group in groups:
                most = self._most(group)
                if most > self.jobs[group]:
                    self.jobs[group] = math.inf if self._grows("group", group) else most
                    changed |= {("group", group), ("all", "")}
            due = set().union(*(self._depends.get(need, set()) for need in changed)) if changed else set()
            due |= {self._numbers[id] for id in enabled - self._enabled}
            self._enabled |= enabled

    def _grows(self, kind: str, name: str) -> bool:
        """Has it grown so often that there seems to be no end?"""
        self._grown[kind, name] = self._grown.get((kind, name), 0) + 1
        return self._grown[kind, name] > _ROUNDS

    def _set(self, rule: Rule) -> Set[Tuple[str, str]]:
        """What the rule sets becomes possible; what has changed by it."""
        changed: Set[Tuple[str, str]] = set()
        for action in rule.actions:
            if action.name != "set":
                continue
            name, text = action.label or "", reading.set_text(action.value)
            if text is None:
                found = exactly(action.value)
            else:
                found = ranges.value(self._expression(text).term, RuleScope(self, rule))
            before = self.variables.get(name, NOTHING)
            after = before.joined(found)
            if after != before:
                if self._grows("var", name):
                    after = _widened(before, after)
                self.variables[name] = after
                changed.add(("var", name))
            if name not in self.set:
                self.set.add(name)
                changed.add(("var", name))
        return changed

    def _most(self, group: str) -> float:
        """The most jobs that the group may have by the rules that may fire."""
        total = 0.0
        for jobs in self.groups[group]:
            own = given = 0.0
            for number, action in self._submits[group]:
                if number in self.fires:
                    times = self.times(number)
                    if action.parameters is not None:
                        given += _product(times, len(action.parameters) * self._count(number, action, 1.0))
                    else:
                        own += _product(times, self._count(number, action, _wanted(jobs)))
            points = sampling.total(jobs)
            total += given + (own if points is None else min(own, points))
        return total

    def _count(self, number: int, action: Action, default: float) -> float:
        """The most jobs of a set, or of a point, that the action asks for."""
        if action.count is None:
            return default
        if not isinstance(action.count, str):
            return float(action.count)
        found = ranges.value(self._expression(action.count).term, self.of(number))
        return min(max(0.0, found.high), _MOST) if found.numeric else 0.0

    def times(self, number: int) -> float:
        """How often the rule may fire."""
        rule = self.spec.rules[number]
        most = math.inf if rule.repetitions is None else float(rule.repetitions)
        if rule.trigger in _ONCE:
            return min(most, 1.0)
        if rule.trigger in _ONCE_A_JOB or rule.trigger == "group-complete":
            groups = [rule.name] if rule.name else list(self.groups)
            if rule.trigger == "group-complete" and any(map(self._asks, groups)):
                # a function that answers no points completes a group without a job
                return most
            return min(most, sum(self.jobs[group] for group in groups))
        return most

    def retried(self, group: str) -> bool:
        """May a job of the group be tried again?"""
        return any((jobs.retries or NONE).max or (jobs.retries or NONE).infrastructure for jobs in self.groups[group])

    def _asks(self, group: str) -> bool:
        """Does a function say the points of the group?"""
        return any(jobs.parameters is not None and jobs.parameters.custom for jobs in self.groups[group])

    def _why(self, number: int) -> Optional[Reason]:
        """Why the rule cannot fire, as far as is known now."""
        rule = self.spec.rules[number]
        if rule.repetitions == 0:
            return Reason(REPETITIONS, "repetitions", "this rule never fires")
        if rule.id not in self._enabled:
            others = self._enablers.get(rule.id)
            why = f"{listed(others, 3)}, which would enable it, never fires" if others else "no rule enables it"
            return Reason(DISABLED, "enabled", f"this rule is disabled, and {why}")
        return self._no_trigger(number, rule) or self._no_condition(number, rule)

    def _no_trigger(self, number: int, rule: Rule) -> Optional[Reason]:
        group = bounds.about(rule)
        if group is not None:
            groups = [group] if group else list(self.groups)
            if not any(self.jobs[one] for one in groups):
                which = f"no job of '{group}'" if group else "no job"
                return Reason(WAITS, "name" if group else "trigger", f"{which} is ever submitted")
            if rule.trigger == "job-retry" and not any(map(self.retried, groups)):
                return Reason(WAITS, "name" if group else "trigger", "no job that this is about is ever tried again")
        elif rule.trigger == "metric" and not any(map(self._moves, self._wakes[number])):
            lost = sorted({metric.variable for metric in self._wakes[number] if metric.stat == "var"})
            if lost:
                word = "variable" if len(lost) == 1 else "variables"
                return Reason(UNSET, "name", f"no rule that fires sets the {word} {listed(lost, 3)}")
            groups = sorted({metric.group for metric in self._wakes[number] if metric.group})
            which = f"no job of {listed([repr(group) for group in groups], 3)}" if groups else "no job"
            return Reason(WAITS, "name", f"{which} is ever submitted")
        return None

    def _moves(self, metric: Metric) -> bool:
        """May it ever change?"""
        if metric.stat == "var":
            return self.anything or metric.variable in self.set
        if metric.stat == "ensemble":
            return metric.variable == "elapsed" or any(self.jobs.values())
        return metric.stat in metrics.OF_QUEUE or self.jobs[metric.group] > 0

    def _no_condition(self, number: int, rule: Rule) -> Optional[Reason]:
        term = self.conditions[number]
        if term is None or term.op == terms.CONSTANT:
            # what reads nothing is told elsewhere
            return None if term is None or term.value else Reason(CONDITION, "when", "")
        found = suppose.impossible(term, RuleScope(self, rule))
        if found is None:
            return None
        verb = "never hold together" if found.together else "never holds"
        return Reason(CONDITION, "when", f"{found.what} {verb}{': ' if found.why else ''}{found.why}", found.offset)


def _term(compiled: Union[Condition, Expression, None], rule: Rule, groups: Any) -> Optional[Term]:
    if isinstance(compiled, Expression):
        return compiled.term
    if compiled is None:
        return None
    read = expression.resolve(rule.name or "", groups)
    return terms.comparison(compiled.op, read, compiled.number)


def _labels(rule: Rule, name: str) -> List[str]:
    return [action.label for action in rule.actions if action.name == name and action.label is not None]


def _custom(rule: Rule) -> bool:
    return any(action.name == "custom" for action in rule.actions)


def _wanted(jobs: JobSet) -> float:
    """The most jobs of a set that a submission without a count makes."""
    return math.inf if jobs.wanted is None else float(jobs.wanted)


def _product(a: float, b: float) -> float:
    return 0.0 if 0 in (a, b) else a * b


def _widened(before: Range, after: Range) -> Range:
    """Where it keeps growing: without an end on that side."""
    low = -math.inf if after.low < before.low else after.low
    high = math.inf if after.high > before.high else after.high
    texts = None if after.texts != before.texts else after.texts
    return after._replace(low=low, high=high, texts=texts)
