# SPDX-License-Identifier: MIT
"""`put` and `signal` in jobs of a real instance: from any rank, from instances inside jobs, while the service is away."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List

import pytest

from t.flux_instance import FluxInstance

pytestmark = pytest.mark.flux

FLUX_SIZE = 4
PATIENCE = 120.0


class Jobs:
    """Ensembles of one group `a` in the instance."""

    def __init__(self, instance: FluxInstance, folder: Path) -> None:
        self.instance = instance
        self.folder = folder
        self.submitted: List[str] = []

    def ensemble(self, *words: str, check: bool = True, **more: Any) -> Any:
        return self.instance.run("flux", "ensemble", *words, check=check, cwd=self.folder, timeout=PATIENCE, **more)

    def submit(self, script: str, rules: str = "", **job: Any) -> str:
        keys = {"name": "a", "script": script, "output": str(self.folder / "a-{{id}}.out"), **job}
        group = json.dumps({key: value for key, value in keys.items() if value is not None})
        text = f"name: it\njobs: [{group}]\nrules:\n  - {{trigger: start, action: {{name: submit, label: a}}}}\n{rules}"
        (self.folder / "it.yaml").write_text(text)
        id = self.ensemble("submit", "it.yaml").stdout.strip()
        self.submitted.append(id)
        return str(id)

    def status(self, id: str) -> Dict[str, Any]:
        found: Dict[str, Any] = json.loads(self.ensemble("status", "--json", id).stdout)
        return found

    def reported(self, id: str, variable: str = "x") -> Dict[str, Any]:
        found: Dict[str, Any] = self.status(id)["metrics"].get("a", {}).get("reported", {}).get(variable, {})
        return found

    def end(self, id: str) -> Dict[str, Any]:
        self.ensemble("watch", id, check=False)
        return self.status(id)

    def output(self) -> str:
        return "".join(path.read_text() for path in sorted(self.folder.glob("a-*.out")))


@pytest.fixture
def jobs(flux_instance: FluxInstance, tmp_path: Path) -> Iterator[Jobs]:
    found = Jobs(flux_instance, tmp_path)
    found.ensemble("service", "start")
    yield found
    for id in found.submitted:
        found.ensemble("cancel", id, check=False)
    found.ensemble("service", "stop", check=False)


def until(true: Callable[[], Any]) -> Any:
    give_up = time.monotonic() + PATIENCE
    while time.monotonic() < give_up:
        found = true()
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError("waited in vain")


def test_every_task_of_a_job_reports_from_its_own_rank(jobs: Jobs) -> None:
    job = {"nodes": 4, "tasks": 4}
    id = jobs.submit("flux ensemble put x=$(flux getattr rank) || exit 9", **job)
    status = jobs.end(id)
    assert status["state"] == "complete", jobs.output()
    found = status["metrics"]["a"]["reported"]["x"]
    assert (found["n"], found["min"], found["max"], found["mean"]) == (4, 0, 3, 1.5)


def test_from_python_with_one_connection(jobs: Jobs) -> None:
    code = (
        "import ensemble, numpy, warnings; warnings.simplefilter('ignore')\n"
        "for n in range(20): assert ensemble.put(x=n, y=numpy.float32(0.5)) is True\n"
        "assert ensemble.put(x=float('nan'), y=1) is False\n"
        "assert ensemble.put({'a-b': 1}, x=20) is True\n"
        "assert ensemble.signal('done', n=3, text='t') is True\n"
    )
    (jobs.folder / "job.py").write_text(code)
    rules = "  - {trigger: signal, name: done, action: {name: log, value: heard}}\n"
    id = jobs.submit(f"exec '{sys.executable}' {jobs.folder}/job.py", rules)
    status = jobs.end(id)
    assert status["state"] == "complete", jobs.output()
    assert [rule["fired"] for rule in status["rules"]] == [1, 1]
    found = status["metrics"]["a"]["reported"]
    assert (found["x"]["n"], found["x"]["last"], found["x"]["refused"]) == (21, 20, 1)
    assert (found["y"]["n"], found["a-b"]["n"]) == (21, 1)
    (row,) = json.loads(jobs.ensemble("jobs", "--json", id).stdout)["jobs"]
    assert row["values"] == {"x": 20.0, "y": 1.0, "a-b": 1.0}


def test_from_instances_inside_a_job(jobs: Jobs) -> None:
    inner = "flux run flux ensemble put y=2; flux run flux start flux ensemble put z=3"
    script = f"flux start sh -c 'flux ensemble put x=1 && flux ensemble signal inner depth=1; {inner}'"
    rules = "  - {trigger: signal, name: inner, action: {name: log, value: heard}}\n"
    id = jobs.submit(script, rules)
    status = jobs.end(id)
    assert status["state"] == "complete", jobs.output()
    found = status["metrics"]["a"]["reported"]
    assert {name: stats["n"] for name, stats in found.items()} == {"x": 1, "y": 1, "z": 1}, jobs.output()
    assert [rule["fired"] for rule in status["rules"]] == [1, 1]


def test_a_service_that_is_killed_is_waited_for_and_each_value_counts_once(jobs: Jobs) -> None:
    script = "for x in $(seq 200); do flux ensemble put x=$x || exit 9; [ -e stop ] && exit 0; done; exit 8"
    id = jobs.submit(script, workdir=str(jobs.folder))
    for _ in range(2):
        had = jobs.reported(id).get("n", 0)
        pid = json.loads(jobs.ensemble("service", "status", "--json").stdout)["pid"]
        os.kill(pid, signal.SIGKILL)
        # the supervisor starts it again
        until(lambda: jobs.ensemble("status", id, check=False).returncode == 0)
        until(lambda had=had: jobs.reported(id).get("n", 0) > had + 1)
    (jobs.folder / "stop").write_text("")
    status = jobs.end(id)
    assert status["state"] == "complete", jobs.output()
    found = status["metrics"]["a"]["reported"]["x"]
    assert "warning" not in jobs.output()
    assert found["n"] == found["max"] == found["last"]
    assert found["mean"] == pytest.approx((found["n"] + 1) / 2)


def test_a_service_that_stays_away_costs_a_job_a_warning(jobs: Jobs) -> None:
    script = "while ! [ -e go ]; do sleep 0.1; done; flux ensemble put --wait 1 x=1; echo exit $? > done"
    jobs.submit(script, workdir=str(jobs.folder))
    jobs.ensemble("service", "stop")
    (jobs.folder / "go").write_text("")
    until((jobs.folder / "done").exists)
    assert until((jobs.folder / "done").read_text) == "exit 0\n"
    assert "warning: x dropped" in jobs.output()
    jobs.ensemble("service", "start")


def test_outside_of_a_job_put_is_a_mistake(jobs: Jobs) -> None:
    done = jobs.ensemble("put", "x=1", check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "this is no job of an ensemble" in done.stderr


def test_a_signal_from_outside(jobs: Jobs) -> None:
    rules = "  - {trigger: signal, name: enough, action: {name: terminate}}\n"
    id = jobs.submit("sleep 300", rules)
    done = jobs.ensemble("signal", id, "nothing", "x=1")
    assert "no rule waits for the signal 'nothing'" in done.stderr
    jobs.ensemble("signal", id, "enough", "x=1", "why=so it is")
    assert jobs.end(id)["state"] == "complete"
    done = jobs.ensemble("signal", id, "enough", check=False)
    assert done.returncode == 1
    assert "has ended" in done.stderr


def test_events_of_the_bus(jobs: Jobs) -> None:
    rules = (
        "  - {trigger: signal, topic: ens-test.ping, repetitions: unlimited, when: event.data.x > 2, action: {name: log, value: '{event.name} {event.data.x}'}}\n"
        "  - {trigger: signal, topic: ens-test.e*, action: {name: terminate}}\n"
    )
    id = jobs.submit("sleep 300", rules)
    publish = ("flux", "event", "pub")
    for topic, data in (
        ("ens-test.ping", '{"x": 1}'),
        ("ens-test.ping", '{"x": 3}'),
        ("ens-test.pingpong", '{"x": 4}'),
        ("ens-test.ping", ""),
    ):
        jobs.instance.run(*publish, topic, *([data] if data else []))
    # subscriptions are made again by a service that is started again
    jobs.ensemble("service", "restart")
    jobs.instance.run(*publish, "ens-test.ping", '{"x": 5, "y": [1]}')
    jobs.instance.run(*publish, "ens-test.end")
    status = jobs.end(id)
    assert status["state"] == "complete"
    records = [json.loads(line) for line in jobs.ensemble("log", "--json", id).stdout.splitlines()]
    assert [r["text"] for r in records if r["type"] == "log"] == ["ens-test.ping 3", "ens-test.ping 5"]
