# SPDX-License-Identifier: MIT
"""What must hold at the end of a story, for each ensemble.

The log, replayed through a fresh engine, must give the jobs, lines, rows, firings and metrics that the service told; the
jobs must be those of the queue; and a file that does not depend on order must have come to the end of an undisturbed run.
"""

from __future__ import annotations

import collections
import json
from typing import Any, Dict, List, NamedTuple, Sequence

from ensemble.engine.actions import Finished, Record, SetTimer, Submit
from ensemble.engine.engine import Engine
from ensemble.engine.events import from_json
from ensemble.service import running as running_module
from ensemble.service.protocol import ENDS
from ensemble.service.replay import Log, replay
from ensemble.service.running import SHOWN
from ensemble.spec.load import load
from t.engine import foreseen
from t.engine.simulation.manager import JobManager
from t.engine.simulation.stores import Kept, events
from t.engine.simulation.world import Violation


class Outcome(NamedTuple):
    """What an ensemble came to, as far as it does not depend on order."""

    state: str
    #: (rule, firing, index) -> group, result, cause, exit code
    jobs: Dict[Any, Any]
    counts: Dict[str, Dict[str, int]]
    fired: Dict[str, int]


def judge(id: str, seen: Sequence[Dict[str, Any]], kept: Kept, manager: JobManager, purged: bool) -> Outcome:
    """Hold what the service told of an ensemble against the log, the queue, and what its user saw. Raises Violation.

    `purged`: the queue has forgotten jobs on the way.
    """
    status = kept.status
    if status is None or status["state"] not in ENDS:
        raise Violation(f"{id} has ended, and its status was not kept: {status}")
    _check_log(id, kept, status)
    _check_jobs(id, kept, manager, purged)
    if seen != kept.records:
        seqs = [record["seq"] for record in seen]
        raise Violation(f"who watched {id} saw {seqs} of {len(kept.records)} lines")
    jobs = {
        (row["rule"], row["firing"], row["index"]): (row["group"], row["result"], row["cause"], row["exit_code"])
        for row in kept.rows
        if row["result"] != "retried"
    }
    fired = {rule["id"]: rule["fired"] for rule in status["rules"]}
    # how often a job was lost on the way is a matter of the faults
    counts = {g: {n: c for n, c in counts.items() if n != "retried"} for g, counts in status["groups"].items()}
    return Outcome(status["state"], jobs, counts, fired)


def _check_log(id: str, kept: Kept, status: Dict[str, Any]) -> None:
    """A plain replay of the log gives all that was told."""
    engine = Engine(load(kept.given["text"], kept.given["file"]).spec, id)
    records: List[Any] = []
    rows: List[Any] = []
    submitted: List[str] = []
    for commit in kept.history:
        if not commit.event:
            records += [(r["type"], None) for r in commit.records]
            continue
        intents = []
        for action in engine.handle(from_json(commit.event)):
            if isinstance(action, Record):
                records.append((action.type, {**action.data, "t": action.t}))
            elif isinstance(action, Finished):
                rows.append(action.row)
            elif not isinstance(action, SetTimer):
                intents.append(running_module.intent(action))
                if isinstance(action, Submit):
                    submitted.append(str(action.key))
        _same(f"intents of event {commit.number} {commit.event}", commit.intents, intents)
    if len(set(submitted)) != len(submitted):
        raise Violation(f"{id}: a key was intended twice: {collections.Counter(submitted).most_common(1)}")
    _same(f"{id}: numbers of lines", [r["seq"] for r in kept.records], list(range(1, len(records) + 1)))
    for told, (kind, data) in zip(kept.records, records):
        plain = {name: value for name, value in told.items() if name not in ("seq", "type")}
        if data is not None:
            if data.get("job") is not None:
                data = {**data, "job": str(data["job"])}
            _same(f"{id}: a line", (told["type"], plain), (kind, data))
    shown = [{**row, "id": None if row["id"] is None else str(row["id"])} for row in rows]
    _same(f"{id}: rows", [{**row, "where": None} for row in kept.rows], [{**r, "where": None} for r in shown])
    _same(f"{id}: keys of rows", sorted(_key(id, row) for row in rows), sorted(submitted))
    _same(f"{id}: state", (status["state"], status["reason"]), (engine.final, engine.reason))
    counts = {group: {name: c[name] for name in SHOWN} for group, c in engine.tally.counts.items()}
    _same(f"{id}: counts", status["groups"], counts)
    _same(f"{id}: metrics", status["metrics"], json.loads(json.dumps(engine.tally.table())))
    foreseen.check(engine)
    fired = [(r.id, r.fired, r.remaining) for r in engine.book.rules]
    _same(f"{id}: firings", [(r["id"], r["fired"], r["remaining"]) for r in status["rules"]], fired)

    log = Log({**status, "id": id}, kept.given, [event for event in events(kept, 0, 10**9) if event[1]])
    log.fired = [record for record in kept.records if record["type"] == "rule"]
    check = replay(log)["check"]
    _same(f"{id}: a replay", (check["differences"], check["firings"]), ([], len(log.fired)))


def _check_jobs(id: str, kept: Kept, manager: JobManager, purged: bool) -> None:
    """The rows are the queue's jobs, and tell of them what their eventlogs do."""
    rows = {_key(id, row): row for row in kept.rows}
    for row in kept.rows:
        # of an invalid job the queue keeps no memory either: a reload may have come between its two events
        invalid = row["id"] is not None and manager.jobs[int(row["id"])].state == "invalid"
        if row["cause"] == "in-doubt" and not purged and not invalid:
            raise Violation(f"{id}: in doubt, and nothing was purged: {row}")
    for job in manager.jobs.values():
        if job.key.ensemble != id or job.state == "invalid":
            continue
        row = rows.get(str(job.key))
        if row is None:
            raise Violation(f"job {job.id} of key {job.key} has no row")
        if row["cause"] == "in-doubt":
            continue
        _same(f"id of {job.key}", row["id"], str(job.id))
        for name, times in (("t_submit", job.times("submit")), ("t_start", job.times("start"))):
            _same(f"{name} of {job.key}", row[name], times[0] if times else None)
        if (row["result"] == "success") != (job.status == 0):
            raise Violation(f"job {job.id} of key {job.key} has status {job.status}, and is told as {row}")
    ids = {str(job.id): str(job.key) for job in manager.jobs.values()}
    for key, row in rows.items():
        if row["id"] is not None:
            _same(f"key of job {row['id']}", ids.get(row["id"]), key)
        elif row["cause"] not in ("refused", "in-doubt", "cancel"):
            raise Violation(f"{key} never was a job, and is told as {row}")


def compare(name: str, found: Outcome, undisturbed: Outcome) -> None:
    """A steady file has come to the end of an undisturbed run. Raises Violation."""
    _same(f"{name}: jobs", found.jobs, undisturbed.jobs)
    _same(f"{name}: counts", found.counts, undisturbed.counts)
    _same(f"{name}: firings", found.fired, undisturbed.fired)
    _same(f"{name}: state", found.state, undisturbed.state)


def _key(id: str, row: Dict[str, Any]) -> str:
    return f"{id}/{row['rule']}/{row['firing']}/{row['index']}/{row['attempt']}"


def _same(what: str, found: Any, wanted: Any) -> None:
    if found != wanted:
        raise Violation(f"{what}: {str(found)[:1500]}\ninstead of {str(wanted)[:1500]}")
