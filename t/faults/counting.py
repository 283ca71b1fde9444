# SPDX-License-Identifier: MIT
"""Running an ensemble whose result does not depend on order, through faults, and counting its jobs by key."""

from __future__ import annotations

import collections
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List, Sequence

from ensemble.errors import NoService, ServiceError
from ensemble.service import supervisor
from t.flux.processes import gone, until

HERE = Path(__file__).parent
#: seconds that one ensemble may take, with all its faults
PATIENCE = 240.0

#: 20 heads at once, each with a chain of four more: 100 jobs, whatever the order
CHAINS = """
name: chains
jobs:
  - {name: a, command: sleep 0.2, count: 20}
  - {name: b, command: sleep 0.1}
  - {name: c, command: sleep 0.1}
  - {name: d, command: sleep 0.1}
  - {name: e, command: sleep 0.1}
limits: {max_active: 8}
rules:
  - {trigger: start, action: {name: submit, label: a}}
  - {trigger: job-success, name: a, repetitions: unlimited, action: {name: submit, label: b}}
  - {trigger: job-success, name: b, repetitions: unlimited, action: {name: submit, label: c}}
  - {trigger: job-success, name: c, repetitions: unlimited, action: {name: submit, label: d}}
  - {trigger: job-success, name: d, repetitions: unlimited, action: {name: submit, label: e}}
"""
GROUPS = dict.fromkeys("abcde", 20)


def connect(instance: Any) -> Any:
    import flux

    return flux.Flux(instance.uri)


def ask(instance: Any, endpoint: str, payload: Dict[str, Any]) -> Dict[str, Any]:
    """One answer of the service, however often it dies meanwhile. A request that must not be repeated is not for this."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return request(instance, endpoint, payload)
        except (NoService, ServiceError, OSError):
            assert time.monotonic() < end, f"no answer to {endpoint}"
            time.sleep(0.05)


def request(instance: Any, endpoint: str, payload: Dict[str, Any]) -> Dict[str, Any]:
    import flux

    handle = connect(instance)
    future = handle.rpc(f"ensemble.{endpoint}", payload)
    try:
        # who asks a dying service gets no answer, ever
        future.wait_for(3.0)
        return dict(future.get())
    except OSError as exc:
        raise ServiceError(f"{endpoint}: {future.error_string() or exc}", exc.errno or 5) from None
    finally:
        del future, handle
        assert flux


def submit(instance: Any, text: str) -> str:
    """Submit once and return the id; where the service died over it, the id of what was kept."""
    environment = {"PATH": os.environ.get("PATH", os.defpath)}
    submitter = {"environment": environment, "cwd": str(instance.folder)}
    with contextlib.suppress(ServiceError, NoService):
        return str(request(instance, "submit", {"text": text, "submitter": submitter})["id"])
    kept = ask(instance, "list", {})["ensembles"]
    assert len(kept) == 1, f"the service died while it answered, and keeps {kept}"
    return str(kept[0]["id"])


def ended(instance: Any, id: str) -> Dict[str, Any]:
    """The status of an ensemble at its end."""
    end = time.monotonic() + PATIENCE
    while True:
        status = ask(instance, "status", {"id": id})
        if status["state"] not in ("running", "stopping", "paused"):
            return status
        assert time.monotonic() < end, f"it has not ended: {status}"
        time.sleep(0.1)


def keys(instance: Any) -> Dict[str, List[int]]:
    """The key of each job that Flux has, or had, to the ids that carry it."""
    import flux
    from flux.job import job_list

    assert job_list
    handle = connect(instance)
    payload = {"max_entries": 0, "attrs": [], "constraint": {}}
    found: Dict[str, List[int]] = collections.defaultdict(list)
    for job in handle.rpc("job-list.list", payload).get()["jobs"]:
        answer = handle.rpc("job-info.lookup", {"id": job["id"], "keys": ["jobspec"], "flags": 0}).get()
        user = json.loads(answer["jobspec"])["attributes"].get("user", {})
        if "ensemble" in user:
            found[user["ensemble"]].append(job["id"])
    assert flux
    return found


class Count:
    """How many jobs were lost and how many doubled, after the end of one ensemble."""

    def __init__(self, instance: Any, id: str, groups: Dict[str, int]) -> None:
        self.status = ended(instance, id)
        #: a job is named by its key without the attempt
        jobs: Dict[str, List[int]] = collections.defaultdict(list)
        self.keys = {key: ids for key, ids in keys(instance).items() if key.startswith(f"{id}/")}
        for key in self.keys:
            name, _, attempt = key.rpartition("/")
            jobs[name].append(int(attempt))
        self.doubled = {key: ids for key, ids in self.keys.items() if len(ids) > 1}
        self.lost = sum(groups.values()) - len(jobs)
        rows = ask(instance, "jobs", {"id": id, "max": 10000})
        self.rows = rows["jobs"]
        self.retried = sum(row["result"] == "retried" for row in self.rows)
        self.groups = {group: self.status["groups"][group] for group in groups}

    @staticmethod
    def retried_now(instance: Any, id: str) -> int:
        """How many attempts were lost so far and are tried again, once the service has told the past."""
        rows: List[Any] = []

        def look() -> int:
            rows[:] = ask(instance, "jobs", {"id": id, "max": 10000})["jobs"]
            return sum(row["result"] == "retried" for row in rows)

        with contextlib.suppress(AssertionError):
            return int(until(look))
        raise AssertionError(f"no job is tried again: {[row for row in rows if row['result'] != 'success']}")

    def check(self, groups: Dict[str, int]) -> None:
        """None twice, none missing, and the counts of a run without a fault."""
        assert self.doubled == {}
        bad = [row for row in self.rows if row["result"] not in ("success", "retried")]
        assert not bad, f"these did not end well: {bad}"
        assert self.lost == 0
        assert self.status["state"] == "complete", self.status
        for group, number in groups.items():
            counts = {name: n for name, n in self.groups[group].items() if n}
            assert counts == {"submitted": number, "finished": number, "success": number}, (group, counts)
        shown = collections.Counter((r["rule"], r["firing"], r["index"], r["attempt"]) for r in self.rows)
        assert set(shown.values()) == {1}, "a row stands there twice"
        assert len(shown) == len(self.keys), "a job has no row"
        firings = {rule["id"]: rule["fired"] for rule in self.status["rules"]}
        assert sum(firings.values()) == 1 + sum(groups.values()) - groups["a"], firings


@contextlib.contextmanager
def dying(instance: Any, folder: Path, points: Sequence[str]) -> Iterator[subprocess.Popen]:
    """A supervised service that dies at these points, one after the other."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "points").write_text("".join(f"{point}\n" for point in points))
    env = supervisor.python_environment(instance.env)
    with (folder / "stderr").open("ab") as errors:
        process = subprocess.Popen(
            [sys.executable, str(HERE / "service_that_dies.py"), str(folder)],
            env=env, cwd="/", stdin=subprocess.DEVNULL, stdout=errors, stderr=errors,
        )  # fmt: skip
    try:
        until(lambda: _up(instance), "the service")
        yield process
    finally:
        with contextlib.suppress(NoService, ServiceError, OSError):
            process.send_signal(signal.SIGCONT)
            request(instance, "quit", {})
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.terminate()
            process.wait(30)
        gone(process.pid)


def _up(instance: Any) -> bool:
    try:
        return bool(request(instance, "stats", {}))
    except (NoService, ServiceError, OSError):
        return False


def deaths(folder: Path) -> List[str]:
    try:
        return (folder / "deaths").read_text().splitlines()
    except FileNotFoundError:
        return []
