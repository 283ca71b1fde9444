# SPDX-License-Identifier: MIT
"""Every limit of a file, from its submission to the end of what carried on: the same cases for every queue."""

from __future__ import annotations

import time
from typing import Any, Callable, Dict, List, NamedTuple, Tuple

import pytest

from ensemble.spec.models import Limits

PATIENCE = 120.0
START = "{trigger: start, action: {name: submit, label: a}}"
AGAIN = "{trigger: job-success, name: a, repetitions: unlimited, action: {name: submit, label: b}}"
LINK = "{trigger: job-success, name: a, repetitions: 3, action: {name: submit, label: a}}"

Ask = Callable[[str, Dict[str, Any]], Dict[str, Any]]


class Halts(NamedTuple):
    """A limit that halts: the file, and what `resume` raises it to."""

    text: str
    raised: Any
    #: jobs that have ended when it halts, and in the end
    halted: int
    ended: int


HALT: Dict[str, Halts] = {
    "max_jobs": Halts(
        f"jobs: [{{name: a, command: 'true', count: 5}}]\nrules: [{START}]\nlimits: {{max_jobs: 3}}", 100, 3, 5
    ),
    "max_firings": Halts(
        "jobs: [{name: a, command: 'true', count: 4}, {name: b, command: 'true'}]\n"
        f"rules: [{START}, {AGAIN}]\nlimits: {{max_firings: 2}}",
        100,
        6,
        8,
    ),
    "max_failures": Halts(
        f"jobs: [{{name: a, command: 'false', count: 5}}]\nrules: [{START}]\nfailures: all\n"
        "limits: {max_failures: 2, max_active: 1}",
        100,
        2,
        5,
    ),
    "duration": Halts(
        f"jobs: [{{name: a, command: sleep 2}}]\nrules: [{START}, {LINK}]\nlimits: {{duration: 3}}", 1000, 2, 4
    ),
}
#: those that halt nothing: submissions wait
WAIT: Dict[str, str] = {
    "max_active": f"jobs: [{{name: a, command: sleep 0.2, count: 6}}]\nrules: [{START}]\nlimits: {{max_active: 2}}",
    "submit_rate": f"jobs: [{{name: a, command: 'true', count: 10}}]\nrules: [{START}]\nlimits: {{submit_rate: 4}}",
}


def all_limits_are_there() -> None:
    assert {*HALT, *WAIT} == set(Limits.model_fields)


def halts_and_carries_on(ask: Ask, limit: str) -> None:
    case = HALT[limit]
    id = _submit(ask, case.text)
    status = _ended(ask, id)
    assert status["state"] == "halted", status["reason"]
    assert f"limit {limit} (" in status["reason"]
    assert f"resume with --limit {limit}=N" in status["reason"]
    assert status["jobs"]["finished"] <= case.halted
    if limit != "duration":
        assert status["jobs"]["finished"] == case.halted
    # what it halted for is to be raised
    with pytest.raises(OSError, match="is halted"):
        ask("resume", {"id": id})
    assert ask("status", {"id": id})["state"] == "halted"
    ask("resume", {"id": id, "limits": {limit: case.raised}})
    status = _ended(ask, id)
    assert status["state"] == "complete", status["reason"]
    assert status["jobs"]["finished"] == case.ended


def submissions_wait(ask: Ask, limit: str) -> None:
    id = _submit(ask, WAIT[limit])
    status = _ended(ask, id)
    assert status["state"] == "complete"
    rows = _settled_rows(ask, id, status["jobs"]["finished"])
    if limit == "submit_rate":
        times = sorted(row["t_submit"] for row in rows)
        # one second's worth goes at once, then one every quarter
        assert len(times) == 10
        assert times[-1] - times[0] >= 6 / 4 - 0.4, times
    else:
        changes: List[Tuple[float, int]] = sorted(
            change for row in rows for change in ((row["t_submit"], 1), (row["t_end"], -1))
        )
        active, most = 0, 0
        for _, by in changes:
            active += by
            most = max(most, active)
        assert len(rows) == 6
        assert most == 2


def _submit(ask: Ask, text: str) -> str:
    submitter = {"environment": {"PATH": "/usr/bin:/bin"}, "cwd": "/", "umask": None, "rlimits": {}}
    return str(ask("submit", {"text": text, "file": "limits.yaml", "submitter": submitter})["id"])


def _settled_rows(ask: Ask, id: str, count: int) -> List[Dict[str, Any]]:
    end = time.monotonic() + PATIENCE
    while True:
        rows: List[Dict[str, Any]] = ask("jobs", {"id": id})["jobs"]
        if len(rows) == count and all(row["t_end"] is not None for row in rows):
            return rows
        assert time.monotonic() < end
        time.sleep(0.05)


def _ended(ask: Ask, id: str) -> Dict[str, Any]:
    end = time.monotonic() + PATIENCE
    while True:
        status = ask("status", {"id": id})
        if status["t_end"] is not None and status["state"] in ("complete", "failed", "halted", "cancelled"):
            return status
        assert time.monotonic() < end, status
        time.sleep(0.05)
