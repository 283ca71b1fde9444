# SPDX-License-Identifier: MIT
"""`retries:` of a group, and actions on jobs: what a file may say, and what it is told."""

from __future__ import annotations

from typing import Any, List, Optional, Tuple

import pytest

from ensemble.errors import SpecError
from ensemble.spec.load import load
from ensemble.spec.models import Action
from ensemble.spec.retries import CAUSES, Retries

JOB = "jobs:\n- {name: a, command: x, retries: %s}\nrules:\n- {trigger: start, action: {name: submit, label: a}}\n"
RULE = """
jobs:
- {name: a, command: x}
rules:
- {trigger: start, action: {name: submit, label: a}}
- {trigger: job-start, action: {%s}}
"""
URGENCY = 'a whole number from 0 to 31, or an expression such as "var.n * 2"'
ONE_OF = f"one of {', '.join(CAUSES)}, or an exit code from 1 to 255"


def retries(text: str) -> Optional[Retries]:
    loaded = load(JOB % text, "f.yaml")
    assert loaded.warnings == ()
    return loaded.spec.jobs[0].retries


@pytest.mark.parametrize(
    ("text", "given"),
    [
        ("2", {"max": 2}),
        ("0", {"max": 0}),
        ("{max: 2}", {"max": 2}),
        ("{max: 2, causes: [fail, signal, timeout]}", {"max": 2}),
        ("{max: 2, causes: timeout}", {"max": 2, "causes": ("timeout",)}),
        ("{max: 2, causes: 42}", {"max": 2, "causes": (42,)}),
        (
            "{max: 1, causes: [exec, exception, cancel, 255], backoff: 30s, max_backoff: 1m, infrastructure: 0}",
            {"max": 1, "causes": ("exec", "exception", "cancel", 255), "backoff": 30.0, "max_backoff": 60.0, "infrastructure": 0},
        ),
    ],
)  # fmt: skip
def test_what_a_file_may_say(text: str, given: Any) -> None:
    assert retries(text) == Retries(**given)


def test_none_is_none() -> None:
    assert retries("null") is None


def test_waits_double_and_stay_finite() -> None:
    given = Retries(max=1000, backoff=30, max_backoff=100)
    assert [given.wait(tries) for tries in (0, 1, 2, 3, 999)] == [30, 60, 100, 100, 100]
    assert Retries(max=1, backoff=30, max_backoff=5).wait(3) == 30
    assert Retries(max=1).wait(0) == 0
    assert Retries(max=1000, backoff=1e9, max_backoff=1e9).wait(999) == 1e9


FAULTS: List[Tuple[str, str, Optional[str]]] = [
    (JOB % "^-1", "max cannot be '-1'", "a whole number from 0 to 1000"),
    (JOB % "^many", "max cannot be 'many'", "a whole number from 0 to 1000"),
    (JOB % "^[1]", "retries cannot be a list", "a mapping"),
    (JOB % "^{causes: fail}", "retries has no max", "max: times that a job is tried again; 0 is never"),
    (JOB % "{max: 1, ^cause: fail}", "retries has no key 'cause'", "one of max, causes, backoff, max_backoff, infrastructure"),
    (JOB % "{max: 1, causes: [fail, ^exit]}", "a cause cannot be 'exit'", ONE_OF),
    (JOB % "{max: 1, causes: ^infrastructure}", "a cause cannot be 'infrastructure'", ONE_OF),
    (JOB % "{max: 1, causes: [^0]}", "a cause cannot be '0'", ONE_OF),
    (JOB % "{max: 1, causes: [^256]}", "a cause cannot be '256'", ONE_OF),
    (JOB % "{max: 1, causes: [^'1']}", "a cause cannot be '1'", ONE_OF),
    (JOB % "{max: 1, causes: [^true]}", "a cause cannot be 'true'", ONE_OF),
    (JOB % "{max: 1, backoff: ^soon}", "backoff cannot be 'soon'", None),
    (JOB % "{max: 1, infrastructure: ^1001}", "infrastructure cannot be '1001'", "a whole number from 0 to 1000"),
    (JOB % "{^max: }", "the key 'max' has no value", None),
    (RULE % "name: cancel, job: ^evnt", "job cannot be 'evnt'", "event"),
    (RULE % "name: cancel, label: a, ^job: event", "cancel has both label and job", "one of them"),
    (RULE % "name: ^urgency, label: a", "urgency has no value", "value: a number from 0 to 31"),
    (RULE % "name: ^urgency, value: 3", "urgency has no label", "label: a group (a), or all; or job: event"),
    (RULE % "name: urgency, value: ^32, label: a", "value cannot be '32'", URGENCY),
    (RULE % "name: urgency, value: ^-1, label: a", "value cannot be '-1'", URGENCY),
    (RULE % "name: urgency, value: ^[1], label: a", "value cannot be a list", URGENCY),
    (RULE % "name: urgency, value: ^true, label: a", "value cannot be 'true'", URGENCY),
    (RULE % "name: urgency, value: 1, label: a, ^signal: 9", "urgency takes no signal", "one of value, label, job, state"),
    (RULE % "name: submit, label: a, ^job: event", "submit takes no job", None),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message", "expected"), FAULTS)
def test_each_fault_has_its_words_and_its_place(text: str, message: str, expected: Optional[str]) -> None:
    before, _, after = text.partition("^")
    lines = before.split("\n")
    with pytest.raises(SpecError) as raised:
        load(before + after, "f.yaml")
    (fault,) = raised.value.faults
    assert (fault.line, fault.column, fault.message) == (len(lines), len(lines[-1]) + 1, message)
    if expected is not None:
        assert fault.expected == expected


@pytest.mark.parametrize(
    "trigger", ["start", "idle", "heartbeat", "group-complete, name: a", "timer, after: 1s", "end"]
)
@pytest.mark.parametrize("action", ["cancel", "kill", "urgency, value: 3"])
def test_an_event_without_a_job_is_a_fault(trigger: str, action: str) -> None:
    text = (RULE % f"name: {action}, job: event").replace("job-start", trigger)
    with pytest.raises(SpecError, match=f"a rule on {trigger.split(',')[0]} has no job") as raised:
        load(text, "f.yaml")
    assert len(raised.value.faults) == 1


@pytest.mark.parametrize("trigger", ["job-retry", "job-finish, name: a", "job-memo", "job-depend"])
def test_an_event_with_a_job(trigger: str) -> None:
    text = (RULE % "name: urgency, job: event, value: 3.0, state: pending").replace("job-start", trigger)
    assert load(text, "f.yaml").spec.rules[1].actions == (
        Action(name="urgency", job="event", value=3.0, state="pending"),
    )
