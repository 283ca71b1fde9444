# SPDX-License-Identifier: MIT
"""Rules that feed each other without an end are told in words; what ends by itself some day is not."""

from __future__ import annotations

from typing import List

import pytest

from ensemble.spec.load import load

JOBS = """jobs:
- {name: a, command: x}
- {name: b, command: x}
- {name: c, command: x}
- {name: points, command: "x {p}", parameters: {p: [1, 2, 3]}, count: 1}
rules:
- {trigger: start, actions: [{name: submit, label: a}, {name: submit, label: b}, {name: submit, label: c}, {name: submit, label: points}]}
"""
EVER = "repetitions: unlimited"


def rule(trigger: str, action: str, more: str = EVER) -> str:
    return f"- {{trigger: {trigger}, {more}, action: {{{action}}}}}\n"


def submit(trigger: str, group: str, more: str = EVER) -> str:
    return rule(trigger, f"name: submit, label: {group}", more)


def told(text: str) -> List[str]:
    return [one.message for one in load(text, "f.yaml").warnings]


A_TO_B = submit("'group-complete', name: a", "b")
B_TO_C = submit("job-finish, name: b", "c")
C_TO_A = submit("metric, name: count.c.finished", "a")

CIRCLES = [
    (A_TO_B + B_TO_C + C_TO_A, "rules submit a, b, c again and again and have no end: on group-complete of a, rule-2 submits b; on job-finish of b, rule-3 submits c; on count.c.finished, rule-4 submits a"),
    # told from the rule that stands first, whatever the order
    (C_TO_A + A_TO_B + B_TO_C, "rules submit a, b, c again and again and have no end: on count.c.finished, rule-2 submits a; on group-complete of a, rule-3 submits b; on job-finish of b, rule-4 submits c"),
    # the way in is no part of the circle
    (A_TO_B + B_TO_C + submit("group-complete, name: c", "b"), "rules submit b, c again and again and have no end: on job-finish of b, rule-3 submits c; on group-complete of c, rule-4 submits b"),
    (submit("group-complete", "b"), "rules submit b again and again and have no end: on group-complete of any group, rule-2 submits b"),
    (rule("signal, name: ping", "name: signal, label: pong") + rule("signal, name: pong", "name: signal, label: ping"), "rules send ping, pong again and again and have no end: on signal ping, rule-2 sends pong; on signal pong, rule-3 sends ping"),
    (rule("group-complete, name: a", "name: signal, label: more") + submit("signal, name: more", "a"), "rules submit a and send more again and again and have no end: on group-complete of a, rule-2 sends more; on signal more, rule-3 submits a"),
    (rule("group-complete, name: points", "name: submit, label: points, parameters: {p: 4}"), "rules submit points again and again and have no end: on group-complete of points, rule-2 submits points"),
]  # fmt: skip


@pytest.mark.parametrize(("rules", "message"), CIRCLES)
def test_a_circle_is_told_in_words(rules: str, message: str) -> None:
    (warning,) = load(JOBS + rules, "f.yaml").warnings
    assert warning.message == message
    assert warning.expected == "a number of repetitions, a condition, a rule that stops, or limits"
    first = next(number for number in (8, 9) if f"rule-{number - 6} " in message)
    assert (warning.line, warning.column) == (first, 13)


ENDING = [
    A_TO_B + B_TO_C,
    A_TO_B + B_TO_C + C_TO_A.replace("unlimited", "9"),
    A_TO_B + B_TO_C + submit("job-success, name: c", "a", f"{EVER}, when: count.a.success < 9"),
    A_TO_B + B_TO_C + submit("job-fail, name: c", "a"),
    A_TO_B + B_TO_C + C_TO_A + "limits: {max_jobs: 9}\n",
    A_TO_B + B_TO_C + C_TO_A + rule("timer, after: 1h", "name: stop", "repetitions: 1"),
    A_TO_B + B_TO_C + C_TO_A + rule("timer, after: 1h", "name: disable, label: rule-2", "repetitions: 1"),
    # three points are spent soon
    submit("group-complete, name: points", "points"),
    submit("heartbeat", "points"),
    # one that rests feeds nobody
    A_TO_B + B_TO_C + submit("group-complete, name: c", "a", f"{EVER}, when: count.a.success > 1e9 and count.a.success < 5"),
    rule("signal, name: ping", "name: signal, label: pong") + rule("signal, name: pong", "name: log, value: x"),
    rule("signal", "name: signal, label: ping", "repetitions: 5"),
    submit("signal, name: more", "a"),
]  # fmt: skip


@pytest.mark.parametrize("rules", ENDING)
def test_what_ends_some_day_is_no_circle(rules: str) -> None:
    assert [message for message in told(JOBS + rules) if "no end" in message] == []


def test_a_circle_through_many_rules_is_found_in_no_time() -> None:
    """A chain of 2000 groups that ends where it began."""
    groups = "".join(f"- {{name: g{n}, command: x}}\n" for n in range(2000))
    rules = "".join(submit(f"job-finish, name: g{n}", f"g{(n + 1) % 2000}") for n in range(2000))
    start = "- {trigger: start, action: {name: submit, label: g0}}\n"
    (warning,) = load(f"jobs:\n{groups}rules:\n{start}{rules}", "f.yaml").warnings
    assert warning.message.startswith("rules submit g0, g1, g10, g100, g1000, and 1995 more again and again")
    assert warning.message.endswith("on job-finish of g7, rule-9 submits g8; and so on, by 1992 rules more")
