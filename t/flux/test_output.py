# SPDX-License-Identifier: MIT
"""Values found in the output of Flux jobs, in the KVS and in files: as they are written, each once, all before the end."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any, Dict, Iterator

import pytest

from t.flux.test_report import Jobs, until
from t.flux_instance import FluxInstance

pytestmark = pytest.mark.flux

METRICS = {"x": {"regex": r"x=(\S+)"}}
LOG = "  - {trigger: report, name: a.x, repetitions: unlimited, action: {name: log, value: 'x {event.value}'}}\n"


@pytest.fixture
def jobs(flux_instance: FluxInstance, tmp_path: Path) -> Iterator[Jobs]:
    found = Jobs(flux_instance, tmp_path)
    found.ensemble("service", "start")
    yield found
    for id in found.submitted:
        found.ensemble("cancel", id, check=False)
    found.ensemble("service", "stop", check=False)


def kept(jobs: Jobs, id: str) -> Any:
    records = [json.loads(line) for line in jobs.ensemble("log", "--json", id).stdout.splitlines()]
    return [r["text"] for r in records if r["type"] == "log"]


PLACES: Dict[str, Any] = {
    "kvs": {"output": None},
    "file": {},
    "error apart": {"error": "a-{{id}}.err"},
    "file of each task": {"output": "t-{{taskid}}.out"},
}


@pytest.mark.parametrize("place", PLACES)
def test_wherever_the_output_goes(jobs: Jobs, place: str) -> None:
    script = "for x in 1 2 3; do echo x=$x of 3; done; echo x=4 >&2; echo x=nan; printf x=5"
    keys = {"workdir": str(jobs.folder), "metrics": METRICS, **PLACES[place]}
    id = jobs.submit(script, LOG, **keys)
    status = jobs.end(id)
    assert status["state"] == "complete"
    found = status["metrics"]["a"]["reported"]["x"]
    assert (found["n"], found["mean"], found["refused"]) == (5, 3, 1)
    assert sorted(kept(jobs, id)) == [f"x {n}" for n in (1, 2, 3, 4, 5)]
    (row,) = json.loads(jobs.ensemble("jobs", "--json", id).stdout)["jobs"]
    assert row["values"]["x"] in (4.0, 5.0)


@pytest.mark.parametrize("output", [None, "a-{{id}}.out"])
def test_as_it_is_written_and_once_where_the_service_dies(jobs: Jobs, output: Any) -> None:
    script = "for x in 1 2 3 4 5 6; do echo x=$x; until [ -e go$x ]; do sleep 0.1; done; done"
    id = jobs.submit(script, workdir=str(jobs.folder), metrics=METRICS, output=output)
    for x in (1, 2, 3, 4, 5, 6):
        until(lambda x=x: jobs.reported(id).get("last") == x)
        if x == 3:
            pid = json.loads(jobs.ensemble("service", "status", "--json").stdout)["pid"]
            os.kill(pid, signal.SIGKILL)
            (jobs.folder / "go3").write_text("")
            until(lambda: jobs.ensemble("status", id, check=False).returncode == 0)
        (jobs.folder / f"go{x}").write_text("")
    found = jobs.end(id)["metrics"]["a"]["reported"]["x"]
    assert (found["n"], found["mean"]) == (6, 3.5)


def test_of_many_jobs_that_end_at_once(jobs: Jobs) -> None:
    """The stream of one that ends while it is opened may stay silent: all has been read all the same, before its end."""
    text = """
name: many
jobs:
  - {name: a, command: "echo x={n}", count: 4, parameters: {n: {range: [0, 120]}}, metrics: {x: {regex: 'x=(\\d+)'}}}
rules:
  - {trigger: start, action: {name: submit, label: a}}
  - {trigger: job-success, name: a, repetitions: unlimited, action: {name: submit, label: a, count: 1}}
"""
    path = jobs.folder / "many.yaml"
    path.write_text(text)
    id = jobs.ensemble("submit", str(path)).stdout.strip()
    jobs.submitted.append(id)
    found = jobs.end(id)["metrics"]["a"]
    assert found["reported"]["x"]["n"] == 120
