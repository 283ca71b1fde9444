# SPDX-License-Identifier: MIT
"""What in a file is in vain: rules that never fire, groups that are never submitted, what never has a value.

Law of this file: it puts what `reach` has found into words, each at its place. One mishap may be told of all that it takes
with it, since each of these is in vain; but not twice of the same thing.
"""

from __future__ import annotations

from typing import Iterator, Optional, Tuple

from ensemble.spec import expression, ranges, reading, suppose
from ensemble.spec.expression import Read
from ensemble.spec.faults import Report, listed
from ensemble.spec.models import Rule, Spec
from ensemble.spec.reach import CONDITION, DISABLED, REPETITIONS, WAITS, Reach, Reason
from ensemble.spec.reader import Node
from ensemble.spec.terms import Term

_NOTHING_STARTS = "every rule that submits waits for something that jobs do, so no job is ever submitted"


def tell(spec: Spec, root: Node, reach: Reach, report: Report) -> None:
    """Warn of what is in vain. The spec has no faults."""
    _Futile(spec, root, reach, report).run()


class _Futile:
    def __init__(self, spec: Spec, root: Node, reach: Reach, report: Report) -> None:
        self._spec = spec
        self._root = root
        self._reach = reach
        self._report = report

    def run(self) -> None:
        submitting = [number for number in range(len(self._spec.rules)) if self._reach.submits(number)]
        reasons = [self._reach.never.get(number) for number in submitting]
        #: no job is ever submitted, because each rule that would do it waits for one
        stuck = bool(submitting) and all(reason is not None and reason.kind == WAITS for reason in reasons)
        if stuck:
            expected = "a rule on start that submits a group"
            self._report.warn(self._root.key("rules"), _NOTHING_STARTS, expected=expected)
        self._groups(stuck)
        for number, (node, rule) in enumerate(zip(_entries(self._root, "rules"), self._spec.rules)):
            reason = self._reach.never.get(number)
            if reason is None:
                self._values(number, node, rule)
            elif not (stuck and reason.kind == WAITS):
                self._never(node, reason, number)

    def _groups(self, stuck: bool) -> None:
        told = set()
        for node, jobs in zip(_entries(self._root, "jobs"), self._spec.jobs):
            if jobs.name in told or self._reach.anything or self._reach.jobs[jobs.name]:
                continue
            told.add(jobs.name)
            by = self._reach.submitters(jobs.name)
            if not by:
                self._report.warn(node.get("name") or node, f"no rule submits the group '{jobs.name}'")
            elif not stuck:
                never = "never fires" if len(by) == 1 else "never fire"
                text = f"{listed(by, 3)}, which would submit the group '{jobs.name}', {never}"
                self._report.warn(node.get("name") or node, text)

    def _never(self, node: Node, reason: Reason, number: int) -> None:
        """A rule that never fires."""
        place = node.get(reason.key) or node
        if reason.kind in (REPETITIONS, DISABLED):
            self._report.warn(place, reason.text)
        elif reason.kind != CONDITION:
            if not self._told(self._reach.lost(number)):
                self._report.warn(place, f"{reason.text}, so this rule never fires")
        elif reason.text:
            term = self._reach.conditions[number]
            reads = [part.read for part in term.walk() if part.read is not None] if term is not None else []
            scope = self._reach.of(number)
            if not any(scope.of(read).empty and self._told(_variable(read)) for read in reads):
                self._warn(place, reason.offset, f"{reason.text}, so this rule never fires")

    def _values(self, number: int, node: Node, rule: Rule) -> None:
        """What a rule that may fire reads and never gets."""
        scope = self._reach.of(number)
        term, when = self._reach.conditions[number], node.get("when")
        for never in suppose.valueless(term, scope) if term is not None else ():
            if not self._told(*(_variable(read) for read in _reads(term, never.offset))):
                self._warn(when or node, never.offset, f"{never.what}{': ' if never.why else ''}{never.why}")
        for place, action in zip(_entries(node, "actions"), rule.actions):
            for key, text in reading.texts(action):
                made = expression.compile(text, self._reach.groups).term
                if not ranges.value(made, scope).empty:
                    continue
                for never in suppose.valueless(made, scope):
                    if not self._told(*(_variable(read) for read in _reads(made, never.offset))):
                        message = f"{never.what}: {never.why}, so that this rule fails when it fires"
                        self._warn(place.get(key) or place, never.offset, message)

    def _told(self, *variables: Optional[str]) -> bool:
        """Is one of these a variable that is not declared? That was told."""
        return any(name is not None and name not in self._spec.variables for name in variables)

    def _warn(self, node: Node, offset: int, message: str) -> None:
        inside = self._report.inside(node, node.text)
        self._report.warn(node, message, offset=0 if inside is None else inside + offset)


def _variable(read: Read) -> Optional[str]:
    return read.metric.variable if read.metric is not None and read.metric.stat == "var" else None


def _reads(term: Optional[Term], offset: int) -> Iterator[Read]:
    """What is read at that place."""
    for part in term.walk() if term is not None else ():
        if part.read is not None and part.offset == offset:
            yield part.read


def _entries(node: Node, key: str) -> Tuple[Node, ...]:
    value = node.get(key)
    return value.items if value is not None else ()
