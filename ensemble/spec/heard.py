# SPDX-License-Identifier: MIT
"""Checks of what a file hears from its jobs and from outside: reported variables, rules on `report` and `signal`.

Law of this file: `check.py` calls it with nodes, and faults and warnings go to its report. A variable that a group does
not declare is a warning, since jobs may report it all the same; where it looks like a misspelt one it is a fault.
"""

from __future__ import annotations

import difflib
from typing import Dict, Iterable, List, Optional, Set

from ensemble.spec.faults import Report, listed, shown
from ensemble.spec.metrics import Metric
from ensemble.spec.models import NAME, RESERVED, TITLE, check_variable
from ensemble.spec.reader import Node
from ensemble.spec.reports import MOST_VARIABLES, OF_JOBS

#: characters of a topic of Flux; longer ones are none
_LONGEST_TOPIC = 200


def declared(sets: Iterable[Node]) -> Dict[str, Set[str]]:
    """The variables that each group declares."""
    found: Dict[str, Set[str]] = {}
    for jobs in sets:
        name, metrics = jobs.get("name"), jobs.get("metrics")
        if name is not None and metrics is not None and metrics.kind == "map":
            found.setdefault(name.text, set()).update(map(str, metrics.value))
    return found


def names(report: Report, job: Node) -> None:
    """Check the names under `metrics:` of a set."""
    metrics = job.get("metrics")
    if metrics is None or metrics.kind != "map":
        return
    for number, name in enumerate(metrics.value, 1):
        try:
            check_variable(name)
            if number > MOST_VARIABLES:
                raise ValueError(f"expected at most {MOST_VARIABLES} variables")
        except ValueError as exc:
            expected = str(exc)[len("expected ") :]
            report.add(metrics.key(name), f"no variable can be called {shown(name)}", value=name, expected=expected)


def variable(report: Report, node: Node, metric: Metric, known: Dict[str, Set[str]], offset: int) -> None:
    """Tell of a reported variable that its group does not declare. `offset` is where in the node the path ends."""
    if not metric.reported or metric.variable in known.get(metric.group, ()):
        return
    words = [*OF_JOBS, *sorted(known.get(metric.group, ()))]
    near = _near(metric.variable, words)
    if near is not None:
        before = ".".join(part for part in (metric.stat, metric.group, metric.state) if part)
        report.add(
            node,
            f"{before} has no {shown(metric.variable)}",
            offset=offset - len(metric.variable),
            value=str(metric),
            expected=f"one of {', '.join(words)}; another variable that jobs report stands under metrics of the group",
            suggestion=lambda: near,
        )
        return
    undeclared(report, node, metric.group, metric.variable)


def undeclared(report: Report, node: Node, group: str, name: str) -> None:
    """Warn of a variable that has a value only where a job reports it of its own accord."""
    report.warn(
        node,
        f"'{group}' does not declare the variable '{name}'",
        expected=f"metrics: {{{name}: {{}}}} with the group's jobs",
    )


def report_name(report: Report, node: Node, name: str, groups: List[str], known: Dict[str, Set[str]]) -> Optional[str]:
    """Check the name of a rule on `report`, GROUP or GROUP.VARIABLE; the group, for the caller to look up."""
    group, dot, what = name.partition(".")
    if not dot:
        return group
    if not NAME.fullmatch(what) or what in RESERVED or what in OF_JOBS:
        words = sorted(known.get(group, ()))
        report.add(
            node,
            f"no job reports {shown(what)}",
            value=name,
            expected=f"{group}.VARIABLE" + (f", with one of {listed(words)}" if words else ""),
            suggestion=lambda: _near(what, words),
        )
        return None
    if group in groups and what not in known.get(group, ()):
        words = sorted(known.get(group, ()))
        near = _near(what, words)
        if near is None:
            undeclared(report, node, group, what)
        else:
            report.add(
                node,
                f"'{group}' declares no variable {shown(what)}",
                value=name,
                expected=f"one of {listed(words)}",
                suggestion=lambda: near,
            )
    return group


def signal_name(report: Report, node: Node, name: str) -> None:
    """Check the name of a signal."""
    if not TITLE.fullmatch(name) or len(name) > 100:
        expected = "letters, digits, _, - and ., not first - or ., at most 100"
        report.add(node, f"no signal can be called {shown(name)}", value=name, expected=expected)


def signal_rule(report: Report, rule: Node, trigger: str) -> None:
    """Check what a rule says about the Flux bus."""
    topic = rule.get("topic")
    if topic is None:
        return
    if trigger != "signal":
        expected = "topic with the trigger signal alone"
        report.add(rule.key("topic"), f"a rule on {trigger} takes no topic", value="topic", expected=expected)
        return
    if rule.get("name") is not None:
        message = "a rule on signal has both a name and a topic"
        report.add(rule.key("topic"), message, value="topic", expected="one of them")
    if topic.kind != "scalar" or topic.value is None:
        return
    text = topic.text
    if text[:1] in "*?[" or len(text) > _LONGEST_TOPIC or any(c.isspace() or not c.isprintable() for c in text):
        expected = "the topic of an event, such as job-state.*, that begins with more than a *"
        report.add(topic, f"topic cannot be {topic}", value=text, expected=expected)


def _near(word: str, known: List[str]) -> Optional[str]:
    """The known word that this is but for a letter or two; stricter than elsewhere, for both may be meant."""
    found = difflib.get_close_matches(word[:100], known, n=1, cutoff=0.8)
    return found[0] if found else None
