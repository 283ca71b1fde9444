# SPDX-License-Identifier: MIT
"""Benchmarks against bare Flux, with the store that the service has there, the KVS. Runs inside an instance of one broker, which `__main__.py` starts. Imports flux.

What both sides did is read from one source, the times that job-list has of the instance's jobs; nothing else runs in
it. Jobs have mock execution (no process), the same jobspec on both sides but for the key, and end before the next
measurement begins.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Tuple

import flux
import flux.job
from flux.job.list import job_list_inactive

from ensemble.errors import NoService
from ensemble.service import supervisor
from ensemble.service.flux_client import FluxClient
from t.bench.figures import Figure, by_turns, progress, tell

#: seconds that a mocked job runs
RUNS = "0.001s"
#: jobs of a chain, of a fan, of one look at the rate; idle ensembles
CHAIN, FAN, RATE, IDLE = 100, 1000, 500, 100
#: seconds that anything may take before the benchmark is given up
PATIENCE = 600.0

HERE = Path(__file__).resolve().parent
WORK = f"{{name: work, command: 'true', attributes: {{system.exec.test.run_duration: {RUNS}}}"


class Times(NamedTuple):
    """When a job was submitted, had finished, and was inactive: seconds since the epoch."""

    submit: float
    finish: float
    inactive: float


class Bench:
    """A connection to the instance, and to its service once that is started."""

    def __init__(self) -> None:
        self.handle = flux.Flux()
        self.client = FluxClient()
        self.submitter = {"environment": dict(os.environ), "cwd": os.getcwd(), "umask": 0o022, "rlimits": {}}

    # the service

    def start(self) -> Dict[str, Any]:
        """Start the service, unless it runs; what it says of itself."""
        return supervisor.start_detached()

    def stop(self) -> None:
        """End the service, if it runs."""
        with contextlib.suppress(NoService):
            supervisor.service_stop(self.handle)

    # what both sides do

    def ensemble(self, text: str) -> str:
        """Submit an ensemble; its id."""
        payload = {"text": text, "file": "bench.yaml", "submitter": self.submitter}
        return str(self.client.call("submit", payload)["id"])

    def ended(self, id: str) -> Dict[str, Any]:
        """Wait until an ensemble has ended; its status. Asks rarely, so that the asking is no load."""
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            status = self.client.call("status", {"id": id})
            if status["t_end"] is not None:
                if status["state"] != "complete":
                    raise AssertionError(f"the ensemble ended {status['state']}: {status['reason']}")
                return status
            time.sleep(0.25)
        raise AssertionError(f"ensemble {id} has not ended within {PATIENCE:g} s")

    def jobspec(self) -> str:
        """The same job as `WORK`, as a user's script has it."""
        jobspec = flux.job.JobspecV1.from_command(["true"])
        jobspec.cwd = os.getcwd()
        jobspec.environment = dict(os.environ)
        jobspec.setattr("system.exec.test.run_duration", RUNS)
        return str(jobspec.dumps())

    def bare(self, jobs: int) -> None:
        """Submit so many jobs, with bare Flux, and wait until none is active."""
        jobspec = self.jobspec()
        for future in [flux.job.submit_async(self.handle, jobspec) for _ in range(jobs)]:
            future.get_id()
        self.handle.rpc("job-manager.idle").get()

    def times(self, since: float, jobs: int) -> List[Times]:
        """The times of the jobs that became inactive since then, in order of submission; there must be so many."""
        attrs = ["t_submit", "t_cleanup", "t_inactive"]
        until = time.monotonic() + 30
        while True:
            rows = job_list_inactive(self.handle, since=since, max_entries=0, attrs=attrs).get_jobs()
            if len(rows) >= jobs or time.monotonic() > until:
                break
            time.sleep(0.1)
        if len(rows) != jobs:
            raise AssertionError(f"{len(rows)} jobs ran, not {jobs}")
        return sorted(Times(row["t_submit"], row["t_cleanup"], row["t_inactive"]) for row in rows)


# reaction


def reaction(bench: Bench, repetitions: int) -> None:
    """A chain: each job's end submits the next."""
    bench.start()
    text = f"""
jobs: [{WORK}}}]
rules:
  - {{trigger: start, action: {{name: submit, label: work}}}}
  - {{trigger: job-finish, name: work, repetitions: {CHAIN - 1}, action: {{name: submit, label: work}}}}
"""
    gaps: Tuple[List[float], List[float]] = ([], [])

    def seen(begun: float, side: int) -> float:
        chain = bench.times(begun, CHAIN)
        gaps[side].append(statistics.median(1e3 * (b.submit - a.finish) for a, b in zip(chain, chain[1:])))
        return statistics.median(1e3 * (b.finish - a.finish) for a, b in zip(chain, chain[1:]))

    def ours() -> float:
        begun = time.time()
        bench.ended(bench.ensemble(text))
        return seen(begun, 0)

    def bare() -> float:
        begun = time.time()
        subprocess.run([sys.executable, HERE / "bare_chain.py", str(CHAIN), RUNS], check=True, timeout=PATIENCE)
        return seen(begun, 1)

    measured, without = by_turns(ours, bare, repetitions, "ms")
    note = f"median cycle of a chain of {CHAIN}, against a hand-written script"
    tell(Figure("reaction", "ms", measured, without, at_most=1.1, note=note))
    own = [a - b for a, b in zip(*gaps)]
    note = "finish to next submit, what we add to the script's"
    tell(Figure("reaction-own", "ms", own, at_most=1.0, of_ratio=False, note=note))


