# SPDX-License-Identifier: MIT
"""Faults of what a file computes: conditions, expression strings of actions, paths in log lines, variables.

Law of this file: as `check`, whose part it is. It walks the tree, so that a fault has its place inside the text, and
is silent where a value has the wrong shape, since the models tell that.
"""

from __future__ import annotations

import re
from typing import Any, Collection, Dict, Optional, Set

from ensemble.spec import arithmetic, condition, expression, heard, metrics, reading, sampling, units
from ensemble.spec.expression import EXAMPLE, Expression, Read
from ensemble.spec.faults import Report, listed, nearest, shown
from ensemble.spec.metrics import PathError, dunder
from ensemble.spec.models import NAME, NUMBERS
from ensemble.spec.reader import Node
from ensemble.spec.units import Written

#: a text that means to be an expression, and no misspelt word
_MEANT = re.compile(r"\w\.\w|[*/+()<>=]|\s-\s|\s\w+\s")


class Computed:
    """Tells faults and warnings of one file."""

    def __init__(
        self, root: Node, report: Report, groups: Collection[str], reported: Optional[Dict[str, Set[str]]] = None
    ) -> None:
        """`reported` are the variables that each group declares; None where it cannot be known."""
        self._report = report
        self._groups = groups
        self._reported = reported
        self._variables = root.get("variables")
        declared: Dict[str, Any] = (
            self._variables.value if self._variables is not None and self._variables.kind == "map" else {}
        )
        self._declared = declared
        self._undeclared: Dict[str, None] = {}
        jobs, rules = root.get("jobs"), root.get("rules")
        #: group -> what its jobs' points may have; None where it cannot be known
        self._parameters = sampling.known(jobs.items if jobs else (), rules.items if rules else ())
        self._about: Optional[str] = None

    def about(self, group: Optional[str]) -> None:
        """What comes stands in a rule about that group, or about any."""
        self._about = group

    def variables(self) -> None:
        """The names under `variables`."""
        for name, (key, _) in self._declared.items():
            if not NAME.fullmatch(name) or len(name) > 100 or dunder(name):
                expected = "letters, digits, _ and -, not first a digit or -, at most 100, and no __ at both ends"
                self._report.add(key, f"no variable can be called {shown(name)}", value=name, expected=expected)

    def when(self, rule: Node, trigger: str, name: Optional[str]) -> None:
        """The condition of a rule."""
        node = rule.get("when")
        if node is None or node.kind != "scalar" or node.value is None or isinstance(node.value, bool):
            return
        try:
            made = condition.compile(node.value, self._groups, trigger, name)
        except PathError as exc:
            self._fault(node, exc)
            return
        if isinstance(made, Expression):
            self._reads(node, made)
            if made.constant:
                always = "always" if made.holds(_Nothing()) else "never"
                self._report.warn(node, f"this condition reads nothing, it {always} holds")

    def action(self, action: Node, name: str, trigger: Optional[str]) -> None:
        """The expression strings and the log line of an action."""
        for key, literal in NUMBERS.get(name, {}).items():
            node = action.get(key)
            # a number that is written out is the models' to check, but for `value`, which is another one by action
            if node is not None and (isinstance(node.value, str) or key == "value"):
                self._number(node, key, literal, trigger)
        node = action.get("value")
        if node is not None and name == "log":
            self._line(node, trigger)
        elif node is not None and name == "set":
            self._set(node, trigger)
        label = action.get("label")
        if name == "set" and label is not None and label.kind == "scalar":
            if not NAME.fullmatch(label.text) or dunder(label.text):
                expected = "letters, digits, _ and -, not first a digit or -"
                self._report.add(
                    label, f"no variable can be called {shown(label.text)}", value=label.text, expected=expected
                )
            else:
                self._declare(label, 0, label.text)

    def metric(self, node: Node, path: str) -> None:
        """The path of a metric."""
        try:
            read = Read(0, path, metrics.parse(path, self._groups), None, None)
        except PathError as exc:
            self._fault(node, exc, 0, path)
            return
        self._named(node, 0, read)

    def _path(self, node: Node, path: str, offset: int, trigger: Optional[str]) -> None:
        """A path in a line, that many characters behind its begin."""
        try:
            read = expression.resolve(path, self._groups, trigger, offset)
        except PathError as exc:
            self._fault(node, exc, offset, path)
            return
        self._named(node, offset, read)

    def _number(self, node: Node, key: str, literal: Written, trigger: Optional[str]) -> None:
        try:
            literal.check(node.value)
            return
        except ValueError as exc:
            expected = str(exc)[len("expected ") :]
        if not isinstance(node.value, str):
            self._report.add(
                node, f"{key} cannot be {node}", value=node.text or None, expected=f"{expected}, or {EXAMPLE}"
            )
            return
        try:
            made = expression.compile(node.text, self._groups, trigger)
        except PathError as exc:
            if not _MEANT.search(node.text):
                more = f"{expected}, or {EXAMPLE}"
                self._report.add(node, f"{key} cannot be {node}", value=node.text, expected=more)
                return
            self._fault(node, exc)
            return
        self._reads(node, made)
        if made.kind in (arithmetic.STRING, arithmetic.TRUTH):
            self._report.add(node, f"{key} cannot be {made.kind}", value=node.text, expected=expected)
        elif made.constant:
            value = made.value(_Nothing())
            try:
                literal.check(value)
            except ValueError:
                told = "has no value" if value is None else f"is {value}"
                self._report.add(node, f"{key} {told}", value=node.text, expected=expected)

    def _set(self, node: Node, trigger: Optional[str]) -> None:
        if node.kind != "scalar" or node.value is None:
            self._report.add(
                node, f"value cannot be {node}", expected="a number, a string, true, false, or an expression"
            )
            return
        try:
            units.variable(node.value)
        except ValueError as exc:
            self._report.add(node, f"value cannot be {node}", value=node.text, expected=str(exc)[len("expected ") :])
            return
        text = reading.set_text(node.value)
        if text is None:
            return
        try:
            self._reads(node, expression.compile(text, self._groups, trigger))
        except PathError as exc:
            if not _MEANT.search(text):
                more = "one word, an expression, or quotes inside, as in \"'two words'\""
                self._report.add(node, f"value cannot be {node}", value=node.text, expected=more)
                return
            self._fault(node, exc)

    def _line(self, node: Node, trigger: Optional[str]) -> None:
        if node.kind != "scalar":
            self._report.add(node, f"value cannot be {node}", expected="a line of text")
            return
        for offset, path in reading.log_paths(node.text):
            self._path(node, path, offset, trigger)

    def _reads(self, node: Node, made: Expression) -> None:
        for read in made.reads:
            self._named(node, read.offset, read)

    def _named(self, node: Node, offset: int, read: Read) -> None:
        if read.metric is None:
            if read.event is not None and read.event[:2] == ("job", "params"):
                self._parameter(node, offset, read.path, read.event[2])
            return
        if read.metric.stat == "var":
            self._declare(node, offset + len("var."), read.metric.variable)
        elif self._reported is not None:
            inside = self._report.inside(node, node.text)
            end = 0 if inside is None else inside + offset + len(read.path)
            heard.variable(self._report, node, read.metric, self._reported, end)

    def _parameter(self, node: Node, offset: int, path: str, name: str) -> None:
        """Tell of a parameter that no job has that the rule could be about."""
        of = self._about
        if self._parameters is None or (of is not None and of not in self._parameters):
            return
        names = sorted(self._parameters[of] if of is not None else set().union(*self._parameters.values()))
        if name not in names:
            message = (
                f"jobs of '{of}' have no parameter {shown(name)}" if of else f"no job has a parameter {shown(name)}"
            )
            expected = f"one of {listed(names)}" if names else "parameters of the group"
            fault = PathError(message, len("event.job.params."), expected, name, names)
            self._fault(node, fault, offset, path)

    def _declare(self, node: Node, offset: int, name: str) -> None:
        """Warn once of a variable that is not declared."""
        if name in self._declared or name in self._undeclared:
            return
        self._undeclared[name] = None
        base, _, rest = name.partition("-")
        expected = f"{name} under variables; it has no value until it is set"
        if rest and (base in self._declared or rest.isdecimal()):
            expected += "; a minus sign has spaces around it"
        inside = self._report.inside(node, node.text)
        self._report.add(
            node,
            f"the variable {shown(name)} is not declared",
            offset=0 if inside is None else inside + offset,
            expected=expected,
            suggestion=lambda: nearest(name, self._declared),
            severity="warning",
        )

    def _fault(self, node: Node, exc: PathError, offset: int = 0, value: Optional[str] = None) -> None:
        tell(self._report, node, exc, offset, value)


def tell(report: Report, node: Node, exc: PathError, offset: int = 0, value: Optional[str] = None) -> None:
    """A fault of a text that begins `offset` characters behind the start of the node's, at its place in the file."""
    inside = report.inside(node, node.text)
    at = offset + exc.offset
    message = exc.message
    if inside is None and at:
        # written over several lines, or with escapes: the file's columns are not the text's
        message += f", at character {at + 1} of the text"
    report.add(
        node,
        message,
        offset=0 if inside is None else inside + at,
        value=node.text[:200] if value is None else value,
        expected=exc.expected,
        suggestion=lambda: exc.suggestion,
    )


class _Nothing:
    """The scope of what reads nothing."""

    def metric(self, metric: Any) -> None:
        return None

    def event(self, words: Any) -> None:
        return None
