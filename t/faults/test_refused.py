# SPDX-License-Identifier: MIT
"""Flux takes no submissions, or not these: each such job has failed with cause `refused`, and its reason can be read."""

from __future__ import annotations

import json
from typing import Any, Dict, Iterator, List

import pytest

from t.faults.counting import ask, dying, ended, keys, progress, request
from t.flux.processes import until
from t.flux_instance import FluxInstance

pytestmark = [pytest.mark.flux, pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def instance(flux_instance: FluxInstance, tmp_path_factory: Any) -> Iterator[FluxInstance]:
    with dying(flux_instance, tmp_path_factory.mktemp("service"), []):
        yield flux_instance


def group(more: str = "") -> str:
    return f"jobs: [{{name: a, command: 'true', count: 3{more}}}]\nrules:\n" + (
        "  - {trigger: start, action: {name: submit, label: a}}\n"
        "  - {trigger: job-fail, name: a, repetitions: unlimited, action: {name: log, value: failed}}\n"
    )


REFUSALS = {
    "no such queue": (group(", queue: nosuch"), "queue"),
    "a policy's limit": (group(", duration: 90m"), "duration"),
}


def check_refused(instance: FluxInstance, id: str, reason: str) -> None:
    """All three failed as refused, none is a job of Flux that ran, each fired its rule, and people can read why."""
    status = ended(instance, id)
    counts = status["groups"]["a"]
    assert (counts["submitted"], counts["failed"], counts["finished"], counts["active"]) == (3, 3, 3, 0)
    rows = ask(instance, "jobs", {"id": id, "max": 100})["jobs"]
    assert [(row["result"], row["cause"]) for row in rows] == [("failed", "refused")] * 3
    assert all("Flux refused the job: " in row["note"] and reason in row["note"] for row in rows), rows
    assert {rule["trigger"]: rule["fired"] for rule in status["rules"]} == {"start": 1, "job-fail": 3}
    log = instance.run("flux", "ensemble", "log", id).stdout
    assert log.count("a job of a was refused: Flux refused the job: ") == 3
    assert not [key for key in keys(instance) if key.startswith(f"{id}/")]
    # by the rule of the file, which watches for failures, that is no failure of the ensemble
    assert status["state"] == "complete", status


@pytest.mark.parametrize("name", REFUSALS)
def test_jobs_that_flux_refuses(instance: FluxInstance, name: str) -> None:
    text, reason = REFUSALS[name]
    if name == "a policy's limit":
        instance.run("flux", "config", "load", input=json.dumps({"policy": {"limits": {"duration": "1h"}}}))
    try:
        check_refused(instance, submit_here(instance, text), reason)
    finally:
        instance.run("flux", "config", "load", input="{}")


def test_more_than_there_is(instance: FluxInstance) -> None:
    """Flux takes these and then finds that it can never run them."""
    id = submit_here(instance, group(", tasks: 4000"))
    assert ended(instance, id)["groups"]["a"]["failed"] == 3
    # the last rows are on their way to the store as the end is told
    jobs = until(lambda: _rows(instance, id, 3), "rows of all jobs")
    assert [(row["cause"], "unsatisfiable" in row["note"]) for row in jobs] == [("exception", True)] * 3


def test_a_queue_that_is_disabled(instance: FluxInstance) -> None:
    instance.run("flux", "queue", "disable", "--all", "--message=out for repair")
    try:
        id = submit_here(instance, group())
        check_refused(instance, id, "out for repair")
    finally:
        instance.run("flux", "queue", "enable", "--all")
    # the next one is taken, also after a restart of the service in between
    assert ended(instance, submit_here(instance, group()))["groups"]["a"]["success"] == 3


def test_a_queue_that_is_disabled_in_mid_run(instance: FluxInstance) -> None:
    """With the limit on failures that the guide advises: the ensemble halts, and carries on when it is told to."""
    text = (
        "jobs: [{name: a, command: sleep 0.1, count: 40}]\nlimits: {max_active: 4, max_failures: 2}\n"
        "failures: all\nrules: [{trigger: start, action: {name: submit, label: a}}]\n"
    )
    id = submit_here(instance, text)
    until(lambda: progress(instance, id) >= 4, "some progress")
    instance.run("flux", "queue", "disable", "--all", "--message=out for repair")
    try:
        status = until(lambda: halted(instance, id), "its halt")
        assert "max_failures" in status["reason"]
        assert status["jobs"]["failed"] >= 2
    finally:
        instance.run("flux", "queue", "enable", "--all")
    ask(instance, "resume", {"id": id, "limits": {"max_failures": 40}})
    status = ended(instance, id)
    assert status["state"] == "complete"
    assert status["jobs"]["success"] + status["jobs"]["failed"] == 40
    assert all(len(ids) == 1 for ids in keys(instance).values())


def halted(instance: FluxInstance, id: str) -> Any:
    status = ask(instance, "status", {"id": id})
    return status if status["state"] == "halted" else None


def submit_here(instance: FluxInstance, text: str) -> str:
    submitter = {"environment": {"PATH": "/usr/bin:/bin"}, "cwd": str(instance.folder)}
    return str(request(instance, "submit", {"text": text, "submitter": submitter})["id"])


def _rows(instance: FluxInstance, id: str, count: int) -> List[Dict[str, Any]]:
    """The rows of an ensemble once there are so many; until then none."""
    rows: List[Dict[str, Any]] = ask(instance, "jobs", {"id": id, "max": 100})["jobs"]
    return rows if len(rows) >= count else []