# fan-out and bag


def _bag(bench: Bench, jobs: int, what: Any, repetitions: int, unit: str) -> Tuple[List[float], List[float]]:
    text = f"""
jobs: [{WORK}, count: {jobs}}}]
rules: [{{trigger: start, action: {{name: submit, label: work}}}}]
"""

    def ours() -> float:
        begun = time.time()
        bench.ended(bench.ensemble(text))
        return float(what(begun, bench.times(begun, jobs)))

    def bare() -> float:
        begun = time.time()
        bench.bare(jobs)
        return float(what(begun, bench.times(begun, jobs)))

    bench.start()
    return by_turns(ours, bare, repetitions, unit)


def fan_out(bench: Bench, repetitions: int) -> None:
    """One event to many submissions."""
    measured, bare = _bag(
        bench, FAN, lambda begun, jobs: max(job.submit for job in jobs) - begun, max(2, repetitions - 2), "s"
    )
    note = f"request to the last of {FAN} submit events, against a loop of submit_async"
    tell(Figure("fan-out", "s", measured, bare, at_most=1.15, note=note))


def bag(bench: Bench, repetitions: int, jobs: int) -> None:
    """Job rate of many jobs of one rule."""
    pid = int(bench.start()["pid"])
    before = _resident(pid)
    measured, bare = _bag(
        bench,
        jobs,
        lambda begun, seen: len(seen) / (max(job.inactive for job in seen) - begun),
        max(2, repetitions - 2),
        "jobs/s",
    )
    note = f"{jobs} mocked jobs of one rule, request to the last job inactive"
    tell(Figure("bag", "jobs/s", measured, bare, at_least=0.95, note=note))
    grown = (_resident(pid) - before) / (jobs * len(measured))
    tell(Figure("bag-memory", "B/job", [grown], note="growth of the service process over all bags, its store included"))


# the service


def start(bench: Bench, repetitions: int) -> None:
    """Service start to its first answer."""
    bare_service = "import flux; h = flux.Flux(); h.service_register('ensemble-bare').get()"

    def ours() -> float:
        bench.stop()
        begun = time.perf_counter()
        if not bench.start()["started"]:
            raise AssertionError("a service ran already")
        return time.perf_counter() - begun

    def bare() -> float:
        begun = time.perf_counter()
        subprocess.run([sys.executable, "-c", bare_service], check=True, timeout=PATIENCE)
        return time.perf_counter() - begun

    measured, without = by_turns(ours, bare, repetitions, "s")
    note = "supervised and detached, against a Python that opens a handle and registers a name"
    tell(Figure("start", "s", measured, without, of_ratio=False, at_most=0.6, note=note))


def tax(bench: Bench, repetitions: int) -> None:
    """What idle ensembles cost the jobs of others."""
    text = f"""
jobs: [{WORK}}}]
rules: [{{trigger: timer, after: 86400, action: {{name: submit, label: work}}}}]
"""
    broker = int(bench.handle.attr_get("broker.pid"))
    service: List[float] = []
    brokers: Tuple[List[float], List[float]] = ([], [])

    def rate(side: int) -> float:
        spent = _processor_time(broker)
        begun = time.time()
        bench.bare(RATE)
        brokers[side].append(1e3 * (_processor_time(broker) - spent) / RATE)
        return RATE / (max(job.inactive for job in bench.times(begun, RATE)) - begun)

    def ours() -> float:
        pid = int(bench.start()["pid"])
        for _ in range(IDLE):
            bench.ensemble(text)
        before = _processor_time(pid)
        found = rate(0)
        service.append(1e3 * (_processor_time(pid) - before) / RATE)
        bench.stop()
        return found

    bench.stop()
    measured, bare = by_turns(ours, lambda: rate(1), repetitions, "jobs/s")
    note = f"{RATE} foreign jobs with {IDLE} idle ensembles, against no service at all"
    tell(Figure("tax", "jobs/s", measured, bare, at_least=0.97, note=note))
    # these two are steadier than a rate where the machine is shared
    tell(Figure("tax-broker", "ms/job", *brokers, note="processor time of the broker for one of these jobs"))
    tell(Figure("tax-service", "ms/job", service, note="processor time of the service for one of these jobs"))


def _processor_time(pid: int) -> float:
    """Seconds that a process has run, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _resident(pid: int) -> int:
    """Bytes of memory that a process holds."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def run(names: List[str], repetitions: int, sizes: Dict[str, int]) -> int:
    """Run those benchmarks one after the other, and end the service; 1 if one of them broke."""
    from t.bench import bounds

    sized = {"bag": bag, "kvs": bounds.kvs, "storm": bounds.storm}
    bench = Bench()
    broken = 0
    progress(f"Flux {bench.handle.attr_get('version')}, {os.cpu_count()} processors")
    for name in names:
        progress(name)
        try:
            if name in sized:
                sized[name](bench, repetitions, sizes[name])
            else:
                BENCHES[name](bench, repetitions)
        except Exception:
            traceback.print_exc()
            broken = 1
    bench.stop()
    return broken


BENCHES = {"start": start, "reaction": reaction, "fan-out": fan_out, "tax": tax}
