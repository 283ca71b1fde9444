# SPDX-License-Identifier: MIT
"""Members that run in jobs of the service's own instance: started by the ensemble, lost and started anew, or named by job id."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional

import pytest

from t.flux.processes import until
from t.flux.real_service import RealService, serving
from t.flux_instance import FluxInstance

pytestmark = [pytest.mark.flux, pytest.mark.timeout(300)]
TOP = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def service(flux_instance: FluxInstance) -> Iterator[RealService]:
    with serving(flux_instance) as service:
        yield service


def ended(service: RealService, id: str) -> Dict[str, Any]:
    status: Dict[str, Any] = {}

    def over() -> bool:
        status.update(service.ask("status", {"id": id}))
        return status["state"] not in ("running", "stopping", "paused")

    until(over, "its end")
    return status


def rows(service: RealService, id: str) -> List[Dict[str, Any]]:
    found: List[Dict[str, Any]] = service.ask("jobs", {"id": id, "max": 1000})["jobs"]
    return found


def inner(instance: FluxInstance, id: str, states: str = "active") -> List[str]:
    """The jobs in which that ensemble's instances run."""
    done = instance.run("flux", "jobs", "-a", "-n", "-o", "{id.f58plain} {name} {state}")
    lines = [line.split() for line in done.stdout.splitlines()]
    return [
        job
        for job, name, state in lines
        if name.startswith(f"ensemble-{id}-") and (state != "INACTIVE" or states == "all")
    ]


def test_the_example(service: RealService, flux_instance: FluxInstance) -> None:
    done = flux_instance.run("flux", "ensemble", "run", str(TOP / "examples" / "nested-instance.yaml"))
    status = json.loads(flux_instance.run("flux", "ensemble", "status", "--json", "nested-instance").stdout)
    assert status["state"] == "complete", done.stdout
    assert status["groups"]["small"]["success"] == 10
    assert status["members"] == {"inner": "up"}
    found = rows(service, status["id"])
    assert {(row["group"], row["member"]) for row in found} == {("small", "inner"), ("summary", None)}
    until(lambda: not inner(flux_instance, status["id"]), "the end of its instance")
    assert len(inner(flux_instance, status["id"], "all")) == 1
    table = flux_instance.run("flux", "ensemble", "jobs", "nested-instance").stdout
    assert "MEMBER" in table.splitlines()[0]
    told = flux_instance.run("flux", "ensemble", "status", "nested-instance").stdout
    assert any(line.split()[:2] == ["inner", "up"] for line in told.splitlines()), told


NESTED = """
members: {{inner: {{nodes: 1, cores: 1}}}}
jobs:
  - {{name: g, command: "sh -c 'while [ ! -e {flag} ]; do sleep 0.1; done'", member: inner, count: 2}}
rules:
  - {{trigger: start, action: {{name: submit, label: g}}}}
  - {{id: gone, trigger: member-gone, name: inner, action: {{name: log, value: "{{event.name}} was lost"}}}}
"""


def test_an_instance_that_is_lost_is_started_anew(
    service: RealService, flux_instance: FluxInstance, tmp_path: Path
) -> None:
    """Its jobs are lost for no fault of their own, and are tried again in the new one; none of them runs twice at once."""
    flag = tmp_path / "flag"
    id = service.submit(NESTED.format(flag=flag))
    until(lambda: service.ask("status", {"id": id})["groups"]["g"]["running"] == 1, "a job in it")
    (job,) = inner(flux_instance, id)
    flux_instance.run("flux", "cancel", job)
    until(lambda: any(row["attempt"] == 1 for row in rows(service, id)), "another attempt")
    flag.touch()
    status = ended(service, id)
    assert status["state"] == "complete"
    assert status["groups"]["g"]["success"] == 2
    found = rows(service, id)
    assert [row["cause"] for row in found if row["result"] == "retried"] == ["infrastructure"] * 2
    assert [rule["fired"] for rule in status["rules"] if rule["id"] == "gone"] == [1]
    until(lambda: not inner(flux_instance, id), "the end of the second instance")
    assert len(inner(flux_instance, id, "all")) == 2


def _processes(word: str) -> List[int]:
    """Processes with that word in their command line."""
    found = []
    for path in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if path.name.isdigit() and word.encode() in (path / "cmdline").read_bytes():
                found.append(int(path.name))
    return found


