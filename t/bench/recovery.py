# SPDX-License-Identifier: MIT
"""How long a service takes to be back where jobs of the past fill the journal. Imports flux, inside an instance.

How it works. Nobody waits for 100000 jobs to run: one job of an ensemble runs, and its entry in the KVS is copied,
each copy under an id of its own and with the key of another job of that ensemble. Then the instance is restarted, and
its job manager takes them for jobs that ended before, as after any restart. What is measured is the service there:
the first answer, and the first job of a new ensemble, which is not submitted before all of the past was read.

    python -m t.bench.recovery fill JOBS       in the first instance
    python -m t.bench.recovery measure JOBS N  in the second, N times
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any, List

import flux
import flux.kvs
from _flux._core import lib
from flux.constants import FLUX_RPC_NORESPONSE, FLUX_RPC_STREAMING
from flux.job import JobID

from t.bench.figures import Figure, by_turns, progress, tell
from t.bench.inside import PATIENCE, WORK, Bench

#: it goes on for a day, so that there is something to recover
STANDS = f"""
jobs: [{WORK}}}]
rules:
  - {{trigger: start, action: {{name: submit, label: work}}}}
  - {{trigger: timer, after: 86400, action: {{name: log, value: a day has gone}}}}
limits: {{max_jobs: 1000000}}
"""
ONE = f"""
jobs: [{WORK}}}]
rules: [{{trigger: start, action: {{name: submit, label: work}}}}]
"""
#: jobs in one transaction
_TOGETHER = 500


def fill(jobs: int) -> None:
    """Let there be so many jobs of an ensemble that has not ended."""
    bench = Bench()
    bench.start()
    id = bench.ensemble(STANDS)
    row = _first_row(bench, id)
    bench.stop()
    handle = bench.handle
    job = int(JobID(row["id"]))
    path = _path(job)
    parts = {name: _text(handle, f"{path}.{name}") for name in ("eventlog", "jobspec", "R")}
    jobspec = json.loads(parts["jobspec"])
    template = json.dumps(jobspec).replace(f"{id}/rule-1/1/0/0", "@KEY@")
    if "@KEY@" not in template:
        raise AssertionError(f"the jobspec has no key: {jobspec['attributes']}")
    for begin in range(1, jobs, _TOGETHER):
        transaction = flux.kvs.KVSTxn(handle)
        for number in range(begin, min(begin + _TOGETHER, jobs)):
            # ids of the same millisecond: nothing that comes later has one of these
            copy = _path(job + number)
            _put(transaction, f"{copy}.eventlog", parts["eventlog"])
            _put(transaction, f"{copy}.jobspec", template.replace("@KEY@", f"{id}/rule-1/1/{number}/0"))
            _put(transaction, f"{copy}.R", parts["R"])
        transaction.commit()
    progress(f"{jobs} jobs are in the KVS")


def measure(jobs: int, repetitions: int) -> None:
    """Start the service among them, so many times; bare is a script that reads the same journal to its sentinel."""
    bench = Bench()
    found = bench.handle.rpc("job-manager.stats-get", {}).get()["inactive_jobs"]
    if found < jobs:
        raise AssertionError(f"the job manager has {found} inactive jobs, not {jobs}")
    answers: List[float] = []
    held: List[float] = []

    def ours() -> float:
        bench.stop()
        begun = time.perf_counter()
        pid = int(bench.start()["pid"])
        answers.append(time.perf_counter() - begun)
        _first_row(bench, bench.ensemble(ONE))
        taken = time.perf_counter() - begun
        held.append(_peak(pid) / 2**20)
        return taken

    measured, bare = by_turns(ours, lambda: _read_journal(bench.handle), repetitions, "s")
    note = f"{jobs} jobs in the journal: service start to the first job of a new ensemble; bare: a script reads the journal"
    tell(Figure(f"recovery-{jobs}", "s", measured, bare, of_ratio=False, at_most=10, note=note))
    tell(Figure(f"recovery-{jobs}-answer", "s", answers, at_most=0.6, of_ratio=False, note="to the first answer"))
    tell(Figure(f"recovery-{jobs}-peak", "MB", held, of_ratio=False, note="the most memory that the service held"))
    bench.stop()


def _read_journal(handle: Any) -> float:
    """Seconds until a Python script has had all of the past."""
    begun = time.perf_counter()
    payload = {"full": True, "allow": dict.fromkeys(("submit", "start", "finish", "clean"), 1)}
    stream = handle.rpc("job-manager.events-journal", payload, flags=FLUX_RPC_STREAMING)
    while stream.get()["id"] != -1:
        stream.reset()
    taken = time.perf_counter() - begun
    tag = lib.flux_rpc_get_matchtag(stream.pimpl.handle)
    handle.rpc("job-manager.events-journal-cancel", {"matchtag": tag}, flags=FLUX_RPC_NORESPONSE)
    return taken


def _first_row(bench: Bench, id: str) -> Any:
    """The ensemble's first job, once it has ended."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        rows = bench.client.call("jobs", {"id": id, "max": 1})["jobs"]
        if rows and rows[0]["t_end"] is not None and rows[0]["state"] == "inactive":
            return rows[0]
        time.sleep(0.01)
    raise AssertionError(f"the job of {id} has not ended within {PATIENCE:g} s")


def _path(id: int) -> str:
    text = f"{id:016x}"
    return "job." + ".".join(text[at : at + 4] for at in range(0, 16, 4))


def _text(handle: Any, key: str) -> str:
    from ensemble.service.kvs_store import KvsStore

    found = KvsStore(handle, lambda level, text: None)._lookup(key)
    if found is None:
        raise AssertionError(f"there is no {key}")
    return found


def _put(transaction: Any, key: str, text: str) -> None:
    from flux.core.inner import raw

    data = text.encode()
    raw.flux_kvs_txn_put_raw(transaction.txn, 0, key.encode(), data, len(data))


def _peak(pid: int) -> int:
    """Bytes of memory that a process held at most."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) * 1024


if __name__ == "__main__":
    if sys.argv[1] == "fill":
        fill(int(sys.argv[2]))
    else:
        measure(int(sys.argv[2]), int(sys.argv[3]))
