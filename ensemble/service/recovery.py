# SPDX-License-Identifier: MIT
"""Bringing an ensemble back from what the store holds: after a crash or reload of the service, or a restart of Flux.

Law of this file: first the snapshot, then the log in the order in which its events were consumed; that gives the
engine as it was, and causes nothing, since what those events caused was kept with them. Then the member is told of
the jobs that had not ended and of the submissions that may not have been sent; what it has to tell comes as events
like all others. What cannot be brought back is quarantined, and hurts nothing else.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
from typing import Any, Callable, Dict, Optional

from ensemble.engine.actions import Cancel, Cause, Kill, Look, Submit, Urgency
from ensemble.engine.engine import Engine
from ensemble.engine.events import from_json
from ensemble.engine.jobs import FATAL, PENDING, RUNNING
from ensemble.engine.snapshot import restore
from ensemble.errors import RecordError, TransitionError
from ensemble.members.base import Member, Submitter
from ensemble.service.running import SHOWN, Running
from ensemble.service.store import Stored
from ensemble.spec import sampling
from ensemble.spec.beside import Beside
from ensemble.spec.load import load
from ensemble.spec.models import Spec

#: what draws points; another release of it may draw others for the same seed
_SAMPLER = "scipy"
_CAUSE = Cause(None, 0, "asked for before the service was restarted")


def bring_back(stored: Stored, member: Member, drive: Callable[[Engine, Dict[str, Any]], Running]) -> Running:
    """The ensemble where it was, made known to a member that has not started yet. `drive` puts an engine to work.

    Raises RecordError, and whatever an engine raises that is not the one that consumed those events.
    """
    spec, snapshot = spec_of(stored.given), stored.snapshot
    engine = engine_of(stored, spec)
    running = drive(engine, stored.given)
    running.number = snapshot.number if snapshot is not None else 0
    running.seq = stored.seq
    for number, record in stored.events:
        running.number = number
        if record:
            with contextlib.suppress(TransitionError):
                engine.handle(from_json(record))
    running.t_heard = engine.t
    running.over = engine.final is not None
    doubtful = [
        Submit(key, job.group, job.set, job.overrides, job.params, job.member)
        for key, job in engine.jobs.items()
        if job.id is None
    ]
    running.unanswered.update(one.key for one in doubtful)
    member.open(stored.id, spec, Submitter(**stored.given["submitter"]), engine.wanted_events)
    member.hear(stored.id, frozenset(engine.book.topics))
    running.calling.followed = engine.wanted_events
    known = {job.id: key for key, job in engine.jobs.items() if job.id is not None}
    member.recover(stored.id, known, doubtful, engine.t)
    return running


def spec_of(given: Dict[str, Any]) -> Spec:
    """The spec of what was submitted, with the seeds that were drawn for it then."""
    spec = load(given["text"], given["file"], Beside(given.get("files")), can=None).spec
    return sampling.seeded(spec, given.get("seeds") or {})


def engine_of(stored: Stored, spec: Spec) -> Engine:
    """The engine as its snapshot has it, new where there is none. Raises RecordError."""
    snapshot = stored.snapshot
    engine = Engine(spec, stored.id) if snapshot is None else restore(spec, snapshot.state)
    if engine.id != stored.id:
        raise RecordError(f"the snapshot is that of ensemble {engine.id}")
    return engine


def sampler(spec: Spec) -> Optional[str]:
    """The release of what draws the points of the spec, to be kept with it; None where nothing but Python does."""
    return importlib.metadata.version(_SAMPLER) if sampling.uses_scipy(spec) else None


def other_sampler(running: Running) -> str:
    """A sentence where the points that are still to come may be others than the first service would have drawn."""
    then, now = running.given.get("sampler"), sampler(running.engine.spec)
    if then == now:
        return ""
    return f"points were drawn by {_SAMPLER} {then}; those still to come are drawn by {now}, and may lie elsewhere"


def take_up(running: Running, member: Member) -> None:
    """Once the member delivers: do again what may not have been done."""
    for name, at in list(running.engine.timers.items()):
        running.set_timer(name, at)
    for id in list(running.engine.calls.pending):
        running.calling.call(id)
    if running.engine.looking:
        member.perform(running.id, Look())
    for job in list(running.engine.jobs.values()):
        if job.id is None or job.state not in (PENDING, RUNNING):
            continue
        if job.doomed:
            member.perform(running.id, Cancel(job.id, _CAUSE))
        elif job.state == RUNNING and job.killed in FATAL:
            member.perform(running.id, Kill(job.id, job.killed, _CAUSE))
        elif job.state == PENDING and job.urgency is not None:
            member.perform(running.id, Urgency(job.id, job.urgency, _CAUSE))


def damaged_status(stored: Stored) -> Dict[str, Any]:
    """STATUS of an ensemble whose record cannot be read."""
    return {
        "id": stored.id,
        "name": stored.given["name"],
        "state": "failed",
        "reason": f"quarantined: {stored.damaged}",
        "t_submit": stored.given["t_submit"],
        "t_end": None,
        "jobs": dict.fromkeys(SHOWN, 0),
        "groups": {},
        "metrics": {},
        "rules": [],
        "variables": {},
        "members": {},
        "parameters": {},
        "scaling": None,
    }