def test_a_service_that_dies_before_it_has_ended_the_instance(
    service: RealService, flux_instance: FluxInstance, tmp_path: Path
) -> None:
    """What is to end the instance of an ended ensemble dies with the service: the next service sees to it, and to no other."""
    flag = tmp_path / "flag"
    other = service.submit(NESTED.format(flag=tmp_path / "never").replace("count: 2", "count: 1"))
    until(lambda: service.ask("status", {"id": other})["groups"]["g"]["running"] == 1, "a job in the other one")
    id = service.submit(NESTED.format(flag=flag))
    until(lambda: service.ask("status", {"id": id})["groups"]["g"]["running"] == 1, "a job in it")
    killed: List[int] = []

    def kill() -> bool:
        for pid in _processes(f'"end": "ensemble-{id}-inner"'):
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)
        return bool(killed)

    flag.touch()
    until(kill, "the process that is to end it")
    assert ended(service, id)["state"] == "complete"
    pid = service.pid
    os.kill(pid, signal.SIGKILL)
    until(lambda: _answers(service) not in (None, pid), "the next service")
    until(lambda: not inner(flux_instance, id), "the end of its instance")
    assert len(inner(flux_instance, other)) == 1, "that of an ensemble that goes on stays"
    assert service.ask("status", {"id": other})["groups"]["g"]["running"] == 1
    service.ask("cancel", {"id": other})
    until(lambda: not inner(flux_instance, other), "the end of the other one")


def _answers(service: RealService) -> Optional[int]:
    try:
        # what is sent into its death is never answered
        return int(service.handle.rpc("ensemble.stats", {}).wait_for(2).get()["pid"])
    except OSError:
        return None


@contextlib.contextmanager
def alloc(instance: FluxInstance) -> Iterator[str]:
    """A job with an instance in it."""
    options = ("-n1", "-N1", "--cwd=/", "-o", "per-resource.type=node", "-o", "mpi=none")
    id = instance.run("flux", "submit", *options, "flux", "broker", "-Sbroker.rc2_none=1").stdout.strip()
    try:
        yield id
    finally:
        instance.run("flux", "cancel", id, check=False)


BY_JOB = """
members: {{other: {{job: {job}, timeout: 1h}}}}
jobs:
  - {{name: quick, command: "true", member: other, count: 2}}
  - {{name: long, command: sleep 600, member: [other, home]}}
rules:
  - {{trigger: start, action: {{name: submit, label: quick}}}}
  - {{trigger: group-complete, name: quick, action: {{name: submit, label: long}}}}
"""


def test_the_instance_of_a_job(service: RealService, flux_instance: FluxInstance) -> None:
    """When the job has ended the instance never comes back, and that is known at once."""
    with alloc(flux_instance) as job:
        id = service.submit(BY_JOB.format(job=job))
        until(lambda: service.ask("status", {"id": id})["groups"]["long"]["running"] == 1, "the job in the job")
        (first,) = [row for row in rows(service, id) if row["group"] == "long"]
        assert first["member"] == "other"
        assert first["where"].startswith("flux proxy local://")
    until(lambda: service.ask("status", {"id": id})["members"]["other"] == "gone", "that it is gone")

    def again() -> bool:
        found = [row for row in rows(service, id) if row["group"] == "long" and row["attempt"] == 1]
        return bool(found) and found[0]["member"] is None and found[0]["state"] == "running"

    until(again, "another attempt, at home")
    service.ask("cancel", {"id": id})
    assert ended(service, id)["state"] == "cancelled"


def test_home_is_no_member(service: RealService, flux_instance: FluxInstance) -> None:
    text = (
        f"members: {{me: {{uri: '{flux_instance.uri}'}}}}\njobs: [{{name: g, command: 'true', member: me}}]\n"
        "rules: [{trigger: start, action: {name: submit, label: g}}]\n"
    )
    id = service.submit(text)
    status = ended(service, id)
    assert status["state"] == "failed"
    assert "called home" in rows(service, id)[0]["note"]


def test_one_that_cannot_come_up_says_why(service: RealService) -> None:
    text = (
        "members: {big: {nodes: 99, timeout: 3s}}\n"
        "jobs: [{name: a, command: x, member: big}]\n"
        "rules: [{trigger: start, action: {name: submit, label: a}}]\n"
    )
    id = service.submit(text)
    assert ended(service, id)["state"] == "failed"
    told = [record["text"] for record in service.ask("log", {"id": id})["records"] if record["type"] == "log"]
    assert "has ended before it was up: alloc unsatisfiable request" in told[0]
    assert told[-1].startswith("the member 'big' (an instance of 99 nodes of its own) is given up: ")
    assert told[-1].endswith("; its unfinished jobs go with it")
