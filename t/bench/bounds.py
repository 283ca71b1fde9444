# SPDX-License-Identifier: MIT
"""What ensembles cost the instance and its memory: bytes in the KVS, and the service in a storm of events. Imports flux.

Runs inside the instance that `inside.py` uses.
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import List, Tuple

from ensemble.service.kvs_store import KvsStore
from t.bench.figures import Figure, by_turns, tell
from t.bench.inside import WORK, Bench, _resident


def kvs(bench: Bench, repetitions: int, jobs: int) -> None:
    """Bytes that the KVS holds of an ensemble, and that its disk grows by, against the same jobs without us."""
    bench.start()
    store = KvsStore(bench.handle, lambda level, text: None)
    idle = bench.ensemble(
        f"jobs: [{WORK}}}]\nrules: [{{trigger: timer, after: 86400, action: {{name: log, value: x}}}}]"
    )
    bench.client.call("status", {"id": idle})
    kinds: List[str] = []
    disk: List[float] = []

    def ours() -> float:
        before = _disk(bench)
        id = bench.ensemble(
            f"jobs: [{WORK}, count: {jobs}}}]\nrules: [{{trigger: start, action: {{name: submit, label: work}}}}]"
        )
        bench.ended(id)
        found = store.measure(id)
        kinds.append(", ".join(f"{name} {size}" for name, size in found.items()))
        disk.append((_disk(bench) - before) / jobs)
        return sum(size for name, size in found.items() if name != "keys") / jobs

    def bare() -> float:
        before = _disk(bench)
        bench.bare(jobs)
        return (_disk(bench) - before) / jobs

    measured, plain = by_turns(ours, bare, max(1, repetitions - 3), "B/job")
    tell(Figure("kvs", "B/job", measured, note=f"held in the KVS of an ensemble of {jobs} jobs: {kinds[-1]}"))
    tell(Figure("kvs-disk", "B/job", disk, plain, note="growth of the KVS on disk, against the same jobs without us"))
    at_rest = store.measure(idle)
    fixed = float(sum(size for name, size in at_rest.items() if name != "keys"))
    tell(Figure("kvs-idle", "B", [fixed], of_ratio=False, note="held of an ensemble that waits and has no job"))
    bench.client.call("cancel", {"id": idle})


def storm(bench: Bench, repetitions: int, jobs: int) -> None:
    """Memory of the service while very many jobs come and go: others', then its own."""
    pid = int(bench.start()["pid"])
    broker = int(bench.handle.attr_get("broker.pid"))
    idle = bench.ensemble(
        f"jobs: [{WORK}}}]\nrules: [{{trigger: timer, after: 86400, action: {{name: log, value: x}}}}]"
    )
    bench.bare(100)
    for name, note, work in (
        ("storm-foreign", f"{jobs} jobs that are no ensemble's", lambda: bench.bare(jobs)),
        ("storm-own", f"{jobs} jobs of one ensemble, max_active none", lambda: _bag(bench, jobs)),
    ):
        grown, most, slowest, of_broker = _watched(bench, pid, broker, work)
        tell(
            Figure(
                name, "MB", [grown], of_ratio=False, note=f"growth of the service behind {note}; at most {most:.1f} MB"
            )
        )
        tell(Figure(f"{name}-answer", "ms", [slowest], of_ratio=False, note="the slowest answer to `stats` meanwhile"))
        tell(
            Figure(f"{name}-broker", "MB", [of_broker], of_ratio=False, note="growth of the broker, its jobs included")
        )
    bench.client.call("cancel", {"id": idle})


def _bag(bench: Bench, jobs: int) -> None:
    bench.ended(
        bench.ensemble(
            f"jobs: [{WORK}, count: {jobs}}}]\nrules: [{{trigger: start, action: {{name: submit, label: work}}}}]"
        )
    )


def _watched(bench: Bench, pid: int, broker: int, work: object) -> Tuple[float, float, float, float]:
    """MB that the service has grown by in the end and at most, ms of its slowest answer, MB that the broker grew by."""
    from ensemble.service.flux_client import FluxClient

    begun, of_broker = _resident(pid), _resident(broker)
    most, slowest, over = begun, 0.0, False

    def look() -> None:
        nonlocal most, slowest
        client = FluxClient()
        while not over:
            asked = time.perf_counter()
            client.call("stats")
            slowest = max(slowest, time.perf_counter() - asked)
            most = max(most, _resident(pid))
            time.sleep(0.1)

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        work()  # type: ignore[operator]
    finally:
        over = True
        watcher.join()
    return (
        (_resident(pid) - begun) / 2**20,
        (most - begun) / 2**20,
        1e3 * slowest,
        (_resident(broker) - of_broker) / 2**20,
    )


def _disk(bench: Bench) -> int:
    """Bytes of the file that the KVS lies in."""
    bench.handle.rpc("content.flush", {}).get()
    folder = bench.handle.attr_get("statedir") or bench.handle.attr_get("rundir")
    return sum(os.path.getsize(path) for path in Path(folder).glob("content.sqlite*"))
