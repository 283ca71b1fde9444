# SPDX-License-Identifier: MIT
"""Ensembles whose jobs fail in every way and are tried again, and whose rules end jobs; used on both queues."""

from __future__ import annotations

from typing import Any, Dict, List

RETRIES = """\
name: retries
jobs:
  - {name: fail, script: '[ ${ENSEMBLE_JOB##*/} -ge 2 ] || exit 42', retries: {max: 2, causes: 42, backoff: 0.2s}}
  - {name: signal, script: '[ ${ENSEMBLE_JOB##*/} -ge 1 ] || kill -9 $$', retries: {max: 1, causes: signal}}
  - {name: slow, script: '[ ${ENSEMBLE_JOB##*/} -ge 1 ] || sleep 60', duration: 1s, retries: {max: 1, causes: timeout}}
  - {name: exec, command: /no/such/program, retries: {max: 1, causes: exec}}
  - {name: other, script: exit 3, retries: {max: 5, causes: [42, signal, timeout, exec, cancel, exception]}}
rules:
  - trigger: start
    actions: [{name: submit, label: fail}, {name: submit, label: signal}, {name: submit, label: slow}, {name: submit, label: exec}, {name: submit, label: other}]
  - {trigger: job-retry, repetitions: 20, action: {name: log, value: "retry {event.group} {event.job.cause}"}}
  - {trigger: job-fail, repetitions: 20, action: {name: log, value: "fail {event.group} {event.job.attempt}"}}
"""

ENDED = """\
name: ended
jobs:
  - {name: caught, script: "trap 'exit 3' TERM; while :; do sleep 0.1; done", retries: &all {max: 3, causes: [fail, signal, cancel, exec, exception, timeout]}}
  - {name: killed, command: sleep 600, retries: *all}
  - {name: message, command: sleep 600, retries: *all}
  - {name: ended, command: sleep 600, retries: *all}
  - {name: held, command: "true", urgency: 0, retries: *all}
  - {name: at-once, command: sleep 600, retries: *all}
  - {name: let-go, command: "true", urgency: 0}
  - {name: failing, command: "false", retries: {max: 9, backoff: 1h}}
rules:
  - trigger: start
    actions: [{name: submit, label: caught}, {name: submit, label: killed}, {name: submit, label: message}, {name: submit, label: ended}, {name: submit, label: held}, {name: submit, label: let-go}, {name: submit, label: failing}]
  - id: end-them
    trigger: timer
    after: 3s
    actions:
      - {name: cancel, label: held, state: pending}
      - {name: urgency, label: let-go, value: 16}
      - {name: submit, label: at-once}
  # at a job's start its process may not be there yet, so that a signal would miss it: again and again, then
  - id: beat
    trigger: heartbeat
    every: 2s
    repetitions: unlimited
    actions:
      - {name: kill, label: caught}
      - {name: kill, label: killed, signal: KILL}
      - {name: kill, label: message, signal: USR1}
      - {name: cancel, label: ended, state: running}
  - {trigger: job-retry, name: failing, action: {name: cancel, job: event}}
  - {trigger: job-start, name: at-once, action: {name: cancel, job: event}}
  - {trigger: job-finish, name: let-go, id: late, action: {name: cancel, job: event}}
"""


def check_retries(status: Dict[str, Any], rows: List[Dict[str, Any]], said: List[str]) -> None:
    """All went as it should."""
    groups = status["groups"]
    assert {group: (of["success"], of["failed"], of["retried"]) for group, of in groups.items()} == {
        "fail": (1, 0, 2),
        "signal": (1, 0, 1),
        "slow": (1, 0, 1),
        "exec": (0, 1, 1),
        "other": (0, 1, 0),
    }
    tries = {(row["group"], row["attempt"]): (row["result"], row["cause"]) for row in rows}
    assert tries == {
        ("fail", 0): ("retried", "fail"),
        ("fail", 1): ("retried", "fail"),
        ("fail", 2): ("success", None),
        ("signal", 0): ("retried", "signal"),
        ("signal", 1): ("success", None),
        ("slow", 0): ("retried", "timeout"),
        ("slow", 1): ("success", None),
        ("exec", 0): ("retried", "exec"),
        ("exec", 1): ("failed", "exec"),
        ("other", 0): ("failed", "fail"),
    }
    assert sorted(said) == sorted(
        [
            *(f"retry {word}" for word in ("fail fail", "fail fail", "signal signal", "slow timeout", "exec exec")),
            "fail exec 1",
            "fail other 0",
        ]
    )


def check_ended(status: Dict[str, Any], rows: List[Dict[str, Any]], records: List[Dict[str, Any]]) -> None:
    """What rules have ended is cancelled, and nothing of it was tried again."""
    groups = status["groups"]
    assert status["state"] == "complete", status["reason"]
    for group, of in groups.items():
        assert of["failed"] == 0, group
        assert of["retried"] == (group == "failing"), group
        assert of["success"] == (group == "let-go"), group
        assert of["cancelled"] == (group != "let-go"), group
    (late,) = (r for r in records if r["type"] == "action" and r["rule"] == "late")
    assert late["text"] == "cancel the job of let-go: nothing is done, it has ended"
    assert late["job"] == next(row["id"] for row in rows if row["group"] == "let-go")
